"""Fused synapses under Triton's interpreter, against the reference.

Run without TRITON_INTERPRET=1, this file runs itself again with it, in a process of its own. bfloat16 is left to
test_triton_products.py: the interpreter is wrong there.
"""

import pytest
import torch
from gpu_free import product_cases
from gpu_free.cases import LAYOUTS, assert_same, lay_out, name
from gpu_free.interpreter import interpret, interpreted, not_interpreted, run_interpreted
from gpu_free.product_cases import FORMS, GEOMETRIES, TIMESTEPS, Form, Geometry, check

from pcsnn import functional, kernels, reference, use_backend
from pcsnn.kernels import synapses, tiles

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy on infinities, intended
DTYPES = (torch.int8, torch.float16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)


@not_interpreted
@pytest.mark.quick(0)
def test_in_a_process_of_its_own():
    run_interpreted(__file__)


@interpreted
@pytest.mark.parametrize("geometry", GEOMETRIES)
@dtypes
def test_every_geometry(dtype, geometry):
    generator = torch.Generator().manual_seed(1)
    place = list(GEOMETRIES).index(geometry) + DTYPES.index(dtype)
    for i in range(place, place + 3 * len(FORMS), 4)[:3]:  # each form meets some of the geometries
        timesteps = TIMESTEPS[i % len(TIMESTEPS)]
        made = product_cases.arguments(
            GEOMETRIES[geometry], list(FORMS.values())[i % len(FORMS)], dtype, timesteps, generator
        )
        check(interpret, made, timesteps, misaligned=i % 2)


@interpreted
@pytest.mark.parametrize("form", FORMS)
@dtypes
def test_every_form(dtype, form):
    generator = torch.Generator().manual_seed(10)
    check(interpret, product_cases.arguments(GEOMETRIES["images of pixels"], FORMS[form], dtype, 40, generator), 40)


@interpreted
@pytest.mark.parametrize("timesteps", TIMESTEPS)
@dtypes
def test_timesteps_and_saturation(dtype, timesteps):
    generator = torch.Generator().manual_seed(2)
    for geometry, forms in (
        ("images of pixels", ("line", "near a line", "bisected", "stairs")),
        ("depthwise", ("line by channel",)),
        ("few channels", ("bisected by channel", "line by channel")),
    ):
        for form in forms:
            made = product_cases.arguments(GEOMETRIES[geometry], FORMS[form], dtype, timesteps, generator)
            counts = check(interpret, made, timesteps)
            assert (counts == 0).any() and (counts == timesteps).any()


@interpreted
@pytest.mark.parametrize("steps", (8, 16, 17, 33, 200))  # either side of where a scan ends
@dtypes
def test_number_of_levels_is_not_that_of_incoming_steps(dtype, steps):
    generator = torch.Generator().manual_seed(3)
    for form in ("line by channel", "near a line", "bisected by channel", "stairs", "rates"):
        made = product_cases.arguments(GEOMETRIES["images of pixels"], FORMS[form], dtype, 13, generator, levels=steps)
        check(interpret, made, 13)


@interpreted
@pytest.mark.parametrize("channels", (3, 7))
@pytest.mark.parametrize("timesteps", (32, 255))
@dtypes
def test_channels_are_filled_up_to_fours(dtype, timesteps, channels, monkeypatch):
    """Of images large enough to pay for it; the zeros change nothing, infinities in an image neither."""
    generator = torch.Generator().manual_seed(8)
    monkeypatch.setattr(synapses, "ALIGNED_FROM", 2 * 9 * 8)
    weight = torch.randint(-9, 10, (5, channels, 3, 4), generator=generator).to(dtype)
    levels = torch.arange(-16, 16).to(torch.int32 if dtype == torch.int8 else torch.float32) * timesteps
    counts = torch.randint(timesteps + 1, (2, channels, 9, 8), generator=generator).to(torch.uint8)
    inputs = [counts]
    if dtype != torch.int8:
        valued = counts.to(dtype)
        valued[0, 0, 3, 3] = float("inf")
        inputs.append(valued)
    for values in inputs:
        for padding in (0, 2):
            found, expected = [], []
            for backend, results in (("triton", found), ("reference", expected)):
                with use_backend(backend):
                    results.append(
                        functional.conv2d_fire(
                            values, weight, levels, padding=padding, stride=(2, 1), timesteps=timesteps
                        )
                    )
            assert_same(found[0], expected[0].contiguous(memory_format=torch.channels_last))


@interpreted
@pytest.mark.parametrize("geometry", ("pixels", "taps", "few channels", "long runs", "small groups"))
def test_float_inputs(geometry):
    generator = torch.Generator().manual_seed(4)
    for form in ("line", "bisected by channel", "rates by channel", "currents"):
        made = product_cases.arguments(GEOMETRIES[geometry], FORMS[form], torch.float16, 16, generator, valued=True)
        check(interpret, made, 16)


