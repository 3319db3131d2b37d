"""Levels of a line (23): their rounding, their line found again from the table, and what no line may be said of."""

import math
from fractions import Fraction

import cases
import pytest
import torch
from gpu_free.cases import searches

from pcsnn import functional, reference
from pcsnn.cpu.lines import floating_line
from pcsnn.levels import even
from pcsnn.levels.spacing import UNKNOWN, Spacing, find_spacing, pack, probes
from pcsnn.tensors import checks

INF = math.inf


def rounded(value):
    """The float32 nearest to a Fraction, the even one of two."""
    middle = torch.tensor(float(value), dtype=torch.float64).float()
    near = [middle, *(torch.nextafter(middle, torch.tensor(end)) for end in (INF, -INF))]
    return min(near, key=lambda x: (abs(Fraction(x.item()) - value), int(x.view(torch.int32)) % 2)).item()


def random_floats(count, generator, low, high):
    """float32 of magnitudes 2^low..2^high, either sign."""
    mantissa = torch.rand(count, generator=generator, dtype=torch.float64) + 1
    sign = torch.randint(2, (count,), generator=generator) * 2 - 1
    return (sign * mantissa * 2.0 ** torch.randint(low, high + 1, (count,), generator=generator)).float()


def lines(generator, count=400):
    """(first, step, x): of like and of far magnitudes, sums that nearly cancel, products midway between two float32."""
    step = random_floats(count, generator, -40, 40).abs()
    x = torch.randint(256, (count,), generator=generator)
    yield random_floats(count, generator, -60, 60), step, x
    close = -(step.double() * x.double()).float()
    yield close, step, x
    yield torch.nextafter(close, torch.zeros(count)), step, x
    yield close * (1 + random_floats(count, generator, -12, -3)), step, x
    midway = 1 + (2 * torch.randint(2**10, (count,), generator=generator) + 1).double() * 2.0**-23
    yield (
        random_floats(count, generator, -80, -50),
        midway.float(),
        2 * torch.randint(1, 128, (count,), generator=generator) + 1,
    )


def test_levels_are_exact_arithmetic_rounded_once():
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for first, step, x in lines(generator):
        found = even.fma(x, step, first)
        exact = [Fraction(f) + k * Fraction(s) for f, s, k in zip(first.tolist(), step.tolist(), x.tolist())]
        assert found.tolist() == [rounded(value) for value in exact]
        changed += int((found != (x.double() * step.double() + first.double()).float()).sum())
    assert changed > 0  # float64 alone would have rounded twice


def test_kernels_compute_the_same_levels():
    """A current on a level reaches it, and the one below does not, whatever the line."""
    generator = torch.Generator().manual_seed(1)
    for timesteps in (2, 7, 32, 255):
        for first, step, _ in lines(generator, 64):
            usable = (first.abs() <= 2.0**16 * step) & (first != 0)
            first, step = first[usable], step[usable]
            table = even.on_line(first, step, timesteps)
            below = torch.nextafter(table, torch.full_like(table, -INF))
            for dtype in (torch.float32, torch.float64):
                for current, expected in ((table, torch.arange(1, timesteps + 1)), (below, torch.arange(timesteps))):
                    counts = torch.ops.pcsnn.fire_counts(current.t().to(dtype), table, None, None, 1, pack(first, step))
                    if dtype == torch.float32:
                        assert torch.equal(counts, expected.to(torch.uint8)[:, None].expand_as(counts))
                    cases.assert_same_values(counts, reference.fire_counts(current.t().to(dtype), table))


