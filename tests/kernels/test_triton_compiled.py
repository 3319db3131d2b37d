"""The Triton kernels as compiled (for gfx942), run on this processor over a million neurons, against the reference."""

import mmap

import numpy
import pytest
import torch
from gpu_free import cases
from gpu_free.cases import CURRENTS, SPIKES, Guarded, assert_same, in_chunks, name
from gpu_free.cpu_kernel import run_compiled

from pcsnn import functional, kernels, reference
from pcsnn.kernels import rates as rate_kernels
from pcsnn.kernels import spikes as spike_kernels
from pcsnn.tensors.arithmetic import compute_dtype, per_channel

pytestmark = pytest.mark.skipif(
    kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled"
)
MAP_NORESERVE = 0x4000  # Linux's; mmap has the name from Python 3.13 on
TIMESTEPS = (1, 4, 13, 32, 100, 255)
ALIGNED, ODD = (1, 16, 2**16), (1, 17, 61681)  # rows of 2^20 neurons, and of 2^20 + 1
shapes = pytest.mark.parametrize("shape", (ALIGNED, ODD), ids=("aligned", "odd"))
dtypes = pytest.mark.parametrize("dtype", CURRENTS, ids=name)


def run(launch, guarded):
    run_compiled(launch)
    guarded.check()
    return guarded.tensor


def strides(shape):
    return torch.empty(shape, device="meta").stride()


def sliding_trains(mean, timesteps):
    """[T, N, ...] currents, every step `mean` further on in memory, so that T steps take the memory of one."""
    step = 16 if mean.numel() % 16 == 0 else 17
    flat = torch.cat([mean.flatten(), mean.flatten()[: step * timesteps]])
    return flat.as_strided((timesteps, *mean.shape), (step, *mean.stride()))


LAYOUTS = ("planes", "channels last")


def laid_out(values, layout):
    """[1, C, M] with the pixels of a channel side by side, or with the channels of a pixel."""
    return values if layout == "planes" else values.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@shapes
@dtypes
@pytest.mark.quick(2)
def test_counts_and_rates(dtype, shape, layout):
    generator = torch.Generator().manual_seed(1)
    misaligned = int(shape == ODD)
    theta = cases.thresholds(shape[1], generator)
    for timesteps in TIMESTEPS:
        by_channel = functional.levels(theta, timesteps)
        tables = [(by_channel, cases.searches(by_channel)[:: -1 if timesteps in (4, 13, 255) else -2])]
        if timesteps in (4, 32):  # near a line, and far from one
            tables += [
                (levels, cases.searches(levels))
                for levels in ((by_channel**1.2).sort().values, (by_channel**3).sort().values)
            ]
        if timesteps < 100 and layout == "planes":
            uniform = functional.levels(1.25, timesteps)
            tables.append((uniform, cases.searches(uniform)[-1:]))
        for levels, ways in tables:
            current = laid_out(cases.near_levels(levels, shape, dtype, generator), layout)
            expected = in_chunks(lambda c: reference.fire_counts(c, levels), current)
            for repeat, line, reach in ways:
                out = Guarded(shape, current.stride(), torch.uint8, misaligned)
                launch = rate_kernels.plan(out.tensor, current, levels, None, None, None, repeat, 0, 0, line, reach)
                assert_same(run(launch, out), expected)
        scale = torch.rand(shape[1], generator=generator)
        current = laid_out(cases.near_levels(by_channel, shape, dtype, generator), layout)
        out = Guarded(shape, current.stride(), dtype, misaligned)
        line = cases.searches(by_channel)[-1].line
        assert_same(
            run(rate_kernels.plan(out.tensor, current, by_channel, scale, None, None, 1, 0, 0, line), out),
            in_chunks(lambda c: reference.fire_rates(c, by_channel, scale), current),
        )


