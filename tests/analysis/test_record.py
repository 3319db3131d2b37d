"""Spike counts, trains and rates of every layer while a network runs."""

import pytest
import torch
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.nn import CollapsedNeuron


def converted(name="residual", timesteps=9, activation=nn.ReLU, dtype=torch.float32):
    return pcsnn.convert(build(name, activation, dtype), timesteps, calibration=[inputs(name, dtype)], method="max")


def layer_outputs(snn, *x):
    outputs, hooks = {}, []
    for name, neuron in snn.neurons():
        hooks.append(
            neuron.register_forward_hook(
                lambda module, arguments, output, name=name: outputs.update({name: output.clone()})
            )
        )
    out = snn(*x)
    for hook in hooks:
        hook.remove()
    return outputs, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name", ["residual", "broadcast_sum", "broadcast_both", "shared_activation", "tokens", "conv3d", "max_pool_first"]
)
def test_counts_and_rates_are_those_of_the_layers(name, dtype):
    snn, x = converted(name, dtype=dtype), inputs(name, dtype)
    outputs, out = layer_outputs(snn, *x)
    with pcsnn.record(snn) as record:
        assert torch.equal(snn(*x), out)
    assert list(record.counts) == [layer for layer, _ in snn.neurons()] == list(record.rates())
    assert record.timesteps == 9
    for layer, _neuron in snn.neurons():
        counts, rates = record.counts[layer], record.rates()[layer]
        assert counts.dtype == torch.uint8 and counts.shape == outputs[layer].shape
        assert 0 < counts.max() <= 9
        assert rates.dtype == torch.float32 and torch.equal(rates, outputs[layer].float())


def test_rates_of_staircase_levels_are_the_layer_outputs():
    snn, x = pcsnn.convert(build("residual"), 3 * LEVELS), inputs("residual")
    outputs, _ = layer_outputs(snn, *x)
    with pcsnn.record(snn) as record:
        snn(*x)
    for layer, rates in record.rates().items():
        assert torch.equal(rates, outputs[layer])
        assert (record.counts[layer] % 3 == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_counts_of_half_precision_networks_are_those_that_were_fired(dtype):
    snn, x = pcsnn.convert(build("residual").to(dtype), LEVELS), inputs("residual", dtype)
    outputs, _ = layer_outputs(snn, *x)
    with pcsnn.record(snn) as record:
        snn(*x)
    for layer, neuron in snn.neurons():
        assert torch.equal(neuron.rates_of(record.counts[layer], dtype), outputs[layer])


def test_spikes_are_sorted():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn) as record:
        snn(*x)
    for layer, counts in record.counts.items():
        spikes = record.spikes(layer)
        assert spikes.dtype == torch.bool and spikes.shape == (9, *counts.shape)
        assert torch.equal(spikes.sum(0), counts.long())
        assert not (spikes[:-1] & ~spikes[1:]).any()
        steps = torch.arange(9).reshape(9, 1, 1, 1, 1)
        assert torch.equal(spikes, steps >= 9 - counts.long())


def test_spikes_in_another_order():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn) as record:
        snn(*x)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(record.spikes("last", order), record.spikes("last")[order])
    for wrong in (torch.zeros(9, dtype=torch.int64), torch.arange(8), torch.arange(1, 10)):
        with pytest.raises(ValueError, match="order: expected a permutation of 0..8"):
            record.spikes("last", wrong)
    with pytest.raises(TypeError, match="order: "):
        record.spikes("last", list(range(9)))


def test_several_batches_are_joined():
    snn, (x,) = converted(), inputs("residual", batch=6)
    with pcsnn.record(snn) as whole:
        snn(x)
    with pcsnn.record(snn) as parts:
        for part in (x[:1], x[1:1], x[1:4], x[4:]):
            snn(part)
    for layer, counts in whole.counts.items():
        assert torch.equal(parts.counts[layer], counts)
    assert parts.spikes("last").shape[1] == 6


