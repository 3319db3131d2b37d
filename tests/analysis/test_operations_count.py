"""count_operations against a reference that runs networks number by number and counts what it does."""

import copy
import dataclasses
import json
import math
import types

import operation_reference
import operations
import pytest
import tiny_networks
import torch
import torch.nn.functional as F
from tiny_networks import LEVELS, behind, conv, holding, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.analysis import EXECUTIONS, Count, Operations, count_operations, plot_operations
from pcsnn.analysis.costs import fan_out
from pcsnn.nn import QCFS, ChannelScale

FIELDS = [field.name for field in dataclasses.fields(Count) if field.name != "bytes"]


def seq(*layers):
    """Factory of networks of these layers, a_ standing for an activation."""
    return lambda a: nn.Sequential(*(a() if layer is a_ else copy.deepcopy(layer) for layer in layers))


a_ = object()


def _spikes_and_numbers(s, x):
    h = s.act(s.conv(x))
    return s.last(s.third(torch.cat([h, x], 1)))


def _attention(s, h):
    q, v = s.last(s.second(h)).flatten(2).transpose(1, 2), h.flatten(2).transpose(1, 2)
    return (q @ (v.transpose(-2, -1) @ v)) * 0.5


NETWORKS = {
    "convolutions": seq(
        conv(), a_, conv(4, 3, stride=2), a_, conv(3, 2, (3, 2), (2, 1), dilation=2), a_, nn.Flatten(), nn.Linear(18, 3)
    ),
    "no_bias": seq(conv(bias=False), a_, nn.Flatten(), nn.Linear(100, 3, bias=False)),
    "grouped": seq(conv(3, 6), a_, conv(6, 4, groups=2, stride=(2, 1)), a_),
    "depthwise": seq(conv(), a_, conv(4, 8, groups=4, padding=2), a_, conv(8, 2, 1, 0, groups=2)),
    "transposed": seq(conv(), a_, nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), a_),
    "norms": seq(conv(), nn.BatchNorm2d(4), a_, conv(4, 2), nn.BatchNorm2d(2), a_, nn.BatchNorm2d(2)),
    "on_the_input": seq(a_, conv(), a_, a_),
    "pools": seq(
        nn.MaxPool2d(2, 1),
        conv(),
        a_,
        nn.MaxPool2d(3, 2, 1),
        conv(4, 3),
        a_,
        nn.AvgPool2d(2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    ),
    "average_pools": seq(
        nn.AvgPool2d(2, 1, 1), conv(), a_, nn.AvgPool2d(3, 2, 1), conv(4, 2), a_, nn.AdaptiveAvgPool2d(2)
    ),
    "windows_of_one": seq(conv(), a_, nn.AdaptiveAvgPool2d((5, 5)), conv(4, 2), a_),
    "mean": behind(lambda s, h: s.linear(s.last(s.second(h)).mean((2, 3))), linear=nn.Linear(4, 2)),
    "residual": behind(lambda s, h: s.last(s.second(h) + h)),
    "residual_downsample": behind(
        lambda s, h: s.last(s.third(h) + s.fourth(h)),
        third=conv(4, 4, 3, 1, stride=2),
        fourth=conv(4, 4, 1, 0, stride=2),
    ),
    "residual_of_constants": holding(lambda s, x: s.last(s.second(s.act(s.conv(x) + s.third(x)))), third=conv()),
    "sum_of_spikes": behind(lambda s, h: s.third(h + s.last(s.second(h))), third=conv(4, 2)),
    "sum_of_spikes_to_neurons": behind(lambda s, h: s.third(h + s.last(s.second(h))), third=QCFS(LEVELS, 2.0)),
    "sum_outside": behind(lambda s, h: s.last(s.second(h)) + s.third(h), third=conv(4, 4)),
    "spikes_and_numbers": holding(_spikes_and_numbers, third=conv(7, 4)),
    "moves": behind(lambda s, h: s.last(s.second(F.pad(h[:, :, 1:, ::2], (1, 0, 2, 0))))),
    "attention": behind(_attention),
    "attention_of_averages": behind(lambda s, h: s.last(s.second(h)) @ s.third(h), third=conv(4, 4)),
    "numbers_times_spikes": behind(lambda s, h: s.third(h) @ s.last(s.second(h)), third=conv(4, 4)),
}


def make(name, activation=lambda: QCFS(LEVELS)):
    return randomise(NETWORKS[name](activation)).double()