@shapes
@dtypes
@pytest.mark.quick(2)
def test_residual_in_place(dtype, shape):
    generator = torch.Generator().manual_seed(2)
    for by_channel in (False, True):
        theta = cases.thresholds(shape[1], generator) if by_channel else 1.0
        levels = functional.levels(theta, 32, quantization_levels=8)
        counts = torch.randint(256, shape, generator=generator).to(torch.uint8)
        scale = torch.rand(shape[1] if by_channel else (), generator=generator)
        branch = counts.float() * per_channel(scale, len(shape))
        # The sum lies at a level, and rounding the product before it, or not, decides.
        current = (cases.near_levels(levels, shape, dtype, generator).float() - branch).to(dtype)
        for residual, residual_scale in ((counts, scale), (branch.to(dtype), None)):
            for repeat, line, reach in cases.searches(levels)[1:]:  # in steps of 4, without and with the line
                out = Guarded(shape, strides(shape), dtype)
                out.tensor.copy_(current)
                launch = rate_kernels.plan(
                    out.tensor, out.tensor, levels, scale, residual, residual_scale, repeat, 0, 0, line, reach
                )
                assert_same(
                    run(launch, out),
                    in_chunks(
                        lambda c, r: reference.fire_rates(c, levels, scale, r, residual_scale, repeat),
                        current,
                        residual,
                    ),
                )


def counts_of_trains(current, levels):
    """The reference's count for [T, N, ...] currents, without its [T, N, ...] result."""
    total = torch.zeros(current.shape[1:], dtype=compute_dtype(current))
    for step in current:
        total = total + step.to(total.dtype)
    return reference.search(total, levels.to(total.dtype) * len(current))


@pytest.mark.parametrize("timesteps", TIMESTEPS)
@shapes
@dtypes
def test_spikes(dtype, shape, timesteps):
    generator = torch.Generator().manual_seed(3)
    by_channel = shape == ODD
    levels = functional.levels(cases.thresholds(shape[1], generator) if by_channel else 1.25, timesteps)
    current = sliding_trains(cases.near_levels(levels, shape, dtype, generator, specials=False), timesteps)
    current[:, :, 0, :1000:7] = torch.nan
    silent = (timesteps - in_chunks(lambda c: counts_of_trains(c, levels), current)).to(torch.uint8)
    for repeat, line, reach in cases.searches(levels)[:: -1 if timesteps in (13, 255) else -2]:
        out = Guarded((timesteps, *shape), (current[0].numel(), *strides(shape)), torch.uint8, int(shape == ODD))
        spikes = run(spike_kernels.plan(out.tensor, current, levels, None, repeat, line, reach), out)
        for step in range(timesteps):  # (7): the last steps fire
            assert_same(spikes[step], (silent <= step).view(torch.uint8))


@pytest.mark.parametrize("shape", ((1, 16, 2**15), (1, 17, 30841)), ids=("aligned", "odd"))
@pytest.mark.parametrize("dtype", SPIKES, ids=name)
@pytest.mark.quick(2)
def test_spike_dtypes_and_amplitudes(dtype, shape):
    generator = torch.Generator().manual_seed(4)
    timesteps = 5
    levels = functional.levels(cases.thresholds(shape[1], generator), timesteps)
    counts = torch.randint(8, shape, generator=generator).to(torch.uint8)
    order = torch.randperm(timesteps, generator=generator)
    amplitude, by_channel = torch.tensor(-0.3), torch.randn(shape[1], generator=generator, dtype=torch.float64)
    forms = [(current_dtype, None, None) for current_dtype in CURRENTS]
    if dtype.is_floating_point:
        forms += [(torch.float32, amplitude, None), (torch.float16, by_channel, order)]
    for current_dtype, worth, places in forms:
        current = sliding_trains(cases.near_levels(levels, shape, current_dtype, generator), timesteps)
        out = Guarded(
            (timesteps, *shape), (counts.numel(), *strides(shape)), torch.uint8 if dtype == torch.bool else dtype
        )
        line = cases.searches(levels)[-1].line
        assert_same(
            run(spike_kernels.plan(out.tensor, current, levels, worth, 1, line), out).view(dtype),
            in_chunks(lambda c: reference.fire_spikes(c, levels, worth, dtype), current),
        )
        out.tensor.zero_()
        assert_same(
            run(spike_kernels.plan_expansion(out.tensor, counts, timesteps, places, worth), out).view(dtype),
            in_chunks(lambda c: reference.expand_spikes(c, timesteps, places, dtype, worth), counts),
        )


