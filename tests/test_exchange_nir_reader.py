"""Networks read from NIR graphs fire as IF neurons do, and what does not fit is named before anything runs."""

import itertools
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_exchange_nir import HELD
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.convert import operations as ops
from pcsnn.convert.integrate_fire import IntegrateFire
from pcsnn.exchange import read_nir, to_nir

nir = pytest.importorskip("nir", reason="pip install nir")
h5py = pytest.importorskip("h5py")


def counts_of(snn, *x):
    with pcsnn.record(snn) as rec:
        out = snn(*x)
    return [rec.counts[name] for name, _ in snn.neurons()], out


def edges(*names):
    return list(itertools.pairwise(names))


def graph_of(nodes, links=None, **named):
    named.setdefault("type_check", False)
    return nir.NIRGraph(nodes, edges(*nodes) if links is None else links, **named)


def fire(size, threshold=1.0, r=1.0, **named):
    return nir.IF(r=np.full(size, r), v_threshold=np.full(size, threshold), **named)


def conv2d(weight, bias=None, stride=1, padding=0, dilation=1, groups=1, shape=None):
    return nir.Conv2d(shape, weight, stride, padding, dilation, groups, np.zeros(len(weight)) if bias is None else bias)


def ends(first, last):
    return {"in": nir.Input(np.array(first))}, {"out": nir.Output(np.array(last))}


def between(first, last, /, **nodes):
    start, end = ends(first, last)
    return graph_of(start | nodes | end)


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
    x, = inputs(name, torch.float64)
    paper = pcsnn.convert(build(name, nn.ReLU, torch.float64), 6, calibration=[(x,)], method="paper", progress=False)
    for snn in (pcsnn.convert(build(name, dtype=torch.float64), 8), pcsnn.convert(build(name, dtype=torch.float64), 7, method="none"),
                paper):
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
    net = nn.Sequential(nn.Conv2d(1, 3, 3), IntegrateFire(torch.tensor([0.7, torch.inf, 1.3]), 0.3), nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(2, 1, 4, 4) * 3
    snn = pcsnn.convert(net, 9)
    for method in ({}, {"calibration": x, "method": "max", "progress": False}):
        read = pcsnn.convert(read_nir(to_nir(snn, x)), 9, **method)
        neuron, expected = (dict(each.neurons())["1"] for each in (read, snn))
        assert neuron.shift == 0.3 and torch.equal(neuron.levels, expected.levels)
        assert all(map(torch.equal, counts_of(read, x)[0], counts_of(snn, x)[0]))


# Sum pools


@pytest.mark.parametrize("pool", [
    lambda: nn.AvgPool2d(2, divisor_override=1), lambda: nn.AvgPool2d((2, 3), (1, 2), (1, 1), divisor_override=1),
    lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=4), lambda: nn.AvgPool2d(2, divisor_override=7)])
def test_a_pool_with_a_divisor_of_its_own_is_a_sum_pool(pool):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), pcsnn.nn.QCFS(4, 1.0), pool(), nn.Conv2d(4, 3, 2), pcsnn.nn.QCFS(4, 2.0), nn.Flatten())
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
def test_sums_written_as_pools_of_norm_one(module, monkeypatch):
    monkeypatch.setattr(ops, "LINEAR_MODULES", (*ops.LINEAR_MODULES, nn.LPPool2d))
    monkeypatch.setattr(ops, "LINEAR_FUNCTIONS", ops.LINEAR_FUNCTIONS | {F.lp_pool2d})

    net, x = Summed(module).eval(), torch.randn(2, 3, 7, 7)
    graph = to_nir(pcsnn.convert(net, 4), x)
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Input", "IF", "SumPool2d", "Scale", "Output"]
    torch.testing.assert_close(pcsnn.convert(read_nir(graph), 4)(x), net(x))


def test_pools_that_nir_cannot_hold_are_refused():
    for pool in (nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2, 2, ceil_mode=True, divisor_override=1)):
        snn = pcsnn.convert(nn.Sequential(nn.Conv2d(1, 2, 3), pcsnn.nn.QCFS(4, 1.0), pool).eval(), 4)
        with pytest.raises(ValueError, match=r"snn: 2 \(AvgPool2d"):
            to_nir(snn, torch.randn(1, 1, 9, 9))
    snn = pcsnn.convert(nn.Sequential(nn.Conv2d(1, 2, 3), pcsnn.nn.QCFS(4, 1.0), nn.AvgPool2d(3, 2, ceil_mode=True)).eval(), 4)
    to_nir(snn, torch.randn(1, 1, 9, 9))  # 7 = 3 + 2 * 2: nothing to round


