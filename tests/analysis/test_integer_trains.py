"""Trains of integers 0..D: recordings, bits, shuffles, figures, and the networks that run step by step (22)."""

import pytest
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401 (a fixture)
from torch import nn

import pcsnn
from pcsnn import analysis, baselines

SHAPES = [(2, 15), (1, 6), (4, 3), (5, 1), (3, 2), (2, 127)]


def recorded(timesteps, spike_levels, name="residual", activation=nn.ReLU, **options):
    x = inputs(name)
    snn = pcsnn.convert(
        build(name, activation), timesteps, spike_levels=spike_levels, calibration=[x], method="quick", **options
    )
    with pcsnn.record(snn) as record:
        snn(*x)
    return snn, record, x


def train_of(count, timesteps, spike_levels):
    """The sorted train of a count, by (22)."""
    return [min(max(count - (timesteps - t) * spike_levels, 0), spike_levels) for t in range(1, timesteps + 1)]


@pytest.mark.parametrize("timesteps, spike_levels", SHAPES)
def test_trains_are_sorted_integers_that_add_up_to_the_counts(timesteps, spike_levels):
    _, record, _ = recorded(timesteps, spike_levels)
    assert (record.timesteps, record.spike_levels) == (timesteps, spike_levels)
    order = analysis.random_order(timesteps, seed=3)
    for layer, counts in record.counts.items():
        trains = record.spikes(layer)
        assert trains.dtype == (torch.bool if spike_levels == 1 else torch.uint8)
        expected = [train_of(count, timesteps, spike_levels) for count in counts.flatten().tolist()]
        assert trains.flatten(1).T.int().tolist() == expected
        assert torch.equal(record.spikes(layer, order), trains[order])
        for step, spikes in enumerate(record.steps([layer], order)):
            assert torch.equal(spikes[layer], trains[order[step]])


@pytest.mark.parametrize("timesteps, spike_levels", SHAPES)
def test_bits_stand_for_the_integers(timesteps, spike_levels):
    _, record, _ = recorded(timesteps, spike_levels)
    planes = spike_levels.bit_length()
    order = analysis.random_order(timesteps, seed=1)
    for layer, counts in record.counts.items():
        bits = record.spikes(layer, order, bits=True)
        assert bits.dtype == torch.bool and bits.shape == (timesteps, planes, *counts.shape)
        weights = (2 ** torch.arange(planes)).view(1, planes, *[1] * counts.dim())
        assert torch.equal((bits * weights).sum(1), record.spikes(layer, order).long())
        packed = record.packed(layer, order)
        assert packed.dtype == torch.uint8 and packed.shape == (-(-timesteps * planes // 8), *counts.shape)
        flat = bits.flatten(0, 1)
        for place, plane in enumerate(flat):
            assert torch.equal((packed[place // 8] >> place % 8) & 1, plane.to(torch.uint8))
        assert torch.equal(analysis.unpack_spikes(packed, timesteps, spike_levels), record.spikes(layer, order))


@pytest.mark.parametrize("timesteps, spike_levels", SHAPES)
def test_figures_are_those_of_the_trains(timesteps, spike_levels):
    _, record, _ = recorded(timesteps, spike_levels)
    for row in record.summary():
        trains = record.spikes(row.name).double()
        assert row.spikes == trains.sum()
        assert row.rate == pytest.approx(trains.mean().item() / spike_levels)
        assert row.sparsity == pytest.approx((trains == 0).double().mean().item())
        assert row.saturated == pytest.approx((trains == spike_levels).all(0).double().mean().item())
        assert len(record.histogram(row.name)) == timesteps * spike_levels + 1
    assert ("D = " in record.table()) == (spike_levels > 1)


@pytest.mark.parametrize("timesteps, spike_levels", [(2, 15), (3, 5), (1, 31)])
def test_signed_trains_are_integers_of_both_signs(timesteps, spike_levels):
    snn, record, x = recorded(timesteps, spike_levels, activation=nn.SiLU, signed=True)
    for layer, neuron in snn.neurons():
        trains = record.spikes(layer)
        assert trains.dtype == torch.int8 and trains.abs().max() <= spike_levels
        assert torch.equal(trains.sum(0, dtype=torch.int32), neuron.balance(record.counts[layer]))
        assert torch.equal(record.spike_counts(layer), trains.abs().sum(0, dtype=torch.uint8))
        with pytest.raises(ValueError, match="two signs"):
            record.spikes(layer, bits=True)
    stepwise = baselines.packed(snn.double())
    x = [value.double() for value in x]
    assert torch.allclose(stepwise(*x), snn(*x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("timesteps, spike_levels", [(2, 15), (4, 3), (3, 2)])
@pytest.mark.parametrize("name", ["residual", "max_pool_first", "tokens"])
def test_networks_run_step_by_step_give_the_collapsed_result(name, timesteps, spike_levels):
    snn, _, x = recorded(timesteps, spike_levels, name)
    snn, x = snn.double(), [value.double() for value in x]
    assert torch.allclose(baselines.packed(snn)(*x), snn(*x), rtol=1e-9, atol=1e-12)
    check = analysis.check_shuffle(snn, [tuple(x)], progress=False)
    assert check.same, str(check)


def test_serial_neurons_send_integers_too():
    snn, _, x = recorded(2, 7)
    snn, x = snn.double(), [value.double() for value in x]
    serial = baselines.serial(snn)
    fired = {}
    for name, module in serial.network.named_modules():
        if isinstance(module, baselines.serial_network.SerialIF):
            module.register_forward_hook(
                lambda layer, arguments, out, name=name: fired.setdefault(name, []).append(
                    (out / layer.amplitude.view(1, -1, *[1] * (out.dim() - 2))).nan_to_num(0)
                )
            )
    serial(*x)
    assert fired and all(len(steps) == 2 for steps in fired.values())
    largest = max(step.max().item() for steps in fired.values() for step in steps)
    assert 1 < largest <= 7 + 1e-9


def test_a_recording_is_of_one_number_of_levels():
    snn, record, _ = recorded(2, 3)
    pcsnn.set_timesteps(snn, 3, 2)
    with pytest.raises(RuntimeError, match="recorded at T = 2, D = 3, and has T = 3, D = 2 by now"):
        record.rates()
    assert record.spikes(next(iter(record.counts))).shape[0] == 2


def test_pictures_of_integers(tmp_path):
    pytest.importorskip("matplotlib")
    _, record, _ = recorded(3, 5)
    layer = next(iter(record.counts))
    order = analysis.random_order(3)
    for figure in (
        analysis.plot_raster(record, layer, tmp_path / "raster.png", order=order),
        analysis.plot_histograms(record, tmp_path / "histograms.png"),
        analysis.plot_rates(record, tmp_path / "rates.png"),
    ):
        assert figure.axes
    heights = [
        segment[:, 1].max() - segment[:, 1].min()
        for axes in analysis.plot_raster(record, layer, None).axes
        for lines in axes.collections
        for segment in lines.get_segments()
    ]
    values = record.spikes(layer)[:, :1]
    assert heights and max(heights) <= 0.8 + 1e-9
    assert {round(height * 5 / 0.8) for height in heights} <= set(values.unique().tolist()) | {5}
