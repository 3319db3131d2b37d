"""Spikes of several levels (22): the definition in whole numbers, and the C++ kernels against the reference."""

import math
from fractions import Fraction

import cases
import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from gpu_free.cases import searches
from strided_currents import strided

from pcsnn import functional, use_backend
from pcsnn.operators import dispatch
from pcsnn.tensors import checks

DEPTHS = ((1, 2), (1, 15), (2, 3), (2, 15), (3, 7), (4, 3), (5, 51), (8, 4), (13, 19), (17, 15), (1, 255), (127, 2))
SPIKE_DTYPES = [dtype for dtype in checks.SPIKE_DTYPES if dtype != torch.bool]
cpp = pytest.mark.skipif(bool(dispatch._no_extension), reason=f"no C++ kernels: {dispatch._no_extension}")


def compare(name, *arguments, **options):
    return cases.compare("c++", name, *arguments, **options)


def sent(count, timesteps, spike_levels, place):
    """s^t of (22), t = place + 1."""
    return min(max(count - (timesteps - 1 - place) * spike_levels, 0), spike_levels)


def spike_levels_of(timesteps):
    """D with T D <= 255, mostly small."""
    most = checks.MAX_TIMESTEPS // timesteps
    return st.integers(1, min(most, 4)) | st.integers(1, most)