def images(count=2, seed=5):
    return torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_counts(rows, count):
    """Counters of the reference in the form of Count, without rows that counted nothing."""
    return {
        name: Count(bytes=row["bits"] / count / 8, **{field: row[field] / count for field in FIELDS})
        for name, row in rows.items()
        if any(row.values())
    }


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
    for execution in result.executions:
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


def test_every_construct_is_counted():
    for name in tiny_networks.NETWORKS:
        snn = pcsnn.convert(tiny_networks.build(name), 2, method="none")
        x = tiny_networks.inputs(name)
        with pcsnn.record(snn) as recording:
            snn(*x)
        result = count_operations(snn, [x], progress=False)
        spikes = {layer.name: layer.counts["parallel"].spikes for layer in result.layers if layer.kind == "neuron"}
        assert spikes == {layer: int(counts.sum()) / 3 for layer, counts in recording.counts.items()}, name
        assert result.uncounted == [], name
        serial, parallel, collapsed, source = map(result.total, EXECUTIONS)
        assert collapsed.macs == source.macs and collapsed.input_macs == source.input_macs == parallel.input_macs
        assert serial.input_macs == parallel.input_macs


@pytest.mark.parametrize(
    "module, shape",
    [
        (nn.Conv1d(4, 6, 3, 2, 1, groups=2), (4, 9)),
        (nn.Conv2d(4, 3, (3, 2), (2, 1), "valid", (1, 2)), (4, 7, 8)),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), (4, 7, 8)),
        (nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"), (2, 5, 4)),
        (nn.Conv2d(2, 3, 3, 2, padding=1, padding_mode="reflect", bias=False), (2, 5, 4)),
        (nn.Conv3d(2, 4, 2, 2, groups=2), (2, 3, 4, 3)),
        (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), (4, 5)),
        (nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), (2, 0), (1, 0), 2, dilation=(1, 2)), (4, 5, 4)),
        (nn.ConvTranspose3d(2, 4, 3, 2, 1), (2, 2, 3, 2)),
        (nn.Linear(5, 7), (3, 5)),
    ],
    ids=str,
)
def test_fan_out_is_the_number_of_outputs_an_element_reaches(module, shape):
    """An element alone, weights all one: the outputs it changes sum up to how often it takes part."""
    module = copy.deepcopy(module).double().requires_grad_(False)
    ones = copy.deepcopy(module)
    ones.weight.fill_(1)
    ones.bias = None
    single = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    reached = ones(single).flatten(1).sum(1)
    assert reached.unique().numel() > 1 or isinstance(module, nn.Linear)
    counts = torch.randint(0, 9, (3, *shape), generator=torch.Generator().manual_seed(2)).double()
    assert fan_out.through_module(module, counts) == (counts.flatten(1) * reached).sum()


def test_functions_cost_what_modules_cost():
    net = make("convolutions")
    written = network(
        lambda s, x: s.c(
            F.conv2d(
                s.b(
                    F.conv2d(
                        s.a(F.conv2d(x, s.net[0].weight, s.net[0].bias, padding=1)),
                        s.net[2].weight,
                        bias=s.net[2].bias,
                        stride=2,
                        padding=1,
                    )
                ),
                s.net[4].weight,
                s.net[4].bias,
                1,
                (2, 1),
                2,
            )
        ),
        net=net,
        a=net[1],
        b=net[3],
        c=net[5],
    )
    assert len(list(pcsnn.convert(written, 3, method="none").neurons())) == 3
    x = images(2)
    ours = count_operations(pcsnn.convert(written, 3, method="none"), x, progress=False)
    theirs = count_operations(pcsnn.convert(net[:6], 3, method="none"), x, progress=False)
    for execution in EXECUTIONS:
        assert [row.counts[execution] for row in ours.layers] == [row.counts[execution] for row in theirs.layers]


@pytest.mark.parametrize("scale", [torch.tensor(-1.5), torch.tensor([1.0, -2.0, 3.0, 0.5])], ids=["one", "channels"])
def test_a_scale_layer_costs_what_the_product_costs(scale):
    factor = scale.view(1, -1, 1, 1) if scale.dim() else scale.item()
    layer = behind(lambda s, h: s.last(s.second(s.scale(h))), scale=ChannelScale(scale))
    written = behind(lambda s, h: s.last(s.second(h * factor)))
    results = []
    for make_one in (layer, written):
        snn = pcsnn.convert(randomise(make_one(lambda: QCFS(LEVELS))).double(), 4, method="none")
        results.append(count_operations(snn, images(), progress=False))
    one, other = results
    assert "scale" in {row.kind for row in one.layers} or not scale.dim()
    for execution in EXECUTIONS:
        assert one.total(execution) == other.total(execution)


