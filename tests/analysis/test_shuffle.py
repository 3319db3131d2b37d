"""The check that shuffled trains change nothing, and that it finds what does."""

import copy

import pytest
import torch
from analysis_cases import two_layers
from tiny_networks import NETWORKS, build, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import analysis
from pcsnn.baselines.packed_network import PackedNetwork
from pcsnn.nn import QCFS, CollapsedNeuron


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_shuffled_trains_change_no_count(name):
    """In float64, all constructs, and calibrated levels of float32 amplitudes."""
    snn = pcsnn.convert(build(name, nn.ReLU), 7, calibration=[inputs(name, batch=8, seed=5)], method="max")
    result = analysis.check_shuffle(snn, [inputs(name)], seed=2)
    assert result.same and [row.name for row in result.rows] == [layer for layer, _ in snn.neurons()]
    assert all((row.different, row.largest) == (0, 0) and row.counted for row in result.rows)
    assert result.output_error <= result.tolerance < 1e-12


def dyadic():
    """A residual network all of whose sums are exact: weights, thresholds and inputs have few bits."""
    net = randomise(nn.Sequential(nn.Linear(6, 16), QCFS(8), nn.Linear(16, 16), QCFS(8), nn.Linear(16, 5)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 32).round() / 32)
        for place in (1, 3):
            net[place].threshold.fill_(1.0)
    x = (torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 16).round() / 16
    return pcsnn.convert(net, 8), x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_sums_give_bit_equal_outputs(dtype):
    snn, x = dyadic()
    result = analysis.check_shuffle(snn, x, seed=5, dtype=dtype)
    assert result.same and result.output_error == 0 and result.dtype == dtype
    assert [(row.name, row.counted, row.different) for row in result.rows] == [("1", 640, 0), ("3", 640, 0)]
    assert all(not torch.equal(order, torch.arange(8)) for order in result.orders.values())
    assert not torch.equal(*result.orders.values())


def test_trains_are_really_shuffled(monkeypatch):
    """The orders reach the synapses: step x of the current is that of place order[x] of the sorted train."""
    snn, x = dyadic()
    seen = []
    run = PackedNetwork.forward

    def watched(packed, *batch):
        synapse = packed.network.get_submodule("2")
        hook = synapse.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        out = run(packed, *batch)
        hook.remove()
        return out

    monkeypatch.setattr(PackedNetwork, "forward", watched)
    result = analysis.check_shuffle(snn, [x])
    with pcsnn.record(snn) as recording:
        snn(x)
    expected = recording.spikes("1", result.orders)
    assert not torch.equal(expected, recording.spikes("1"))
    assert torch.equal(seen[0].unflatten(0, (8, 40)), expected.double())


def test_a_count_that_was_tampered_with_is_found():
    snn, x = dyadic()
    neuron = dict(snn.neurons())["1"]

    def tampered(*arguments):
        counts = CollapsedNeuron.counts(neuron, *arguments)
        counts[3, 2] += 2
        return counts

    with pcsnn.record(snn) as recording:
        snn(x)
    assert recording.counts["1"][3, 2] <= 6
    neuron.counts = tampered
    result = analysis.check_shuffle(snn, [x])
    first, second = result.rows
    assert not result.same and (first.different, first.largest) == (1, 2)
    assert 0 < second.different <= 16 and "NOT the same" in str(result)


def test_a_synapse_that_is_not_linear_is_found():
    snn, x = dyadic()
    assert analysis.check_shuffle(snn, x).same
    snn.network.set_submodule("2", nn.Sequential(snn.network.get_submodule("2"), nn.Tanh()))
    result = analysis.check_shuffle(snn, x)
    assert not result.same and result.rows[0].different == 0 and result.rows[1].different > 10


def test_an_output_that_differs_is_found():
    snn, x = dyadic()
    snn.network.set_submodule("4", nn.Sequential(snn.network.get_submodule("4"), nn.Tanh()))
    result = analysis.check_shuffle(snn, x)
    assert not any(row.different for row in result.rows) and result.output_error > 0.01 and not result.same


def test_checking_changes_nothing_and_tells():
    snn, x = dyadic()
    before = copy.deepcopy(snn.state_dict())
    result = analysis.check_shuffle(snn, x)
    after = snn.state_dict()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    lines = str(result).splitlines()
    assert len(lines) == 5 and lines[2].split()[:4] == ["1", "640", "0", "0"]
    assert lines[2].split()[4:] == list(map(str, result.orders["1"].tolist()))
    assert "same under shuffled trains, float64; relative error of the output 0.0e+00" in lines[-1]


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(snn=two_layers()), TypeError, "snn: expected a SpikingNetwork"),
        (dict(snn=pcsnn.optimize(dyadic()[0])), ValueError, "snn: is optimised"),
        (dict(dtype=torch.float16), TypeError, "dtype: expected torch.float64 or torch.float32, got torch.float16"),
        (dict(seed=-1), ValueError, "seed: expected a value in"),
        (dict(data=[]), ValueError, "data: expected at least one batch with data, got none"),
        (dict(data=torch.full((2, 6), torch.nan)), ValueError, "data: expected finite values"),
        (dict(data=5), TypeError, "data: expected a tensor, or an iterable"),
    ],
)
def test_check_shuffle_refuses(change, error, words):
    snn, x = dyadic()
    with pytest.raises(error, match=words):
        analysis.check_shuffle(**(dict(snn=snn, data=x) | change))


def test_networks_with_analog_operations_are_refused():
    net = network(
        lambda s, x: s.last(torch.softmax(s.act(s.first(x)), 1)),
        first=nn.Linear(6, 6),
        act=QCFS(4),
        last=nn.Linear(6, 2),
    )
    snn = pcsnn.convert(randomise(net), 4, strict=False)
    with pytest.raises(ValueError, match="analog"):
        analysis.check_shuffle(snn, torch.randn(3, 6))