def hooks(snn):
    return [
        hook
        for module in snn.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


def test_nothing_is_recorded_outside():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn) as record:
        assert hooks(snn)
        assert record.counts == {} and record.rates() == {}
        with pytest.raises(RuntimeError, match="layer: last has not run yet"):
            record.spikes("last")
        snn(*x)
    assert not hooks(snn)
    before = record.counts["last"].clone()
    snn(*x)
    assert torch.equal(record.counts["last"], before)


def test_hooks_are_removed_after_an_exception():
    snn = converted()
    with pytest.raises(ZeroDivisionError), pcsnn.record(snn):
        1 / 0
    assert not hooks(snn)
    with pytest.raises(RuntimeError), pcsnn.record(snn):
        snn(torch.zeros(1, 2, 8, 8))
    assert not hooks(snn)


def test_two_recordings_at_once():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn) as outer:
        with pcsnn.record(snn) as inner:
            snn(*x)
        snn(*x)
    assert len(inner.counts["last"]) == 3 and len(outer.counts["last"]) == 6


def test_recording_does_not_change_what_comes_out():
    snn, x = converted(), inputs("residual")
    assert any(neuron.inplace for _, neuron in snn.neurons())
    expected = snn(*x)
    with pcsnn.record(snn):
        assert torch.equal(snn(*x), expected)


def test_malformed():
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"), pcsnn.record(nn.Linear(1, 1)):
        pass
    snn = converted()
    with pcsnn.record(snn) as record:
        snn(*inputs("residual"))
    with pytest.raises(KeyError, match="layer: expected one of act, last, got 'other'"):
        record.spikes("other")


def test_a_neuron_in_another_network_is_not_recorded():
    snn, other = converted(), CollapsedNeuron(1.0, 9)
    with pcsnn.record(snn) as record:
        other(torch.ones(2, 3))
    assert record.counts == {}


def test_some_layers_only():
    snn, x = converted("shared_activation"), inputs("shared_activation")
    with pcsnn.record(snn) as whole:
        snn(*x)
    first, *_, last = whole.counts
    for layers in ([last, first], (name for name in (first, last)), {first, last}):
        with pcsnn.record(snn, layers) as some:
            assert len(hooks(snn)) == 2
            snn(*x)
        assert list(some.counts) == [first, last] == list(some.rates()) == [row.name for row in some.summary()]
        assert torch.equal(some.counts[last], whole.counts[last])
        with pytest.raises(KeyError, match=f"layer: expected one of {first}, {last}, got 'act_1'"):
            some.spikes("act_1")


@pytest.mark.parametrize(
    "layers, error, words",
    [
        (["last", "conv"], ValueError, "layers: expected names among act, last, got 'conv'"),
        ([], ValueError, "layers: expected names among act, last, got none"),
        ("last", TypeError, r"layers: expected a sequence of layer names, got str \('last'\)"),
        (7, TypeError, "layers: expected a sequence of layer names, got int"),
    ],
)
def test_layers_that_are_refused(layers, error, words):
    snn = converted()
    with pytest.raises(error, match=words), pcsnn.record(snn, layers):
        pass
    assert not hooks(snn)


@pytest.mark.parametrize("name", ["residual", "convolutions", "broadcast_sum", "max_pools", "mlp"])
def test_optimised_networks_in_float32_fire_as_the_plain_ones(name):
    snn, x = converted(name), inputs(name)
    fast = pcsnn.optimize(snn)
    assert any(type(neuron) is not CollapsedNeuron for _, neuron in fast.neurons())
    with pcsnn.record(snn) as plain, pcsnn.record(fast) as fused:
        expected, out = snn(*x), fast(*x)
    torch.testing.assert_close(out, expected)
    assert list(fused.counts) == list(plain.counts)
    for layer, counts in plain.counts.items():
        assert torch.equal(fused.counts[layer], counts) and torch.equal(fused.packed(layer), plain.packed(layer))
    assert [row.spikes for row in fused.summary()] == [row.spikes for row in plain.summary()]
    assert all(torch.equal(fused.rates()[layer], rates) for layer, rates in plain.rates().items())


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_counts_between_layers_are_those_recorded(weights):
    """Optimised layers hand on distinct counts: with T = 3 L they are a third of the spike counts."""
    snn, x = pcsnn.convert(build("convolutions"), 3 * LEVELS), inputs("convolutions")
    fast = pcsnn.optimize(snn, weights)
    outputs, _ = layer_outputs(fast, *x)
    with pcsnn.record(fast) as record:
        fast(*x)
    emits = {layer: neuron.emits for layer, neuron in fast.neurons()}
    assert "counts" in emits.values()
    for layer, counts in record.counts.items():
        assert counts.dtype == torch.uint8 and 0 < counts.max() <= 3 * LEVELS
        found = 3 * outputs[layer] if emits[layer] == "counts" else outputs[layer]
        assert torch.equal(counts if emits[layer] == "counts" else record.rates()[layer], found)


