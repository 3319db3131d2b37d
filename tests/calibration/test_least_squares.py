"""Least squares of one layer (C1)-(C3): levels, amplitudes and the histogram that they come from."""

import pytest
import torch
from torch import nn

from pcsnn import reference
from pcsnn.calibration import least_squares
from pcsnn.calibration.places import Place
from pcsnn.levels import even


def fitted(current, activation, timesteps, channels=True, **options):
    place = Place("layer", nn.ReLU(), channels)
    return place, least_squares.fit(place, [current], [activation], timesteps, **options)


def squared_error(place, settings, current, activation, timesteps):
    return (settings.neuron(place, timesteps)(current) - activation).double().square().sum().item()


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5, 32])
@pytest.mark.parametrize("bend", [True, False])
def test_fit_is_no_worse_than_any_of_many_staircases(timesteps, bend):
    torch.manual_seed(0)
    activation = torch.randn(2000, 1).relu() ** 1.5
    current = activation + 0.3 * torch.randn(2000, 1)
    place, settings = fitted(current, activation, timesteps, bend=bend)
    found = squared_error(place, settings, current, activation, timesteps)
    best = float("inf")
    for part in torch.linspace(0.1, 1.2, 24).tolist():
        theta = activation.max().item() * part
        for shift in torch.linspace(-0.5, 0.5, 9).tolist():
            k = reference.search(
                current, even.table(torch.tensor(theta).double(), timesteps, offset=shift * theta / timesteps)
            )
            worth = (activation * k).sum() / (k * k).sum().clamp_min(1)
            best = min(best, (worth * k - activation).double().square().sum().item())
    assert found < best * 1.01


def test_fit_reads_exact_levels_from_a_staircase():
    """A current that is a staircase of its activation has one best answer, up to the width of a bin."""
    torch.manual_seed(0)
    current = torch.rand(40_000, 1) * 2
    levels = torch.tensor([0.2, 0.9, 1.1, 1.8])
    activation = 0.5 * reference.search(current, levels).float()
    place, settings = fitted(current, activation, 4)
    neuron = settings.neuron(place, 4)
    torch.testing.assert_close(neuron.levels[0], levels, rtol=0, atol=2 * 3 / least_squares.BINS)
    torch.testing.assert_close(neuron.amplitude, torch.tensor([2.0]), rtol=1e-3, atol=0)


def test_fit_of_each_channel_is_its_own():
    torch.manual_seed(0)
    activation = torch.randn(500, 3, 4, 2).relu() * torch.tensor([1.0, 100.0, 1e-3]).view(1, 3, 1, 1)
    current = activation - 0.1 * activation.amax((0, 2, 3), keepdim=True) * torch.randn_like(activation)
    _, together = fitted(current, activation, 4)
    for c in range(3):
        _, alone = fitted(current[:, c : c + 1], activation[:, c : c + 1], 4)
        for name in ("threshold", "offset", "amplitude", "bend"):
            torch.testing.assert_close(getattr(together, name)[c], getattr(alone, name)[0])


def test_fit_of_a_layer_without_channels_is_a_number():
    _, settings = fitted(torch.randn(50, 3, 4), torch.randn(50, 3, 4).relu(), 4, channels=False)
    assert settings.threshold.dim() == settings.offset.dim() == settings.amplitude.dim() == 0
    assert settings.bend.shape == (4,)


def test_more_data_in_more_batches_is_the_same_histogram():
    torch.manual_seed(0)
    current, activation = torch.randn(64, 3, 5), torch.randn(64, 3, 5).relu()
    place = Place("layer", nn.ReLU(), True)
    whole = least_squares.Histogram(place, [current], [activation])
    parts = least_squares.Histogram(place, current.split(7), activation.split(7))
    assert torch.equal(whole.count, parts.count) and torch.equal(whole.low, parts.low)
    torch.testing.assert_close(whole.sums, parts.sums)
    above = (current >= whole.low[1] + 300 * whole.width[1])[:, 1].sum()
    assert whole.above((whole.low + 300 * whole.width).unsqueeze(1))[0][1, 0] == above
