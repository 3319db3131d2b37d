"""Graphs of NIR that run step by step: leaks, resets to a potential, loops, delays."""

import threading

import numpy as np
import pytest
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401

import pcsnn
from pcsnn.exchange import SerialGraph, read_nir, to_nir

nir = pytest.importorskip("nir", reason="pip install nir")

from nir_graphs import between, branching, ends, fire, graph_of

RANDOM = np.random.RandomState(0)


def full(value, size=4):
    return np.full(size, value)


def drawn(low, high, size=4):
    return RANDOM.uniform(low, high, size)


class Simulated:
    """A neuron of NIR by its equations, a step a call, in numpy."""

    def __init__(self, node, dt, reset="zero", inclusive=False):
        self.node, self.dt, self.reset, self.inclusive = node, dt, reset, inclusive
        self.v = self.i = 0.0

    def __call__(self, x):
        node, dt = self.node, self.dt
        if hasattr(node, "tau_syn"):
            self.i = self.i + dt / node.tau_syn * (node.w_in * x - self.i)
            x = self.i
        tau = getattr(node, "tau", getattr(node, "tau_mem", None))
        if tau is None:
            self.v = self.v + node.r * dt * x
        else:
            self.v = self.v + dt / tau * (node.v_leak - self.v + node.r * x)
        if not hasattr(node, "v_threshold"):
            return self.v
        fired = self.v >= node.v_threshold if self.inclusive else self.v > node.v_threshold
        self.v = np.where(fired, self.v - node.v_threshold if self.reset == "subtract" else node.v_reset, self.v)
        return fired.astype(float)


def neurons():
    rest, theta, low = drawn(-0.1, 0.1), drawn(0.2, 0.6), drawn(-0.3, 0.1)
    tau, slow, r = drawn(3, 9), drawn(2, 5), drawn(0.8, 3)
    return {
        "LIF": nir.LIF(tau, r, rest, theta, low),
        "CubaLIF": nir.CubaLIF(slow, tau, r, rest, theta, low, drawn(0.5, 4)),
        "LI": nir.LI(tau, r, rest),
        "CubaLI": nir.CubaLI(slow, tau, r, rest, drawn(0.5, 2)),
        "I": nir.I(r),
        "IF": nir.IF(r, theta, low),
    }


@pytest.mark.parametrize("dt", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "LI", "CubaLI", "I", "IF"])
def test_neurons_follow_their_equations(kind, dt):
    node, x = neurons()[kind], RANDOM.uniform(-0.2, 1.2, (60, 3, 4))
    net = read_nir(between([4], [4], n=node), 60, serial=True, dt=dt, dtype=torch.float64)
    simulated = Simulated(node, dt)
    expected = np.stack([simulated(step) for step in x])
    found = net.run(torch.from_numpy(x))
    torch.testing.assert_close(found, torch.from_numpy(expected))
    assert expected.any() and isinstance(net, SerialGraph) and (net.timesteps, net.dt) == (60, dt)
    steady = Simulated(node, dt)
    mean = np.mean([steady(x[0]) for _ in range(60)], axis=0)
    torch.testing.assert_close(net(torch.from_numpy(x[0])), torch.from_numpy(mean))


@pytest.mark.parametrize("reset", ["subtract", "zero", None])
@pytest.mark.parametrize("words", [{}, {"reset": "subtract", "fires": ">="}, {"reset": "zero", "fires": ">"}])
def test_what_a_spike_does_is_what_metadata_say_or_what_is_asked_for(reset, words):
    node = nir.LIF(full(4.0), full(2.0), full(0.0), full(0.75), metadata=words)
    x = RANDOM.randint(0, 4, (40, 2, 4)) / 4
    simulated = Simulated(node, 1.0, words.get("reset", reset or "zero"), words.get("fires") == ">=")
    expected = np.stack([simulated(step) for step in x])
    net = read_nir(between([4], [4], n=node), serial=True, dt=1.0, dtype=torch.float64, reset=reset)
    assert np.array_equal(net.run(torch.from_numpy(x)).numpy(), expected)


def test_a_hard_reset_forgets_what_a_soft_one_keeps():
    graph, x = between([1], [1], n=fire(1)), torch.tensor([[0.625]])
    assert read_nir(graph, 8, serial=True)(x).item() == 0.625
    assert read_nir(graph, 8, serial=True, reset="zero")(x).item() == 0.5
    graph.nodes["n"].v_reset = full(-0.5, 1)
    with pytest.raises(ValueError, match=r"n \(IF\): v_reset: .*serial=True runs it step by step"):
        read_nir(graph, 8)
    assert read_nir(graph, 8, serial=True)(x).item() == 0.375


