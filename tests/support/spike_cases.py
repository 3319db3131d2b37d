"""Recordings for the tests of what is made of them."""

import torch
from tiny_networks import build, inputs
from torch import nn

import pcsnn
from pcsnn.nn import QCFS


def recorded(timesteps=9, name="residual", batch=3):
    x = inputs(name, batch=batch)
    snn = pcsnn.convert(build(name, nn.ReLU), timesteps, calibration=[inputs(name)], method="max")
    with pcsnn.record(snn) as recording:
        snn(*x)
    return recording


def every_count(timesteps, shape=(2, 3)):
    """A Recording of a layer "a" that fired every count, and some more at random."""
    snn = pcsnn.convert(nn.Sequential(nn.Linear(3, 3), QCFS(timesteps)), timesteps)
    known = torch.arange(timesteps + 1).repeat(2 * shape[0] * shape[1])
    counts = known[: len(known) // (shape[0] * shape[1]) * shape[0] * shape[1]].reshape(-1, *shape).to(torch.uint8)
    with pcsnn.record(snn) as recording:
        recording._parts["1"].append(counts)
    return recording, counts
