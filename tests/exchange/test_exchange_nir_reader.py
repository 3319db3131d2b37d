"""Networks read from NIR graphs fire as IF neurons do."""

import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange import read_nir, to_nir
from pcsnn.nn.integrate_fire import IntegrateFire

nir = pytest.importorskip("nir", reason="pip install nir")

from nir_graphs import between, branching, counts_of, ends, fire, graph_of
from test_exchange_nir import HELD


def serial_count(current, threshold, timesteps, first=0.0):
    """Spikes of IF neurons with soft reset under a steady current, step by step in float64."""
    potential, count = torch.full_like(current, first), torch.zeros_like(current)
    for _ in range(timesteps):
        potential = potential + current
        spikes = (potential >= threshold).to(current)
        potential, count = potential - threshold * spikes, count + spikes
    return count


# Written and read again


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("how", ["file", "graph"])
def test_what_was_written_comes_back(name, how, tmp_path):
    (x,) = inputs(name, torch.float64)
    paper = pcsnn.convert(build(name, nn.ReLU, torch.float64), 6, calibration=[(x,)], method="paper", progress=False)
    net = build(name, dtype=torch.float64)
    for snn in (pcsnn.convert(net, 8), pcsnn.convert(net, 7, method="none"), paper):
        graph = to_nir(snn, x)
        if how == "file":
            nir.write(tmp_path / "net.nir", graph)
        net = read_nir(tmp_path / "net.nir" if how == "file" else graph, dtype=torch.float64)
        assert net.meta["timesteps"] == snn.timesteps
        expected, out = counts_of(snn, x)
        found, read = counts_of(pcsnn.convert(net, snn.timesteps), x)
        assert len(found) == len(expected) and all(map(torch.equal, found, expected))
        torch.testing.assert_close(read, out)


def test_a_network_that_was_read_is_written_as_it_was():
    snn = pcsnn.convert(build("convolutions"), 8)
    graph = to_nir(snn, inputs("convolutions")[0])
    again = to_nir(pcsnn.convert(read_nir(graph), 8), inputs("convolutions")[0])
    kinds = [[type(node).__name__ for node in nodes.nodes.values()] for nodes in (graph, again)]
    assert kinds[0] == kinds[1]
    for name, node in graph.nodes.items():
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, getattr(again.nodes[name], key)), (name, key)


def test_potentials_at_first_and_silent_channels_come_back():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), IntegrateFire(torch.tensor([0.7, torch.inf, 1.3]), 0.3), nn.Flatten(), nn.Linear(12, 2)
    )
    x = torch.rand(2, 1, 4, 4) * 3
    snn = pcsnn.convert(net, 9)
    for method in ({}, {"calibration": x, "method": "max", "progress": False}):
        read = pcsnn.convert(read_nir(to_nir(snn, x)), 9, **method)
        neuron, expected = (dict(each.neurons())["1"] for each in (read, snn))
        assert neuron.shift == 0.3 and torch.equal(neuron.levels, expected.levels)
        assert all(map(torch.equal, counts_of(read, x)[0], counts_of(snn, x)[0]))


# Sum pools


@pytest.mark.parametrize(
    "pool",
    [
        lambda: nn.AvgPool2d(2, divisor_override=1),
        lambda: nn.AvgPool2d((2, 3), (1, 2), (1, 1), divisor_override=1),
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=4),
        lambda: nn.AvgPool2d(2, divisor_override=7),
    ],
)
def test_a_pool_with_a_divisor_of_its_own_is_a_sum_pool(pool):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), pcsnn.nn.QCFS(4, 1.0), pool(), nn.Conv2d(4, 3, 2), pcsnn.nn.QCFS(4, 2.0), nn.Flatten()
    )
    net, x = net.double().eval(), torch.randn(3, 1, 9, 9, dtype=torch.float64)
    snn = pcsnn.convert(net, 4)
    graph = to_nir(snn, x)
    assert [type(node).__name__ for node in graph.nodes.values()].count("SumPool2d") == 1
    read = pcsnn.convert(read_nir(graph, dtype=torch.float64), 4)
    assert all(map(torch.equal, counts_of(read, x)[0], counts_of(snn, x)[0]))
    torch.testing.assert_close(read(x), net(x))