@interpreted
def test_inputs_beside_a_run_do_not_matter():
    """Beyond a run of 9 inputs its weights are zero, and what lies there in the image may be infinite."""
    counts = torch.ones(1, 3, 1, 9, dtype=torch.float16)
    counts[..., 5] = torch.inf
    weight = torch.ones(2, 3, 1, 3, dtype=torch.float16)
    made = (counts, weight, None, None, None, None, None, (1, 1), (0, 0), (1, 1), 1, 1)
    assert check(interpret, made, 1)[0, 0, 0].isfinite().tolist() == [True, True, True, False, False, False, True]


@interpreted
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_float32_is_the_library_and_a_fire_kernel(geometry):
    generator = torch.Generator().manual_seed(9)
    for form in FORMS.values():
        made = product_cases.arguments(GEOMETRIES[geometry], form, torch.float32, 33, generator)
        due = reference.conv2d_fire(*made)
        found = kernels.conv2d_fire(*made, 33, *product_cases.searched(made))
        assert_same(found, due)
        assert found.is_contiguous(memory_format=torch.channels_last)


@interpreted
@dtypes
def test_every_tile(dtype):
    generator = torch.Generator().manual_seed(5)
    for tile in tiles.of(dtype.itemsize):
        for geometry in ("images of pixels", "few channels"):
            made = product_cases.arguments(GEOMETRIES[geometry], FORMS["stairs"], dtype, 10, generator)
            check(interpret, made, 10, tile=tile)


@interpreted
@pytest.mark.parametrize("pointwise", (True, False))
@pytest.mark.parametrize("timesteps", (127, 128, 255))
def test_extremes_of_int8(timesteps, pointwise):
    """Every count the greatest, every weight an extreme: the sums are as far from zero as they get."""
    kernel = 1 if pointwise else 3
    for extreme in (-128, 127):
        counts = torch.full((1, 64, 3, 3), timesteps, dtype=torch.uint8)
        weight = torch.full((3, 64, kernel, kernel), extreme, dtype=torch.int8)
        made = (counts, weight, None, None, None, None, None, (1, 1), (kernel // 2,) * 2, (1, 1), 1, 1)
        assert check(interpret, made, timesteps).abs().max() == 64 * kernel**2 * timesteps * abs(extreme)


@interpreted
def test_sums_beyond_int32_compare_as_if_they_were_not():
    generator = torch.Generator().manual_seed(6)
    counts = torch.randint(5, (2, 20, 2, 2), generator=generator).to(torch.uint8)
    weight = torch.randint(-128, 128, (4, 20, 1, 1), generator=generator).to(torch.int8)
    levels = torch.tensor([-(2**30), 0, 2**31 - 2, 2**31 - 1], dtype=torch.int32)
    bias = torch.tensor([2**31 - 1, -(2**31), 2**30, -(2**30)], dtype=torch.int32)
    residual = torch.randint(256, (2, 4, 2, 2), generator=generator).to(torch.uint8)
    scale = torch.tensor([2**31 - 1, -(2**31), 0, 2**24], dtype=torch.int32)
    for table, repeat in (
        (levels, 0),
        (torch.full((33,), 2**31 - 1, dtype=torch.int32), 1),
        (torch.full((3, 33), 2**31 - 1, dtype=torch.int32)[:1], 33),
    ):
        made = (counts, weight, bias, table, None, residual, scale, (1, 1), (0, 0), (1, 1), 1, repeat)
        check(interpret, made, 4)
    narrow = (
        counts,
        weight,
        bias // 2**20,
        levels // 2**20,
        None,
        residual,
        scale // 2**20,
        (1, 1),
        (0, 0),
        (1, 1),
        1,
        0,
    )
    check(interpret, narrow, 4)
    for rates in (None, torch.tensor(0.3)):  # currents: cut to int32; scaled, rounded once
        check(interpret, (counts, weight, bias, None, rates, residual, scale, (1, 1), (0, 0), (1, 1), 1, 1), 4)


@interpreted
def test_int8_sums_that_int32_may_not_hold_are_refused():
    def plan(inputs, timesteps):
        counts, weight, out = (
            torch.empty(shape, dtype=dtype, device="meta")
            for shape, dtype in (
                ((1, inputs, 1, 1), torch.uint8),
                ((1, inputs), torch.int8),
                ((1, 1, 1, 1), torch.int32),
            )
        )
        return synapses.plan(out, counts, weight, None, None, None, None, None, (1, 1), (0, 0), (1, 1), 1, 1, timesteps)

    assert plan(2**17, 127).programs == 1
    with pytest.raises(ValueError, match="at most 131071 int8 weights"):
        plan(2**17, 128)


@interpreted
def test_nan_gives_no_spikes_and_infinity_all():
    counts = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 4.0]).half().reshape(5, 1, 1, 1)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float16)
    for steps in (3, 40):
        levels = torch.arange(steps).float()
        for repeat in (0, 1):
            made = (counts, weight, None, levels, None, None, None, (1, 1), (0, 0), (1, 1), 1, repeat)
            assert check(interpret, made, 1).flatten().tolist() == [0, steps, 0, 1, min(steps, 5)]


