"""A network whose operations other packages can count too."""

import torch
from tiny_networks import network, randomise
from torch import nn

import pcsnn

T = 4
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES[:, :, :2] = 0


def converted(pruned=True, spike_levels=1, timesteps=T):
    """Thresholds of 1, so that a spike is the number 1 in the executions too; every third weight is 0 if `pruned`."""

    def act():
        return pcsnn.nn.QCFS(timesteps * spike_levels, threshold=1.0)

    net = network(
        lambda s, x: s.last(s.act3(s.hidden(s.act2(s.second(s.pool(s.act1(s.first(x))))).flatten(1)))),
        first=nn.Conv2d(3, 4, 3, padding=1, bias=False),
        act1=act(),
        pool=nn.MaxPool2d(2),
        second=nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        act2=act(),
        hidden=nn.Linear(32, 16),
        act3=act(),
        last=nn.Linear(16, 5),
    )
    net = randomise(net)
    with torch.no_grad():
        for neuron in (net.act1, net.act2, net.act3):
            neuron.threshold.fill_(1)
        for layer in (net.first, net.second, net.hidden, net.last):
            if pruned:
                layer.weight.flatten()[::3] = 0
            layer.weight.mul_(2)
    return pcsnn.convert(net, timesteps, spike_levels=spike_levels, check=False)
