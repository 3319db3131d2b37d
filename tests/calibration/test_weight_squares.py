"""Weights of synapses by least squares on the student's own inputs (C6)."""

import copy

import pytest
import torch
from tiny_networks import build, inputs, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.calibration import weight_squares
from pcsnn.calibration.layerwise import ADVANCED
from pcsnn.calibration.lockstep import lockstep
from pcsnn.data.pools import mini_batches

SYNAPSES = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "linear on tokens": (lambda: nn.Linear(5, 4, bias=False), (3, 5)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 7)),
    "strided": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 0)), (3, 7, 6)),
    "dilated": (lambda: nn.Conv2d(3, 4, 3, dilation=2, padding="same", bias=False), (3, 6, 7)),
    "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (3, 6, 7)),
    "even kernel": (lambda: nn.Conv2d(3, 4, 4, padding="same"), (3, 6, 7)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 6, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 7)),
    "mirrored": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (3, 6, 7)),
    "one dimension": (lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 9)),
    "three dimensions": (lambda: nn.Conv3d(2, 4, 2, stride=2), (2, 4, 5, 6)),
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def synapse(name, seed=0):
    make, shape = SYNAPSES[name]
    return randomise(make(), seed), shape


@pytest.mark.parametrize("name", SYNAPSES)
@torch.no_grad()
def test_least_squares_finds_the_weights_of_another_synapse(name):
    (module, shape), (other, _) = synapse(name), synapse(name, 1)
    before = copy.deepcopy(module.state_dict())
    x = normal(200, *shape)
    found = weight_squares.fit(module, x.split(64), other(x).split(64), [0, 1, 0, 1])
    torch.testing.assert_close(found.weight, other.weight, rtol=0, atol=1e-3 * other.weight.abs().max().item())
    if module.bias is not None:
        torch.testing.assert_close(found.bias, other.bias, rtol=0, atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("most", [64, 1000])
@torch.no_grad()
def test_a_part_of_the_positions_finds_them_too(most, monkeypatch):
    monkeypatch.setattr(weight_squares, "MOST_POSITIONS", most)
    monkeypatch.setattr(weight_squares, "LEAST_POSITIONS", 2)
    monkeypatch.setattr(weight_squares, "CHUNK", 2000)
    (module, shape), (other, _) = synapse("conv"), synapse("conv", 1)
    x, seen = normal(100, *shape), []
    patches = weight_squares._patches
    monkeypatch.setattr(weight_squares, "_patches", lambda *arguments: seen.append(patches(*arguments)) or seen[-1])
    found = weight_squares.fit(module, x.split(32), other(x).split(32), [0, 0, 1, 1])
    torch.testing.assert_close(found.weight, other.weight, rtol=0, atol=1e-2)
    assert most <= sum(part.shape[-1] for part in seen) <= 2 * most + 100
    assert max(part.numel() for part in seen) <= 2000


@torch.no_grad()
def test_weights_stay_where_changes_do_no_good_on_other_inputs():
    """What is wanted differs by noise alone, which 12 inputs teach 4 x 21 weights by heart."""
    module = randomise(nn.Linear(20, 4))
    x = normal(12, 20)
    wanted = module(x) + normal(12, 4, seed=1)
    found = weight_squares.fit(module, x.split(6), wanted.split(6), [0, 1])
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in found.state_dict().items())
    one = weight_squares.fit(module, [x[:1]], [module(x[:1]) + 1], [0])
    assert torch.equal(one.weight, module.weight)