@pytest.mark.parametrize("shape", ((1, 16, 2**15), (1, 17, 30841)), ids=("aligned", "odd"))
@pytest.mark.parametrize("dtype", [dtype for dtype in SPIKES if dtype != torch.bool], ids=name)
@pytest.mark.quick(2)
def test_spikes_of_several_levels(dtype, shape):
    generator = torch.Generator().manual_seed(5)
    timesteps, spike_levels = 5, 3
    levels = functional.levels(cases.thresholds(shape[1], generator), timesteps * spike_levels)
    counts = torch.randint(20, shape, generator=generator).to(torch.uint8)
    order, by_channel = torch.randperm(timesteps, generator=generator), torch.randn(shape[1], generator=generator)
    forms = [(current_dtype, None, None) for current_dtype in CURRENTS]
    if dtype.is_floating_point:
        forms += [(torch.float32, torch.tensor(-0.3), None), (torch.float16, by_channel, order)]
    for current_dtype, worth, places in forms:
        current = sliding_trains(cases.near_levels(levels, shape, current_dtype, generator), timesteps)
        out = Guarded((timesteps, *shape), (counts.numel(), *strides(shape)), dtype)
        for line in (cases.searches(levels)[-1].line, None):
            launch = spike_kernels.plan(out.tensor, current, levels, worth, 1, line, 0, spike_levels)
            expected = in_chunks(
                lambda c: reference.fire_spikes(c, levels, worth, dtype, spike_levels=spike_levels), current
            )
            assert_same(run(launch, out), expected)
        out.tensor.zero_()
        launch = spike_kernels.plan_expansion(out.tensor, counts, timesteps, places, worth, spike_levels)
        expected = in_chunks(
            lambda c: reference.expand_spikes(c, timesteps, places, dtype, worth, spike_levels), counts
        )
        assert_same(run(launch, out), expected)


def reserve(dtype, shape):
    """A tensor of more memory than there is, zero until written, behind as much again for addresses gone astray."""
    size = torch.empty(0, dtype=dtype).element_size()
    numel = torch.Size(shape).numel()
    memory = mmap.mmap(-1, 2 * numel * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return torch.from_numpy(numpy.frombuffer(memory, dtype=numpy.uint8)).view(dtype)[numel:].view(shape)


@pytest.mark.parametrize("kind", ("counts", "rates"))
def test_more_than_2_to_31_neurons(kind):
    generator = torch.Generator().manual_seed(6)
    shape, tail = (1, 2, 2**30 + 2**14), 2**13  # the last neurons of channel 1
    levels, scale = functional.levels(torch.tensor([0.5, 1.0]), 13), torch.tensor([0.25, 0.75])
    current, out = reserve(torch.float16, shape), reserve(torch.uint8 if kind == "counts" else torch.float16, shape)
    current[0, 1, -tail:] = values = cases.near_levels(levels[1], (tail,), torch.float16, generator)
    line = cases.searches(levels)[-1].line
    launch = rate_kernels.plan(out, current, levels, scale if kind == "rates" else None, None, None, 1, 0, 0, line)
    run_compiled(launch, first=launch.programs - tail // launch.constants["COLUMNS"])
    expected = (
        reference.fire_counts(values, levels[1])
        if kind == "counts"
        else reference.fire_rates(values, levels[1], scale[1])
    )
    assert_same(out[0, 1, -tail:], expected)


@pytest.mark.parametrize("kind", ("spikes", "expanded"))
def test_more_than_2_to_31_spikes(kind):
    generator = torch.Generator().manual_seed(7)
    neurons, timesteps, tail = 2**24 + 2**11, 255, 2**11  # of whole programs
    levels = functional.levels(1.0, timesteps)
    out = reserve(torch.uint8, (timesteps, neurons))
    if kind == "spikes":
        current = reserve(torch.float16, (timesteps, neurons))
        current[:, -tail:] = cases.trains(levels, timesteps, (tail,), torch.float16, generator)
        launch = spike_kernels.plan(out, current, levels, None, 1, cases.searches(levels)[-1].line)
        expected = reference.fire_spikes(current[:, -tail:], levels)
    else:
        counts = torch.randint(256, (neurons,), generator=generator).to(torch.uint8)
        launch = spike_kernels.plan_expansion(out, counts, timesteps, None, None)
        expected = reference.expand_spikes(counts[-tail:], timesteps)
    run_compiled(launch, first=launch.programs - tail * launch.programs // neurons)
    assert_same(out[:, -tail:], expected)
