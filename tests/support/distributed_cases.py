"""What one process and several both compute, for tests/network/test_distributed.py."""

import torch
from analysis_cases import data, two_layers
from few_steps import few_steps
from tiny_networks import conv, randomise
from torch import nn

import pcsnn

METHODS = ("max", "paper", "quick", "light", "advanced")
COUNT = 65  # shared unevenly by 2 and by 3
STEPS = 4  # of the gradient: enough to see that batches and gradients agree


def sixteenths(tensor):
    """Rounded so that sums of products are exact in float32, whatever their order."""
    return (tensor * 16).round() / 16


def exact(net):
    for parameter in net.parameters():
        parameter.data = sixteenths(parameter.data)
    return net


def images():
    return sixteenths(data(COUNT))


def labels():
    return torch.arange(COUNT) % 3


def rows():
    """Images of two sizes, as a dataset; of one there are only two, fewer than three processes."""
    draw = torch.Generator().manual_seed(5)
    return [sixteenths(torch.randn(3, 6 if i % 6 else 4, 4, generator=draw)) for i in range(11)]


def calibrated(method, calibration):
    """A conversion; the number of gradient steps is cut."""
    if isinstance(calibration, list):
        net = exact(
            randomise(
                nn.Sequential(
                    conv(), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
                )
            )
        )
    else:
        net = exact(two_layers())
    with few_steps(STEPS):
        return pcsnn.convert(net, 5, calibration=calibration, method=method)


def signed(calibration, method):
    net = exact(
        randomise(nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Linear(8, 8), nn.LeakyReLU(0.25), nn.Linear(8, 3)))
    )
    return pcsnn.convert(net, 12, calibration=calibration, method=method, signed=True)


def swept(batches):
    return pcsnn.analysis.sweep(exact(two_layers()), batches, [3, 8], "max")


# conversions, sweeps and evaluations of the data with spikes of D levels (22)
LEVELLED = (
    lambda several, data: pcsnn.convert(two_layers(), 4, calibration=data, method="max", spike_levels=several),
    lambda several, data: pcsnn.analysis.sweep(two_layers(), data, [2, 4], "max", spike_levels=several),
    lambda several, data: pcsnn.analysis.evaluate(
        pcsnn.convert(two_layers(nn.ReLU6), 4, method="none", spike_levels=several), data
    ),
)


def evaluated(batches, seed=0):
    snn = pcsnn.convert(exact(two_layers(nn.ReLU6, seed)), 8, method="none")
    return pcsnn.analysis.evaluate(snn, batches, spikes=True)