@pytest.mark.parametrize("name", ["mlp", "convolutions", "residual", "average_pool_functions", "scaled", "nested"])
def test_soft_resets_are_those_of_the_serial_baseline(name):
    (x,) = inputs(name, torch.float64)
    snn = pcsnn.convert(build(name, dtype=torch.float64), 8)
    graph = to_nir(snn, x)
    read = read_nir(graph, dtype=torch.float64)
    stepped = read_nir(graph, serial=True, dtype=torch.float64)
    assert stepped.timesteps == 8
    torch.testing.assert_close(stepped(x), pcsnn.baselines.serial(read)(x))
    torch.testing.assert_close(stepped(x), pcsnn.baselines.serial(snn)(x))


def test_branches_and_graphs_within_graphs():
    x = torch.rand(4, 6, dtype=torch.float64)
    stepped = read_nir(branching(), 20, serial=True, dtype=torch.float64)
    torch.testing.assert_close(stepped(x), pcsnn.baselines.serial(read_nir(branching(), 20, dtype=torch.float64))(x))
    inner = between([6], [6], n=nir.LIF(full(3.0, 6), full(2.0, 6), full(0.0, 6), full(0.5, 6)))
    nested = read_nir(between([6], [6], block=inner), 20, serial=True, dtype=torch.float64)
    torch.testing.assert_close(nested(x), read_nir(inner, 20, serial=True, dtype=torch.float64)(x))


def looped(weight, bias, kind="LIF"):
    """input -> a -> neurons -> output, and neurons -> w -> neurons."""
    start, end = ends([3], [4])
    nodes = start | {"a": nir.Linear(RANDOM.randn(4, 3)), "n": neurons()[kind], "w": nir.Affine(weight, bias)} | end
    return graph_of(nodes, [("in", "a"), ("a", "n"), ("n", "w"), ("w", "n"), ("n", "out")])


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "IF"])
def test_spikes_of_a_loop_come_back_a_step_later(kind, tmp_path):
    weight, bias = RANDOM.randn(4, 4), RANDOM.randn(4) / 4
    graph = looped(weight, bias, kind)
    with pytest.raises(ValueError, match=r"(n, w|w, n) form a cycle; .*serial=True"):
        read_nir(graph)
    nir.write(tmp_path / "net.nir", graph)
    net = read_nir(tmp_path / "net.nir", serial=True, dt=1.0, dtype=torch.float64)
    x, simulated, sent, expected = (
        RANDOM.uniform(0, 1, (50, 2, 3)),
        Simulated(graph.nodes["n"], 1.0),
        np.zeros((2, 4)),
        [],
    )
    for step in x:
        sent = simulated(step @ graph.nodes["a"].weight.T + sent @ weight.T + bias)
        expected.append(sent)
    assert np.array_equal(net.run(torch.from_numpy(x)).numpy(), np.stack(expected)) and np.any(expected)


def test_a_neuron_that_feeds_itself():
    start, end = ends([4], [4])
    node = fire(4, 1.5)
    graph = graph_of(start | {"n": node} | end, [("in", "n"), ("n", "n"), ("n", "out")])
    x, potential, sent, expected = RANDOM.uniform(0, 1, (30, 2, 4)), 0.0, 0.0, []
    for step in x:
        potential = potential + step + sent
        sent = (potential >= 1.5).astype(float)
        potential = potential - 1.5 * sent
        expected.append(sent)
    net = read_nir(graph, serial=True, dtype=torch.float64)
    assert np.array_equal(net.run(torch.from_numpy(x)).numpy(), np.stack(expected))


def test_delays_of_whole_steps():
    x = torch.rand(9, 2, 4, dtype=torch.float64)
    net = read_nir(
        between([4], [4], d=nir.Delay(np.array([0.0, 0.5, 1.0, 2.0]))), serial=True, dt=0.5, dtype=torch.float64
    )
    out = net.run(x)
    for place, steps in enumerate((0, 1, 2, 4)):
        assert torch.equal(out[steps:, :, place], x[: 9 - steps, :, place]) and not out[:steps, :, place].any()