def check_line(levels, repeat):
    found = find_spacing(levels)
    assert found.repeat == repeat and found.reach == 0 and found.line is not None
    first, step, inverse = found.line
    assert found.line.dtype == torch.float32 and torch.equal(inverse, 1 / step)
    table = even.on_line(first, step, levels.shape[-1] // repeat).repeat_interleave(repeat, -1)
    cases.assert_same_values(table, levels)


@pytest.mark.parametrize("timesteps", cases.TIMESTEPS)
def test_the_line_of_every_table_is_found(timesteps):
    generator = torch.Generator().manual_seed(timesteps)
    divisors = [count for count in range(1, timesteps + 1) if timesteps % count == 0]
    for exponent in (-20, -5, 0, 5, 20):
        for trial in range(12):
            theta = torch.rand(16, generator=generator, dtype=torch.float64).add(0.01) * 10.0**exponent
            theta[trial % 16] = INF if trial % 3 == 0 else 1.0
            count = divisors[trial % len(divisors)]
            reach = 2.0 ** (trial % 4 * 4) / count  # of the offset, in thresholds
            offset = torch.randn(16, generator=generator, dtype=torch.float64).clamp(-4, 4) * reach
            offset = torch.where(theta.isfinite(), theta * offset, 0.0)
            shift = float(torch.rand(1, generator=generator)) if trial % 2 else 0.5
            made = functional.levels(theta, timesteps, quantization_levels=count, shift=shift, offset=offset)
            check_line(made, timesteps // count)
            row = int(theta.isfinite().nonzero()[0])
            check_line(
                functional.levels(
                    theta[row].item(), timesteps, quantization_levels=count, shift=shift, offset=offset[row].item()
                ),
                timesteps // count,
            )


def test_silent_channels_lie_on_any_line():
    silent = torch.full((2, 12), INF)
    assert find_spacing(silent).repeat == 12
    levels = functional.levels(torch.tensor([INF, 2.0, INF]), 12, quantization_levels=4)
    repeat, line, reach = find_spacing(levels)
    assert (repeat, reach) == (3, 0) and line[:, 0].tolist() == line[:, 2].tolist() == [INF, 1, 1]
    current = torch.tensor([0.0, 1e30, 3.4e38, INF, -INF, math.nan, 1.0])[:, None].expand(7, 3)
    for dtype in (torch.float32, torch.float64):
        for spacing in searches(levels):
            counts = cases.compare("c++", "fire_counts", current.to(dtype), levels, None, None, spacings=[spacing])
            assert counts[:, 0].tolist() == [0, 0, 0, 12, 0, 0, 0]
    huge = torch.tensor([[1e300] * 3, [-1e300] * 3], dtype=torch.float64)
    assert cases.compare("c++", "fire_counts", huge, levels, None, None, spacings=searches(levels)).tolist() == [
        [0, 12, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("timesteps", (2, 8, 100, 255))
def test_lines_that_start_far_away_are_not_guessed_on(timesteps):
    for offset in (2.0**17, -(2.0**17), 1e6):
        levels = functional.levels(float(timesteps), timesteps, offset=offset)
        assert find_spacing(levels).line is None, offset
        current = cases.edges(levels, torch.float32)
        cases.compare("c++", "fire_counts", current, levels, None, None, spacings=[find_spacing(levels)])
    check_line(functional.levels(float(timesteps), timesteps, offset=-(2.0**15)), 1)
    for step in (1e-32, 1e32):  # whose inverse float32 hardly holds
        assert find_spacing(functional.levels(step * timesteps, timesteps)).line is None


def test_tables_that_lie_on_no_line():
    even = functional.levels(1.0, 12)
    assert find_spacing(torch.cat([even[:5], even[5:] + 0.01])) == UNKNOWN
    moved = even.clone()
    moved[7] = torch.nextafter(moved[7], torch.tensor(INF))  # by one unit in the last place
    assert find_spacing(moved) == UNKNOWN
    assert find_spacing(even.double() + 1e-12) == UNKNOWN  # levels that float32 does not hold
    assert find_spacing(torch.tensor([0.0, 1, 1, 2])) == UNKNOWN
    assert find_spacing(torch.tensor([0.0, 0, 1])) == UNKNOWN
    assert find_spacing(torch.tensor([-INF, 0.0])) == UNKNOWN
    assert find_spacing(torch.tensor([[0.0, 1.0], [0.0, INF]])) == UNKNOWN


@pytest.mark.parametrize("timesteps", (17, 32, 100, 255))
def test_counts_are_within_reach_of_a_fitted_line(timesteps):
    generator = torch.Generator().manual_seed(timesteps)
    fitted = 0
    for strength in (0.001, 0.01, 0.1):
        bend = torch.randn(6, timesteps, generator=generator, dtype=torch.float64) * strength / timesteps
        theta = torch.rand(6, generator=generator) + 0.5
        theta[2] = INF
        levels = functional.levels(theta, timesteps, bend=bend)
        repeat, line, reach = find_spacing(levels)
        if line is None:
            continue
        fitted += 1
        assert repeat == 0 and reach > 0 and probes(reach) < timesteps.bit_length()
        current = cases.edges(levels, torch.float32).t()
        position = ((current - line[0]) * line[2]).nan_to_num(0).clamp(0, timesteps)
        counts = reference.fire_counts(current, levels)
        assert ((position.round() - counts).abs() <= reach)[:, theta.isfinite()].all()
        cases.compare("c++", "fire_counts", current, levels, None, None, spacings=searches(levels))
    assert fitted


def test_whole_lines():
    levels = (
        torch.tensor([[-70], [5], [2**30], [-(2**31)]]) + torch.tensor([[3], [1], [7], [2**26]]) * torch.arange(30)
    ).int()
    levels = torch.cat([levels, torch.full((1, 30), checks.NEVER, dtype=torch.int32)])
    levels[2:4] = levels[:2]
    repeat, line, reach = find_spacing(levels)
    assert (repeat, reach, line.dtype, line.shape) == (1, 0, torch.int32, (3, 5))
    assert line[0].tolist() == [-70, 5, -70, 5, checks.NEVER] and line[1].tolist() == [3, 1, 3, 1, 0]
    assert torch.equal(line[2].view(torch.float32)[:4], 1 / line[1, :4].float()) and line[2, 4] == 0
    stairs = find_spacing(levels[0].repeat_interleave(4))
    assert stairs.repeat == 4 and stairs.line[:2].tolist() == [-70, 3]
    assert find_spacing(torch.tensor([3, 5, 8], dtype=torch.int32)) == UNKNOWN
    assert find_spacing(torch.tensor([0, checks.NEVER], dtype=torch.int32)) == UNKNOWN
    for dtype, exact in ((torch.float32, False), (torch.float64, True)):
        large = torch.tensor([2**24 + 1, 7, 0], dtype=torch.int32)
        assert (floating_line(large, dtype) is not None) == exact


@pytest.mark.parametrize("timesteps", (12, 30, 240))
def test_rates_of_any_table_in_groups_of_any_size(timesteps):
    """k // m where m is said without a line, of staircases and of tables that are none."""
    generator = torch.Generator().manual_seed(timesteps)
    for shape, rows in (((400,), ()), ((5, 7, 30), (7,)), ((90, 7), (7,))):
        levels = torch.randn(*rows, timesteps, generator=generator).sort(-1).values
        for dtype in cases.DTYPES:
            current = cases.currents(shape, levels, dtype)
            for repeat in (2, 3, 6, timesteps):
                options = dict(spacings=[Spacing(repeat, None, 0)], what=f"repeat {repeat}, {shape}, {dtype}")
                cases.compare("c++", "fire_rates", current, levels, torch.tensor(0.7), None, None, **options)
                cases.compare("c++", "fire_counts", current, levels, None, None, **options)