@torch.no_grad()
def test_what_lies_below_zero_needs_no_fit():
    """One output cannot follow both its wanted part above zero and noise below: above zero it does better for it."""
    x = normal(400, 6)
    wanted = x[:, :1] + x[:, 1:2] * (x[:, :1] < 0) * 3 - 4.0 * (x[:, :1] < 0)
    module, beside = randomise(nn.Linear(6, 1)), torch.zeros(1).expand(400, 1)

    def error(fitted):
        return (fitted(x).relu() - wanted.relu()).square().sum()

    plain = weight_squares.fit(module, x.split(200), wanted.split(200), [0, 1])
    clipped = weight_squares.fit(module, x.split(200), wanted.split(200), [0, 1], beside.split(200))
    assert error(clipped) < 0.8 * error(plain)
    moved = weight_squares.fit(
        module, x.split(200), (wanted - 1).split(200), [0, 1], torch.ones(400, 1).split(200)
    )  # the same sum
    torch.testing.assert_close(moved.weight, clipped.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved.bias, clipped.bias - 1, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_inputs_that_never_come_change_no_weight():
    module, other = randomise(nn.Linear(6, 4)), randomise(nn.Linear(6, 4), 1)
    x = normal(300, 6) * torch.tensor([1.0, 1, 1, 1, 0, 0])
    found = weight_squares.fit(module, x.split(150), other(x).split(150), [0, 1])
    torch.testing.assert_close(found.weight[:, :4], other.weight[:, :4], rtol=0, atol=1e-3)
    assert torch.equal(found.weight[:, 4:], module.weight[:, 4:])
    assert torch.equal(weight_squares.fit(module, [x * 0], [module(x * 0)], [0]).weight, module.weight)


class Branches(nn.Module):
    """A residual branch, two branches without a shortcut, a convolution that is called twice, one that is read."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.left, self.right = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.twice, self.read = (nn.Conv2d(3, 3, 1) for _ in range(2))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(5))

    def forward(self, x):
        x = self.relus[0](self.stem(x))
        x = self.relus[1](self.branch(x) + x)
        x = self.relus[2](self.left(x) + self.right(x))
        x = self.relus[3](self.twice(x))
        x = self.relus[4](self.read(self.twice(x)))
        return x * self.read.bias.sum()


@torch.no_grad()
def test_branches_make_up_for_what_the_sum_lacks():
    net = randomise(Branches())
    x = normal(40, 3, 8, 8)
    network = torch.fx.symbolic_trace(net)
    for node in network.graph.nodes:
        node.meta["activation"] = node.op == "call_module" and node.target.startswith("relus")
    sums = [node for node in network.graph.nodes if node.op == "call_function" and "add" in node.name]

    class Rounded(nn.Module):
        def forward(self, x):
            return x.relu().mul(2).round() / 2

    def errors(correct):
        found = []

        def watched(node, teacher, student):
            module = correct and correct(node, teacher, student)
            if node in sums:
                pairs = zip([run.run_node(node) for run in student], [run.env[node] for run in teacher])
                found.append(sum((value - taught).square().sum() for value, taught in pairs))
            return module

        lockstep(network, mini_batches([(x,)], 16), lambda *_: Rounded(), False, watched)
        return torch.stack(found)

    corrections = weight_squares.Corrections(network, [0, 1, 0])
    plain, corrected = errors(None), errors(corrections)
    assert (corrected < 0.95 * plain).all()
    assert {node.target for node in corrections.fitted} == {"stem", "branch", "left", "right"}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    corrections.keep()
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"branch", "left", "right"}  # the stem sees what the float network sees


@torch.no_grad()
def test_fitted_weights_lower_the_error_and_can_be_left_out():
    net, x = build("residual", nn.ReLU), inputs("residual", batch=256)[0]
    fitted, plain = (
        pcsnn.convert(net, 2, calibration=x[:192], method=ADVANCED.with_options(steps=0, fit_weights=chosen))
        for chosen in (True, False)
    )
    quick = pcsnn.convert(net, 2, calibration=x[:192], method="quick")
    assert all(torch.equal(value, quick.state_dict()[key]) for key, value in plain.state_dict().items())
    error = [(snn(x[192:]) - net(x[192:])).square().sum() for snn in (fitted, plain)]
    assert error[0] < error[1]