class Summed(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.act, self.module = pcsnn.nn.QCFS(4, 1.5), nn.LPPool2d(1, 2) if module else None

    def forward(self, x):
        x = self.act(x)
        return self.module(x) if self.module else F.lp_pool2d(x, 1, (2, 3), 2)


@pytest.mark.parametrize("module", [True, False])
def test_sums_written_as_pools_of_norm_one(module):
    net, x = Summed(module).eval(), torch.randn(2, 3, 7, 7)
    graph = to_nir(pcsnn.convert(net, 4), x)
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Input", "IF", "SumPool2d", "Scale", "Output"]
    torch.testing.assert_close(pcsnn.convert(read_nir(graph), 4)(x), net(x))


def test_pools_that_nir_cannot_hold_are_refused():
    for pool in (
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, 2, ceil_mode=True, divisor_override=1),
    ):
        snn = pcsnn.convert(nn.Sequential(nn.Conv2d(1, 2, 3), pcsnn.nn.QCFS(4, 1.0), pool).eval(), 4)
        with pytest.raises(ValueError, match=r"snn: 2 \(AvgPool2d"):
            to_nir(snn, torch.randn(1, 1, 9, 9))
    rounded = nn.Sequential(nn.Conv2d(1, 2, 3), pcsnn.nn.QCFS(4, 1.0), nn.AvgPool2d(3, 2, ceil_mode=True)).eval()
    snn = pcsnn.convert(rounded, 4)
    to_nir(snn, torch.randn(1, 1, 9, 9))  # 7 = 3 + 2 * 2: nothing to round


# Graphs of others


def test_the_first_layer_counts_as_serial_neurons_do():
    """Thresholds and resistances of each neuron, by channel and for all; any T; at rest and not."""
    x = torch.rand(5, 2, 3, 4, dtype=torch.float64) * 2
    threshold, r = torch.rand(2, 3, 4, dtype=torch.float64) + 0.3, torch.rand(2, 3, 4, dtype=torch.float64) + 0.5
    per_channel = threshold[:, :1, :1].expand(2, 3, 4)
    one = torch.ones_like(r)
    for theta, gain in ((threshold, r), (threshold, one), (per_channel, one), (one, one)):
        graph = between([2, 3, 4], [2, 3, 4], n=nir.IF(r=gain.numpy(), v_threshold=theta.numpy()))
        for timesteps, shift, dt in itertools.product((1, 7, 40), (None, 0.5), (1.0, 0.25)):
            snn = pcsnn.convert(read_nir(graph, shift=shift, dt=dt, dtype=torch.float64), timesteps)
            expected = (
                serial_count(x * gain * dt, theta, timesteps, 0)
                if shift is None
                else ((x * gain * dt * timesteps / theta + shift).floor().clamp(0, timesteps))
            )
            assert torch.equal(counts_of(snn, x)[0][0].view(x.shape).double(), expected)
            torch.testing.assert_close(snn(x), expected / timesteps)


