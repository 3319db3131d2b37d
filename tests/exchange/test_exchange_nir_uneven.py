"""Levels that calibration bent, as parallel IF nodes of NIR, one for each level."""

import numpy as np
import pytest
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange import read_nir, to_nir
from pcsnn.exchange.nir.uneven import curve
from pcsnn.nn import CollapsedNeuron

nir = pytest.importorskip("nir", reason="pip install nir")

from nir_graphs import counts_of


def bent(name="residual", dtype=torch.float64, timesteps=8, method="quick"):
    (x,) = inputs(name, dtype)
    snn = pcsnn.convert(build(name, nn.ReLU, dtype), timesteps, calibration=x, method=method, progress=False)
    assert all(neuron.bend is not None for _, neuron in snn.neurons())
    return snn, inputs(name, dtype, batch=5)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("how", ["file", "graph"])
def test_what_was_written_comes_back(how, dtype, tmp_path):
    snn, x = bent(dtype=dtype)
    graph = to_nir(snn, x, uneven="parallel")
    if how == "file":
        nir.write(tmp_path / "net.nir", graph)
    read = read_nir(tmp_path / "net.nir" if how == "file" else graph, dtype=dtype)
    assert read.timesteps == 8
    for (name, neuron), (other, made) in zip(snn.neurons(), read.neurons(), strict=True):
        assert name.replace(".", "_") == other and torch.equal(neuron.levels, made.levels)
    expected, out = counts_of(snn, x)
    found, again = counts_of(read, x)
    assert all(map(torch.equal, found, expected)) and all(counts.any() for counts in expected)
    torch.testing.assert_close(again, out)
    twice = to_nir(read, x, uneven="parallel")
    assert twice.nodes.keys() == graph.nodes.keys()
    assert all(map(torch.equal, counts_of(read_nir(twice, dtype=dtype), x)[0], expected))


@pytest.mark.parametrize("name", ["conv_bn", "mlp"])
def test_levels_below_zero_lift_the_current(name):
    snn, x = bent(name)
    assert any((neuron.levels < 0).any() for _, neuron in snn.neurons())
    graph = to_nir(snn, x, uneven="parallel")
    assert all((node.v_threshold > 0).all() for node in graph.nodes.values() if isinstance(node, nir.IF))
    torch.testing.assert_close(read_nir(graph, dtype=torch.float64)(x), snn(x))


def test_each_level_is_a_neuron_that_fires_once():
    """Run as NIR says, with a reset to v_reset, the nodes of a first layer send a spike for each level reached."""
    snn, x = bent()
    graph = to_nir(snn, x, uneven="parallel")
    layer = next(name for name, _ in snn.neurons())
    levels = [node for node in graph.nodes.values() if node.metadata.get("level_of") == layer]
    assert len(levels) == 8
    current = {}
    hook = snn.network.get_submodule(layer).register_forward_pre_hook(
        lambda module, given: current.update(x=given[0].clone())
    )
    snn(x)
    hook.remove()
    sent = np.zeros(current["x"].shape)
    for node in levels:
        potential = 0.0
        for _ in range(8):
            potential = potential + current["x"].numpy()
            fired = potential >= node.v_threshold * (1 - 1e-12)  # the sum of eight rounds
            sent += fired
            potential = np.where(fired, node.v_reset, potential)
    assert np.array_equal(sent, counts_of(snn, x)[0][0].numpy()) and sent.max() > 1


def test_run_step_by_step_it_is_near():
    snn, x = bent("conv_bn")
    stepped = read_nir(to_nir(snn, x, uneven="parallel"), serial=True, dtype=torch.float64)
    assert (stepped(x) - snn(x)).abs().mean() < 0.1 * snn(x).abs().mean()


def test_at_other_time_steps_the_levels_are_read_between_those_there_were():
    snn, x = bent()
    read = read_nir(to_nir(snn, x, uneven="parallel"), dtype=torch.float64)
    with pytest.warns(UserWarning, match="calibrated at T = 8"):
        pcsnn.set_timesteps(snn, 12)
    for (_, neuron), (_, made) in zip(snn.neurons(), pcsnn.convert(read, 12).neurons()):
        torch.testing.assert_close(made.levels[..., 1:-1], neuron.levels[..., 1:-1])  # beyond the ends it is guessed


@pytest.mark.parametrize("channels", [(), (5,)])
def test_any_table_is_met_bit_for_bit(channels):
    generator = torch.Generator().manual_seed(0)
    for timesteps in (1, 2, 7, 16):
        for scale in (1e-6, 1.0, 3e5):
            table = (torch.rand(*channels, timesteps, generator=generator) ** 6 * scale + 1e-9).sort(-1).values
            theta, bend = curve(table.double())
            assert torch.equal(CollapsedNeuron(theta, timesteps, bend=bend).levels, table)


def test_refused_unless_asked_for():
    snn, x = bent("conv_bn")
    with pytest.raises(
        ValueError, match=r"snn: 2 was calibrated to uneven levels .* uneven='parallel' writes 8 of them"
    ):
        to_nir(snn, x)
    with pytest.raises(ValueError, match="uneven: expected 'refuse' or 'parallel', got 'yes'"):
        to_nir(snn, x, uneven="yes")


def node_of(graph, layer, level):
    return next(
        name
        for name, node in graph.nodes.items()
        if node.metadata.get("level_of") == layer and node.metadata["level"] == level
    )


def change(graph, layer, place, **fields):
    node = graph.nodes[node_of(graph, layer, place)]
    for key, value in fields.items():
        if key in ("level", "level_of"):
            node.metadata[key] = value
        else:
            setattr(node, key, value)


def cut(graph, layer, level):
    name = node_of(graph, layer, level)
    place = next(place for place, edge in enumerate(graph.edges) if edge[0] == name)
    target = next(
        other
        for other in graph.nodes
        if other not in (name, graph.edges[place][1]) and "IF" in type(graph.nodes[other]).__name__
    )
    graph.edges[place] = (name, target)


ODD = {
    "numbers": (lambda g, layer: change(g, layer, 3, level=9), "metadata: level: expected 1..8, each once"),
    "words": (lambda g, layer: change(g, layer, 3, level="x"), "metadata: level: expected an integer, got 'x'"),
    "edges": (lambda g, layer: cut(g, layer, 2), "metadata: level_of: expected the nodes of .* the same edges"),
    "order": (
        lambda g, layer: change(g, layer, 2, v_threshold=g.nodes[node_of(g, layer, 2)].v_threshold * 1e3),
        "v_threshold: expected levels that ascend",
    ),
    "twice": (
        lambda g, layer: change(g, layer, 2, v_reset=g.nodes[node_of(g, layer, 2)].v_reset * 0 - 1),
        "v_reset: expected at most -1e.36",
    ),
    "each neuron": (
        lambda g, layer: change(
            g, layer, 1, v_threshold=np.random.rand(*g.nodes[node_of(g, layer, 1)].v_threshold.shape) / 1e3 + 1e-3
        ),
        "v_threshold: expected one level for each channel",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_nodes_that_are_no_layer_are_named(case):
    make, words = ODD[case]
    snn, x = bent("conv_bn")
    graph = to_nir(snn, x, uneven="parallel")
    make(graph, "2")
    with pytest.raises(ValueError, match=f"path_or_graph: 2.*{words}"):
        read_nir(graph)