# Graphs of others


def test_the_first_layer_counts_as_serial_neurons_do():
    """Thresholds and resistances of each neuron, by channel and for all; any T; at rest and not."""
    x = torch.rand(5, 2, 3, 4, dtype=torch.float64) * 2
    threshold, r = torch.rand(2, 3, 4, dtype=torch.float64) + 0.3, torch.rand(2, 3, 4, dtype=torch.float64) + 0.5
    per_channel = threshold[:, :1, :1].expand(2, 3, 4)
    for theta, gain in ((threshold, r), (threshold, torch.ones_like(r)), (per_channel, torch.ones_like(r)), (torch.ones_like(r), torch.ones_like(r))):
        graph = between([2, 3, 4], [2, 3, 4], n=nir.IF(r=gain.numpy(), v_threshold=theta.numpy()))
        for timesteps, shift, dt in itertools.product((1, 7, 40), (None, 0.5), (1.0, 0.25)):
            snn = pcsnn.convert(read_nir(graph, shift=shift, dt=dt, dtype=torch.float64), timesteps)
            expected = serial_count(x * gain * dt, theta, timesteps, 0) if shift is None else (
                (x * gain * dt * timesteps / theta + shift).floor().clamp(0, timesteps))
            assert torch.equal(counts_of(snn, x)[0][0].view(x.shape).double(), expected)
            torch.testing.assert_close(snn(x), expected / timesteps)


@pytest.mark.parametrize("padding, stride, dilation, groups", [
    (0, 1, 1, 1), ((1, 2), (2, 1), 1, 2), ("same", 1, (2, 1), 4), ("valid", 2, 1, 1), (np.array([1, 0]), np.array([2, 3]), np.array([1, 2]), np.int64(2))])
@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions_with_all_their_options(padding, stride, dilation, groups, dims):
    def cut(value):
        return value if isinstance(value, str) or dims == 2 else int(np.atleast_1d(value)[0])

    kernel, sizes = ((3, 2), (9, 8)) if dims == 2 else ((3,), (9,))
    weight, bias = np.random.randn(8, 4 // groups, *kernel).astype(np.float32), np.random.randn(8).astype(np.float32)
    x = torch.randn(2, 4, *sizes)
    options = [value if isinstance(value, str) else tuple(np.broadcast_to(cut(value), (dims,)).tolist()) for value in (stride, padding, dilation)]
    function, kind = (F.conv2d, nir.Conv2d) if dims == 2 else (F.conv1d, nir.Conv1d)
    expected = function(x, torch.from_numpy(weight), torch.from_numpy(bias), *options, int(groups))
    made = kind(None, weight, cut(stride), cut(padding), cut(dilation), groups, bias)
    net = read_nir(between([4, *sizes], expected.shape[1:], c=made))
    assert torch.equal(net(x), expected)


def branching(extra=()):
    start, end = ends([6], [3])
    weights = [np.random.RandomState(seed).randn(*size) for seed, size in enumerate([(6, 6), (6, 6), (3, 6)])]
    nodes = start | {"a": nir.Affine(weights[0], np.ones(6)), "s": fire(6, 0.8), "b": nir.Linear(weights[1]), "z": nir.Scale(np.arange(6) / 4),
                     "t": fire(6, 0.5), "c": nir.Linear(weights[2])} | end
    return graph_of(nodes, [("in", "a"), ("a", "s"), ("s", "b"), ("s", "z"), ("z", "t"), ("b", "t"), ("in", "t"), ("t", "c"), ("c", "out"), *extra])


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
    nodes = {"x": nir.Input(np.array([2])), "lambda": nir.Input(np.array([2])), "f": fire(2), "g": fire(2, 0.5),
             "second": nir.Output(np.array([2])), "first": nir.Output(np.array([2]))}
    net = read_nir(graph_of(nodes, [("x", "f"), ("lambda", "g"), ("f", "first"), ("g", "second")]))
    x, y = torch.tensor([[1.0, 0.2]]), torch.tensor([[0.1, 0.5]])
    second, first = pcsnn.convert(net, 10)(x, y)
    torch.testing.assert_close(first, x)
    torch.testing.assert_close(second, torch.tensor([[0.2, 1.0]]))


def test_pools_flattening_thresholds_and_steps():
    nodes = dict(p=nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), q=nir.AvgPool2d(np.array(2), np.array(1), np.array(1)),
                 f=nir.Flatten(np.array([2, 4, 4]), 0, -1), t=nir.Threshold(np.full(32, 1.5)))
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