@pytest.mark.parametrize(
    "padding, stride, dilation, groups",
    [
        (0, 1, 1, 1),
        ((1, 2), (2, 1), 1, 2),
        ("same", 1, (2, 1), 4),
        ("valid", 2, 1, 1),
        (np.array([1, 0]), np.array([2, 3]), np.array([1, 2]), np.int64(2)),
    ],
)
@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions_with_all_their_options(padding, stride, dilation, groups, dims):
    def cut(value):
        return value if isinstance(value, str) or dims == 2 else int(np.atleast_1d(value)[0])

    kernel, sizes = ((3, 2), (9, 8)) if dims == 2 else ((3,), (9,))
    weight, bias = np.random.randn(8, 4 // groups, *kernel).astype(np.float32), np.random.randn(8).astype(np.float32)
    x = torch.randn(2, 4, *sizes)
    options = [
        value if isinstance(value, str) else tuple(np.broadcast_to(cut(value), (dims,)).tolist())
        for value in (stride, padding, dilation)
    ]
    function, kind = (F.conv2d, nir.Conv2d) if dims == 2 else (F.conv1d, nir.Conv1d)
    expected = function(x, torch.from_numpy(weight), torch.from_numpy(bias), *options, int(groups))
    made = kind(None, weight, cut(stride), cut(padding), cut(dilation), groups, bias)
    net = read_nir(between([4, *sizes], expected.shape[1:], c=made))
    assert torch.equal(net(x), expected)


def test_branches_join_in_a_sum():
    x = torch.rand(4, 6, dtype=torch.float64)
    net = read_nir(branching(), dtype=torch.float64)
    a, b, c = (torch.from_numpy(branching().nodes[name].weight) for name in "abc")
    first = serial_count(x @ a.T + 1, torch.tensor(0.8), 5) / 5
    current = first @ b.T + first * torch.arange(6) / 4 + x
    second = (current * 5 / 0.5).floor().clamp(0, 5) / 5  # of the mean current
    torch.testing.assert_close(pcsnn.convert(net, 5)(x), second @ c.T)


def test_graphs_within_graphs(tmp_path):
    inner_start, inner_end = ends([6], [4])
    weight = np.random.RandomState(0).randn(4, 6)
    deepest = graph_of(dict(zip(("i", "f", "o"), (nir.Input(np.array([6])), fire(6, 0.7), nir.Output(np.array([6]))))))
    inner = graph_of(inner_start | {"deep": deepest, "w.x": nir.Linear(weight)} | inner_end)
    start, end = ends([6], [4])
    graph = graph_of(start | {"block": inner, "last": fire(4, 0.4)} | end)
    nir.write(tmp_path / "net.nir", graph)
    x = torch.rand(3, 6, dtype=torch.float64)
    flat = between([6], [4], f=fire(6, 0.7), w=nir.Linear(weight), last=fire(4, 0.4))
    expected = pcsnn.convert(read_nir(flat, dtype=torch.float64), 6)(x)
    for source in (graph, tmp_path / "net.nir"):
        net = read_nir(source, dtype=torch.float64)
        assert [name for name, _ in pcsnn.convert(net, 6).neurons()] == ["block_deep_f", "last"]
        assert torch.equal(pcsnn.convert(net, 6)(x), expected)


def test_several_inputs_and_outputs_keep_their_order():
    nodes = {
        "x": nir.Input(np.array([2])),
        "lambda": nir.Input(np.array([2])),
        "f": fire(2),
        "g": fire(2, 0.5),
        "second": nir.Output(np.array([2])),
        "first": nir.Output(np.array([2])),
    }
    net = read_nir(graph_of(nodes, [("x", "f"), ("lambda", "g"), ("f", "first"), ("g", "second")]))
    x, y = torch.tensor([[1.0, 0.2]]), torch.tensor([[0.1, 0.5]])
    second, first = pcsnn.convert(net, 10)(x, y)
    torch.testing.assert_close(first, x)
    torch.testing.assert_close(second, torch.tensor([[0.2, 1.0]]))


def test_pools_flattening_thresholds_and_steps():
    nodes = dict(
        p=nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        q=nir.AvgPool2d(np.array(2), np.array(1), np.array(1)),
        f=nir.Flatten(np.array([2, 4, 4]), 0, -1),
        t=nir.Threshold(np.full(32, 1.5)),
    )
    x = torch.rand(3, 2, 6, 6)
    pooled = F.avg_pool2d(F.avg_pool2d(x, 2, 2, divisor_override=1), 2, 1, 1).flatten(1)
    net = read_nir(between([2, 6, 6], [32], **nodes))
    for timesteps in (1, 6):
        assert torch.equal(pcsnn.convert(net, timesteps)(x), (pooled >= 1.5).float())
    assert torch.equal(net(x), (pooled >= 1.5).float())
    middle = read_nir(between([2, 3, 4], [2, 12], f=nir.Flatten(np.array([2, 3, 4]), 1, 2)))
    assert middle(torch.zeros(5, 2, 3, 4)).shape == (5, 2, 12)


def test_reading_draws_no_random_numbers_and_warns_of_nothing():
    graph = to_nir(pcsnn.convert(build("convolutions"), 4), inputs("convolutions")[0])
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_nir(graph)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "name", ["graph", "forward", "weird name", "a.b", "", "$x", "a'); raise SystemExit #", "self", "é", "code"]
)
def test_names_are_made_names_of_modules(name, tmp_path):
    start, end = ends([2], [2])
    graph = graph_of(start | {name: fire(2)} | end)
    x = torch.tensor([[0.5, 2.0]])
    net = pcsnn.convert(read_nir(graph), 4)
    assert net(x).tolist() == [[0.5, 1.0]]
    pcsnn.save(net, tmp_path / "net.safetensors")
    assert pcsnn.load(tmp_path / "net.safetensors")(x).tolist() == [[0.5, 1.0]]


def test_optimised_after_reading():
    x = torch.rand(2, 3, 8, 8)
    snn = pcsnn.convert(read_nir(to_nir(pcsnn.convert(build("conv_bn"), 8), inputs("conv_bn")[0])), 8)
    (x,) = inputs("conv_bn")
    torch.testing.assert_close(pcsnn.optimize(snn, example_inputs=(x,))(x), snn(x))
