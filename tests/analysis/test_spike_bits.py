"""Integer spikes as bits: planes of weights 1, 2, 4, ..., and bytes of them (22)."""

import pytest
import torch

from pcsnn import analysis
from pcsnn.analysis.spikes.trains import bit_planes

DEPTHS = ((1, 1), (9, 1), (1, 2), (2, 3), (3, 5), (5, 7), (8, 15), (3, 85), (16, 15), (127, 2), (1, 255))
SHAPES = ((), (6,), (2, 3), (2, 0, 3))


def integers(timesteps, spike_levels, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spikes = torch.randint(spike_levels + 1, (timesteps, *shape), generator=generator).to(torch.uint8)
    return spikes.bool() if spike_levels == 1 else spikes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_planes_add_up_to_the_integers(timesteps, spike_levels, shape):
    spikes = integers(timesteps, spike_levels, shape)
    planes = bit_planes(spikes, spike_levels)
    count = len(f"{spike_levels:b}")
    assert planes.dtype == torch.bool and planes.shape == (timesteps, count, *shape)
    total = sum(planes[:, plane].to(torch.int64) * 2**plane for plane in range(count))
    assert torch.equal(total, spikes.to(torch.int64))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_bytes_hold_plane_after_plane_of_step_after_step(timesteps, spike_levels, shape):
    spikes = integers(timesteps, spike_levels, shape)
    packed = analysis.pack_spikes(spikes, spike_levels)
    count = spike_levels.bit_length()
    assert packed.dtype == torch.uint8 and packed.shape == (-(-timesteps * count // 8), *shape)
    for j, byte in enumerate(packed.to(torch.int64)):
        expected = torch.zeros(shape, dtype=torch.int64)
        for b in range(8):
            step, plane = (8 * j + b) // count, (8 * j + b) % count
            if step < timesteps:
                expected += (spikes[step].to(torch.int64) // 2**plane % 2) * 2**b
        assert torch.equal(byte, expected), j
    unpacked = analysis.unpack_spikes(packed, timesteps, spike_levels)
    assert unpacked.dtype == spikes.dtype and torch.equal(unpacked, spikes)


def test_one_level_takes_the_bits_of_binary_spikes():
    spikes = integers(13, 1, (4, 5))
    packed = analysis.pack_spikes(spikes)
    assert torch.equal(analysis.pack_spikes(spikes, 1), packed)
    assert torch.equal(analysis.unpack_spikes(packed, 13, 1), spikes)
    assert torch.equal(bit_planes(spikes, 1)[:, 0], spikes)


def test_trains_of_any_strides_are_packed():
    spikes = integers(5, 6, (4, 3, 2))
    packed = analysis.pack_spikes(spikes, 6)
    other = spikes.movedim(0, -1).contiguous().movedim(-1, 0).transpose(1, 3)
    assert torch.equal(analysis.pack_spikes(other, 6).transpose(1, 3), packed)
    assert torch.equal(analysis.unpack_spikes(packed.transpose(1, 3), 5, 6), other)


BYTES = torch.full((2, 3), 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: bit_planes(BYTES, 3), ValueError, r"spikes: expected integers of 0\.\.3, got 4"),
        (lambda: bit_planes(BYTES, 1), TypeError, "spikes: expected dtype torch.bool"),
        (lambda: bit_planes(BYTES.bool(), 2), TypeError, "spikes: expected dtype torch.uint8"),
        (lambda: bit_planes(BYTES.to(torch.int8), 7), TypeError, "spikes: expected dtype torch.uint8"),
        (lambda: bit_planes(BYTES, 256), ValueError, "spike_levels: expected a value in 1..255, got 256"),
        (lambda: analysis.pack_spikes(BYTES, 3), ValueError, r"spikes: expected integers of 0\.\.3, got 4"),
        (lambda: analysis.pack_spikes(BYTES.bool(), 3), TypeError, "spikes: expected dtype torch.uint8"),
        (lambda: analysis.pack_spikes(BYTES, 1.0), TypeError, "spike_levels: expected an integer"),
        (lambda: analysis.pack_spikes(BYTES, 0), ValueError, "spike_levels: expected a value in 1..255, got 0"),
        (lambda: analysis.pack_spikes(BYTES, 128), ValueError, "spike_levels: expected at most 127 at T = 2, got 128"),
        (lambda: analysis.unpack_spikes(BYTES, 2, 128), ValueError, "spike_levels: expected at most 127 at T = 2"),
        (
            lambda: analysis.unpack_spikes(BYTES, 3, 7),
            ValueError,
            "packed: expected bits of 3 time-steps of 3 bits, got spikes beyond them",
        ),
        (
            lambda: analysis.unpack_spikes(BYTES, 2, 7),
            ValueError,
            r"packed: expected 1 bytes a neuron for 2 time-steps of 3 bits, got shape \(2, 3\)",
        ),
        (
            lambda: analysis.unpack_spikes(torch.full((1, 3), 6, dtype=torch.uint8), 2, 5),
            ValueError,
            r"packed: expected integers of 0\.\.5, got 6",
        ),
    ],
)
def test_bits_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()