def test_joined_counts_are_kept_once():
    snn, (x,) = converted(), inputs("residual", batch=6)
    with pcsnn.record(snn) as record:
        for part in x.split(1):
            snn(part)
        counts = record.counts
        assert [parts[0] is counts[layer] and len(parts) for layer, parts in record._parts.items()] == [1, 1]
        snn(x)
    assert len(counts["last"]) == 6 and torch.equal(record.counts["last"], torch.cat([counts["last"]] * 2))
    assert record.counts["last"] is record.counts["last"]


def test_counts_are_kept_on_the_device_asked_for():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn, device="meta") as record:
        snn(*x)
    assert {counts.device.type for counts in record.counts.values()} == {"meta"}
    with pcsnn.record(snn, device="cpu") as record:
        snn(*x)
    assert {counts.device.type for counts in record.counts.values()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
def test_recording_on_a_gpu():
    snn, x = converted(), inputs("residual")
    with pcsnn.record(snn) as expected:
        snn(*x)
    snn, order = snn.cuda(), pcsnn.analysis.random_order(9, 2)
    with pcsnn.record(snn) as there, pcsnn.record(snn, device="cpu") as here:
        snn(*(value.cuda() for value in x))
    for layer, counts in expected.counts.items():
        assert there.counts[layer].is_cuda and here.counts[layer].device.type == "cpu"
        assert (there.counts[layer].cpu() != counts).double().mean() < 0.01  # convolutions sum in another order there
        assert torch.equal(there.counts[layer].cpu(), here.counts[layer])
        assert torch.equal(there.packed(layer, order).cpu(), here.packed(layer, order))
        assert torch.equal(there.spikes(layer, order, slice(0, 5)).cpu(), here.spikes(layer, order, slice(0, 5)))
        assert torch.equal(there.rates()[layer].cpu(), here.rates()[layer])
    assert there.summary() == here.summary()


def test_samples_of_different_shapes_are_not_joined():
    snn = converted()
    with pcsnn.record(snn) as record:
        snn(torch.randn(2, 3, 8, 8))
        snn(torch.randn(1, 3, 4, 6))
    for call in (lambda: record.counts, lambda: record.spikes("act"), record.summary):
        words = r"layer: act fired in samples of different shapes, \[4, 8, 8\], \[4, 4, 6\]"
        with pytest.raises(ValueError, match=words):
            call()


def test_another_number_of_time_steps_is_refused():
    snn, x = pcsnn.convert(build("residual"), LEVELS), inputs("residual")
    with pcsnn.record(snn) as record:
        snn(*x)
        pcsnn.set_timesteps(snn, 3 * LEVELS)
        with pytest.raises(RuntimeError, match="layer: act was recorded at T = 4, and has T = 12 by now"):
            snn(*x)
    with pytest.raises(RuntimeError, match="layer: act was recorded at T = 4, and has T = 12 by now"):
        record.rates()
    assert len(record.counts["last"]) == 3 and record.spikes("last").shape[0] == LEVELS
    pcsnn.set_timesteps(snn, LEVELS)
    assert list(record.rates()) == ["act", "last"]
