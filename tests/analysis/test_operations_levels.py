"""count_operations where a time-step sends an integer 0..D (22), as bits or as a number."""

import json
import pickle

import pytest
import torch
from test_operations_count import NETWORKS, check, images, make
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.analysis import EXECUTIONS, Count, Operations, count_operations, plot_operations
from pcsnn.nn import QCFS

INTEGERS = {"serial": "serial integers", "packed": "packed integers"}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_the_reference(name):
    result = check(pcsnn.convert(make(name), 2, method="none", spike_levels=3), images(2))
    assert (result.spike_levels, len(result.executions)) == (3, 6)
    for bits, integers in INTEGERS.items():
        assert 0 < result.total(integers).spikes < result.total(bits).spikes
        assert result.total(integers).bytes == result.total(bits).bytes


@pytest.mark.parametrize("timesteps, spike_levels", [(1, 6), (2, 5), (3, 2)])
@pytest.mark.parametrize("name", ["residual_downsample", "pools", "attention", "sum_of_spikes_to_neurons"])
def test_equal_to_the_reference_at_other_levels(name, timesteps, spike_levels):
    """A maximum of 3 and 4 has fewer 1s among its bits than 3."""
    check(pcsnn.convert(make(name), timesteps, method="none", spike_levels=spike_levels), images(1))


def two_layers(timesteps=2, spike_levels=3):
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(5, 4), QCFS(6), nn.Linear(4, 3), QCFS(6), nn.Linear(3, 2)).requires_grad_(False)
    return pcsnn.convert(net.double(), timesteps, method="none", spike_levels=spike_levels)


def inputs():
    return 8 * torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loops(trains, targets):
    """(accumulates by bits, multiply-accumulates by integers) of trains [T, N, neurons], each with so many targets."""
    accumulates = products = 0
    for value in trains.flatten().tolist():
        while value:
            accumulates += targets * (value & 1)
            value >>= 1
    for value in trains.flatten().tolist():
        products += targets if value else 0
    return accumulates, products


def test_counted_by_hand():
    """Trains of both layers, two steps of 0..3, go to three and to two targets."""
    snn, x = two_layers(), inputs()
    with pcsnn.record(snn) as recording:
        snn(x)
    trains = [
        pcsnn.functional.expand_spikes(counts, 2, None, torch.uint8, spike_levels=3)
        for counts in recording.counts.values()
    ]
    assert [list(train.shape) for train in trains] == [[2, 3, 4], [2, 3, 3]]
    assert {value for train in trains for value in train.flatten().tolist()} == {0, 1, 2, 3}
    by_layer = [loops(train, targets) for train, targets in zip(trains, (3, 2))]
    accumulates, products = map(sum, zip(*by_layer))
    result = count_operations(snn, x, progress=False)
    bits, integers = result.total("packed"), result.total("packed integers")
    assert bits.accumulates == accumulates / 3 and integers.spike_macs == products / 3
    assert bits.spike_macs == integers.accumulates == bits.macs == integers.macs == 0
    assert bits.input_macs == integers.input_macs == 20
    neurons, steps = 4 + 3, 2
    assert bits.comparisons == integers.comparisons == 3 * neurons  # ceil(log2(6 + 1))
    assert bits.additions == 20 + accumulates / 3 + steps * neurons
    assert integers.additions == 20 + products / 3 + steps * neurons
    assert bits.multiplications == 20 and integers.multiplications == pytest.approx(20 + products / 3)
    assert result.total("serial").comparisons == result.total("serial integers").comparisons == steps * 2 * neurons
    assert result.total("collapsed").comparisons == 3 * neurons
    spikes = [loops(train, 1) for train in trains]
    assert bits.spikes == sum(one for one, _ in spikes) / 3 and integers.spikes == sum(one for _, one in spikes) / 3
    assert result.total("collapsed").spikes == sum(int(train.sum()) for train in trains) / 3
    wide = pcsnn.set_timesteps(two_layers(), 2, 1)
    less = count_operations(wide, x, progress=False).total("packed").bytes
    levels = 2 * (6 - 2) * 4  # bytes of the further levels of two layers
    assert bits.bytes - less == 2 * 2 * neurons / 8 + levels  # written and read, a bit more at two steps


def test_energy_of_both():
    result = count_operations(two_layers(), inputs(), progress=False)
    energy, cheap = result.energy(), result.energy(spike_mac=1.1e-12)
    for bits, integers in INTEGERS.items():
        count = result.total(bits), result.total(integers)
        assert energy[bits].synapses == pytest.approx(0.9e-12 * count[0].accumulates)
        assert energy[integers].synapses == pytest.approx(4.6e-12 * count[1].spike_macs)
        assert cheap[integers].synapses == pytest.approx(1.1e-12 * count[1].spike_macs)
        assert energy[integers].rest == pytest.approx(
            0.9e-12 * (14 * (2 if bits == "serial" else 1) + count[1].comparisons)
        )
        assert energy[bits] == cheap[bits] and energy[bits].first_layer == energy[integers].first_layer > 0
    assert energy["collapsed"] == cheap["collapsed"]
    with pytest.raises(
        ValueError, match="spike_mac: expected at least accumulate, 9e-13, which it includes, got 5e-13"
    ):
        result.energy(spike_mac=5e-13)
    with pytest.raises(TypeError, match="spike_mac: expected a number, got str"):
        result.energy(spike_mac="1")


