"""Analysis, baselines, exchange and command line on a device that is pretended (gpu_free.other_device), with data and
networks of either device."""

import copy

import pytest
import spikingjelly_stand_ins as stand_ins
import torch
from cli_cases import NET, QUICK, folder, inside, lines, run  # noqa: F401 (fixtures)
from gpu_free.other_device import assert_same, assert_there, pretended, there
from tiny_networks import (
    LEVELS,
    NETWORKS,
    build,
    conv,
    inputs,
    one_thread,  # noqa: F401
    randomise,
)
from torch import nn

import pcsnn
from pcsnn import analysis, baselines, exchange
from pcsnn.nn import QCFS

T = LEVELS


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


def here(value):
    return value


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.2


# Looking into networks


@pytest.fixture(scope="module")
def converted():
    net, data = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=10)[0]
    return net, data, pcsnn.convert(net, T, method="quick", calibration=data, progress=False)


@pytest.mark.parametrize("to", [there, here])
def test_analysis(converted, to):
    net, data, near = converted
    far = there(near)
    for measure in (
        lambda snn, data: analysis.layer_errors(net, snn, data, progress=False),
        lambda snn, data: analysis.check_shuffle(snn, data[:4], progress=False),
        lambda snn, data: analysis.check_shuffle(snn, data[:4], dtype=torch.float32, progress=False),
        lambda snn, data: analysis.count_operations(snn, data[:4], progress=False).table(),
    ):
        assert str(measure(far, to(data))) == str(measure(near, data))
    assert str(analysis.layer_errors(there(net), near, to(data), progress=False)) == str(
        analysis.layer_errors(net, near, data, progress=False)
    )


def test_learning_after_conversion(converted):
    _, data, snn = converted
    near = [pcsnn.exchange.to_qcfs(snn), copy.deepcopy(snn).requires_grad_(True)]
    far = [pcsnn.exchange.to_qcfs(there(snn)), there(snn).requires_grad_(True)]
    for here_network, there_network in zip(near, far):
        out, found = here_network(data[:4]), there_network(there(data[:4]))
        assert torch.equal(found.detach().cpu(), out.detach())
        out.square().sum().backward()
        found.square().sum().backward()
        for one, other in zip(here_network.parameters(), there_network.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad.cpu())


@pytest.mark.parametrize("name", NETWORKS)
def test_counting_operations_of_every_network(name):
    near = pcsnn.convert(build(name), T, strict=False)
    if any(row.kind == "analog" for row in near.report.rows):
        return
    x = inputs(name, batch=2)
    assert analysis.count_operations(there(near), [x]).as_dict() == analysis.count_operations(near, [x]).as_dict()


