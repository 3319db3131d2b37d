"""Files of optimised networks from before a fused layer had a neuron and a synapse load, with equal results."""

import pathlib

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_networks import LEVELS, conv, network, randomise
from torch import nn

import pcsnn
from pcsnn.nn import QCFS

OLD = pathlib.Path(__file__).parent / "format_1"


def optimised(weights):
    """What the files were made of: every kind of fused layer, with branches of counts and of currents."""

    def forward(s, x):
        x = s.b(s.one(s.a(s.stem(x))))
        x = s.d(s.three(s.c(s.two(x))) + s.side(x))
        x = s.f(s.four(s.e(s.deep(x))) + x)
        return s.last(s.g(s.linear(torch.flatten(F.max_pool2d(x, 2), 1))))

    parts = dict(
        stem=conv(3, 16),
        one=conv(16, 16, 1, 0),
        two=conv(16, 16, 1, 0),
        three=conv(16, 16, 1, 0),
        side=conv(16, 16, 1, 0),
        deep=conv(16, 16, groups=16),
        four=conv(16, 16, 1, 0),
        linear=nn.Linear(16, 6),
        last=nn.Linear(6, 4),
    )
    net = randomise(network(forward, **parts, **{name: QCFS(LEVELS) for name in "abcdefg"}), 3)
    return pcsnn.optimize(pcsnn.convert(net, 8, progress=False), weights)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_optimised_networks_of_old_files_compute_what_new_ones_do(weights):
    path = OLD / f"fused_{weights}.safetensors"
    loaded, made, x = pcsnn.load(path), optimised(weights), torch.randn(2, 3, 2, 2)
    assert torch.equal(loaded(x), made(x))
    names = {f"network.{name}": value for name, value in load_file(path).items()}
    assert made.state_dict().keys() == loaded.state_dict().keys() == names.keys()
    for neurons in (loaded, made):
        for _, layer in neurons.neurons():
            layer.neuron.threshold.mul_(3)
    assert made.load_state_dict(names) == loaded.load_state_dict(names)
    assert torch.equal(loaded(x), made(x))
    assert [layer.neuron.threshold for _, layer in made.neurons()] == [
        names[f"network.{c}.threshold"] for c in "abcdefg"
    ]
    pcsnn.set_timesteps(loaded, 5)
    assert torch.equal(loaded(x), pcsnn.set_timesteps(made, 5)(x))