def test_levels_are_those_of_more_steps_where_rates_pass():
    """Collapsed, T D is all that matters; spikes of several levels take fewer passes than binary ones."""
    several, binary = (count_operations(two_layers(*steps), inputs(), progress=False) for steps in ((2, 3), (6, 1)))
    assert binary.executions == EXECUTIONS
    for execution in ("collapsed", "float"):
        assert several.total(execution) == binary.total(execution)
    assert binary.total("packed").spikes == several.total("collapsed").spikes
    assert several.total("packed integers").spikes < several.total("packed").spikes < binary.total("packed").spikes


def test_binary_spikes_have_one_form():
    result = count_operations(two_layers(6, 1), inputs(), progress=False)
    with pytest.raises(
        ValueError, match="execution: expected one of serial, packed, collapsed, float, got 'packed int"
    ):
        result.total("packed integers")
    assert "spike macs" not in str(result) and "integers" not in str(result)
    assert all(result.total(execution).spike_macs == 0 for execution in EXECUTIONS)


def test_the_input_charged_at_every_step():
    result = count_operations(two_layers(), inputs(), progress=False)
    for execution, times in zip(result.executions, (2, 2, 2, 2, 1, 1), strict=True):
        assert result.total(execution, repeat_input=True).input_macs == 20 * times


def test_table_dict_and_file(tmp_path):
    result = count_operations(two_layers(), inputs(), progress=False)
    text = str(result)
    for words in ("spike macs", "T = 2, D = 3, mean of 3 images", "a spike is sent as 2 bits", "packed integers"):
        assert words in text
    result.save(tmp_path / "operations.json")
    read = json.loads((tmp_path / "operations.json").read_text())
    assert read["spike_levels"] == 3 and read == result.as_dict()
    assert read["total"]["packed integers"]["spike_macs"] == result.total("packed integers").spike_macs
    again = Operations.from_dict(read)
    assert again == result and again.as_dict() == read and str(again) == text
    assert again.total("parallel") == result.total("packed")


def test_results_of_earlier_versions():
    """They know neither D nor `spike_macs`."""
    result = count_operations(two_layers(6, 1), inputs(), progress=False)
    content = result.as_dict()
    del content["spike_levels"]
    for layer in content["layers"]:
        for count in layer["counts"].values():
            del count["spike_macs"]
    assert Operations.from_dict(content) == result
    older = Operations(6, 3)
    del older.__dict__["spike_levels"]
    assert pickle.loads(pickle.dumps(older)).executions == EXECUTIONS
    for bad in ({}, [], {**content, "layers": [{}]}, {**content, "spike_levels": 3}):
        with pytest.raises(ValueError, match="content: expected a dict made by Operations.as_dict"):
            Operations.from_dict(bad)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    of = {
        steps: count_operations(two_layers(*steps), inputs(), progress=False)
        for steps in ((6, 1), (2, 3), (1, 6), (4, 3))
    }
    for steps, symbol, places in (
        (((4, 3), (2, 3)), "time-steps T (D = 3)", [2, 4]),
        (((2, 3), (6, 1), (1, 6)), "spike levels D (T D = 6)", [1, 3, 6]),
        (((4, 3), (6, 1)), "levels T D", [6, 12]),
    ):
        axes = plot_operations([of[step] for step in steps], tmp_path / "operations.png").axes[0]
        assert axes.get_xlabel() == symbol
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert set(lines) == {*EXECUTIONS, *INTEGERS.values()}
        assert list(lines["packed"].get_xdata()) == places
        several = [result for step, result in of.items() if step in steps and step[1] > 1]
        found = sorted(result.total("packed integers").spike_macs / 1e6 for result in several)
        first = 20 / 1e6  # of the first layer
        assert sorted(lines["packed integers"].get_ydata()) == pytest.approx([value + first for value in found])
    with pytest.raises(ValueError, match=r"results: expected each T D once, got \[6, 6, 12\]"):
        plot_operations([of[6, 1], of[2, 3], of[4, 3]])
    with pytest.raises(ValueError, match=r"results: expected each D once, got \[3, 3, 6\]"):
        plot_operations([of[2, 3], of[1, 6], of[2, 3]])


def test_signed_neurons_have_no_serial_form():
    net = nn.Sequential(nn.Linear(5, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2))
    snn = pcsnn.convert(
        net, 4, calibration=inputs().float(), method="quick", signed=True, spike_levels=3, progress=False
    )
    with pytest.raises(ValueError, match="spikes of two signs"):
        count_operations(snn, inputs().float(), progress=False)


def test_a_count_is_what_it_was():
    """Fields by place: the newest is the last."""
    assert Count(1, 2, 3, 4, 5, 6, 7, 8) == Count(1, 2, 3, 4, 5, 6, spikes=7, bytes=8, spike_macs=0)
