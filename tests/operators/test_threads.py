"""Results do not depend on the number of threads."""

import cases
import pytest
import torch

from pcsnn import functional


@pytest.fixture(autouse=True)
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def results(current, residual, levels):
    counts = functional.fire_counts(current, levels, residual)
    in_place = functional.fire_rates(current.clone(), levels, 0.125, residual, inplace=True)
    steps = torch.stack([current, residual, current.flip(0)] * 2)
    spikes = functional.fire_spikes(steps, functional.levels(1.0, 6))
    trains = functional.expand_spikes(counts, 8, dtype=torch.bfloat16, amplitude=0.5)
    return counts, functional.fire_rates(current, levels, 0.125, residual), in_place, spikes, trains


@pytest.mark.parametrize("last", (False, True))
def test_any_number_of_threads(last):
    levels = functional.levels(torch.linspace(0.5, 3, 7), 8)
    current = cases.currents((11, 7, 61, 37), levels, torch.float32)
    residual = torch.randn(current.shape, generator=torch.Generator().manual_seed(0))
    if last:
        current, residual = (value.contiguous(memory_format=torch.channels_last) for value in (current, residual))
    torch.set_num_threads(1)
    expected = results(current, residual, levels)
    for threads in (2, 3, 5, 16):
        torch.set_num_threads(threads)
        for got, wanted in zip(results(current, residual, levels), expected):
            cases.assert_same(got, wanted, f"{threads} threads")