def test_the_older_name_of_an_execution_finds_the_same():
    result = count_operations(two_layers(), images(), progress=False)
    assert result.total("parallel") == result.total("packed")
    assert result.energy()["parallel"] == result.energy()["packed"]
    assert result.layers[0].counts["parallel"] == result.layers[0].counts["packed"]
    assert result.as_dict()["total"]["parallel"] == result.as_dict()["total"]["packed"]
    with pytest.raises(KeyError, match="fast"):
        result.energy()["fast"]


def two_layers():
    return pcsnn.convert(make("convolutions"), 3, method="none")


@pytest.mark.parametrize(
    "feed",
    [lambda x: x, lambda x: [x[:1], x[1:]], lambda x: iter([(x[:3], torch.zeros(3)), (x[3:], None)])],
    ids=["tensor", "batches", "labelled iterator"],
)
def test_batches_do_not_matter(feed):
    snn, x = two_layers(), images(4)
    assert count_operations(snn, feed(x), progress=False) == count_operations(snn, x.split(2), progress=False)


def test_a_loaded_network_at_another_t(tmp_path):
    snn = two_layers()
    before = count_operations(snn, images(), progress=False)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    loaded = pcsnn.load(tmp_path / "net.safetensors")
    assert count_operations(loaded, images(), progress=False) == before
    pcsnn.set_timesteps(loaded, 6)
    after = count_operations(loaded, images(), progress=False)
    assert after.total("float") == before.total("float")
    assert after.total("parallel").spikes > before.total("parallel").spikes
    assert check(loaded, images()) == after


def test_the_neurons_formulas():
    """2 T additions and T comparisons, T additions and ceil(log2(T + 1)) comparisons, and one comparison, a neuron."""
    for timesteps, search in ((1, 1), (3, 2), (4, 3), (8, 4), (64, 7), (255, 8)):
        snn = pcsnn.convert(make("no_bias"), timesteps, method="none")
        rows = [row for row in count_operations(snn, images(1), progress=False).layers if row.kind == "neuron"]
        (counts,) = (row.counts for row in rows)
        figures = [(count.additions, count.comparisons, count.multiplications) for count in map(counts.get, EXECUTIONS)]
        assert figures == [
            (200 * timesteps, 100 * timesteps, 0),
            (100 * timesteps, 100 * search, 0),
            (0, 100 * search, 100),
            (0, 100, 0),
        ]


def test_energy_by_hand():
    result = count_operations(two_layers(), images(), progress=False)
    energy = result.energy()
    serial, source = result.total("serial"), result.total("float")
    assert energy["serial"].first_layer == pytest.approx(4.6e-12 * serial.input_macs)
    assert energy["serial"].synapses == pytest.approx(0.9e-12 * serial.accumulates) and serial.macs == 0
    assert energy["serial"].total == energy["serial"].first_layer + energy["serial"].synapses
    assert energy["float"].total == pytest.approx(4.6e-12 * (source.macs + source.input_macs))
    neurons = sum((row.counts["serial"] for row in result.layers if row.kind == "neuron"), Count())
    assert energy["serial"].rest == pytest.approx(0.9e-12 * (neurons.additions + neurons.comparisons))
    other = result.energy(mac=3.0, accumulate=1.0)
    assert other["collapsed"].rest == pytest.approx(
        result.total("collapsed").comparisons
        + 2 * sum(row.counts["collapsed"].multiplications for row in result.layers if row.kind == "neuron")
    )


def test_the_input_may_be_charged_at_every_step():
    result = count_operations(two_layers(), images(), progress=False)
    first = result.layers[0]
    assert first.once and not any(row.once for row in result.layers[1:])
    for execution, times in zip(EXECUTIONS, (3, 3, 1, 1)):
        once, repeated = result.total(execution), result.total(execution, repeat_input=True)
        assert repeated.input_macs == times * once.input_macs
        assert repeated.bytes == once.bytes + (times - 1) * first.counts[execution].bytes
        assert result.energy(repeat_input=True)[execution].first_layer == pytest.approx(
            times * result.energy()[execution].first_layer
        )
        assert result.energy(repeat_input=True)[execution].rest == pytest.approx(result.energy()[execution].rest)


