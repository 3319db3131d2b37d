"""Layers, operations, models, analysis, baselines, exchange and command line on a device that is pretended
(gpu_free.other_device), with data and networks of either device."""

import types

import pytest
import spikingjelly_stand_ins as stand_ins
import torch
from cli_cases import NET, QUICK, SIZES, folder, inside, lines, run  # noqa: F401 (fixtures)
from gpu_free.other_device import DEVICE, assert_same, assert_there, pretended, there
from tiny_networks import LEVELS, NETWORKS, build, conv, inputs, network, randomise
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import analysis, baselines, exchange, functional, models
from pcsnn.baselines.serial import SerialIF
from pcsnn.nn import (
    QCFS, ChannelScale, CollapsedNeuron, ParallelSpikingNeuron, PixelCounts, Rates, SignedNeuron, SpikingAttention, SpikingConv2d,
    SpikingLinear, SynapticConv2d, SynapticLinear,
)

T = LEVELS


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.2


# Layers made of tensors there


WHOLE = torch.randint(-9, 9, (4, 3, 3, 3), generator=torch.Generator().manual_seed(5)).to(torch.int8)
COUNTS = torch.randint(0, T + 1, (2, 3, 5, 5), generator=torch.Generator().manual_seed(6)).to(torch.uint8)
PER_CHANNEL = dict(threshold=drawn(4), offset=drawn(4, seed=1), bend=drawn(4, T, seed=2) / 9, amplitude=drawn(4, seed=3))
LAYERS = {
    "collapsed": (lambda to: CollapsedNeuron(to(drawn(3)), T), [COUNTS.float()]),
    "collapsed, bent": (lambda to: CollapsedNeuron(1.5, T, bend=to(drawn(3, T) / 9), offset=0.25), [COUNTS.float()]),
    "collapsed, other devices": (lambda to: CollapsedNeuron(to(drawn(3)), T, offset=drawn(3), amplitude=drawn(3)), [COUNTS.float()]),
    "parallel": (lambda to: ParallelSpikingNeuron(to(drawn(3)), T, amplitude=drawn(3)), [COUNTS.float().expand(T, 2, 3, 5, 5)]),
    "parallel, amplitude": (lambda to: ParallelSpikingNeuron(2.0, T, amplitude=to(drawn(3))), [COUNTS.float().expand(T, 2, 3, 5, 5)]),
    "signed": (lambda to: SignedNeuron("leaky_relu", T, amplitude=3.0, lowest=-1.0, slope=to(drawn(3))), [COUNTS.float() - 3]),
    "signed, amplitude": (lambda to: SignedNeuron("gelu", T, amplitude=to(torch.tensor(3.0)), lowest=-1.0), [COUNTS.float() - 3]),
    "qcfs": (lambda to: QCFS(4, to(torch.tensor(2.0))).requires_grad_(False), [COUNTS.float()]),
    "serial": (lambda to: SerialIF(1.5, offset=to(drawn(3)), amplitude=drawn(3)), [COUNTS.float()]),
    "scale": (lambda to: ChannelScale(to(drawn(3))), [COUNTS.float()]),
    "rates": (lambda to: Rates(to(drawn(3)), T), [COUNTS]),
    "pixels": (lambda to: PixelCounts(to(-drawn(3)), to(drawn(3)), 1), [drawn(2, 3, 5, 5)]),
    "pixels, other devices": (lambda to: PixelCounts(to(-drawn(3)), drawn(3), 1), [drawn(2, 3, 5, 5)]),
    "convolution": (lambda to: SpikingConv2d(to(drawn(4, 3, 3, 3)), T, threshold=9.0), [COUNTS]),
    "convolution, int8": (lambda to: SpikingConv2d(to(WHOLE), T, weight_scale=drawn(4), bias=drawn(4), **PER_CHANNEL), [COUNTS]),
    "convolution, residual": (lambda to: SpikingConv2d(to(WHOLE), T, padding=1, weight_scale=to(drawn(4)), residual_worth=drawn(4),
                                                       **PER_CHANNEL), [COUNTS, COUNTS.repeat(1, 2, 1, 1)[:, :4]]),
    "linear": (lambda to: SpikingLinear(to(drawn(4, 5).bfloat16()), T, threshold=to(drawn(4)), bias=drawn(4)), [COUNTS[0, 0]]),
    "synaptic": (lambda to: SynapticConv2d(to(WHOLE), T, weight_scale=drawn(4), bias=drawn(4), emits="values"), [COUNTS]),
    "synaptic, linear": (lambda to: SynapticLinear(to(WHOLE.flatten(1)[:, :5]), T, weight_scale=drawn(4), bias=drawn(4)), [COUNTS]),
    "attention": (lambda to: SpikingAttention(2, to(drawn(4)), T), [drawn(2, 3, 4, seed=seed) for seed in range(3)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_where_their_tensors_are(name):
    make, x = LAYERS[name]
    near, far = make(lambda value: value), make(there)
    assert_there(far)
    assert_same(far(*there(x)), near(*x))
    if hasattr(near, "set_timesteps"):
        near.set_timesteps(T + 3)
        far.set_timesteps(T + 3)
        assert_there(far)
        if name not in ("parallel", "parallel, amplitude"):
            assert_same(far(*there(x)), near(*x))


def test_levels_are_where_their_tensors_are():
    theta = drawn(3)
    assert_same(functional.levels(there(theta), T), functional.levels(theta, T))
    assert_same(functional.levels(1.5, T, offset=there(theta)), functional.levels(1.5, T, offset=theta))
    for slope in (drawn(3), torch.tensor(0.1)):
        far, near = (functional.signed_levels("leaky_relu", 0.5, T, -1.0, value) for value in (there(slope), slope))
        assert_same(far[0], near[0])
        assert far[1:] == near[1:]
    levels = functional.levels(theta, T)
    assert_same(functional.whole_levels(there(levels), there(theta), there(theta)), functional.whole_levels(levels, theta, theta))


@pytest.mark.parametrize("call, names", [
    (lambda x, to: functional.fire_counts(to(x), functional.levels(1.0, T)), "current on cuda:0, levels on cpu"),
    (lambda x, to: functional.fire_rates(x, functional.levels(1.0, T), to(torch.tensor(1.0))), "current on cpu, levels on cpu, scale on cuda:0"),
    (lambda x, to: functional.fire_spikes(x.expand(T, 2, 3, 5, 5), to(functional.levels(1.0, T))), "current on cpu, levels on cuda:0"),
    (lambda x, to: functional.expand_spikes(to(COUNTS), T, torch.arange(T)), "counts on cuda:0, order on cpu"),
    (lambda x, to: functional.conv2d_fire(COUNTS, to(drawn(4, 3, 3, 3))), "counts on cpu, weight on cuda:0"),
    (lambda x, to: SpikingConv2d(to(drawn(4, 3, 3, 3)), T, threshold=1.0)(COUNTS), "counts on cpu, weight on cuda:0"),
    (lambda x, to: there(CollapsedNeuron(drawn(3), T))(x), "current on cpu, levels on cuda:0"),
    (lambda x, to: there(SpikingAttention(1, 1.0, T))(x[0], to(x[0]), x[0]), "query on cpu, key on cuda:0"),
    (lambda x, to: functional.whole_levels(functional.levels(1.0, T), to(drawn(4))), "levels on cpu, weight_scale on cuda:0"),
])
def test_tensors_of_two_devices_are_named(call, names):
    with pytest.raises(ValueError, match=f"expected all tensors on one device, got {names}"):
        call(drawn(2, 3, 5, 5), there)


MODELS = {
    "cifar_resnet20": (12, 3), "vgg_small": (28, 1), "mobilenet_small": (28, 1), "linear_transformer_small": (28, 1),
    "fcn_small": (16, 3), "deeplabv3_small": (16, 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    size, channels = MODELS[name]
    net, x = randomise(getattr(models, name)(activation=lambda: QCFS(LEVELS))), drawn(2, channels, size, size)
    near, far = pcsnn.convert(net, LEVELS), pcsnn.convert(there(net), LEVELS)
    assert_there(far)
    assert_same(far(there(x)), near(x))
    far, near = (pcsnn.optimize(snn, "int8", example_inputs=x) for snn in (far, near))
    assert_there(far)
    assert_same(far(there(x)), near(x))


def test_text_encoder():
    net = randomise(models.BertEncoder(1, 8, 2, 12, vocabulary=20, positions=9))
    tokens, mask = torch.randint(20, (2, 7)), torch.ones(2, 7)
    options = dict(calibration=[(tokens, mask)], method="max", strict=False, signed=True, progress=False)
    near, far = (pcsnn.convert(one, T, **options) for one in (net, there(net)))
    assert_same(far(there(tokens), there(mask)), near(tokens, mask))


# Looking into networks


@pytest.fixture(scope="module")
def converted():
    net, data = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=10)[0]
    return net, data, pcsnn.convert(net, T, method="quick", calibration=data, progress=False)


@pytest.mark.parametrize("to", [there, lambda value: value], ids=["data there", "data here"])
def test_analysis(converted, to):
    net, data, near = converted
    far = there(near)
    for measure in (lambda snn, data: analysis.layer_errors(net, snn, data, progress=False),
                    lambda snn, data: analysis.check_shuffle(snn, data[:4], progress=False),
                    lambda snn, data: analysis.check_shuffle(snn, data[:4], dtype=torch.float32, progress=False),
                    lambda snn, data: analysis.count_operations(snn, data[:4], progress=False).table(),
                    lambda snn, data: analysis.evaluate(snn, [(data, torch.arange(10) % 4)], spikes=True, progress=False)
                    if data.dim() == 2 else None):
        assert str(measure(far, to(data))) == str(measure(near, data))
    assert str(analysis.layer_errors(there(net), near, to(data), progress=False)) == str(
        analysis.layer_errors(net, near, data, progress=False))


@pytest.mark.parametrize("name", NETWORKS)
def test_counting_operations_of_every_network(name):
    near = pcsnn.convert(build(name), T, strict=False)
    if any(row.kind == "analog" for row in near.report.rows):
        return
    x = inputs(name, batch=2)
    assert analysis.count_operations(there(near), [x]).as_dict() == analysis.count_operations(near, [x]).as_dict()


@pytest.mark.parametrize("to", [there, lambda value: value], ids=["data there", "data here"])
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
    at = there if kept is None else lambda value: value
    same = assert_same if kept is None else lambda one, two: torch.testing.assert_close(one, two, rtol=0, atol=0)
    order = analysis.random_order(T, 3, expected.counts)
    for look in (lambda r, to: r.counts, lambda r, to: r.rates(), lambda r, to: r.histogram("1"), lambda r, to: r.spike_counts("3"),
                 lambda r, to: r.spikes("1"), lambda r, to: r.spikes("3", order, [0, 3, -1]),
                 lambda r, to: r.spikes("3", to(order), to(torch.tensor([2, 1])), slice(1, 3)), lambda r, to: list(r.steps(order=order))):
        same(look(found, at), look(expected, lambda value: value))
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
    net = randomise(nn.Sequential(stand_ins.Conv2d(3, 4, 3, padding=1), stand_ins.BatchNorm2d(4), stand_ins.IFNode(0.75, None),
                                  stand_ins.VoltageScaler(2.0), stand_ins.Conv2d(4, 4, 3), stand_ins.VoltageScaler(0.5),
                                  stand_ins.IFNode(1.0, None), stand_ins.Flatten(), stand_ins.Linear(144, 3)))
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
    net = randomise(nn.Sequential(conv(), stand_ins.ChannelVoltageScaler(drawn(4)), stand_ins.IFNode(1.0, None),
                                  stand_ins.ChannelVoltageScaler(drawn(4, seed=1)), conv(4, 4), nn.ReLU()))
    x = inputs("convolutions")[0]
    for method in ("max", "paper", "quick"):
        near, far = (pcsnn.convert(one, T, method=method, calibration=x, progress=False) for one in (net, there(net)))
        assert_there(far)
        assert_same(far(there(x)), near(x))


def test_published_checkpoints():
    net, x = build("conv_bn"), inputs("conv_bn")
    state = exchange.qcfs_state_dict(net)
    assert_same(exchange.qcfs_state_dict(there(net)), state)
    for activation in (lambda: QCFS(LEVELS), nn.ReLU):
        for given in (state, there(state)):
            for model, to in ((build("conv_bn", activation), lambda value: value), (there(build("conv_bn", activation)), there)):
                loaded = exchange.load_qcfs_checkpoint(given, model, levels=None if activation is not nn.ReLU else LEVELS)
                if to is there:
                    assert_there(loaded)
                assert torch.equal(loaded(*to(x)).cpu(), net(*x))


@pytest.mark.parametrize("name", ["mlp", "convolutions", "conv_bn", "residual", "scaled", "average_pool_functions"])
def test_nir(name):
    nir = pytest.importorskip("nir")
    near, x = pcsnn.convert(build(name), T), inputs(name)[0]
    expected = exchange.to_nir(near, x)
    for given in (x, there(x)):
        graph = exchange.to_nir(there(near), given)
        assert isinstance(graph, nir.NIRGraph) and graph.nodes.keys() == expected.nodes.keys() and graph.edges == expected.edges
        for key, node in graph.nodes.items():
            for field, value in vars(node).items():
                if hasattr(value, "tobytes"):
                    assert value.tobytes() == getattr(expected.nodes[key], field).tobytes()


# The command line


@pytest.mark.parametrize("weights", ["none", "bfloat16", "int8"])
def test_convert_command(weights, tmp_path, capsys):
    for place in ("cuda", "cuda:0", "cpu"):
        assert run("convert", *NET, "--data", "photos", "--timesteps", 4, "--optimize", weights, "--device", place, "--quiet",
                   "--output", tmp_path / place.replace(":", "")) == 0
    files = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 1
    assert run("convert", *NET, "--data", "photos", "--timesteps", 4, "--device", "cuda:1") == 2
    assert "expected a device like cpu or cuda:0 that is there, got 'cuda:1'" in capsys.readouterr().err


def test_sweep_command(tmp_path):
    for place in ("cuda", "cpu"):
        assert run("sweep", *NET, "--data", "photos", "--timesteps", 2, 4, *QUICK, "--device", place, "--output", tmp_path / place) == 0
    far, near = lines(tmp_path / "cuda"), lines(tmp_path / "cpu")
    assert len(far) == len(near) == 3
    for one, two in zip(far, near):
        for key in two.keys() - {"time", "settings"}:
            assert one[key] == two[key] or key not in ("accuracy", "fidelity", "logit_error", "spikes_per_neuron", "operations")


def test_report_command(tmp_path):
    pytest.importorskip("matplotlib")
    assert run("report", *NET, "--data", "photos", "--timesteps", 4, *QUICK, "--device", "cuda", "--output", tmp_path / "page.html") == 0
    assert "pretended" in (tmp_path / "page.html").read_text()
