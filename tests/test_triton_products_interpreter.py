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
from pcsnn.kernels import products, tuning

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy on infinities, intended
DTYPES = (torch.int8, torch.float16, torch.float32)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)


@not_interpreted
def test_in_a_process_of_its_own():
    run_interpreted(__file__)


@interpreted
@pytest.mark.parametrize("geometry", GEOMETRIES)
@dtypes
def test_every_form_of_every_geometry(dtype, geometry):
    generator = torch.Generator().manual_seed(1)
    for i, form in enumerate(FORMS.values()):
        timesteps = TIMESTEPS[i % len(TIMESTEPS)]
        made = product_cases.arguments(GEOMETRIES[geometry], form, dtype, timesteps, generator)
        check(interpret, made, timesteps, misaligned=i % 2)


@interpreted
@pytest.mark.parametrize("timesteps", TIMESTEPS)
@dtypes
def test_timesteps_and_saturation(dtype, timesteps):
    generator = torch.Generator().manual_seed(2)
    for geometry in ("taps", "few channels", "depthwise"):
        for form in ("guessed", "guessed by channel", "bisected", "bisected by channel", "stairs"):
            made = product_cases.arguments(GEOMETRIES[geometry], FORMS[form], dtype, timesteps, generator)
            counts = check(interpret, made, timesteps)
            assert (counts == 0).any() and (counts == timesteps).any()


@interpreted
@pytest.mark.parametrize("steps", (8, 9, 32, 33, 200))  # either side of where a scan ends
@dtypes
def test_number_of_levels_is_not_that_of_incoming_steps(dtype, steps):
    generator = torch.Generator().manual_seed(3)
    for form in ("guessed by channel", "bisected by channel", "stairs", "rates"):
        made = product_cases.arguments(GEOMETRIES["images of pixels"], FORMS[form], dtype, 13, generator, levels=steps)
        check(interpret, made, 13)


@interpreted
@pytest.mark.parametrize("geometry", ("pixels", "taps", "few channels", "small groups"))
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=name)
def test_float_inputs(dtype, geometry):
    generator = torch.Generator().manual_seed(4)
    for form in ("guessed", "bisected by channel", "rates by channel", "currents"):
        check(interpret, product_cases.arguments(GEOMETRIES[geometry], FORMS[form], dtype, 16, generator, valued=True), 16)


@interpreted
@dtypes
def test_every_tile(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    for tiles, geometry in ((products.TILES, "images of pixels"), (products.TILES, "taps"), (products.FLAT_TILES, "wide kernel")):
        for tile in tiles[dtype.itemsize]:
            with monkeypatch.context() as patch:
                patch.setitem(tiles, dtype.itemsize, (tile, tile))
                check(interpret, product_cases.arguments(GEOMETRIES[geometry], FORMS["stairs"], dtype, 10, generator), 10)


@interpreted
def test_whole_numbers_take_the_tile_that_was_fastest(monkeypatch):
    timed = []

    def milliseconds(launch):
        launch()  # as timing does: it must leave the result what it is
        timed.append(launch.constants["ROWS"])
        return {64: 1.0, 128: 3.0}.get(timed[-1], 2.0)

    monkeypatch.setattr(tuning, "_fastest", {})
    monkeypatch.setattr(tuning, "allowed", lambda out: True)
    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    generator = torch.Generator().manual_seed(7)
    counts = torch.randint(11, (2, 40, 3, 5), generator=generator).to(torch.uint8)
    weight = torch.randint(-128, 128, (9, 40, 1, 1), generator=generator).to(torch.int8)
    levels = torch.arange(0, 10_000, 1000, dtype=torch.int32)
    geometry = (1, 1), (0, 0), (1, 1), 1
    expected = reference.conv2d_fire(counts, weight, None, levels, None, None, None, *geometry, 1)
    for batch in (2, 2, 1):
        found = products.conv2d_fire(counts[:batch], weight, None, levels, None, None, None, *geometry, 1, 10)
        assert_same(found, expected[:batch].contiguous(memory_format=torch.channels_last))
    sizes = [tile.rows for tile in products.TILES[1]]
    assert timed == 2 * sizes  # 30 rows and 15 are two kinds of product
    assert {tile.rows for tile in tuning._fastest.values()} == {64}
    with monkeypatch.context() as patch:  # while a CUDA graph is captured: what is known is used, nothing is timed
        planned, plan = [], products.plan
        patch.setattr(tuning, "allowed", lambda out: False)
        patch.setattr(products, "plan", lambda *arguments: planned.append(arguments[-1]) or plan(*arguments))
        for batch in (2, 40):
            some = counts[:1].expand(batch, -1, -1, -1)
            products.conv2d_fire(some, weight, None, levels, None, None, None, *geometry, 1, 10)
        assert planned[0] in tuning._fastest.values() and planned[1] is None and len(timed) == 2 * len(sizes)
    products.conv2d_fire(counts, weight.float(), None, levels.float(), None, None, None, *geometry, 1, 10)
    products.conv2d_fire(counts, weight[:, :1].repeat(5, 1, 1, 1)[:40], None, levels, None, None, None, *geometry[:3], 40, 1, 10)
    assert len(timed) == 2 * len(sizes)


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
    levels = torch.tensor([-2**30, 0, 2**31 - 2, 2**31 - 1], dtype=torch.int32)
    bias = torch.tensor([2**31 - 1, -2**31, 2**30, -2**30], dtype=torch.int32)
    residual = torch.randint(256, (2, 4, 2, 2), generator=generator).to(torch.uint8)
    scale = torch.tensor([2**31 - 1, -2**31, 0, 2**24], dtype=torch.int32)
    for table, repeat in ((levels, 0), (torch.full((33,), 2**31 - 1, dtype=torch.int32), 1),
                          (torch.full((3, 33), 2**31 - 1, dtype=torch.int32)[:1], 33)):
        made = (counts, weight, bias, table, None, residual, scale, (1, 1), (0, 0), (1, 1), 1, repeat)
        check(interpret, made, 4)
    for rates in (None, torch.tensor(0.3)):  # currents: modulo 2^32; scaled, rounded once
        check(interpret, (counts, weight, bias, None, rates, residual, scale, (1, 1), (0, 0), (1, 1), 1, 1), 4)


@interpreted
def test_int8_sums_that_int32_may_not_hold_are_refused():
    def plan(inputs, timesteps):
        counts, weight, out = (torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in
                               (((1, inputs, 1, 1), torch.uint8), ((1, inputs), torch.int8), ((1, 1, 1, 1), torch.int32)))
        return products.plan(out, counts, weight, None, None, None, None, None, (1, 1), (0, 0), (1, 1), 1, 1, timesteps)

    assert plan(2**17, 127).programs == 1
    with pytest.raises(ValueError, match="at most 131071 int8 weights"):
        plan(2**17, 128)


@interpreted
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=name)
def test_nan_gives_no_spikes_and_infinity_all(dtype):
    counts = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 4.0]).to(dtype).reshape(5, 1, 1, 1)
    weight = torch.ones(1, 1, 1, 1, dtype=dtype)
    for steps in (3, 40):
        levels = torch.arange(steps).float()
        for repeat in (0, 1):
            made = (counts, weight, None, levels, None, None, None, (1, 1), (0, 0), (1, 1), 1, repeat)
            assert check(interpret, made, 1).flatten().tolist() == [0, steps, 0, 1, min(steps, 5)]