def test_dict_file_and_table(tmp_path):
    result = count_operations(two_layers(), images(), progress=False)
    result.save(tmp_path / "operations.json")
    read = json.loads((tmp_path / "operations.json").read_text())
    assert read == result.as_dict()
    assert read["total"]["serial"]["accumulates"] == result.total("serial").accumulates
    assert read["energy"]["float"]["total"] == result.energy()["float"].total
    assert [layer["name"] for layer in read["layers"]] == ["0", "1", "2", "3", "4", "5", "7"]
    text = str(result)
    for words in (f"{result.total('parallel').accumulates:,.0f}", "Conv2d, once", "T = 3, mean of 2 images", "uJ"):
        assert words in text
    assert "not counted" not in text


def test_unknown_operations_are_named():
    net = randomise(network(lambda s, x: s.act(s.conv(torch.sin(x))), conv=conv(), act=QCFS(LEVELS)))
    result = count_operations(pcsnn.convert(net, 4), images().float(), progress=False)
    assert result.uncounted == result.as_dict()["uncounted"] == ["sin"] and "not counted: sin" in str(result)
    assert result.total("float").input_macs > 0


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    snn = two_layers()
    results = [count_operations(pcsnn.set_timesteps(snn, value), images(), progress=False) for value in (4, 2)]
    figure = plot_operations(results, tmp_path / "operations.png")
    assert (tmp_path / "operations.png").stat().st_size > 1000
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines) == list(EXECUTIONS)
    total = [result.total("serial") for result in results[::-1]]
    assert list(lines["serial"].get_xdata()) == [2, 4]
    expected = [(one.accumulates + one.input_macs) / 1e6 for one in total]
    assert list(lines["serial"].get_ydata()) == pytest.approx(expected)
    for bad, error, words in (
        ([], ValueError, "results: expected at least one"),
        ([snn], TypeError, "got SpikingNetwork"),
        (results[:1] * 2, ValueError, "expected each T once"),
        (results[0], TypeError, "results: expected a list"),
    ):
        with pytest.raises(error, match=words):
            plot_operations(bad, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(snn=nn.ReLU()), TypeError, "snn: expected a SpikingNetwork, made by pcsnn.convert, got ReLU"),
        (dict(snn=lambda: pcsnn.optimize(two_layers().float())), ValueError, "snn: is optimised"),
        (
            dict(snn=lambda: pcsnn.convert(randomise(nn.Sequential(conv(), QCFS(LEVELS), nn.GELU())), 4, strict=False)),
            ValueError,
            "snn: 2 is analog",
        ),
        (dict(data=3), TypeError, "data: expected a tensor"),
        (dict(data=[]), ValueError, "data: expected at least one batch"),
        (dict(data=images() / 0), ValueError, "data: expected finite values"),
    ],
)
def test_refuses(change, error, words):
    arguments = dict(snn=two_layers(), data=images()) | {
        name: value() if isinstance(value, types.FunctionType) else value for name, value in change.items()
    }
    with pytest.raises(error, match=words):
        count_operations(**arguments)


def test_results_refuse():
    result = Operations(4, 1)
    assert result.total("serial") == Count()
    with pytest.raises(ValueError, match="execution: expected one of serial, packed, collapsed, float, got 'fast'"):
        result.total("fast")
    with pytest.raises(ValueError, match="mac: expected joules, 0 or more, got -1"):
        result.energy(mac=-1)
    with pytest.raises(TypeError, match="accumulate: expected a number, got str"):
        result.energy(accumulate="1")
    with pytest.raises(ValueError, match="mac: expected at least accumulate, 2, which it includes, got 1"):
        result.energy(mac=1, accumulate=2)


def test_the_benchmark_command(tmp_path, capsys, monkeypatch):
    module = operations
    options = ["--networks", "transformer", "--timesteps", "1", "--images", "2", "--json", str(tmp_path / "all.json")]
    module.main(options)
    (result,) = json.loads((tmp_path / "all.json").read_text())["transformer"]
    assert (result["timesteps"], result["images"]) == (1, 2)
    printed = capsys.readouterr().out
    for execution in EXECUTIONS:
        (line,) = (line for line in printed.splitlines() if f" {execution} " in line)
        assert f"{result['total'][execution]['additions']:,.0f}" in line
        assert f"{1e6 * result['energy'][execution]['total']:.2f}" in line
