"""ParallelSpikingNeuron whose steps send integers 0..D (22), against loops over the definition and against QCFS."""

import math

import pytest
import torch

from pcsnn.nn import QCFS, CollapsedNeuron, ParallelSpikingNeuron
from pcsnn.tensors.arithmetic import compute_dtype

DEPTHS = ((1, 15), (2, 3), (2, 15), (3, 5), (4, 3), (8, 31), (5, 1), (1, 255), (127, 2))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
THETA = torch.tensor([0.75, 1.0, 2.5, math.inf])


def grid(timesteps, seed=0):
    """Uneven currents [T, 60, 4], multiples of 1/32: sums, and means over a power of two of them, are exact."""
    return torch.randint(-24, 96, (timesteps, 60, 4), generator=torch.Generator().manual_seed(seed)) / 32


def by_hand(currents, summed, timesteps, spike_levels):
    """Sorted spikes of one neuron, (10) and (22). summed: T times its levels."""
    count = sum(math.fsum(currents) >= level for level in summed)
    return [min(max(count - (timesteps - t) * spike_levels, 0), spike_levels) for t in range(1, timesteps + 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_outputs_are_those_of_the_definition(timesteps, spike_levels, dtype):
    x = grid(timesteps).to(dtype)
    made = {
        output: ParallelSpikingNeuron(THETA, timesteps, output=output, spike_levels=spike_levels)
        for output in ("spikes", "counts", "rate")
    }
    spikes, counts, rate = (neuron(x) for neuron in made.values())
    summed = (made["counts"].levels.to(compute_dtype(x)) * timesteps).tolist()
    unit = torch.where(THETA.isinf(), 0, THETA / spike_levels)
    trains = [
        [by_hand(x[:, n, c].tolist(), summed[c], timesteps, spike_levels) for c in range(4)] for n in range(x.shape[1])
    ]
    trains = torch.tensor(trains).movedim(-1, 0)
    assert spikes.dtype == rate.dtype == dtype and counts.dtype == torch.uint8
    assert torch.equal(spikes, trains.to(dtype) * unit.to(dtype))
    assert torch.equal(counts, trains.sum(0, dtype=torch.uint8)) and counts.max() == timesteps * spike_levels
    torch.testing.assert_close(rate.double(), counts * unit.double() / timesteps, rtol=0.005, atol=0)
    assert torch.equal(made["spikes"].spike, unit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "timesteps, spike_levels, levels", ((2, 3, 6), (2, 3, 3), (2, 6, 4), (4, 3, 6), (1, 8, 4), (8, 2, 1))
)
def test_it_is_lossless_for_qcfs_wherever_its_levels_divide(timesteps, spike_levels, levels, dtype):
    x = grid(timesteps)[..., 0].to(dtype)
    theta = 1.5
    ties = (torch.arange(1, levels + 1) - 0.5) * theta / levels
    at = torch.zeros(timesteps, len(ties), dtype=dtype)
    at[0] = (ties * timesteps).to(dtype)
    x = torch.cat([x, at, torch.full_like(at[:, :1], -1)], 1)
    options = dict(quantization_levels=levels, spike_levels=spike_levels)
    rate = ParallelSpikingNeuron(theta, timesteps, output="rate", **options)(x)
    mean = x.double().mean(0).to(dtype)
    assert torch.equal(rate, QCFS(levels, theta)(mean).detach())
    assert len(rate.unique()) == levels + 1
    counts = ParallelSpikingNeuron(theta, timesteps, output="counts", **options)(x)
    assert not (counts % (timesteps * spike_levels // levels)).any()
    trains = ParallelSpikingNeuron(theta, timesteps, amplitude=float(spike_levels), **options)(x)
    assert torch.equal(trains.sum(0), counts.to(dtype))


def test_levels_that_do_not_divide_are_evenly_spaced():
    even = ParallelSpikingNeuron(1.0, 3, spike_levels=5)
    other = ParallelSpikingNeuron(1.0, 3, quantization_levels=4, spike_levels=5)
    assert torch.equal(other.levels, even.levels) and torch.equal(other(grid(3)), even(grid(3)))


@pytest.mark.parametrize("timesteps, spike_levels", ((1, 8), (2, 15), (4, 3), (8, 4)))
def test_rates_are_those_of_as_many_binary_steps_under_collapse(timesteps, spike_levels):
    x = grid(timesteps)
    parallel = ParallelSpikingNeuron(THETA, timesteps, output="rate", spike_levels=spike_levels)
    collapsed = CollapsedNeuron(THETA, timesteps * spike_levels)
    assert torch.equal(parallel.levels, collapsed.levels)
    assert torch.equal(parallel(x), collapsed(x.mean(0)))


def test_shift_is_in_units_of_a_spike_of_value_one():
    x = torch.full((2, 1), 0.29)  # 0.29 * 2 of 2, in units of 0.25: 2.32
    counted = [
        int(ParallelSpikingNeuron(1.0, 2, shift=shift, output="counts", spike_levels=4)(x)) for shift in (0, 0.5, 0.7)
    ]
    assert counted == [2, 2, 3]


def test_the_state_makes_the_same_neuron():
    first = ParallelSpikingNeuron(THETA, 2, amplitude=torch.tensor([1.0, 2.0, 3.0, 4.0]), spike_levels=3)
    assert set(first.state_dict()) == {"threshold", "amplitude"}
    second = ParallelSpikingNeuron(torch.ones(4), 2, amplitude=torch.ones(4), spike_levels=3)
    second.load_state_dict(first.state_dict())
    x = grid(2)
    assert torch.equal(second.spike, first.spike) and torch.equal(second(x), first(x))
    half = ParallelSpikingNeuron(THETA, 2, spike_levels=3).half()
    assert half.spike.dtype == torch.float32 and half(x.half()).dtype == torch.float16
    assert "spike_levels=3" in repr(first) and "spike_levels" not in repr(ParallelSpikingNeuron(1.0, 2))


@pytest.mark.parametrize(
    "timesteps, options, error, words",
    (
        (2, dict(spike_levels=0), ValueError, "spike_levels: expected a value in 1..255, got 0"),
        (2, dict(spike_levels=2.0), TypeError, "spike_levels: expected an integer"),
        (2, dict(spike_levels=128), ValueError, "spike_levels: expected at most 127 at T = 2, got 128"),
        (256, dict(spike_levels=1), ValueError, "timesteps: "),
        (2, dict(quantization_levels=0), ValueError, "quantization_levels: "),
    ),
)
def test_arguments_out_of_range_are_refused(timesteps, options, error, words):
    with pytest.raises(error, match=words):
        ParallelSpikingNeuron(1.0, timesteps, **options)


def test_currents_of_another_number_of_steps_are_refused():
    with pytest.raises(ValueError, match="levels: expected 9 levels, 3 for each time-step of current"):
        ParallelSpikingNeuron(1.0, 2, spike_levels=3)(torch.ones(3, 2))