@interpreted
@pytest.mark.parametrize("layout", LAYOUTS)
@dtypes
def test_every_layout_through_the_public_functions(dtype, layout):
    generator = torch.Generator().manual_seed(7)
    geometry, form = GEOMETRIES["few channels"], Form("channel", bias=True, residual="counts", scale="channel")
    made = product_cases.arguments(geometry, form, dtype, 8, generator)
    counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat = made
    if dtype != torch.int8:
        weight = lay_out(weight, layout)
    options = dict(bias=bias, scale=scale, residual=lay_out(residual, layout), residual_scale=residual_scale)
    with use_backend("triton"):
        actual = functional.conv2d_fire(lay_out(counts, layout), weight, levels, stride=stride, padding=padding,
                                        dilation=dilation, groups=groups, repeat=repeat, timesteps=8, **options)
    with use_backend("reference"):
        expected = functional.conv2d_fire(lay_out(counts, layout), weight, levels, stride=stride, padding=padding,
                                          dilation=dilation, groups=groups, repeat=repeat, timesteps=8, **options)
    assert_same(actual, expected)
    assert actual.stride() == expected.stride()
    assert actual.is_contiguous(memory_format=torch.channels_last)


@interpreted
@pytest.mark.parametrize("shape", ((9,), (0, 9), (1, 9), (2, 3, 9), (5, 17), (70, 40)), ids=str)
@dtypes
def test_linear_layers(dtype, shape):
    generator = torch.Generator().manual_seed(8)
    rows = torch.Size(shape[:-1]).numel()
    geometry = Geometry((max(rows, 1), shape[-1], 1, 1), (21, shape[-1], 1, 1))
    for form in FORMS.values():
        made = product_cases.arguments(geometry, form, dtype, 200, generator)
        counts, weight, bias, levels, scale, residual, residual_scale, *_, repeat = made
        counts, residual = (None if x is None else x[:rows].reshape(*shape[:-1], x.shape[1]) for x in (counts, residual))
        made = (counts, weight.reshape(21, -1), bias, levels, scale, residual, residual_scale, repeat)
        actual = kernels.linear_fire(*made, 200)
        assert_same(actual, reference.linear_fire(*made))
        assert actual.is_contiguous()


@interpreted
@dtypes
def test_no_inputs_give_the_bias(dtype):
    bias = torch.tensor([-3, 4]).to(torch.int32 if dtype == torch.int8 else dtype)
    currents = kernels.linear_fire(torch.zeros(3, 0, dtype=torch.uint8), torch.zeros(2, 0, dtype=dtype), bias, None, None, None,
                                   None, 1, 200)
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
    assert weight in products._packed
    weight[0] = 2
    assert kernels.linear_fire(counts, weight, None, None, None, None, None, 1, 200).tolist() == [[8000, 4000]]
    before = len(products._packed)
    del weight
    assert len(products._packed) == before - 1
