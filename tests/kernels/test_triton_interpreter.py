"""The Triton kernels under Triton's interpreter, against the reference.

Kernels are interpreted when TRITON_INTERPRET=1 is set before they are imported, which holds for a whole process. Run
without it, this file runs itself again with it; `TRITON_INTERPRET=1 pytest tests/kernels/test_triton_interpreter.py`
shows each test.
"""

import pytest
import torch
from gpu_free import cases
from gpu_free.cases import CURRENTS, LAYOUTS, SPIKES, TIMESTEPS, Guarded, assert_same, lay_out, lay_out_steps, name
from gpu_free.interpreter import interpreted, not_interpreted, run_interpreted

from pcsnn import functional, kernels, reference, use_backend
from pcsnn.kernels import rates as rate_kernels
from pcsnn.kernels import spikes as spike_kernels
from pcsnn.levels import even
from pcsnn.levels.spacing import find_spacing
from pcsnn.tensors import arithmetic

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy on infinities, intended
SHAPE = (2, 5, 4, 3)
dtypes = pytest.mark.parametrize("dtype", CURRENTS, ids=name)


@not_interpreted
@pytest.mark.quick(0)
def test_in_a_process_of_its_own():
    run_interpreted(__file__)


def tables(timesteps, channels, generator):
    """(levels, Spacing) by layer and by channel: lines, staircases, levels near and far from a line; every search."""
    theta = cases.thresholds(channels, generator)
    for threshold in (1.25, theta):
        lines = [
            functional.levels(threshold, timesteps),
            functional.levels(threshold, timesteps, offset=0.3, shift=0.25),
        ]
        stairs = [
            functional.levels(threshold, timesteps, quantization_levels=count)
            for count in {1, 2, timesteps // 2} & {q for q in range(1, timesteps) if timesteps % q == 0}
        ]
        for levels in lines + stairs:
            found = cases.searches(levels)
            assert found[-1].line is not None and found[-1].reach == 0
            for spacing in found:
                yield levels, spacing
        for power in (1.2, 3):
            levels = (lines[0] ** power).sort().values
            for spacing in cases.searches(levels):
                yield levels, spacing


def without_rounding(value, dtype):
    """A worth of spikes that bfloat16 holds for every count: the interpreter rounds to bfloat16 toward zero."""
    return value.log2().round().exp2() if dtype == torch.bfloat16 else value


def run_guarded(launch, guarded):
    launch()
    guarded.check()
    return guarded.tensor


@interpreted
@pytest.mark.parametrize("timesteps", TIMESTEPS)
@dtypes
def test_counts_and_rates(dtype, timesteps):
    generator = torch.Generator().manual_seed(timesteps)
    for levels, (repeat, line, reach) in tables(timesteps, SHAPE[1], generator):
        current = cases.near_levels(levels, SHAPE, dtype, generator)
        before = current.clone()
        out = Guarded(SHAPE, current.stride(), torch.uint8)
        run_guarded(rate_kernels.plan(out.tensor, current, levels, None, None, None, repeat, 0, 0, line, reach), out)
        assert_same(out.tensor, reference.fire_counts(current, levels))
        scale = without_rounding(torch.rand(SHAPE[1], generator=generator), dtype)
        out = Guarded(SHAPE, current.stride(), dtype, misaligned=1)
        run_guarded(rate_kernels.plan(out.tensor, current, levels, scale, None, None, repeat, 0, 0, line, reach), out)
        assert_same(out.tensor, reference.fire_rates(current, levels, scale, repeat=max(repeat, 1)))
        assert_same(current, before)


@interpreted
@pytest.mark.parametrize("timesteps", (1, 8, 255))
@dtypes
def test_signed_rates(dtype, timesteps):
    generator = torch.Generator().manual_seed(timesteps)
    for table in (torch.randn(timesteps, generator=generator), torch.randn(SHAPE[1], timesteps, generator=generator)):
        levels = table.sort(-1).values
        levels[..., : timesteps // 4] = -torch.inf
        current = cases.near_levels(levels, SHAPE, dtype, generator)
        scale = without_rounding(torch.tensor(0.3), dtype)
        for turn, low in ((0, 1), (1, 1), (timesteps // 2, timesteps // 3), (timesteps, 0)):
            out = Guarded(SHAPE, current.stride(), dtype)
            run_guarded(rate_kernels.plan(out.tensor, current, levels, scale, None, None, 0, turn, low), out)
            expected = reference.fire_rates(current, levels, scale, turn=turn, low=low)
            assert_same(out.tensor, expected)
            with use_backend("triton"):
                assert_same(
                    functional.fire_rates(current.clone(), levels, scale, inplace=True, turn=turn, low=low), expected
                )


@interpreted
@pytest.mark.parametrize("timesteps", TIMESTEPS)
@dtypes
def test_spikes(dtype, timesteps):
    generator = torch.Generator().manual_seed(timesteps)
    every = 1 if timesteps < 13 else 3  # the interpreter takes up to a second for each
    for levels, (repeat, line, reach) in list(tables(timesteps, SHAPE[1], generator))[::every]:
        current = cases.trains(levels, timesteps, SHAPE, dtype, generator)
        out = Guarded(current.shape, current.stride(), torch.uint8)
        run_guarded(spike_kernels.plan(out.tensor, current, levels, None, repeat, line, reach), out)
        assert_same(out.tensor, reference.fire_spikes(current, levels))


@interpreted
@pytest.mark.parametrize("per_channel", (False, True), ids=("layer", "channel"))
@dtypes
def test_residual(dtype, per_channel):
    generator = torch.Generator().manual_seed(7)
    levels = functional.levels(cases.thresholds(SHAPE[1], generator) if per_channel else 1.0, 13)
    counts = torch.randint(256, SHAPE, generator=generator).to(torch.uint8)
    scale = torch.rand(SHAPE[1], generator=generator) if per_channel else torch.tensor(1 / 13)
    worth = without_rounding(torch.tensor(0.3), dtype)
    branch = counts.float() * arithmetic.per_channel(scale, len(SHAPE))
    target = cases.near_levels(levels, SHAPE, dtype, generator)
    current = (target.float() - branch).to(dtype)  # the sum lies at a level, and rounding decides
    for residual, residual_scale in ((counts, scale), (counts, scale.double()), (branch.to(dtype), None)):
        for repeat in (0, 1):
            with use_backend("triton"):
                actual = functional.fire_counts(current, levels, residual, residual_scale)
                rates = functional.fire_rates(current, levels, worth, residual, residual_scale, repeat=repeat)
            assert_same(actual, reference.fire_counts(current, levels, residual, residual_scale))
            assert_same(rates, reference.fire_rates(current, levels, worth, residual, residual_scale))


@interpreted
@pytest.mark.parametrize("dtype", SPIKES, ids=name)
def test_spike_dtypes_and_amplitudes(dtype):
    generator = torch.Generator().manual_seed(3)
    levels = functional.levels(cases.thresholds(5, generator), 7)
    current = cases.trains(levels, 7, SHAPE, torch.float32, generator)
    amplitudes = [None]
    if dtype.is_floating_point:
        amplitudes += [
            torch.tensor(0.3),
            torch.tensor(-1.7, dtype=torch.float64),
            torch.tensor([1e-3, -2.0, torch.inf, 1 + 2**-11, 1e-9]),
            torch.randn(5, generator=generator, dtype=torch.float64),
        ]
    if dtype == torch.bfloat16:  # see without_rounding
        amplitudes = [None] + [amplitude.to(dtype).to(amplitude.dtype) for amplitude in amplitudes[1:]]
    for amplitude in amplitudes:
        with use_backend("triton"):
            spikes = functional.fire_spikes(current, levels, dtype, amplitude)
        assert_same(spikes, reference.fire_spikes(current, levels, amplitude, dtype))
        counts = torch.randint(256, SHAPE, generator=generator).to(torch.uint8)
        for order in (None, torch.randperm(7, generator=generator)):
            out = Guarded(
                (7, *SHAPE), (counts.numel(), *counts.stride()), torch.uint8 if dtype == torch.bool else dtype
            )
            run_guarded(spike_kernels.plan_expansion(out.tensor, counts, 7, order, amplitude), out)
            assert_same(out.tensor.view(dtype), reference.expand_spikes(counts, 7, order, dtype, amplitude))


@interpreted
@pytest.mark.parametrize("timesteps, spike_levels", ((1, 15), (2, 3), (4, 8), (2, 17), (3, 85)))
@dtypes
def test_spikes_of_several_levels(dtype, timesteps, spike_levels):
    generator = torch.Generator().manual_seed(timesteps)
    full = timesteps * spike_levels
    for levels, (repeat, line, reach) in list(tables(full, SHAPE[1], generator))[:: 1 if full < 40 else 3]:
        current = cases.trains(levels, timesteps, SHAPE, dtype, generator)
        out = Guarded(current.shape, current.stride(), torch.uint8)
        run_guarded(spike_kernels.plan(out.tensor, current, levels, None, repeat, line, reach, spike_levels), out)
        assert_same(out.tensor, reference.fire_spikes(current, levels, spike_levels=spike_levels))


@interpreted
@pytest.mark.parametrize("dtype", [dtype for dtype in SPIKES if dtype != torch.bool], ids=name)
def test_dtypes_and_amplitudes_of_several_levels(dtype):
    generator = torch.Generator().manual_seed(3)
    levels = functional.levels(cases.thresholds(5, generator), 12)
    current = cases.trains(levels, 4, SHAPE, torch.float32, generator)
    amplitudes = [None]
    if dtype.is_floating_point:
        given = torch.tensor(0.3), torch.tensor([1e-3, 2.0, 7e4, 1 + 2**-11, 1e-9], dtype=torch.float64)
        amplitudes += [without_rounding(amplitude, dtype) for amplitude in given]
        amplitudes += [torch.tensor([-1.5, torch.inf, 0.0, -torch.inf, torch.nan])]
    counts = torch.randint(256, SHAPE, generator=generator).to(torch.uint8)
    for amplitude in amplitudes:
        with use_backend("triton"):
            spikes = functional.fire_spikes(current, levels, dtype, amplitude, spike_levels=3)
        assert_same(spikes, reference.fire_spikes(current, levels, amplitude, dtype, spike_levels=3))
        for order in (None, torch.randperm(4, generator=generator)):
            out = Guarded((4, *SHAPE), (counts.numel(), *counts.stride()), dtype)
            run_guarded(spike_kernels.plan_expansion(out.tensor, counts, 4, order, amplitude, 3), out)
            assert_same(out.tensor, reference.expand_spikes(counts, 4, order, dtype, amplitude, 3))


@interpreted
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_channel", (False, True), ids=("layer", "channel"))
def test_layouts_equal_the_reference_in_values_and_strides(layout, per_channel):
    generator = torch.Generator().manual_seed(5)
    levels = functional.levels(cases.thresholds(5, generator) if per_channel else 0.7, 4)
    scale = torch.rand(5, generator=generator) if per_channel else torch.tensor(0.2)
    current = lay_out(cases.near_levels(levels, SHAPE, torch.float32, generator), layout)
    steps = lay_out_steps(cases.trains(levels, 4, SHAPE, torch.float32, generator), layout)
    counts = lay_out(torch.randint(5, SHAPE, generator=generator).to(torch.uint8), layout)

    def results():
        yield functional.fire_counts(current, levels)
        yield functional.fire_rates(current, levels, scale)
        for other in LAYOUTS:
            yield functional.fire_counts(current, levels, lay_out(counts, other), scale)
        yield functional.fire_spikes(steps, levels)
        yield functional.expand_spikes(counts, 4, None, torch.float16, scale)
        yield functional.fire_spikes(steps[:2], levels, spike_levels=2)
        yield functional.expand_spikes(counts, 2, None, torch.float16, scale, 2)
        if layout != "expanded":
            backing = current.clone() if layout != "sliced" else lay_out(current, layout)
            yield functional.fire_rates(backing, levels, scale, inplace=True)

    with use_backend("triton"):
        actual = list(results())
    with use_backend("reference"):
        expected = list(results())
    for a, e in zip(actual, expected, strict=True):
        assert_same(a, e)
        assert a.stride() == e.stride()


@interpreted
def test_outputs_are_laid_out_as_the_fakes_say():
    from torch._subclasses.fake_tensor import FakeTensorMode

    generator = torch.Generator().manual_seed(6)
    levels, scale = functional.levels(1.0, 4), torch.tensor(0.25)
    for layout in LAYOUTS:
        current = lay_out(cases.near_levels(levels, SHAPE, torch.float16, generator), layout)
        steps = lay_out_steps(cases.trains(levels, 4, SHAPE, torch.float16, generator), layout)
        counts = lay_out(torch.zeros(SHAPE, dtype=torch.uint8), layout)
        calls = [
            ("fire_counts", current, levels, None, None, 1),
            ("fire_rates", current, levels, scale, None, None, 1),
            ("fire_spikes", steps, levels, None, torch.bool, 1),
            ("expand_spikes", counts, 4, None, torch.bfloat16, None),
            ("fire_spikes", steps[:2], levels, None, torch.uint8, 1, None, 0, 2),
            ("expand_spikes", counts, 4, None, torch.bfloat16, None, 7),
        ]
        for operator, *arguments in calls:
            actual = getattr(kernels, operator)(*arguments)
            with FakeTensorMode() as mode:
                fake = getattr(torch.ops.pcsnn, operator)(
                    *[mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
                )
            assert (actual.shape, actual.stride(), actual.dtype) == (fake.shape, fake.stride(), fake.dtype)


@interpreted
@pytest.mark.parametrize(
    "shape",
    [(1,), (15,), (16,), (17,), (0,), (0, 3), (1, 1), (2, 3), (1009,), (2, 16, 500), (1, 3, 331), (2, 3, 4, 5, 6)],
    ids=str,
)
def test_shapes(shape):
    generator = torch.Generator().manual_seed(9)
    channels = shape[1] if len(shape) > 1 else 1
    levels = (
        functional.levels(cases.thresholds(channels, generator), 8) if len(shape) > 1 else functional.levels(1.0, 8)
    )
    current = cases.near_levels(levels, shape, torch.float32, generator)
    steps = cases.trains(levels, 8, shape, torch.float32, generator)
    with use_backend("triton"):
        counts, spikes = functional.fire_counts(current, levels), functional.fire_spikes(steps, levels, torch.bool)
        expanded = functional.expand_spikes(counts, 8)
        rates = functional.fire_rates(current.clone(), levels, 0.125, inplace=True)
    assert_same(counts, reference.fire_counts(current, levels))
    assert_same(spikes, reference.fire_spikes(steps, levels, None, torch.bool))
    assert_same(expanded, reference.expand_spikes(counts, 8))
    assert_same(rates, reference.fire_rates(current, levels, torch.tensor(0.125)))


@interpreted
@pytest.mark.parametrize("channels", (1, 3), ids=("layer", "channel"))
def test_every_line_that_is_used_gives_the_counts_of_its_table(channels):
    """Lines far from zero, tiny and huge: every level, one unit beside it, and what lies between."""
    generator = torch.Generator().manual_seed(11)
    used = 0
    for step in (2e-30, 1e-3, 1.0, 7e5, 5e29):
        for start in (-65000.0, -4000.3, -1.0, 0.5, 1e-9, 4000.7, 65000.0):
            for timesteps in (2, 5, 64, 255):
                steps = step * (1 + torch.rand(channels, generator=generator) / 8)
                levels = even.on_line(steps * start, steps, timesteps)
                levels = levels if channels > 1 else levels[0]
                spacing = find_spacing(levels)
                if spacing.repeat != 1 or spacing.reach:
                    continue
                used += 1
                current = cases.near_levels(levels, (256, channels), torch.float32, generator)
                trains = cases.trains(levels, timesteps, (64, channels), torch.float32, generator)
                with use_backend("triton"):
                    assert_same(functional.fire_counts(current, levels), reference.fire_counts(current, levels))
                    assert_same(functional.fire_spikes(trains, levels), reference.fire_spikes(trains, levels))
    assert used > 100
