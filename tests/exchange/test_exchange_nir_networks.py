"""What `read_nir` gives is a spiking network as it is, at its own T; the published network of the NIR paper is one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import build, inputs, one_thread  # noqa: F401

import pcsnn
from pcsnn.exchange import read_nir, to_nir

nir = pytest.importorskip("nir", reason="pip install nir")

from nir_graphs import between, fire

PAPER = Path(__file__).parent / "nir_paper" / "cnn_sinabs.nir"


def events(samples, share=0.03, seed=0):
    """Mean event counts a time-step, as a recording of N-MNIST has them."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(samples, 2, 34, 34, generator=generator, dtype=torch.float64) < share).double() * 0.5


def clipped(nodes, x):
    """The ANN that the network came from, whose activations end at 1, where a neuron fires at every step."""

    def weight(name):
        return torch.from_numpy(nodes[name].weight).double()

    x = F.conv2d(x, weight("0"), stride=2, padding=1).clamp(0, 1)
    x = F.conv2d(x, weight("2"), padding=1).clamp(0, 1)
    x = F.conv2d(F.avg_pool2d(x, 2, divisor_override=1), weight("5"), padding=1).clamp(0, 1)
    x = F.avg_pool2d(x, 2, divisor_override=1).flatten(1)
    return F.linear(F.linear(x, weight("9")).clamp(0, 1), weight("11")).clamp(0, 1)


@pytest.mark.parametrize("how", ["file", "graph"])
def test_the_network_of_the_nir_paper_runs(how):
    graph = nir.read(PAPER)
    snn = read_nir(PAPER if how == "file" else graph, 255, dtype=torch.float64)
    assert isinstance(snn, pcsnn.SpikingNetwork) and snn.timesteps == 255 and snn.meta == {"timesteps": None}
    assert [name for name, _ in snn.neurons()] == ["1", "3", "6", "10", "12"]
    assert [row.kind for row in snn.report.rows].count("synapse") == 5 and "<eval" not in str(snn.report)
    x = events(24)
    expected, off = clipped(graph.nodes, x), []
    for timesteps in (16, 64, 255):
        off.append((pcsnn.set_timesteps(snn, timesteps)(x) - expected).abs().mean().item())
    assert off[2] < off[1] < off[0] and off[2] < 0.01 < expected.max()
    with pcsnn.record(snn) as rec:
        snn(x)
    first = F.conv2d(x, torch.from_numpy(graph.nodes["0"].weight).double(), stride=2, padding=1)
    assert torch.equal(rec.counts["1"], (first * 255).floor().clamp(0, 255).to(torch.uint8))


def test_what_is_written_again_is_the_file():
    graph, snn = nir.read(PAPER), read_nir(PAPER)
    again = to_nir(snn, torch.zeros(1, 2, 34, 34))
    assert again.metadata["timesteps"] == snn.timesteps == 64
    for name, node in graph.nodes.items():
        for field in ("weight", "bias", "v_threshold", "r"):
            if hasattr(node, field):
                assert np.array_equal(getattr(again.nodes[name], field), getattr(node, field)), (name, field)


def test_its_own_time_steps_or_those_asked_for():
    snn = pcsnn.convert(build("convolutions"), 6, method="none")
    (x,) = inputs("convolutions")
    graph = to_nir(snn, x)
    read = read_nir(graph)
    assert read.timesteps == 6
    torch.testing.assert_close(read(x), snn(x))
    assert read_nir(graph, 9).timesteps == 9 and read_nir(graph, 9).meta == {"timesteps": 6}
    assert read_nir(between([2], [2], f=fire(2))).timesteps == 64
    for bad in (0, 256, 2.0, "8"):
        with pytest.raises((TypeError, ValueError), match="timesteps"):
            read_nir(graph, bad)
    for said in (300, 0):
        graph.metadata["timesteps"] = said
        with pytest.raises(ValueError, match=f"path_or_graph: metadata: timesteps: expected 1..255, got {said}"):
            read_nir(graph)
        assert read_nir(graph, 5).timesteps == 5


def test_a_copy_at_other_time_steps_is_made_without_calibration():
    snn = read_nir(PAPER, 8)
    x = events(4).float()
    before = snn(x)
    for named in ({}, {"calibration": x, "method": "max", "progress": False}):
        other = pcsnn.convert(snn, 4, spike_levels=5, **named)
        assert (other.timesteps, other.spike_levels, snn.timesteps) == (4, 5, 8)
        assert torch.equal(other(x), read_nir(PAPER, 20)(x)) and torch.equal(snn(x), before)
    for wrong, words in (({"timesteps": 300}, "timesteps"), ({"timesteps": 4, "method": "none at all"}, "method")):
        with pytest.raises(ValueError, match=words):
            pcsnn.convert(snn, **wrong)


def test_saved_optimised_and_beside_its_serial_form(tmp_path):
    snn, x = read_nir(PAPER, 32), events(4).float()
    pcsnn.save(snn, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(x), snn(x))
    torch.testing.assert_close(pcsnn.optimize(snn, example_inputs=(x,))(x), snn(x), atol=0.05, rtol=0)
    assert pcsnn.baselines.serial(snn)(x).shape == (4, 10)


def test_a_graph_without_neurons_is_a_network_without_spikes():
    weight = np.random.RandomState(0).randn(3, 4)
    snn = read_nir(between([4], [3], w=nir.Linear(weight)), dtype=torch.float64)
    x = torch.rand(2, 4, dtype=torch.float64)
    torch.testing.assert_close(snn(x), x @ torch.from_numpy(weight).T)
    assert not list(snn.neurons()) and [row.kind for row in snn.report.rows] == ["synapse"]
    assert (to_nir(snn, x).nodes["w"].weight == weight).all()