@pytest.mark.parametrize("name", ["graph", "forward", "weird name", "a.b", "", "$x", "a'); raise SystemExit #", "self", "é", "code"])
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
    x, = inputs("conv_bn")
    torch.testing.assert_close(pcsnn.optimize(snn, example_inputs=(x,))(x), snn(x))


# Refusals


def leaky(kind):
    one = np.ones(2)
    fields = dict(tau=one, r=one, v_leak=0 * one)
    return {"LIF": lambda: nir.LIF(v_threshold=one, **fields), "LI": lambda: nir.LI(**fields), "I": lambda: nir.I(one),
            "CubaLIF": lambda: nir.CubaLIF(one, one, one, 0 * one, one), "CubaLI": lambda: nir.CubaLI(one, one, one, 0 * one),
            "Delay": lambda: nir.Delay(one)}[kind]()


@pytest.mark.parametrize("kind", ["LIF", "LI", "I", "CubaLIF", "CubaLI", "Delay"])
def test_neurons_whose_count_is_none_of_the_mean_are_refused(kind):
    with pytest.raises(ValueError, match=rf"path_or_graph: odd \({kind}\): cannot be read: "):
        read_nir(between([2], [2], odd=leaky(kind)))


ONE = np.ones((1, 1, 3, 3))
WRONG = {
    "cycle": (lambda: branching([("t", "b")]), "t, b form a cycle|b, t form a cycle"),
    "itself": (lambda: branching([("t", "t")]), "t form a cycle"),
    "to nowhere": (lambda: branching([("t", "nowhere")]), "the edge t -> nowhere names nowhere, and there is no such node"),
    "from nowhere": (lambda: branching([("none", "t")]), "the edge none -> t names none"),
    "twice": (lambda: branching([("in", "a")]), "the edge in -> a stands there twice"),
    "no input": (lambda: graph_of({"f": fire(2), "out": nir.Output(np.array([2]))}), "no Input node"),
    "no output": (lambda: graph_of({"in": nir.Input(np.array([2])), "f": fire(2)}), "no Output node"),
    "unread": (lambda: graph_of(ends([2], [2])[0] | {"f": fire(2), "g": fire(2)} | ends([2], [2])[1], [("in", "f"), ("in", "g"), ("f", "out")]),
               r"g \(IF\): no edge leads from it"),
    "unfed": (lambda: graph_of(ends([2], [2])[0] | {"f": fire(2), "g": fire(2)} | ends([2], [2])[1], [("in", "f"), ("g", "f"), ("f", "out")]),
              r"g \(IF\): no edge leads to it"),
    "no node": (lambda: graph_of(ends([2], [2])[0] | {"f": 3} | ends([2], [2])[1]), "f: expected a node of NIR, got int"),
    "empty": (lambda: graph_of({}, []), "has no nodes"),
    "odd edges": (lambda: graph_of(ends([2], [2])[0] | ends([2], [2])[1], [("in", "out", "x")]), "edges: expected pairs"),
    "branches of two shapes": (lambda: graph_of(ends([3, 4, 4], [1])[0] | {
        "f": fire((3, 4, 4)), "p": nir.SumPool2d(np.array(2), np.array(2), np.array(0)), "g": fire((3, 2, 2))} | ends([1], [3, 2, 2])[1],
        [("in", "f"), ("in", "p"), ("f", "g"), ("p", "g"), ("g", "out")]), r"g \(IF\): adds up values of other shapes"),
    "inputs": (lambda: between([3], [2], a=nir.Affine(np.ones((2, 4)), np.ones(2))), r"a \(Affine\): gets values of shape \[3\]; expected \[4\]"),
    "bias": (lambda: between([3], [2], a=nir.Affine(np.ones((2, 3)), np.ones(3))), r"a \(Affine\): bias: expected 2 values"),
    "matrix": (lambda: between([3], [2], a=nir.Linear(np.ones((2, 2, 3)))), r"a \(Linear\): weight: expected \[outputs, inputs\]"),
    "nan": (lambda: between([3], [2], a=nir.Linear(np.full((2, 3), np.nan))), r"a \(Linear\): weight: holds NaN"),
    "infinite": (lambda: between([3], [2], a=nir.Linear(np.full((2, 3), np.inf))), r"a \(Linear\): weight: holds infinity"),
    "text": (lambda: between([3], [2], a=nir.Linear(np.full((2, 3), "a"))), r"a \(Linear\): weight: expected an array of numbers"),
    "channels": (lambda: between([2, 5, 5], [1, 3, 3], c=conv2d(ONE)), r"c \(Conv2d\): gets values of shape \[2, 5, 5\]; expected \[1, 5, 5\]"),
    "image": (lambda: between([1, 5, 5], [1, 3, 3], c=conv2d(ONE, shape=(6, 5))), r"c \(Conv2d\): gets values of shape \[1, 5, 5\]; expected \[1, 6, 5\]"),
    "small": (lambda: between([1, 2, 5], [1, 3, 3], c=conv2d(ONE)), r"c \(Conv2d\): its window of \[3, 3\] leaves nothing"),
    "groups": (lambda: between([2, 5, 5], [1, 3, 3], c=conv2d(ONE, groups=2)), r"c \(Conv2d\): groups: expected a divisor of the 1"),
    "stride": (lambda: between([1, 5, 5], [1, 3, 3], c=conv2d(ONE, stride=np.array([0, 1]))), r"c \(Conv2d\): stride: expected 2 integers of at least 1"),
    "half": (lambda: between([1, 5, 5], [1, 3, 3], c=conv2d(ONE, dilation=np.array([1.5, 1]))), r"c \(Conv2d\): dilation: expected 2 integers"),
    "negative": (lambda: between([1, 5, 5], [1, 3, 3], c=conv2d(ONE, padding=-1)), r"c \(Conv2d\): padding: expected 2 integers of at least 0"),
    "strided same": (lambda: between([1, 5, 5], [1, 3, 3], c=conv2d(ONE, padding="same", stride=2)), r"c \(Conv2d\): padding: expected integers with a stride"),
    "pool": (lambda: between([4], [4], p=nir.SumPool2d(np.array(2), np.array(2), np.array(0))), r"p \(SumPool2d\): gets values of shape \[4\]"),
    "pad": (lambda: between([1, 4, 4], [4], p=nir.AvgPool2d(np.array(2), np.array(2), np.array(2))), r"p \(AvgPool2d\): padding: expected at most half"),
    "flat": (lambda: between([1, 4], [4], f=nir.Flatten(np.array([2, 2]), 0, -1)), r"f \(Flatten\): gets values of shape \[1, 4\]; expected \[2, 2\]"),
    "dims": (lambda: between([1, 4], [4], f=nir.Flatten(None, 1, 0)), r"f \(Flatten\): expected start_dim and end_dim in order"),
    "scale": (lambda: between([3], [3], s=nir.Scale(np.ones(4))), r"s \(Scale\): scale: expected the shape of the values it gets, \[3\], got \[4\]"),
    "size": (lambda: between([3], [3], f=fire(4)), r"f \(IF\): v_threshold: expected the shape of the values it gets, \[3\], got \[4\]"),
    "zero threshold": (lambda: between([3], [3], f=fire(3, 0.0)), r"f \(IF\): v_threshold: expected values above zero, got 0"),
    "zero step": (lambda: between([3], [3], t=nir.Threshold(np.zeros(3))), r"t \(Threshold\): threshold: expected finite values above zero"),
    "resistance": (lambda: between([3], [3], f=fire(3, r=-1.0)), r"f \(IF\): r: expected values above zero, got -1"),
    "hard reset": (lambda: between([3], [3], f=fire(3, v_reset=np.full(3, 0.25))), r"f \(IF\): v_reset: expected zero, .* got 0.25: a hard reset"),
    "another reset": (lambda: between([3], [3], f=fire(3, metadata={"reset": "zero"})), r"f \(IF\): reset: expected 'subtract', got 'zero'"),
    "strictly": (lambda: between([3], [3], f=fire(3, metadata={"fires": ">"})), r"f \(IF\): fires: expected '>='"),
    "uneven start": (lambda: between([2], [2], f=fire(2, metadata={"v_initial": np.array([0.1, 0.5])})), r"f \(IF\): metadata: v_initial: expected the same share"),
    "levels": (lambda: between([2], [2], f=fire(2, metadata={"quantization_levels": 0})), r"f \(IF\): metadata: quantization_levels: expected an integer"),
    "output": (lambda: between([3], [2], f=fire(3)), r"out \(Output\): gets values of shape \[3\]; expected \[2\]"),
    "size of input": (lambda: between([0], [2], f=fire(2)), r"in \(Input\): shape: expected integers of at least 1"),
    "enormous": (lambda: between([2**20, 2**20], [2], f=fire(1)), r"in \(Input\): shape: expected less than 2\^31 elements"),
    "two ways in": (lambda: between([2], [2], g=graph_of({"i": nir.Input(np.array([2])), "j": nir.Input(np.array([2])), "o": nir.Output(np.array([2]))},
                                                         [("i", "o"), ("j", "o")])), r"g \(NIRGraph\): expected one Input node in it, got 2"),
    "tiny": (lambda: between([2], [2], f=fire(2, 1e-300)), r"f \(IF\): v_threshold / \(r dt\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case):
    make, words = WRONG[case]
    with pytest.raises(ValueError, match=f"path_or_graph: .*({words})"):
        read_nir(make())


def test_bad_arguments(tmp_path):
    graph = between([2], [2], f=fire(2))
    for bad in (None, 3, nn.ReLU(), {"nodes": {}}):
        with pytest.raises(TypeError, match="path_or_graph: expected a nir.NIRGraph or the path"):
            read_nir(bad)
    for named, error, words in ((dict(dt=0.0), ValueError, "dt: expected a number above zero"), (dict(dt="1"), TypeError, "dt: expected a number"),
                                (dict(shift=np.nan), ValueError, "shift: expected a finite"), (dict(dtype=torch.int8), ValueError, "dtype: expected")):
        with pytest.raises(error, match=words):
            read_nir(graph, **named)
    with pytest.raises(FileNotFoundError, match="path_or_graph: no file"):
        read_nir(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no graph")
    with pytest.raises(ValueError, match="text.nir is no HDF5 file"):
        read_nir(tmp_path / "text.nir")
    with h5py.File(tmp_path / "other.nir", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="other.nir holds no NIR graph"):
        read_nir(tmp_path / "other.nir")


# Hostile files


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "net.nir"
    nir.write(path, to_nir(pcsnn.convert(build("convolutions"), 4), inputs("convolutions")[0]))
    return path


def test_files_name_nothing_outside_themselves(written, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(64.0).tobytes())
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["w"] = np.ones(3)
    changes = {
        "link": lambda file, key: file.__setitem__(key, h5py.ExternalLink(str(other), "/w")),
        "soft link": lambda file, key: file.__setitem__(key, h5py.SoftLink("/version")),
        "raw": lambda file, key: file.create_dataset(key, (64,), np.float64, external=[(str(secret), 0, 512)]),
        "virtual": lambda file, key: file.create_virtual_dataset(key, h5py.VirtualLayout((3,), np.float64)),
        "absent": lambda file, key: file.create_dataset(key, (2**40,), np.float64, chunks=(2**10,)),
        "loop": lambda file, key: file.__setitem__(key, file["node"]),
    }
    original = written.read_bytes()
    for name, change in changes.items():
        written.write_bytes(original)
        with h5py.File(written, "a") as file:
            change(file, "node/nodes/input/extra")
        with pytest.raises(ValueError, match="path_or_graph: .*(link|another file|not in the file|linked to twice)"):
            read_nir(written)
            pytest.fail(name)


def test_damaged_files_are_refused_or_read(written):
    """Bytes changed at random: a ValueError or a network, and nothing else."""
    original, generator = written.read_bytes(), random.Random(5)
    for _ in range(150):
        data = bytearray(original)
        for _ in range(generator.choice((1, 1, 4, 40))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.1:
            del data[generator.randrange(len(data)):]
        written.write_bytes(data)
        try:
            pcsnn.convert(read_nir(written), 4)
        except ValueError as error:
            assert "path_or_graph" in str(error) or "model" in str(error) or "threshold" in str(error)


def _mutated(node, generator):
    """Change a field of a node in place to something odd."""
    odd = (None, "x", -1, 0, 2**40, np.nan, np.array([]), np.ones((2, 2)), np.zeros((1, 1, 1)), [[1], [2, 3]], {}, object(), 1.5, b"same", True)
    names = [key for key in vars(node)]
    setattr(node, generator.choice(names), generator.choice(odd))


def test_odd_fields_are_refused_or_read():
    generator = random.Random(2)
    snn, (x,) = pcsnn.convert(build("residual"), 4), inputs("residual")
    for _ in range(400):
        graph = to_nir(snn, x)
        for _ in range(generator.choice((1, 2))):
            kind = generator.random()
            if kind < 0.7:
                _mutated(generator.choice(list(graph.nodes.values())), generator)
            elif kind < 0.8:
                del graph.nodes[generator.choice(list(graph.nodes))]
            else:
                names = [*graph.nodes, "nowhere"]
                graph.edges[generator.randrange(len(graph.edges))] = generator.choice(names), generator.choice(names)
        try:
            out = pcsnn.convert(read_nir(graph), 4)(x)
        except ValueError as error:
            assert str(error).startswith("path_or_graph: "), error
        else:
            assert out.isfinite().all()
