"""Branches of sums: which synapses they are, and the factors that "light" gives them."""

import pytest
import torch
from few_steps import few_steps
from tiny_networks import one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.calibration import branches
from pcsnn.calibration.layerwise import LIGHT


class Branched(nn.Module):
    """A stem, a branch beside a shortcut, a sum of two branches, and branches that are none: called twice, scaled."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.left, self.right, self.twice, self.scaled = (nn.Linear(6, 6) for _ in range(6))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(5))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.relus[0](self.stem(x))
        x = self.relus[1](self.branch(x) + x)
        x = self.relus[2](self.left(x) + self.right(x))
        x = self.relus[3](self.twice(self.twice(x)) + x)
        return self.head(self.relus[4](torch.add(self.scaled(x), x, alpha=2)))


def test_branches_are_synapses_that_only_a_sum_reads():
    network = torch.fx.symbolic_trace(Branched())
    synapses = branches.own_synapses(network)
    assert [node.target for node in synapses] == ["stem", "branch", "left", "right", "scaled", "head"]
    last = branches.last_of_sums(network, synapses)
    assert [node.target for node in last.values()] == ["branch", "right"]


def test_clipped_is_what_only_activations_read_that_end_at_zero():
    network = torch.fx.symbolic_trace(Branched())
    for node in network.graph.nodes:
        node.meta["activation"] = node.op == "call_module" and node.target.startswith("relus")
    sums = [node.name for node in network.graph.nodes if node.op == "call_function"]
    assert [node.name for node in network.graph.nodes if node in branches.clipped(network)] == ["stem", *sums]
    network.set_submodule("relus.0", nn.LeakyReLU())
    assert [node.name for node in network.graph.nodes if node in branches.clipped(network)] == sums


@pytest.mark.parametrize("chosen", [True, False])
def test_light_scales_the_channels_of_branches_and_of_nothing_else(chosen):
    net = randomise(Branched())
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(2))
    snn = pcsnn.convert(net, 4, calibration=x, method=LIGHT.with_options(steps=8, scale_branches=chosen))
    own, scaled = dict(net.named_parameters()), set()
    for name, weight in snn.network.named_parameters():
        if name.endswith("weight") and not torch.equal(weight, own[name]):
            scaled.add(name)
            factors = weight / own[name]
            torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
            assert (factors > 0).all() and factors[:, 0].unique().numel() == len(factors)
    assert scaled == ({"branch.weight", "left.weight", "right.weight"} if chosen else set())
    assert not any(nn.utils.parametrize.is_parametrized(module) for module in snn.modules())


def test_a_branch_whose_weight_is_computed_stays_as_it_is():
    net = randomise(Branched())
    nn.utils.parametrizations.weight_norm(net.branch)
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(2))
    with few_steps(4):
        assert pcsnn.convert(net, 4, calibration=x, method="light")(x).isfinite().all()
