"""The conversion report names every activation and pooling, what became of it, and where it stands."""

import re

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import IMAGE, LEVELS, NETWORKS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.nn import QCFS


class Example(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = conv(), nn.BatchNorm2d(4), QCFS(4, 1.0)
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout()
        self.second, self.last, self.up = conv(4, 4), QCFS(4, 2.0), nn.Upsample(scale_factor=2)
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        x = F.avg_pool2d(x, 2)
        h = self.act(self.norm(self.conv(x)))
        h = self.pool(h)
        h = self.last(self.second(self.drop(h)) + h)
        h = self.up(h)
        h = torch.cat([h, h], 1)
        h = F.adaptive_max_pool2d(h[:, :4], 2)
        h = h.mean((2, 3)) * 2
        return self.linear(torch.cat([h, h], 1))


def line_of(text):
    lines = open(__file__).read().splitlines()
    return f"{__file__}:{next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))}"


def test_rows_in_execution_order_with_kinds_and_places():
    report = pcsnn.convert(randomise(Example()), 8).report
    assert [(row.name, row.kind) for row in report.rows] == [
        ("avg_pool2d", "exact"),
        ("conv", "synapse"),
        ("norm", "synapse"),
        ("act", "spiking"),
        ("pool", "exact"),
        ("second", "synapse"),
        ("add", "exact"),
        ("last", "spiking"),
        ("up", "exact"),
        ("cat", "exact"),
        ("adaptive_max_pool2d", "exact"),
        ("mean", "exact"),
        ("mul", "exact"),
        ("cat_1", "exact"),
        ("linear", "synapse"),
    ]
    rows = {row.name: row for row in report.rows}
    assert rows["avg_pool2d"].location == line_of("x = F.avg_pool2d(x, 2)")
    assert rows["act"].location == rows["norm"].location == line_of("h = self.act(")
    assert rows["pool"].location == line_of("h = self.pool(h)")
    assert rows["last"].location == line_of("h = self.last(")
    assert rows["up"].location == line_of("h = self.up(h)")
    assert rows["adaptive_max_pool2d"].location == line_of("h = F.adaptive_max_pool2d(")
    assert rows["linear"].location == line_of("return self.linear(")
    assert rows["pool"].detail == "MaxPool2d on spike counts"
    assert rows["up"].detail == "Upsample"
    assert "QCFS L = 4: lossless" in rows["act"].detail and "threshold" in rows["act"].detail


def test_table():
    snn = pcsnn.convert(randomise(Example()), 8)
    lines = str(snn.report).splitlines()
    assert lines[0].split() == ["layer", "kind", "what", "became", "of", "it", "source"]
    assert set(lines[1]) == {"-", " "}
    assert len(lines) == 3 + len(snn.report.rows)
    for line, row in zip(lines[2:], snn.report.rows):
        assert line.startswith(row.name) and row.kind in line and row.detail in line and line.endswith(row.location)
    assert lines[-1] == "2 spiking, 4 synapse, 9 exact, 0 analog; method none, T = 8"
    assert snn.report.timesteps == snn.timesteps == 8


def test_folded_batch_norms_are_told():
    report = pcsnn.convert(build("conv_bn", nn.ReLU), 8, calibration=inputs("conv_bn")[0], method="max").report
    assert [row.detail for row in report.rows if row.kind == "synapse"] == [
        "Conv2d, 1 folded in",
        "Conv2d, 4 folded in",
    ]


def test_details_of_thresholds():
    net = randomise(nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 2, 1), QCFS(4), nn.Hardtanh(0, 3)))
    net[0].weight.data[1] = 0
    net[0].bias.data[1] = -1  # channel 1 never fires
    x = torch.randn(2, *IMAGE)
    rows = {row.name: row.detail for row in pcsnn.convert(net, 6, calibration=x, method="max").report.rows}
    assert re.fullmatch(r"ReLU: threshold [\d.]+\.\.[\d.]+, per channel \(4, 1 silent\)", rows["1"])
    assert re.fullmatch(r"QCFS: threshold [\d.]+, QCFS L = 4: half shift, not lossless", rows["3"])
    assert rows["4"].startswith("Hardtanh: threshold ")
    paper = {row.name: row.detail for row in pcsnn.convert(net, 6, calibration=x, method="paper").report.rows}
    assert paper["1"].endswith(", calibrated")


def test_set_timesteps_changes_the_report():
    snn = pcsnn.convert(randomise(Example()), 8)
    pcsnn.set_timesteps(snn, 6)
    assert snn.report.timesteps == 6 and str(snn.report).endswith("T = 6")
    assert [row.detail.endswith("half shift, not lossless") for row in snn.report.rows if row.kind == "spiking"] == [
        True,
        True,
    ]


def test_places_of_a_plain_sequential_are_where_it_was_converted():
    snn = pcsnn.convert(nn.Sequential(conv(), QCFS(4)), 4)
    assert {row.location for row in snn.report.rows} == {line_of("snn = pcsnn.convert(nn.Sequential(conv(), ")}


def test_a_name_of_a_call_may_equal_a_module():
    net = network(lambda s, x: s.mul(s.conv(x) * 2), conv=conv(), mul=QCFS(4))
    rows = pcsnn.convert(net, 4).report.rows
    assert [(row.kind, row.detail.split(":")[0]) for row in rows] == [
        ("synapse", "Conv2d"),
        ("exact", "mul by a constant"),
        ("spiking", "QCFS"),
    ]


POOLINGS = {
    "average_pools": 2,
    "average_pool_functions": 2,
    "max_pools": 3,
    "max_pool_functions": 2,
    "max_pool_first": 3,
    "max_pool_function_first": 2,
    "conv1d": 3,
    "conv3d": 3,
    "means": 2,
    "max_pool_over_channels": 2,
    "max_pool_after_cat": 1,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_activation_and_pooling_is_in_the_report(name):
    net = build(name)
    calls = []
    for module in net.modules():
        if isinstance(module, QCFS):
            module.register_forward_hook(lambda *_: calls.append(1))
    net(*inputs(name))
    report = pcsnn.convert(net, LEVELS).report
    spiking = [row for row in report.rows if row.kind == "spiking"]
    assert len(spiking) == len(calls) == len({row.name for row in spiking})
    assert all(row.location for row in report.rows) and all(
        row.kind in ("spiking", "synapse", "exact") for row in report.rows
    )
    pools = [row for row in report.rows if re.search("pool|mean|amax", row.detail, re.IGNORECASE)]
    assert len(pools) >= POOLINGS.get(name, 0)