def test_pools_thresholds_and_several_inputs_and_outputs():
    two = np.array([2])
    nodes = {
        "x": nir.Input(two),
        "y": nir.Input(two),
        "f": fire(2, 0.5),
        "t": nir.Threshold(np.full(2, 0.6)),
        "o": nir.Output(two),
        "p": nir.Output(two),
    }
    net = read_nir(graph_of(nodes, [("x", "f"), ("y", "t"), ("t", "o"), ("f", "p"), ("y", "p")]), 10, serial=True)
    x, y = torch.tensor([[0.25, 0.1]]), torch.tensor([[0.7, 0.5]])
    first, second = net(x, y)
    torch.testing.assert_close(first, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(second, torch.tensor([[0.5, 0.2]]) + y)
    image = between(
        [1, 4, 4],
        [4],
        p=nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        f=nir.Flatten(np.array([1, 2, 2]), 0, -1),
    )
    assert torch.equal(read_nir(image, serial=True)(torch.ones(3, 1, 4, 4)), torch.full((3, 4), 4.0))


def test_the_usual_step_where_there_are_time_constants():
    lif = nir.LIF(full(0.0025), full(1.0), full(0.0), full(0.1))
    assert read_nir(between([4], [4], n=lif), serial=True).dt == 1e-4
    assert read_nir(between([4], [4], n=fire(4)), serial=True).dt == 1.0
    with pytest.raises(ValueError, match=r"n \(LIF\): has time constants and m \(IF\) has none; expected dt"):
        read_nir(between([4], [4], n=lif, m=fire(4)), serial=True)
    assert read_nir(between([4], [4], n=lif, m=fire(4)), serial=True, dt=1e-3).dt == 1e-3
    with pytest.raises(ValueError, match=r"n \(LIF\): tau: expected time constants of at least dt = 1, .* 0.0025"):
        read_nir(between([4], [4], n=lif), serial=True, dt=1.0)


def chain_of_loops():
    start, end = ends([4], [4])
    nodes = start | {"a": fire(4), "b": fire(4), "w": nir.Linear(np.eye(4))} | end
    return graph_of(nodes, [("in", "a"), ("a", "b"), ("b", "w"), ("w", "a"), ("b", "out")])


def loop_without_neurons():
    start, end = ends([4], [4])
    nodes = start | {"a": nir.Linear(np.eye(4)), "w": nir.Linear(np.eye(4))} | end
    return graph_of(nodes, [("in", "a"), ("a", "w"), ("w", "a"), ("a", "out")])


REFUSED = {
    "several layers in a loop": (
        chain_of_loops,
        "a, b|a, w|b, a|b, w|w, a|w, b",
        "expected one layer of neurons in every loop",
    ),
    "no neurons in a loop": (loop_without_neurons, "a, w|w, a", "expected one layer of neurons in every loop"),
    "half a step": (
        lambda: between([4], [4], d=nir.Delay(full(0.5))),
        "d",
        "delay: expected whole numbers of time-steps",
    ),
    "long": (lambda: between([4], [4], d=nir.Delay(full(1e6))), "d", "delay: expected whole numbers of time-steps"),
    "words": (lambda: between([4], [4], n=fire(4, metadata={"reset": "none"})), "n", "reset: expected 'subtract' or"),
    "both": (
        lambda: between([4], [4], n=fire(4, v_reset=full(0.1), metadata={"reset": "subtract"})),
        "n",
        "v_reset: expected zero where the threshold is subtracted",
    ),
    "shape": (lambda: between([3], [4], n=neurons()["LIF"]), "n", "r: expected the shape"),
    "back": (lambda: looped(RANDOM.randn(5, 4), RANDOM.randn(5)), "n", "adds up values of other shapes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_step_by_step_is_named(case):
    make, node, words = REFUSED[case]
    with pytest.raises(ValueError, match=f"path_or_graph: ({node}).*{words}"):
        read_nir(make(), serial=True, dt=1.0)


def test_bad_arguments():
    graph = between([2], [2], f=fire(2))
    for named, error, words in (
        (dict(serial=1), TypeError, "serial: expected a bool, got int"),
        (dict(reset="zero"), ValueError, "reset: goes with serial=True"),
        (dict(serial=True, reset="hard"), ValueError, "reset: expected None, 'subtract' or 'zero', got 'hard'"),
    ):
        with pytest.raises(error, match=words):
            read_nir(graph, **named)
    net = read_nir(graph, serial=True)
    for call, error, words in (
        (lambda: net(), TypeError, r"inputs: expected 1 \(in\), got 0"),
        (lambda: net(torch.zeros(2, 3)), ValueError, r"in: expected shape \[N, 2\], got \[2, 3\]"),
        (lambda: net(torch.zeros(2, 2).double()), TypeError, "in: expected"),
        (lambda: net.run(torch.zeros(2, 2)), ValueError, r"in: expected shape \[T, N, 2\], got \[2, 2\]"),
        (lambda: net.run(torch.zeros(0, 2, 2)), ValueError, "inputs: expected one number of steps"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_calls_start_anew_and_threads_do_not_meet():
    net = read_nir(between([4], [4], n=neurons()["LIF"]), 40, serial=True, dt=1.0, dtype=torch.float64)
    data = [torch.rand(2, 4, dtype=torch.float64) * 2 for _ in range(4)]
    expected, found = [net(x) for x in data], [None] * 4

    def work(place):
        found[place] = [net(data[place]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out, expected[place]) for place in range(4) for out in found[place])
