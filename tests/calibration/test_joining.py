"""Inputs that join while layers are fitted, where memory holds the early values of some of them only."""

import pytest
import torch
from tiny_networks import build, one_thread, randomise  # noqa: F401 (a fixture)
from torch import nn

import pcsnn
from pcsnn.calibration import least_squares, weight_squares
from pcsnn.calibration.layerwise import QUICK
from pcsnn.calibration.lockstep import footprint, joining, lockstep
from pcsnn.data.pools import mini_batches


class Activation(nn.Module):
    """The float network's, behind a branch that is added."""

    def forward(self, x, residual=None):
        return (x if residual is None else x + residual).relu()


class Halves(Activation):
    """What stands in for a neuron: it rounds."""

    def forward(self, x, residual=None):
        return (super().forward(x, residual) * 2).round() / 2


def narrowing():
    """Values shrink from layer to layer."""
    return randomise(
        nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
    )


def traced(net, x):
    network = pcsnn.convert(net, 4, calibration=[x], method="max").network
    neurons = {name for name, module in network.named_modules() if isinstance(module, pcsnn.nn.CollapsedNeuron)}
    for node in network.graph.nodes:
        node.meta["activation"] = node.op == "call_module" and node.target in neurons
    for name in neurons:
        network.set_submodule(name, Activation())
    return network.requires_grad_(False)


def test_batches_start_where_those_that_are_there_fit():
    x = torch.randn(24, 2, 8, 8)
    network = traced(narrowing(), x)
    batches = mini_batches([(x,)], 4)
    peak, _ = footprint(network, (x[:1],))
    assert joining(network, batches, False, 24 * peak) == [0] * 6
    starts = joining(network, batches, False, 8 * peak)
    assert starts[:2] == [0, 0] and starts == sorted(starts) and 0 < starts[2] <= starts[-1]
    nodes = len(network.graph.nodes)
    assert joining(network, batches, False, 1)[1:] == [nodes] * 5  # the first is there whatever it takes


@pytest.mark.parametrize("budget", [4, 9, 100])
def test_batches_that_join_get_what_they_had_got_from_the_start(budget):
    x = torch.randn(24, 2, 8, 8)
    network = traced(narrowing(), x)
    batches = mini_batches([(x,)], 4)
    peak, _ = footprint(network, (x[:1],))
    seen = []

    def choose(node, currents, activations):
        assert len(currents) == len(activations)
        seen.append(sum(map(len, currents)))
        return Halves()

    starts = joining(network, batches, False, budget * peak)
    late = lockstep(network, batches, choose, False, starts=starts)
    assert seen == sorted(seen) and (seen[0] < seen[-1]) == (budget < 24)
    early = lockstep(network, batches, lambda *_: Halves(), False)
    for some, whole in zip(late, early):
        assert all(torch.equal(one, other) for one, other in zip(some, whole))


def test_late_layers_are_fitted_on_more_inputs(monkeypatch):
    x = torch.randn(64, 2, 8, 8)
    net, taken, fit = narrowing(), [], least_squares.fit
    monkeypatch.setattr(
        least_squares,
        "fit",
        lambda place, currents, *others, **options: (
            taken.append(sum(map(len, currents))) or fit(place, currents, *others, **options)
        ),
    )
    peak, _ = footprint(traced(net, x), (x[:1],))
    taken.clear()
    pcsnn.convert(net, 4, calibration=x, method=QUICK.with_options(fitting_bytes=int(16 * peak), fitting_batch=8))
    assert taken[0] <= 16 < taken[-1]


@pytest.mark.parametrize("budget", [5, 1000])
def test_fitted_weights_are_those_of_the_batches_that_join_too(budget):
    """The outputs of the student are those of the network that the fit leaves, for every batch."""
    x = torch.randn(24, 3, 8, 8)
    network = traced(build("residual", nn.ReLU), x)
    batches = mini_batches([(x,)], 4)
    peak, _ = footprint(network, (x[:1],))
    corrections = weight_squares.Corrections(network, [0, 1] * 3)
    starts = joining(network, batches, False, budget * peak)
    assert (max(starts) > 0) == (budget < 24)
    _, learnt = lockstep(network, batches, lambda *_: Halves(), False, corrections, starts)
    corrections.keep()
    for node in network.graph.nodes:
        if node.meta["activation"]:
            network.set_submodule(node.target, Halves())
    for (batch,), output in zip(batches, learnt):
        torch.testing.assert_close(network(batch), output)
