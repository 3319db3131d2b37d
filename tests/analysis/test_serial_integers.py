"""Serial IF whose steps send integers 0..D (22): the definition, ties, and what it sums up to beside the parallel
neuron."""

from fractions import Fraction

import pytest
import torch

from pcsnn.baselines.serial_network import SerialIF
from pcsnn.nn import ParallelSpikingNeuron

DEPTHS = (1, 2, 3, 7, 15, 100, 255)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def grid(*shape, seed=0):
    """Multiples of 2^-9 in -0.5..1.5: their sums, and those of thresholds 2^k / D with D a power of two, are exact."""
    return torch.randint(-256, 768, shape, generator=torch.Generator().manual_seed(seed)) / 512


def by_hand(currents, unit, spike_levels, shift):
    """Spikes of one neuron under [T] currents, in fractions."""
    potential, fired = shift * unit, []
    for current in currents:
        potential += current
        fired.append(min(max(potential // unit, 0), spike_levels))
        potential -= fired[-1] * unit
    return fired


@pytest.mark.parametrize("shift", (0.0, 0.5, 0.75))
@pytest.mark.parametrize("spike_levels", (1, 2, 4, 8, 64))
def test_steps_are_those_of_the_definition(spike_levels, shift):
    currents = grid(6, 200, seed=spike_levels).double()
    currents[:, :50] = (currents[:, :50] * spike_levels).round() / spike_levels  # at ties
    neuron = SerialIF(torch.tensor(1.0, dtype=torch.float64), shift=shift, spike_levels=spike_levels)
    fired = torch.stack([neuron.fire(current) for current in currents])
    unit, start = Fraction(1, spike_levels), Fraction(shift)
    for place in range(currents.shape[1]):
        expected = by_hand(map(Fraction, currents[:, place].tolist()), unit, spike_levels, start)
        assert fired[:, place].tolist() == expected, place
    assert fired.max() == spike_levels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spike_levels", DEPTHS[1:])
def test_potentials_at_and_beside_every_multiple_are_told_apart(spike_levels, dtype):
    """Thresholds whose quotients round: what decides is the product that is subtracted."""
    theta = torch.tensor([1.0, 0.7, 3.3, 1e-3, 0.123])
    unit = (theta / spike_levels).to(dtype)
    multiple = torch.arange(spike_levels + 3).to(dtype)[:, None] * unit
    ends = (torch.full_like(multiple, end) for end in (torch.inf, -torch.inf))
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0], dtype=dtype)[:, None].expand(-1, 5)
    current = torch.cat([multiple, *(torch.nextafter(multiple, end) for end in ends), -multiple, odd])
    neuron = SerialIF(theta, shift=0.0, spike_levels=spike_levels)
    expected = sum((current >= torch.tensor(float(x), dtype=dtype) * unit).int() for x in range(1, spike_levels + 1))
    fired = neuron.fire(current)
    assert fired.dtype == dtype and torch.equal(fired.int(), expected)
    left = current - unit * fired
    assert torch.equal(neuron.potential.nan_to_num(7), left.nan_to_num(7))
    kept = left[current.isfinite() & (current >= 0)]
    assert (kept >= 0).all()  # nothing is sent that was not there


@pytest.mark.parametrize("timesteps, spike_levels", ((1, 15), (2, 8), (4, 4), (8, 2), (3, 16), (5, 1), (16, 15)))
def test_constant_currents_sum_up_to_the_count_of_the_parallel_neuron(timesteps, spike_levels):
    """Thresholds that are whole numbers of units, so that float64 is exact in both; ties at every level."""
    theta = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64) * timesteps * spike_levels
    current = (
        torch.arange(-1, 2 * timesteps * spike_levels + 4).double()[:, None] * theta / (2 * timesteps * spike_levels)
    )
    beside = torch.cat([current, current + 2**-30, current - 2**-30])
    serial = SerialIF(theta, spike_levels=spike_levels)
    total = sum(serial.fire(beside) for _ in range(timesteps))
    parallel = ParallelSpikingNeuron(theta, timesteps, spike_levels=spike_levels, output="counts").double()
    counts = parallel(beside.expand(timesteps, *beside.shape))
    assert torch.equal(total, counts.double())
    assert counts.min() == 0 and counts.max() == timesteps * spike_levels


@pytest.mark.parametrize("spike_levels", (1, 3, 15))
def test_uneven_currents_do_not(spike_levels):
    """What was sent too early cannot be taken back, and what comes in late cannot be sent any more."""
    theta = torch.tensor(float(spike_levels))
    early, late = torch.tensor([theta, -theta]), torch.tensor([0.0, 2 * theta])
    for currents, serial_sum, count in ((early, spike_levels, 0), (late, spike_levels, 2 * spike_levels)):
        serial = SerialIF(theta, spike_levels=spike_levels)
        assert sum(serial.fire(current.reshape(1)) for current in currents) == serial_sum
        parallel = ParallelSpikingNeuron(theta, 2, spike_levels=spike_levels, output="counts")
        assert parallel(currents.reshape(2, 1)) == count


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_level_is_the_binary_neuron_bit_for_bit(dtype):
    theta = torch.tensor([1.3, 0.37, torch.inf if dtype in (torch.float32, torch.float64) else 9.0])
    currents = torch.randn(9, 50, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    unit = theta.clamp(max=torch.finfo(torch.float32).max).to(dtype)
    for options in ({}, dict(spike_levels=1)):
        neuron = SerialIF(theta, offset=0.125, amplitude=torch.tensor([2.0, 0.1, 0.0]), shift=0.3, **options)
        potential = unit * 0.3
        for current in currents:
            potential = potential + (current + 0.125)
            spikes = (potential >= unit).to(dtype)
            potential = potential - unit * spikes
            assert torch.equal(neuron(current), spikes * torch.tensor([2.0, 0.1, 0.0]).to(dtype))
            assert torch.equal(neuron.potential, potential)


def test_a_spike_of_value_one_is_worth_the_amplitude():
    theta, current = torch.tensor([1.0, 2.0]), torch.tensor([[0.6, 1.7]])
    assert SerialIF(theta, shift=0.0, spike_levels=4)(current).tolist() == [[0.5, 1.5]]
    assert SerialIF(theta, amplitude=torch.tensor([3.0, 5.0]), shift=0.0, spike_levels=4)(current).tolist() == [[6, 15]]


@pytest.mark.parametrize(
    "spike_levels, error", ((0, ValueError), (256, ValueError), (2.0, TypeError), (True, TypeError))
)
def test_levels_out_of_range_are_refused(spike_levels, error):
    with pytest.raises(error, match="^spike_levels: expected"):
        SerialIF(1.0, spike_levels=spike_levels)
