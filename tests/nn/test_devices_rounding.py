"""Layers hold the same numbers on every device, though CUDA divides by a number by multiplying with its reciprocal."""

import pytest
import torch
from gpu_free.other_device import DEVICE, pretended, there
from tiny_networks import one_thread  # noqa: F401

from pcsnn import nn
from pcsnn.tensors.arithmetic import divided

CHANNELS = 64


@pytest.fixture(autouse=True)
def device():
    with pretended(reciprocals=True):
        yield


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.2


def same(far, near):
    return far.device == DEVICE and far.dtype == near.dtype and torch.equal(far.cpu(), near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [3, 5, 7 * 31, 255])
def test_a_quotient_is_rounded_once(dtype, number):
    values = drawn(4096).to(dtype)
    assert not same(there(values) / number, values / number)
    assert same(divided(there(values), number), values / number)


def test_pixels_midway_between_counts():
    low, worth = -drawn(CHANNELS), drawn(CHANNELS, seed=1) * 5
    near = nn.PixelCounts(low, worth, padding=1)
    between = (torch.arange(254, dtype=torch.float64) + 0.5) / 255 * worth.double()[:, None] + low.double()[:, None]
    middle = between.float()
    values = torch.stack([middle, *(torch.nextafter(middle, torch.tensor(end)) for end in (-9.0, 9.0))])[..., None]
    assert same(there(near)(there(values)), near(values))


@pytest.mark.parametrize(
    "options",
    [
        dict(timesteps=7),
        dict(timesteps=6, input_levels=3, residual_levels=3),
        dict(timesteps=31, fixed_steps=255),
        dict(timesteps=5, input_area=9, residual_area=9),
        dict(timesteps=12, quantization_levels=6, emits="rates"),
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
@pytest.mark.parametrize("bias", [True, False])
def test_whole_levels_where_levels_meet_sums(options, bias):
    """Levels, and what residual counts are worth, that lie at whole sums, or half way between."""
    steps = options["timesteps"]
    weight = torch.ones(CHANNELS, 3, 1, 1, dtype=torch.int8)
    scale = drawn(CHANNELS)
    threshold = scale * torch.arange(1, CHANNELS + 1) * 2
    near = nn.SpikingConv2d(
        weight,
        weight_scale=scale,
        bias=scale * 3 if bias else None,
        threshold=threshold,
        residual_worth=scale * steps * torch.arange(CHANNELS) / 2,
        **options,
    )
    far = there(near)
    for name in ("operand_levels", "operand_residual_scale"):
        assert same(getattr(far, name), getattr(near, name)), name


@pytest.mark.parametrize("area", [1, 9, 49])
def test_values_of_counts(area):
    near = nn.Rates(drawn(CHANNELS), 5, area=area)
    counts = torch.arange(250, dtype=torch.uint8).expand(1, CHANNELS, 250)
    assert same(there(near)(there(counts)), near(counts))
    synapse = nn.SynapticLinear(
        torch.ones(CHANNELS, 3, dtype=torch.int8), 5, weight_scale=drawn(CHANNELS), input_area=area, emits="values"
    )
    assert same(there(synapse).operand_scale, synapse.operand_scale)
