"""The C++ kernels against the reference, bit for bit: values, dtypes, layouts."""

import math

import cases
import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from gpu_free.cases import searches
from strided_currents import strided

from pcsnn import functional
from pcsnn.operators import dispatch
from pcsnn.tensors import checks

pytestmark = pytest.mark.skipif(bool(dispatch._no_extension), reason=f"no C++ kernels: {dispatch._no_extension}")

SHAPES = ((23,), (3, 17), (2, 5, 33), (2, 3, 4, 5), (2, 5, 8, 8), (1, 2, 3, 2, 3), (5, 1, 7))


def compare(name, *arguments, **options):
    return cases.compare("c++", name, *arguments, **options)


def channels_of(shape, per_channel):
    return shape[1] if per_channel else None


def values(shape, seed):
    """Per-channel and per-layer scales that fit `shape`."""
    yield torch.tensor(0.37)
    if len(shape) > 1:
        yield torch.randn(shape[1], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("per_channel", (False, True))
@pytest.mark.parametrize("timesteps", cases.TIMESTEPS)
def test_counts_of_every_table(timesteps, per_channel):
    for shape in ((3, 7, 11), (2, 5, 64), (700, 3)):
        for table in cases.tables(timesteps, channels_of(shape, per_channel)):
            for dtype in cases.DTYPES:
                current = cases.currents(shape, table.levels, dtype, seed=timesteps)
                what = f"{table.name}, T={timesteps}, {shape}, {dtype}"
                compare("fire_counts", current, table.levels, None, None, spacings=table.spacings, what=what)


@pytest.mark.parametrize("timesteps", (1, 7, 16, 17, 47, 48, 49))
def test_many_neurons_of_channels_side_by_side(timesteps):
    """So many that their levels are compared one after the other, up to 48 of them."""
    for shape in ((5001, 5), (9, 37, 17, 31)):
        for table in cases.tables(timesteps, shape[1])[:4]:
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                current = cases.currents(shape, table.levels, dtype, seed=timesteps)
                if len(shape) == 4:
                    current = current.contiguous(memory_format=torch.channels_last)
                what = f"{table.name}, T={timesteps}, {shape}, {dtype}"
                compare("fire_counts", current, table.levels, current, None, spacings=table.spacings, what=what)
                scale = torch.linspace(0.1, 2, shape[1])
                compare("fire_rates", current, table.levels, scale, None, None, 0, timesteps // 3, 1, what=what)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("size", (*cases.SIZES, 4099))
def test_counts_of_every_size(size, dtype):
    for timesteps in (5, 32):
        for per_channel, shape in ((False, (size,)), (True, (size, 3)), (True, (1, size)), (True, (1, 3, size))):
            for table in cases.tables(timesteps, channels_of(shape, per_channel))[:3]:
                current = cases.currents(shape, table.levels, dtype, seed=size)
                what = f"{shape}, {table.name}"
                compare("fire_counts", current, table.levels, None, None, spacings=table.spacings, what=what)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_and_rates_of_every_layout(shape):
    for per_channel in (False, True)[: len(shape)]:
        table = cases.tables(8, channels_of(shape, per_channel))[0]
        for dtype in cases.DTYPES:
            current = cases.currents(shape, table.levels, dtype)
            for name, view in cases.layouts(current):
                what = f"{name}, {shape}, {dtype}"
                compare("fire_counts", view, table.levels, None, None, spacings=table.spacings, what=what)
                for scale in values(shape, 1):
                    compare("fire_rates", view, table.levels, scale, None, None, spacings=table.spacings, what=what)


def test_expanded_currents():
    table = cases.tables(8, 5)[0]
    current = cases.currents((1, 5, 1), table.levels, torch.float32).expand(3, 5, 70)
    options = dict(spacings=table.spacings)
    compare("fire_counts", current, table.levels, None, None, **options)
    compare("fire_rates", current, table.levels, torch.tensor(0.2), None, None, **options)
    compare("fire_spikes", current.expand(8, 3, 5, 70), table.levels, None, torch.uint8, **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_residuals(shape, dtype):
    generator = torch.Generator().manual_seed(3)
    for per_channel in (False, True)[: len(shape)]:
        for table in cases.tables(8, channels_of(shape, per_channel)):
            current = cases.currents(shape, table.levels, dtype)
            floats = cases.currents(shape, table.levels, dtype, seed=1)
            counts = torch.randint(256, shape, generator=generator).to(torch.uint8)
            options = dict(spacings=table.spacings)
            for name, residual in (*cases.layouts(floats), ("itself", current)):
                compare("fire_counts", current, table.levels, residual, None, what=f"residual {name}", **options)
                compare("fire_rates", current, table.levels, torch.tensor(0.3), residual, None, what=name, **options)
            for scale in values(shape, 5):
                for name, residual in cases.layouts(counts):
                    compare("fire_counts", current, table.levels, residual, scale, what=f"counts {name}", **options)
                    compare("fire_rates", current, table.levels, scale, residual, scale, what=f"{name}", **options)


@pytest.mark.parametrize("timesteps", cases.TIMESTEPS)
def test_rates_are_multiples_of_distinct_levels(timesteps):
    scales = (torch.tensor(0.1), torch.tensor([1e-8, -3.0, 70000.0]), torch.tensor(0.1, dtype=torch.float64))
    for table in cases.tables(timesteps, 3):
        for dtype in cases.DTYPES:
            current = cases.currents((5, 3, 40), table.levels, dtype)
            for scale in scales:
                what = f"{table.name}, {dtype}"
                compare("fire_rates", current, table.levels, scale, None, None, spacings=table.spacings, what=what)


def test_rates_in_place_write_their_tensor_only():
    guard = 71
    table = cases.tables(13, 3)[0]
    for dtype in cases.DTYPES:
        for shape in ((1, 3, 1), (2, 3, 17), (31, 3), (5, 3, 7, 129)):
            current = cases.currents(shape, table.levels, dtype)
            poisoned = torch.full((guard + current.numel() + guard,), -7.25, dtype=dtype)
            for last in (False, True):
                inside = poisoned[guard:-guard]
                inside = inside.view(shape[0], *shape[2:], 3).movedim(-1, 1) if last else inside.view(shape)
                inside.copy_(current)
                with dispatch.use_backend("reference"):
                    expected = functional.fire_rates(inside, table.levels, 0.2, inside.clone())
                residual = inside.clone()
                with dispatch.use_backend("c++"):
                    assert functional.fire_rates(inside, table.levels, 0.2, residual, inplace=True) is inside
                cases.assert_same(inside, expected, f"{dtype}, {shape}")
                assert (poisoned[:guard] == -7.25).all() and (poisoned[-guard:] == -7.25).all()


def test_rates_in_place_with_residuals_in_the_same_memory():
    table = cases.tables(8)[0]
    for offset in (0, 1, 5):
        memory = cases.currents((6000,), table.levels, torch.float32)
        expected = memory.clone()
        with dispatch.use_backend("reference"):
            functional.fire_rates(
                expected[5:5005], table.levels, 0.5, expected[5 - offset : 5005 - offset], inplace=True
            )
        with dispatch.use_backend("c++"):
            functional.fire_rates(memory[5:5005], table.levels, 0.5, memory[5 - offset : 5005 - offset], inplace=True)
        cases.assert_same(memory, expected)


def test_rates_in_place_of_views():
    table = cases.tables(8, 6)[0]
    for name, view in cases.layouts(cases.currents((4, 6, 9), table.levels, torch.float32)):
        with dispatch.use_backend("reference"):
            expected = functional.fire_rates(view, table.levels, 0.5)
        with dispatch.use_backend("c++"):
            functional.fire_rates(view, table.levels, 0.5, inplace=True)
        assert torch.equal(view, expected), name
    with pytest.raises(RuntimeError, match="current: expected elements that do not overlap"):
        functional.fire_rates(torch.zeros(1, 6).expand(3, 6), table.levels, 0.5, inplace=True)


@pytest.mark.parametrize("per_channel", (False, True))
@pytest.mark.parametrize("timesteps", cases.TIMESTEPS)
def test_spikes_of_every_table(timesteps, per_channel):
    shape = (3, 2, 41)
    for table in cases.tables(timesteps, channels_of(shape, per_channel)):
        # One step at T levels, the others silent, keeps the sum at an edge; uneven trains are summed too.
        silent = torch.zeros(timesteps, *shape)
        silent[timesteps // 2] = cases.currents(shape, table.levels, torch.float32, scale=timesteps)
        uneven = cases.currents((timesteps * shape[0], *shape[1:]), table.levels, torch.float32).view(timesteps, *shape)
        others = (uneven.to(torch.bfloat16), silent.half(), uneven.double()) if timesteps <= 64 else ()
        for current in (silent, uneven, *others):
            what = f"{table.name}, T={timesteps}, {current.dtype}"
            compare("fire_spikes", current, table.levels, None, torch.uint8, spacings=table.spacings, what=what)


@pytest.mark.parametrize("out_dtype", checks.SPIKE_DTYPES, ids=str)
def test_spikes_of_every_dtype_and_layout(out_dtype):
    for shape in ((33,), (2, 5), (3, 5, 20), (2, 3, 4, 5), (1, 2, 3, 2, 3)):
        for table in cases.tables(5, channels_of(shape, len(shape) > 1))[:2]:
            amplitudes = [None]
            if out_dtype.is_floating_point:
                amplitudes += [*values(shape, 2), torch.tensor(-1e5), torch.tensor(math.inf)]
            for dtype in cases.DTYPES:
                current = torch.stack([cases.currents(shape, table.levels, dtype, seed=t) for t in range(5)])
                views = [*cases.layouts(current, first=1), ("one step", current[:1].expand(5, *shape))]
                for name, view in views:
                    what = f"{name}, {shape}, {dtype}"
                    for amplitude in amplitudes:
                        compare(
                            "fire_spikes", view, table.levels, amplitude, out_dtype, spacings=table.spacings, what=what
                        )


@pytest.mark.parametrize("timesteps", cases.TIMESTEPS)
def test_expansion(timesteps):
    generator = torch.Generator().manual_seed(timesteps)
    order = torch.randperm(timesteps, generator=generator)
    outside = torch.tensor([-(2**63), 2**63 - 1, -1, timesteps, -300, 300, -256, 255])[torch.arange(timesteps) % 8]
    for shape in ((70,), (2, 3, 7, 5)):
        counts = torch.randint(256, shape, generator=generator).to(torch.uint8)
        for dtype in checks.SPIKE_DTYPES:
            for name, view in cases.layouts(counts) if timesteps in (5, 13) else [("contiguous", counts)]:
                for places in (None, order, outside):
                    compare("expand_spikes", view, timesteps, places, dtype, None, what=f"{name}, {shape}, {dtype}")
            if dtype.is_floating_point:
                for amplitude in values(shape, 4):
                    compare("expand_spikes", counts, timesteps, order, dtype, amplitude, what=f"{shape}, {dtype}")


def test_large_outputs_pass_the_caches_unchanged():
    """Outputs above 8 MB are written around the caches: unaligned rows, and all widths."""
    current = torch.randn(9, 10, 3, 50_021, generator=torch.Generator().manual_seed(0))
    levels = functional.levels(torch.tensor([1.0, 0.5, 2.0]), 9)
    spacings = searches(levels)
    for out_dtype in (torch.uint8, torch.bfloat16, torch.float32):
        amplitude = torch.tensor([1.0, 2.0, 3.0]) if out_dtype.is_floating_point else None
        compare("fire_spikes", current, levels, amplitude, out_dtype, spacings=spacings)
    last = current[:2].transpose(1, 3).contiguous().transpose(1, 3)[1]
    shared = levels[0].contiguous()
    compare(
        "fire_rates", current[:, :, 0].contiguous(), shared, torch.tensor(0.5), None, None, spacings=searches(shared)
    )
    compare("fire_rates", last.repeat(2, 1, 1), levels, torch.tensor(0.5), None, None, spacings=spacings)


@pytest.mark.parametrize("shape", ((0,), (0, 3), (3, 0), (2, 3, 0, 4)), ids=str)
def test_empty_batches(shape):
    current = torch.empty(shape)
    levels = functional.levels(1.0, 4)
    assert functional.fire_counts(current, levels).shape == shape
    assert functional.fire_counts(current, levels, current).shape == shape
    assert functional.fire_rates(current, levels, 0.25).shape == shape
    assert functional.fire_rates(current, levels, 0.25, inplace=True) is current
    assert functional.fire_spikes(current.expand(4, *shape), levels).shape == (4, *shape)
    assert functional.expand_spikes(current.to(torch.uint8), 4).shape == (4, *shape)


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_shape_stride_dtype_and_timesteps(data):
    dtype = data.draw(st.sampled_from(cases.DTYPES))
    timesteps = data.draw(st.integers(1, 9) | st.integers(1, 9) | st.integers(10, 48))
    current, scale = data.draw(strided(dtype))
    per_channel = current.dim() > 1 and current.shape[1] > 0 and data.draw(st.booleans())
    theta = torch.rand(current.shape[1], dtype=torch.float64) * scale + 1e-3 if per_channel else scale
    levels = functional.levels(
        theta,
        timesteps,
        quantization_levels=data.draw(st.sampled_from((None, 1, 2, 4))),
        offset=data.draw(st.sampled_from((0.0, 0.3, -2.0))) * scale,
    )
    options = dict(spacings=[data.draw(st.sampled_from(searches(levels)))])
    residual, residual_scale = None, None
    kind = data.draw(st.sampled_from(("none", "float", "counts")))
    if kind == "float":
        residual = current.flip(0)
    elif kind == "counts":
        residual = torch.randint(256, current.shape).to(torch.uint8)
        rows = current.shape[1:2] if data.draw(st.booleans()) else ()
        residual_scale = torch.full(rows, scale / 99)
    compare("fire_counts", current, levels, residual, residual_scale, **options)
    compare("fire_rates", current, levels, torch.tensor(scale), residual, residual_scale, **options)


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_spikes_of_any_shape_stride_dtype_and_timesteps(data):
    dtype = data.draw(st.sampled_from(cases.DTYPES))
    out_dtype = data.draw(st.sampled_from(checks.SPIKE_DTYPES))
    timesteps = data.draw(st.integers(1, 12))
    current, scale = data.draw(strided(dtype, (timesteps,)))
    per_channel = current.dim() > 2 and current.shape[2] > 0 and data.draw(st.booleans())
    theta = torch.rand(current.shape[2], dtype=torch.float64) * scale + 1e-3 if per_channel else scale
    levels = functional.levels(theta, timesteps)
    amplitude = None
    if out_dtype.is_floating_point and data.draw(st.booleans()):
        amplitude = torch.rand(current.shape[2]) if per_channel else torch.tensor(scale)
    spikes = compare(
        "fire_spikes", current, levels, amplitude, out_dtype, spacings=[data.draw(st.sampled_from(searches(levels)))]
    )
    counts = compare("fire_counts", current[0], levels, None, None, 0)
    compare("expand_spikes", counts, timesteps, torch.randperm(timesteps), out_dtype, amplitude)
    # (7): the last k steps of a sorted train fire.
    assert (spikes[1:] >= spikes[:-1]).all() or amplitude is not None


def test_raw_calls_check_what_memory_needs():
    current, levels = torch.zeros(2, 3, 4), torch.arange(1.0, 5.0)
    rates, counts = torch.ops.pcsnn.fire_rates, torch.ops.pcsnn.fire_counts
    scale, line = torch.tensor(1.0), torch.ones(3)
    counted, weight = torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(5, 3)
    image = counted[:, :, None, None], weight[:, :, None, None]
    bad = (
        (lambda: counts(current.int(), levels, None, None, 0), "current"),
        (lambda: counts(current, levels.half(), None, None, 0), "levels"),
        (lambda: counts(current, levels.expand(4, 4), None, None, 0), "levels"),
        (lambda: counts(current, torch.zeros(256), None, None, 0), "levels"),
        (lambda: counts(current, torch.zeros(0), None, None, 0), "levels"),
        (lambda: counts(current[:, 0, 0], levels.expand(2, 4), None, None, 0), "levels"),
        (lambda: counts(current, levels, None, None, 3), "repeat"),
        (lambda: counts(current, levels, None, None, -1), "repeat"),
        (lambda: counts(current, levels, None, None, 1, line.double()), "line"),
        (lambda: counts(current, levels, None, None, 1, line.int()), "line"),
        (lambda: counts(current, levels, None, None, 1, line[:2]), "line"),
        (lambda: counts(current, levels, None, None, 1, line[:, None]), "line"),
        (lambda: counts(current, levels, None, None, 1, line[:, None].expand(3, 3)), "line"),
        (lambda: counts(current, levels.expand(3, 4), None, None, 1, line), "line"),
        (lambda: counts(current, levels.expand(3, 4), None, None, 1, line[:, None].expand(3, 2)), "line"),
        (lambda: counts(current, levels.expand(3, 4), None, None, 1, line.expand(3, 3)[:2]), "line"),
        (lambda: counts(current, levels, None, None, 0, line, -1), "reach"),
        (lambda: counts(current, levels, current[:1], None, 0), "residual"),
        (lambda: counts(current, levels, current.double(), None, 0), "residual"),
        (lambda: counts(current, levels, current.byte(), None, 0), "residual_scale"),
        (lambda: counts(current, levels, current.byte(), torch.ones(4), 0), "residual_scale"),
        (lambda: counts(current, levels, None, scale, 0), "residual_scale"),
        (lambda: rates(current, levels, torch.ones(2), None, None, 0), "scale"),
        (lambda: rates(current, levels, torch.ones(1, 3), None, None, 0), "scale"),
        (lambda: rates(current, levels, scale, None, None, 1, 0, 0, line[:2]), "line"),
        (lambda: torch.ops.pcsnn.fire_rates_(current, levels, scale, None, None, 1, 0, 0, line[:2]), "line"),
        (lambda: torch.ops.pcsnn.fire_rates_(current, levels, torch.ones(2), None, None, 0), "scale"),
        (lambda: torch.ops.pcsnn.fire_spikes(current, levels, None, torch.uint8, 0), "levels"),
        (lambda: torch.ops.pcsnn.fire_spikes(current[:0], levels, None, torch.uint8, 0), "current"),
        (lambda: torch.ops.pcsnn.fire_spikes(current, levels[:2], None, torch.uint8, 1, line[:2]), "line"),
        (lambda: torch.ops.pcsnn.linear_fire(counted, weight, None, levels, *[None] * 3, 1, 4, line[:2]), "line"),
        (lambda: torch.ops.pcsnn.conv2d_fire(*image, None, levels, *[None] * 3, 1, 0, 1, 1, 1, 4, line[:2]), "line"),
        (
            lambda: torch.ops.pcsnn.linear_fire(counted, weight, None, levels, *[None] * 3, 1, 4, line, 0, torch.half),
            "counts_dtype",
        ),
        (lambda: torch.ops.pcsnn.fire_spikes(current, levels[:2], None, torch.int32, 0), "out_dtype"),
        (lambda: torch.ops.pcsnn.fire_spikes(current, levels[:2], scale, torch.uint8, 0), "out_dtype"),
        (lambda: torch.ops.pcsnn.expand_spikes(current, 4, None, torch.uint8, None), "counts"),
        (lambda: torch.ops.pcsnn.expand_spikes(current.byte(), 256, None, torch.uint8, None), "timesteps"),
        (lambda: torch.ops.pcsnn.expand_spikes(current.byte(), 0, None, torch.uint8, None), "timesteps"),
        (lambda: torch.ops.pcsnn.expand_spikes(current.byte(), 4, torch.arange(3), torch.uint8, None), "order"),
        (lambda: torch.ops.pcsnn.expand_spikes(current.byte(), 4, torch.arange(4).int(), torch.uint8, None), "order"),
        (lambda: torch.ops.pcsnn.expand_spikes(current.byte(), 4, None, torch.float32, torch.ones(4)), "amplitude"),
    )
    for call, name in bad:
        with pytest.raises(RuntimeError, match=f"^{name}: "):
            call()


def test_wrong_spacing_reads_no_foreign_memory():
    """A raw call may claim any spacing for any table: the count is then of no use, but stays within 0..T."""
    current = cases.currents((4000,), torch.linspace(-2, 6, 8), torch.float32)
    for levels in (torch.full((8,), torch.nan), torch.tensor([5.0, -torch.inf, 3, torch.nan, 2, torch.inf, 1, 0])):
        for repeat in (1, 2, 4, 8):
            for line in (
                None,
                torch.tensor([1.0, 1, 1]),
                torch.tensor([torch.nan, 0, torch.inf]),
                torch.tensor([-1.0, -1, -1]),
            ):
                for dtype in (torch.float32, torch.float64):
                    assert torch.ops.pcsnn.fire_counts(current.to(dtype), levels, None, None, repeat, line).max() <= 8


def test_rates_over_tables_in_their_own_memory():
    """What a call in place overwrites it has read before, levels, line and scales too."""
    memory = torch.randn(64 * 9, generator=torch.Generator().manual_seed(0))
    memory[:16], levels = functional.levels(2.0, 16), memory[:16]
    memory[16:19], line = searches(levels)[-1].line, memory[16:19]
    scale = memory[20]
    expected = torch.ops.pcsnn.fire_rates(memory, levels.clone(), scale.clone(), None, None, 1)
    torch.ops.pcsnn.fire_rates_(memory, levels, scale, None, None, 1, 0, 0, line)
    cases.assert_same(memory, expected)