# ---- the definition --------------------------------------------------------------------------------------------------
def exact_currents(levels, timesteps, seed):
    """float32 currents [T, 40, C] whose sums are exact: in one step T times a level or an ulp beside it, or uneven
    multiples of 1/64 in all of them."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(levels.shape[1], (20, 1), generator=generator).expand(20, len(levels))
    tie = (levels * timesteps).t().gather(0, pick)
    beside = torch.nextafter(tie, torch.tensor([torch.inf, -torch.inf]).repeat(10)[:, None])
    tie = torch.where(torch.rand(tie.shape, generator=generator) < 0.5, tie, beside).nan_to_num(posinf=1.0)
    one = torch.zeros(timesteps, *tie.shape)
    one[int(torch.randint(timesteps, (), generator=generator))] = tie
    uneven = torch.randint(-48, 96, (timesteps, 20, len(levels)), generator=generator) / 64
    return torch.cat([one, uneven], 1)


@pytest.mark.parametrize("backend", ("reference", pytest.param("c++", marks=cpp)))
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_trains_are_those_of_the_definition(timesteps, spike_levels, backend):
    """Sums and levels as fractions, T times a level rounded once to float32."""
    levels = functional.levels(torch.tensor([0.75, 1.0, 1.37, math.inf]), timesteps * spike_levels)
    current = exact_currents(levels, timesteps, timesteps)
    with use_backend(backend):
        spikes = functional.fire_spikes(current, levels, spike_levels=spike_levels)
    sums = [[sum(map(Fraction, neuron)) for neuron in row] for row in current.movedim(0, -1).tolist()]
    counted = set()
    for channel, row in enumerate(levels * timesteps):
        reached = [Fraction(level) for level in row.tolist() if level != math.inf]
        for neuron in range(current.shape[1]):
            count = sum(sums[neuron][channel] >= level for level in reached)
            expected = [sent(count, timesteps, spike_levels, place) for place in range(timesteps)]
            assert spikes[:, neuron, channel].tolist() == expected, (neuron, channel)
            counted.add(count)
    assert len(counted) > min(timesteps * spike_levels, 20) // 2


@pytest.mark.parametrize("backend", ("reference", pytest.param("c++", marks=cpp)))
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_every_count_expands_to_what_is_sent(timesteps, spike_levels, backend):
    full, order = timesteps * spike_levels, torch.randperm(timesteps, generator=torch.Generator().manual_seed(1))
    counts = torch.arange(256).to(torch.uint8)
    expected = torch.tensor(
        [[sent(min(count, full), timesteps, spike_levels, place) for count in range(256)] for place in range(timesteps)]
    ).to(torch.uint8)
    with use_backend(backend):
        trains = functional.expand_spikes(counts, timesteps, spike_levels=spike_levels)
        shuffled = functional.expand_spikes(counts, timesteps, order, spike_levels=spike_levels)
    assert torch.equal(trains, expected) and torch.equal(shuffled, expected[order])
    assert torch.equal(trains.sum(0), torch.arange(256).clamp(max=full))
    assert (trains[1:] >= trains[:-1]).all()  # sorted: the last steps are full
    assert ((trains > 0) & (trains < spike_levels)).sum(0).max() <= 1


@pytest.mark.parametrize("backend", ("reference", pytest.param("c++", marks=cpp)))
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("timesteps", (1, 2, 4, 8))
def test_the_sum_over_time_is_the_count_of_the_mean(timesteps, dtype, backend):
    """Where sum and mean are exact: T a power of two, currents at levels and on a grid."""
    for spike_levels in (1, 3, 15, 31):
        for theta in (1.0, torch.tensor([0.75, 1.0, 1.37])):
            full = timesteps * spike_levels
            levels = functional.levels(theta, full)
            at = torch.zeros(timesteps, full, 3, dtype=dtype)
            at[-1] = levels.expand(3, -1).t() * timesteps
            grid = (torch.arange(-8, 24) / 8).to(dtype).reshape(-1, 1).expand(timesteps, 32, 3).clone()
            grid[: timesteps // 2] -= 0.5
            grid[timesteps // 2 :] += 0.5
            current = torch.cat([at, grid], 1)
            with use_backend(backend):
                counts = functional.fire_counts(current.double().mean(0).to(dtype), levels)
                spikes = functional.fire_spikes(current, levels, spike_levels=spike_levels)
            assert torch.equal(spikes.sum(0, dtype=torch.uint8), counts), (spike_levels, theta)
            assert counts.max() == full


# ---- C++ against the reference ---------------------------------------------------------------------------------------
@cpp
@pytest.mark.parametrize("per_channel", (False, True))
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_spikes_of_every_table(timesteps, spike_levels, per_channel):
    """Tables of all kinds, dead channels among them, searched in every way; NaN, infinities and ties."""
    shape = (3, 2, 41)
    for table in cases.tables(timesteps * spike_levels, shape[1] if per_channel else None):
        silent = torch.zeros(timesteps, *shape)
        silent[timesteps // 2] = cases.currents(shape, table.levels, torch.float32, scale=timesteps)
        uneven = cases.currents((timesteps * shape[0], *shape[1:]), table.levels, torch.float32).view(timesteps, *shape)
        for current in (silent, uneven, uneven.to(torch.bfloat16), silent.half(), uneven.double()):
            options = dict(spacings=table.spacings, behind=[spike_levels], what=f"{table.name}, {current.dtype}")
            compare("fire_spikes", current, table.levels, None, torch.uint8, **options)


@cpp
@pytest.mark.parametrize("out_dtype", SPIKE_DTYPES, ids=str)
def test_spikes_of_every_dtype_and_layout(out_dtype):
    for shape in ((33,), (2, 5), (3, 5, 20), (2, 3, 4, 5), (1, 2, 3, 2, 3)):
        by_channel = len(shape) > 1
        table = cases.tables(12, shape[1] if by_channel else None)[0]
        amplitudes = [None]
        if out_dtype.is_floating_point:
            amplitudes += [torch.tensor(0.37), torch.tensor(-1e5), torch.tensor(math.inf), torch.tensor(1e-8)]
            amplitudes += [torch.randn(shape[1], dtype=torch.float64)] if by_channel else []
        for dtype in cases.DTYPES:
            current = torch.stack([cases.currents(shape, table.levels, dtype, seed=t) for t in range(4)])
            views = [*cases.layouts(current, first=1), ("one step", current[:1].expand(4, *shape))]
            for name, view in views:
                options = dict(spacings=table.spacings, behind=[3], what=f"{name}, {shape}, {dtype}")
                for amplitude in amplitudes:
                    compare("fire_spikes", view, table.levels, amplitude, out_dtype, **options)


@cpp
@pytest.mark.parametrize("timesteps, spike_levels", DEPTHS)
def test_expansion(timesteps, spike_levels):
    generator = torch.Generator().manual_seed(timesteps)
    order = torch.randperm(timesteps, generator=generator)
    outside = torch.tensor([-(2**63), 2**63 - 1, -1, timesteps, -300, 300, -256, 255])[torch.arange(timesteps) % 8]
    for shape in ((70,), (2, 3, 7, 5)):
        counts = torch.randint(256, shape, generator=generator).to(torch.uint8)
        for dtype in SPIKE_DTYPES:
            amplitudes = [torch.randn(shape[1:2], generator=generator)] if dtype.is_floating_point else []
            for name, view in cases.layouts(counts) if timesteps < 4 else [("contiguous", counts)]:
                for places in (None, order, outside):
                    for amplitude in (None, *amplitudes):
                        given = view, timesteps, places, dtype, amplitude, spike_levels
                        compare("expand_spikes", *given, what=f"{name}, {shape}, {dtype}")


@cpp
def test_large_outputs_pass_the_caches_unchanged():
    """Outputs above 8 MB are written around the caches: unaligned rows, and all widths."""
    current = torch.randn(5, 10, 3, 70_021, generator=torch.Generator().manual_seed(0))
    levels = functional.levels(torch.tensor([1.0, 0.5, 2.0]), 15)
    for out_dtype in (torch.uint8, torch.bfloat16, torch.float32):
        amplitude = torch.tensor([0.1, 0.2, 0.3]) if out_dtype.is_floating_point else None
        compare("fire_spikes", current, levels, amplitude, out_dtype, spacings=searches(levels), behind=[3])


@cpp
@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_shape_stride_dtype_and_levels(data):
    dtype, out_dtype = data.draw(st.sampled_from(cases.DTYPES)), data.draw(st.sampled_from(SPIKE_DTYPES))
    timesteps = data.draw(st.integers(1, 12))
    spike_levels = data.draw(spike_levels_of(timesteps))
    full = timesteps * spike_levels
    current, scale = data.draw(strided(dtype, (timesteps,)))
    per_channel = current.dim() > 2 and current.shape[2] > 0 and data.draw(st.booleans())
    theta = torch.rand(current.shape[2], dtype=torch.float64) * scale + 1e-3 if per_channel else scale
    stairs = data.draw(st.sampled_from([None, *(count for count in (1, 2, 3, 5) if full % count == 0)]))
    levels = functional.levels(theta, full, quantization_levels=stairs)
    amplitude = None
    if out_dtype.is_floating_point and data.draw(st.booleans()):
        amplitude = torch.rand(current.shape[2]) if per_channel else torch.tensor(scale)
    options = dict(spacings=[data.draw(st.sampled_from(searches(levels)))], behind=[spike_levels])
    spikes = compare("fire_spikes", current, levels, amplitude, out_dtype, **options)
    counts = compare("fire_counts", current[0], levels, None, None, 0)
    order = torch.randperm(timesteps)
    compare("expand_spikes", counts, timesteps, order, out_dtype, amplitude, spike_levels)
    if amplitude is None:
        assert (spikes[1:] >= spikes[:-1]).all() and (spikes <= spike_levels).all()


@pytest.mark.parametrize("backend", ("reference", pytest.param("c++", marks=cpp)))
def test_one_level_is_the_binary_spike(backend):
    """Bit for bit, with amplitudes whose product with 0 is -0 or NaN too."""
    levels = functional.levels(torch.tensor([1.0, 0.5, 2.0]), 7)
    current = cases.currents((7 * 4, 3, 9), levels, torch.float32).view(7, 4, 3, 9)
    with use_backend(backend):
        for dtype in checks.SPIKE_DTYPES:
            for amplitude in (None, torch.tensor([-0.3, math.inf, 1e-45])) if dtype.is_floating_point else (None,):
                given = current, levels, dtype, amplitude
                binary = functional.fire_spikes(*given)
                cases.assert_same(functional.fire_spikes(*given, spike_levels=1), binary)
                counts = functional.fire_spikes(current, levels).sum(0, dtype=torch.uint8)
                cases.assert_same(functional.expand_spikes(counts, 7, None, dtype, amplitude, 1), binary)
