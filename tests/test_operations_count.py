"""count_operations against a reference that runs networks number by number and counts what it does."""

import copy
import dataclasses
import json
import math
import operator

import operation_reference
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import LEVELS, behind, conv, holding, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.analysis import EXECUTIONS, Count, Operations, count_operations, plot_operations
from pcsnn.nn import QCFS

FIELDS = [field.name for field in dataclasses.fields(Count) if field.name != "bytes"]


def seq(*layers):
    return lambda a: nn.Sequential(*(a() if layer is a_ else copy.deepcopy(layer) for layer in layers))


a_ = object()  # stands for an activation


def _spikes_and_numbers(s, x):
    h = s.act(s.conv(x))
    return s.last(s.third(torch.cat([h, x], 1)))


def _attention(s, h):
    q, v = s.last(s.second(h)).flatten(2).transpose(1, 2), h.flatten(2).transpose(1, 2)
    return (q @ (v.transpose(-2, -1) @ v)) * 0.5


NETWORKS = {
    "convolutions": seq(conv(), a_, conv(4, 3, stride=2), a_, conv(3, 2, (3, 2), (2, 1), dilation=2), a_, nn.Flatten(),
                        nn.Linear(18, 3)),
    "no_bias": seq(conv(bias=False), a_, nn.Flatten(), nn.Linear(100, 3, bias=False)),
    "grouped": seq(conv(3, 6), a_, conv(6, 4, groups=2, stride=(2, 1)), a_),
    "depthwise": seq(conv(), a_, conv(4, 8, groups=4, padding=2), a_, conv(8, 2, 1, 0, groups=2)),
    "transposed": seq(conv(), a_, nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), a_),
    "norms": seq(conv(), nn.BatchNorm2d(4), a_, conv(4, 2), nn.BatchNorm2d(2), a_, nn.BatchNorm2d(2)),
    "on_the_input": seq(a_, conv(), a_, a_),
    "pools": seq(nn.MaxPool2d(2, 1), conv(), a_, nn.MaxPool2d(3, 2, 1), conv(4, 3), a_, nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1),
                 nn.Flatten(), nn.Linear(3, 2)),
    "average_pools": seq(nn.AvgPool2d(2, 1, 1), conv(), a_, nn.AvgPool2d(3, 2, 1), conv(4, 2), a_, nn.AdaptiveAvgPool2d(2)),
    "mean": behind(lambda s, h: s.linear(s.last(s.second(h)).mean((2, 3))), linear=nn.Linear(4, 2)),
    "residual": behind(lambda s, h: s.last(s.second(h) + h)),
    "residual_downsample": behind(lambda s, h: s.last(s.third(h) + s.fourth(h)), third=conv(4, 4, 3, 1, stride=2),
                                  fourth=conv(4, 4, 1, 0, stride=2)),
    "residual_of_constants": holding(lambda s, x: s.last(s.second(s.act(s.conv(x) + s.third(x)))), third=conv()),
    "sum_of_spikes": behind(lambda s, h: s.third(h + s.last(s.second(h))), third=conv(4, 2)),
    "sum_of_spikes_to_neurons": behind(lambda s, h: s.third(h + s.last(s.second(h))), third=QCFS(LEVELS, 2.0)),
    "sum_outside": behind(lambda s, h: s.last(s.second(h)) + s.third(h), third=conv(4, 4)),
    "spikes_and_numbers": holding(_spikes_and_numbers, third=conv(7, 4)),
    "moves": behind(lambda s, h: s.last(s.second(F.pad(h[:, :, 1:, ::2], (1, 0, 2, 0))))),
    "attention": behind(_attention),
    "attention_of_averages": behind(lambda s, h: s.last(s.second(h)) @ s.third(h), third=conv(4, 4)),
}


def make(name, activation=lambda: QCFS(LEVELS)):
    return randomise(NETWORKS[name](activation)).double()


def images(count=2, seed=5):
    return torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_counts(rows, count):
    """Counters of the reference in the form of Count, without rows that counted nothing."""
    return {name: Count(bytes=row["bits"] / count / 8, **{field: row[field] / count for field in FIELDS})
            for name, row in rows.items() if any(row.values())}


def node_names(snn):
    """{name of a row: names of its nodes}."""
    names = {}
    for node in snn.network.graph.nodes:
        names.setdefault(str(node.target) if node.op == "call_module" else node.name, []).append(node.name)
    return names


def check(snn, x):
    result = count_operations(snn, x.split(1) if len(x) % 2 == 0 else x, progress=False)
    assert (result.timesteps, result.images, result.uncounted) == (snn.timesteps, len(x), [])
    nodes = node_names(snn)
    for execution in EXECUTIONS:
        expected = as_counts(operation_reference.count(snn, x, execution), len(x))
        rows = [row for row in result.layers if row.counts[execution] != Count()]
        assert {nodes[row.name][0]: row.counts[execution] for row in rows} == expected, execution
        assert result.total(execution) == sum(expected.values(), Count())
    return result


@pytest.mark.parametrize("timesteps", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("name", ["convolutions", "residual", "pools"])
def test_equal_to_the_reference_at_every_t(name, timesteps):
    check(pcsnn.convert(make(name), timesteps, method="none"), images(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_the_reference(name):
    result = check(pcsnn.convert(make(name), 3, method="none"), images(2))
    assert result.total("parallel").spikes > 0


def test_equal_to_the_reference_where_batch_norm_is_folded_and_thresholds_are_per_channel():
    net = make("norms", nn.ReLU)
    snn = pcsnn.convert(net, 5, calibration=images(16, 8), method="paper", progress=False)
    assert dict(snn.neurons())["2"].threshold.dim() == 1
    check(snn, images(2))