@pytest.mark.parametrize("to", [there, here])
def test_sweeping_and_evaluating(to):
    net = randomise(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    data, labels = drawn(20, 5), torch.arange(20) % 3
    for method in ("max", "quick"):
        near = analysis.sweep(net, [(data, labels)], (2, 5), method, data, progress=False)
        for given in (to(labels), labels):
            far = analysis.sweep(there(net), [(to(data), given)], (2, 5), method, to(data), progress=False)
            assert far == near
    snn = pcsnn.convert(net, T, calibration=data, method="max", progress=False)
    near = analysis.evaluate(snn, [(data, labels)], spikes=True, ignore=1, progress=False)
    assert analysis.evaluate(there(snn), [(to(data), to(labels))], spikes=True, ignore=1, progress=False) == near


@pytest.mark.parametrize("kept", [None, "cpu"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_recordings(activation, kept, tmp_path):
    net, x = build("convolutions", activation), inputs("convolutions")[0]
    near = pcsnn.convert(net, T, method="max", calibration=x, progress=False, signed=True)
    far = there(near)
    with pcsnn.record(near) as expected, pcsnn.record(far, device=kept) as found:
        for part in x.split(2):
            near(part)
            far(there(part))
    at = there if kept is None else here
    same = assert_same if kept is None else lambda one, two: assert_same(there(one), two)
    order = analysis.random_order(T, 3, expected.counts)
    for look in (
        lambda r, to: r.counts,
        lambda r, to: r.rates(),
        lambda r, to: r.histogram("1"),
        lambda r, to: r.spike_counts("3"),
        lambda r, to: r.spikes("1"),
        lambda r, to: r.spikes("3", order, [0, 3, -1]),
        lambda r, to: r.spikes("3", to(order), to(torch.tensor([2, 1])), slice(1, 3)),
        lambda r, to: list(r.steps(order=order)),
    ):
        same(look(found, at), look(expected, here))
    if activation is nn.ReLU:
        for given in (order, at(order)):
            same(found.packed("1", given), expected.packed("1", order))
        same(analysis.unpack_spikes(found.packed("1"), T), analysis.unpack_spikes(expected.packed("1"), T))
    assert found.table() == expected.table()
    pytest.importorskip("matplotlib")
    analysis.plot_raster(found, "1", tmp_path / "raster.png", order=order)
    analysis.plot_histograms(found, tmp_path / "histograms.png")
    analysis.plot_rates(found, tmp_path / "rates.png")
    analysis.plot_rate_maps(found, "1", tmp_path / "maps.png")


# What networks are compared with, and exchanged as


@pytest.mark.parametrize("name", ["mlp", "residual", "attention", "two_inputs", "tuple_output", "max_pools"])
def test_baselines(name):
    near, x = pcsnn.convert(build(name), T), inputs(name)
    far = there(near)
    for make in (baselines.packed, *([] if name == "attention" else [baselines.serial])):
        one, two = make(far), make(near)
        assert_there(one)
        assert_same(one(*there(x)), two(*x))
        assert_same(there(two)(*there(x)), two(*x))


def test_signed_baseline():
    x = inputs("mlp")[0]
    near = pcsnn.convert(build("mlp", nn.GELU), T, method="max", calibration=x, signed=True, progress=False)
    assert_same(baselines.packed(there(near))(there(x)), baselines.packed(near)(x))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjelly(mode):
    net = randomise(
        nn.Sequential(
            stand_ins.Conv2d(3, 4, 3, padding=1),
            stand_ins.BatchNorm2d(4),
            stand_ins.IFNode(0.75, None),
            stand_ins.VoltageScaler(2.0),
            stand_ins.Conv2d(4, 4, 3),
            stand_ins.VoltageScaler(0.5),
            stand_ins.IFNode(1.0, None),
            stand_ins.Flatten(),
            stand_ins.Linear(144, 3),
        )
    )
    stand_ins.set_step_mode(net, mode)
    x = inputs("convolutions")[0]
    read = [exchange.read_spikingjelly(one) for one in (net, there(net))]
    assert_there(read[1])
    for given in ((net, there(net)), read):
        near, far = (pcsnn.convert(one, T, method="max", calibration=x, progress=False) for one in given)
        assert_there(far)
        assert_same(far(there(x)), near(x))
    near, far = (pcsnn.convert(one, T, method="quick", calibration=x, progress=False) for one in (net, there(net)))
    assert_same(far(there(x)), near(x))
    if mode == "m":
        near, far = (exchange.replace_if_nodes(one, T) for one in (net, there(net)))
        assert_there(far)
        steps = x.expand(T, *x.shape)
        with torch.no_grad():
            assert_same(far(there(steps)), near(steps))


def test_scales_by_channel():
    """Of SpikingJelly's converter, between places of neurons."""
    net = randomise(
        nn.Sequential(
            conv(),
            stand_ins.ChannelVoltageScaler(drawn(4)),
            stand_ins.IFNode(1.0, None),
            stand_ins.ChannelVoltageScaler(drawn(4, seed=1)),
            conv(4, 4),
            nn.ReLU(),
        )
    )
    x = inputs("convolutions")[0]
    for method in ("max", "paper", "quick"):
        near, far = (pcsnn.convert(one, T, method=method, calibration=x, progress=False) for one in (net, there(net)))
        assert_there(far)
        assert_same(far(there(x)), near(x))


@pytest.mark.parametrize("activation", [QCFS, nn.ReLU])
def test_published_checkpoints(activation):
    net, x = build("conv_bn"), inputs("conv_bn")
    state = exchange.qcfs_state_dict(net)
    assert_same(exchange.qcfs_state_dict(there(net)), state)
    model = build("conv_bn", nn.ReLU if activation is nn.ReLU else lambda: QCFS(LEVELS))
    for given in (state, there(state)):
        far = exchange.load_qcfs_checkpoint(given, there(model), levels=LEVELS)
        assert_there(far)
        assert_same(far(*there(x)), net(*x))
    assert torch.equal(exchange.load_qcfs_checkpoint(there(state), model, levels=LEVELS)(*x), net(*x))


@pytest.mark.parametrize("name", ["mlp", "convolutions", "conv_bn", "residual", "scaled", "average_pool_functions"])
def test_nir(name):
    nir = pytest.importorskip("nir")
    near, x = pcsnn.convert(build(name), T), inputs(name)[0]
    expected = exchange.to_nir(near, x)
    for given in (x, there(x)):
        graph = exchange.to_nir(there(near), given)
        assert isinstance(graph, nir.NIRGraph)
        assert graph.nodes.keys() == expected.nodes.keys() and graph.edges == expected.edges
        for key, node in graph.nodes.items():
            for field, value in vars(node).items():
                if hasattr(value, "tobytes"):
                    assert value.tobytes() == getattr(expected.nodes[key], field).tobytes()


# The command line


PHOTOS = (*NET, "--data", "photos")


@pytest.mark.parametrize("weights", ["none", "bfloat16", "int8"])
def test_convert_command(weights, tmp_path, capsys):
    command = ("convert", *PHOTOS, "--timesteps", 4, "--optimize", weights, "--quiet")
    for place in ("cuda", "cuda:0", "cpu"):
        assert run(*command, "--device", place, "--output", tmp_path / place.replace(":", "")) == 0
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert run(*command, "--device", "cuda:1") == 2
    assert "expected a device like cpu or cuda:0 that is there, got 'cuda:1'" in capsys.readouterr().err


def test_sweep_command(tmp_path):
    for place in ("cuda", "cpu"):
        output = tmp_path / place
        assert run("sweep", *PHOTOS, "--timesteps", 2, 4, *QUICK, "--device", place, "--output", output) == 0
    (settings, *far), (_, *near) = lines(tmp_path / "cuda"), lines(tmp_path / "cpu")
    assert "pretended" in str(settings)
    assert [row | {"time": None} for row in far] == [row | {"time": None} for row in near] and len(far) == 2


def test_report_command(tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.html"
    assert run("report", *PHOTOS, "--timesteps", 4, *QUICK, "--device", "cuda", "--output", page) == 0
    assert "pretended" in page.read_text()