@interpreted
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (*DTYPES, torch.float32), ids=name)
def test_every_layout_through_the_public_functions(dtype, layout):
    generator = torch.Generator().manual_seed(7)
    geometry, form = GEOMETRIES["few channels"], Form("channel", bias=True, residual="counts", scale="channel")
    made = product_cases.arguments(geometry, form, dtype, 8, generator)
    counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat = made
    if dtype != torch.int8:
        weight = lay_out(weight, layout)
    options = dict(bias=bias, scale=scale, residual=lay_out(residual, layout), residual_scale=residual_scale)
    with use_backend("triton"):
        actual = functional.conv2d_fire(
            lay_out(counts, layout),
            weight,
            levels,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            repeat=repeat,
            timesteps=8,
            **options,
        )
    with use_backend("reference"):
        expected = functional.conv2d_fire(
            lay_out(counts, layout),
            weight,
            levels,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            repeat=repeat,
            timesteps=8,
            **options,
        )
    assert_same(actual, expected)
    assert actual.stride() == expected.stride()
    assert actual.is_contiguous(memory_format=torch.channels_last)


@interpreted
@pytest.mark.parametrize("shape", ((9,), (0, 9), (1, 9), (2, 3, 9), (5, 17), (70, 40)), ids=str)
@pytest.mark.parametrize("dtype", (*DTYPES, torch.float32), ids=name)
def test_linear_layers(dtype, shape):
    generator = torch.Generator().manual_seed(8)
    rows = torch.Size(shape[:-1]).numel()
    geometry = Geometry((max(rows, 1), shape[-1], 1, 1), (21, shape[-1], 1, 1))
    for form in FORMS.values():
        made = product_cases.arguments(geometry, form, dtype, 200, generator)
        counts, weight, bias, levels, scale, residual, residual_scale, *_, repeat = made
        counts, residual = (
            None if x is None else x[:rows].reshape(*shape[:-1], x.shape[1]) for x in (counts, residual)
        )
        made = (counts, weight.reshape(21, -1), bias, levels, scale, residual, residual_scale, repeat)
        actual = kernels.linear_fire(*made, 200, *product_cases.searched(made))
        assert_same(actual, reference.linear_fire(*made))
        assert actual.is_contiguous()


@interpreted
@pytest.mark.parametrize("dtype", (*DTYPES, torch.float32), ids=name)
def test_no_inputs_give_the_bias(dtype):
    bias = torch.tensor([-3, 4]).to(torch.int32 if dtype == torch.int8 else dtype)
    currents = kernels.linear_fire(
        torch.zeros(3, 0, dtype=torch.uint8), torch.zeros(2, 0, dtype=dtype), bias, None, None, None, None, 1, 200
    )
    assert_same(currents, bias.expand(3, 2))


@interpreted
def test_empty_batch():
    counts, levels = torch.zeros(0, 4, 5, 5, dtype=torch.uint8), torch.tensor([1.0])
    with use_backend("triton"):
        result = functional.conv2d_fire(counts, torch.ones(3, 4, 3, 3), levels)
    assert result.shape == (0, 3, 3, 3) and result.dtype == torch.uint8


@interpreted
def test_what_is_made_of_a_weight_is_kept_until_it_is_written_to():
    counts = torch.full((1, 20), 200, dtype=torch.uint8)
    weight = torch.ones(2, 20, dtype=torch.int8)
    for _ in range(2):
        assert kernels.linear_fire(counts, weight, None, None, None, None, None, 1, 200).tolist() == [[4000, 4000]]
    weight[0] = 2
    assert kernels.linear_fire(counts, weight, None, None, None, None, None, 1, 200).tolist() == [[8000, 4000]]
    image, kernel = torch.full((1, 3, 2, 2), 9, dtype=torch.uint8), torch.ones(1, 3, 2, 2, dtype=torch.int8)
    for value in (1, 3):
        kernel.fill_(value)
        sums = kernels.conv2d_fire(image, kernel, None, None, None, None, None, [1, 1], [0, 0], [1, 1], 1, 1, 9)
        assert sums.item() == 108 * value
