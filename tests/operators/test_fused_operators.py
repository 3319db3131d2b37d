"""linear_fire, conv2d_fire and pooling of counts against the reference, bit for bit."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import pcsnn
from pcsnn import functional, reference
from pcsnn.cpu import integer_products as products
from pcsnn.tensors.shapes import convolved

WHOLE = 2**31 - 1  # a level that is never reached


def rand(generator, low, high, *shape):
    return torch.randint(low, high + 1, shape, generator=generator)


def operands(dtype, channels, shape, generator, timesteps=32, style="even"):
    """levels, bias, scale, residual counts, their scale, a residual current: dyadic, so that every sum is exact."""
    whole = dtype == torch.int8
    if whole:
        levels = rand(generator, -900, 300, channels, 1) + 37 * torch.arange(1, timesteps + 1)
        if style == "uneven":
            levels = (levels + rand(generator, 0, 60, *levels.shape)).sort(-1).values
        if style == "shared":
            levels = levels[0]
        elif channels > 1:
            levels[0] = WHOLE
        levels = levels.to(torch.int32)
    else:
        levels = functional.levels(torch.rand(channels, generator=generator) * 9 + 0.5, timesteps)
        if style == "shared":
            levels = levels[0].contiguous()
        if style == "uneven":
            levels = levels.pow(3)
    bias = rand(generator, -40, 40, channels)
    bias = bias.to(torch.int32) if whole else (bias / 16).to(dtype)
    worth = rand(generator, -300, 300, channels)
    worth = worth.to(torch.int32) if whole else worth / 64
    current = rand(generator, -1000, 1000, *shape)
    current = current.to(torch.int32) if whole else (current / 16).to(dtype)
    return (
        levels,
        bias,
        torch.rand(channels, generator=generator),
        rand(generator, 0, 255, *shape).to(torch.uint8),
        worth,
        current,
    )


def weights(dtype, shape, generator):
    values = rand(generator, -127, 127, *shape)
    return values.to(torch.int8) if dtype == torch.int8 else (values // 16 / 8).to(dtype)


def same(found, expected):
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert torch.equal(found, expected)


def check(call, *arguments, **options):
    with pcsnn.use_backend("reference"):
        expected = call(*arguments, **options)
    same(call(*arguments, **options), expected)
    return expected


DTYPES = (torch.int8, torch.float32, torch.bfloat16, torch.float16)
GEOMETRIES = [  # C, O, kernel, image, options
    (16, 16, (3, 3), (9, 11), dict(padding=1)),
    (17, 33, (3, 3), (8, 8), dict(stride=2, padding=1)),
    (3, 5, (7, 7), (12, 9), dict(stride=(2, 1), padding=(3, 2))),
    (32, 64, (1, 1), (1, 1), {}),
    (8, 12, (3, 2), (10, 7), dict(dilation=2, groups=4)),
    (24, 24, (3, 3), (6, 5), dict(padding=1, groups=24)),
    (1, 1, (1, 1), (4, 4), {}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: f"{g[0]}-{g[1]}-{g[2][0]}x{g[2][1]}")
def test_convolutions_with_every_residual_and_output(dtype, geometry):
    channels, outputs, kernel, image, options = geometry
    generator = torch.Generator().manual_seed(outputs)
    weight = weights(dtype, (outputs, channels // options.get("groups", 1), *kernel), generator)
    counts = rand(generator, 0, 32, 2, channels, *image).to(torch.uint8)
    shape = functional.conv2d_fire(counts, weight, **options).shape
    for style in ("even", "uneven", "shared"):
        levels, bias, scale, residual, worth, current = operands(dtype, outputs, shape, generator, style=style)
        for residuals, b, s in itertools.product(
            (
                {},
                dict(residual=residual, residual_scale=worth),
                dict(residual=residual, residual_scale=worth[0]),
                dict(residual=current),
            ),
            (None, bias),
            (None, scale, scale[0]),
        ):
            for table in (levels, None):
                check(
                    functional.conv2d_fire, counts, weight, table, bias=b, scale=s, timesteps=32, **residuals, **options
                )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 17), (24,), (0, 4), (1, 1)])
def test_linear_layers_with_every_residual_and_output(dtype, shape):
    generator = torch.Generator().manual_seed(len(shape))
    weight = weights(dtype, (7, shape[-1]), generator)
    counts = rand(generator, 0, 32, *shape).to(torch.uint8)
    levels, bias, scale, residual, worth, current = operands(dtype, 7, (*shape[:-1], 7), generator)
    for residuals, b, s, table in itertools.product(
        ({}, dict(residual=residual, residual_scale=worth), dict(residual=current)),
        (None, bias),
        (None, scale),
        (levels, None),
    ):
        check(functional.linear_fire, counts, weight, table, bias=b, scale=s, timesteps=32, **residuals)


@pytest.mark.parametrize("timesteps", [1, 2, 15, 32, 127, 128, 129, 130, 255])
@pytest.mark.parametrize("extreme", [False, True])
def test_int8_is_exact_for_every_count_and_weight(timesteps, extreme):
    """Pairs of the largest products saturate on processors without VNNI; sums above 2^24 are no float32."""
    generator = torch.Generator().manual_seed(timesteps)
    for channels, kernel in ((16, 3), (700, 3)):
        counts = rand(generator, 0, timesteps, 1, channels, 5, 5).to(torch.uint8)
        weight = rand(generator, -127, 127, 6, channels, kernel, kernel).to(torch.int8)
        if extreme:
            counts.fill_(timesteps)
            weight.fill_(127)
            weight[1::2] = -127
        sums = F.conv2d(counts.double(), weight.double())
        low, high = sums.amin((0, 2, 3)), sums.amax((0, 2, 3))
        step = ((high - low) / timesteps).ceil().clamp_min(1).unsqueeze(1)
        levels = (low.unsqueeze(1) + step * torch.arange(timesteps)).to(torch.int32)  # a sum lies on a level
        for table in (levels, (levels + rand(generator, 0, 1, *levels.shape)).to(torch.int32).cummax(1).values):
            expected = check(functional.conv2d_fire, counts, weight, table, timesteps=timesteps)
            assert torch.equal(expected.long(), (sums.unsqueeze(-1) >= table[:, None, None]).sum(-1))
        check(functional.conv2d_fire, counts, weight, timesteps=timesteps)


def test_even_whole_levels_are_counted_by_the_product_itself(monkeypatch):
    """The one primitive runs where levels lie on a line, saturates at both ends, and is right next to every level."""
    asked = []
    convolve = products.convolve
    monkeypatch.setattr(
        products, "convolve", lambda x, layer, dtype, *rest: (asked.append(dtype), convolve(x, layer, dtype, *rest))[1]
    )
    generator = torch.Generator().manual_seed(0)
    weight = torch.eye(8, dtype=torch.int8).view(8, 8, 1, 1) * torch.arange(1, 9, dtype=torch.int8).view(8, 1, 1, 1)
    for timesteps, distance in itertools.product((1, 2, 13, 32, 100, 127), (1, 2, 3, 999)):
        counts = rand(generator, 0, 127, 1, 8, 40, 40).to(torch.uint8)
        levels = (rand(generator, -3000, 300, 8, 1) + distance * torch.arange(1, timesteps + 1)).to(torch.int32)
        asked.clear()
        check(functional.conv2d_fire, counts, weight, levels, timesteps=127)
        assert asked == [torch.uint8]
        for repeat in (1, 2):
            check(functional.conv2d_fire, counts, weight, levels.repeat_interleave(repeat, 1), timesteps=127)
        asked.clear()
        uneven = levels + rand(generator, 0, 2, 8, timesteps).cumsum(1).to(torch.int32)
        if timesteps > 50:
            check(functional.conv2d_fire, counts, weight, uneven, timesteps=127)
            assert asked == [torch.float32]
        # Even levels of a current, rounded up, lie near a line and not on one.
        current = functional.levels(torch.rand(8, generator=generator) + 0.5, timesteps)
        rounded = functional.whole_levels(current, (1.5 + torch.rand(8, generator=generator)) / (9 * timesteps))
        asked.clear()
        check(functional.conv2d_fire, counts, weight, rounded, timesteps=127)
        assert asked == [torch.uint8]


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_large_batches_go_in_pieces(dtype):
    generator = torch.Generator().manual_seed(3)
    counts = rand(generator, 0, 32, 3, 3, 260, 260).to(torch.uint8)
    weight = weights(dtype, (16, 3, 1, 1), generator)
    levels, _, _, residual, worth, _ = operands(dtype, 16, (3, 16, 260, 260), generator, style="uneven")
    check(functional.conv2d_fire, counts, weight, levels, timesteps=32)
    check(functional.conv2d_fire, counts, weight, levels, timesteps=32, residual=residual, residual_scale=worth)


def test_values_as_input():
    generator = torch.Generator().manual_seed(4)
    for dtype in DTYPES[1:]:
        x = (rand(generator, -40, 40, 2, 6, 7, 7) / 8).to(dtype)
        weight = weights(dtype, (9, 6, 3, 3), generator)
        levels, bias, scale, *_ = operands(dtype, 9, (2, 9, 5, 5), generator)
        check(functional.conv2d_fire, x, weight, levels, bias=bias)
        check(functional.conv2d_fire, x, weight, levels, bias=bias, scale=scale)
        check(functional.linear_fire, x.flatten(1), weights(dtype, (9, 294), generator), levels, bias=bias)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=lambda d: str(d)[6:])
def test_counts_of_the_dtype_of_half_precision_weights(dtype):
    """As input, as residual and as output they are the counts of uint8."""
    generator = torch.Generator().manual_seed(9)
    weight = weights(dtype, (9, 6, 3, 3), generator)
    counts = rand(generator, 0, 32, 2, 6, 7, 7).to(torch.uint8)
    levels, bias, scale, residual, worth, _ = operands(dtype, 9, (2, 9, 5, 5), generator)
    flat = weights(dtype, (9, 294), generator)
    for call, kernel, x, branch in (
        (functional.conv2d_fire, weight, counts, residual),
        (functional.linear_fire, flat, counts.flatten(1), residual[:, :, 0, 0]),
    ):
        for table, s in ((levels, None), (levels, scale), (None, scale)):
            expected = check(call, x, kernel, table, bias=bias, scale=s, residual=branch, residual_scale=worth)
            given = dict(bias=bias, scale=s, residual=branch.to(dtype), residual_scale=worth)
            for out in (None, torch.uint8, dtype):
                found = check(call, x.to(dtype), kernel, table, counts_dtype=out, **given)
                assert found.dtype == (out or torch.uint8 if table is not None and s is None else dtype)
                assert torch.equal(found.to(expected.dtype), expected)


def test_it_is_the_synapse_and_the_neurons_one_after_the_other():
    generator = torch.Generator().manual_seed(5)
    counts = rand(generator, 0, 8, 2, 16, 9, 9).to(torch.uint8)
    weight = torch.randn(12, 16, 3, 3, generator=generator)
    levels, worth = (
        functional.levels(torch.rand(12, generator=generator) * 20 + 1, 8),
        torch.rand(12, generator=generator),
    )
    bias = torch.randn(12, generator=generator)
    x = counts.float().contiguous(memory_format=torch.channels_last)
    current = F.conv2d(x, weight, bias, padding=1)
    residual = rand(generator, 0, 8, *current.shape).to(torch.uint8)
    found = functional.conv2d_fire(
        counts, weight, levels, bias=bias, residual=residual, residual_scale=worth, padding=1
    )
    assert torch.equal(found, functional.fire_counts(current, levels, residual, worth)) and 0 < found.float().mean() < 8
    assert torch.equal(
        functional.conv2d_fire(counts, weight, levels, bias=bias, scale=worth, padding=1),
        functional.fire_rates(current, levels, worth),
    )


def test_changed_weights_and_levels_are_seen():
    generator = torch.Generator().manual_seed(6)
    counts = rand(generator, 0, 32, 1, 16, 6, 6).to(torch.uint8)
    weight = weights(torch.int8, (16, 16, 3, 3), generator)
    levels = operands(torch.int8, 16, (1, 16, 4, 4), generator)[0]
    before = check(functional.conv2d_fire, counts, weight, levels, timesteps=32)
    levels.add_(50)
    check(functional.conv2d_fire, counts, weight, levels, timesteps=32)
    weight.neg_()
    assert not torch.equal(check(functional.conv2d_fire, counts, weight, levels, timesteps=32), before)


@pytest.mark.parametrize(
    "kernel, stride, padding, dilation, ceil",
    [
        (2, None, 0, 1, False),
        (3, 2, 1, 1, False),
        (3, 2, 1, 1, True),
        ((2, 3), (1, 2), (1, 0), 2, False),
        (5, 3, 2, 1, True),
        (1, 1, 0, 1, False),
    ],
)
def test_max_pool(kernel, stride, padding, dilation, ceil):
    generator = torch.Generator().manual_seed(7)
    for shape in ((2, 17, 11, 12), (1, 1, 9, 9), (0, 3, 9, 9), (3, 64, 10, 13)):
        counts = rand(generator, 0, 255, *shape).to(torch.uint8)
        expected = F.max_pool2d(counts.float(), kernel, stride, padding, dilation, ceil).to(torch.uint8)
        for layout in (torch.contiguous_format, torch.channels_last):
            found = check(
                functional.max_pool2d, counts.contiguous(memory_format=layout), kernel, stride, padding, dilation, ceil
            )
            assert torch.equal(found, expected) and found.dtype == torch.uint8


@pytest.mark.parametrize(
    "kernel, stride, padding", [(2, None, 0), (3, 2, 1), ((2, 3), (1, 2), (1, 0)), ((1, 7), None, 0), (1, 1, 0)]
)
def test_sum_pool(kernel, stride, padding):
    generator = torch.Generator().manual_seed(7)
    for shape in ((2, 17, 11, 12), (1, 1, 9, 9), (0, 3, 9, 9), (3, 64, 10, 13)):
        counts = rand(generator, 0, 255, *shape).to(torch.uint8)
        expected = F.avg_pool2d(counts.double(), kernel, stride, padding, divisor_override=1).long() % 256
        for layout in (torch.contiguous_format, torch.channels_last):
            found = check(functional.sum_pool2d, counts.contiguous(memory_format=layout), kernel, stride, padding)
            assert torch.equal(found.long(), expected) and found.dtype == torch.uint8


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=lambda d: str(d)[6:])
def test_pools_of_half_precision(dtype):
    generator = torch.Generator().manual_seed(7)
    exact = 2048 if dtype == torch.float16 else 256
    for shape in ((2, 17, 11, 12), (0, 3, 9, 9), (3, 64, 10, 13)):
        counts = rand(generator, 0, exact, *shape)
        expected = F.max_pool2d(counts.float(), 3, 2, 1).to(dtype)
        few = counts // 32 if exact > 256 else counts // 10
        total = F.avg_pool2d(few.double(), 3, 2, 1, divisor_override=1).to(dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            made = [part.to(dtype).contiguous(memory_format=layout) for part in (counts, few)]
            assert torch.equal(check(functional.max_pool2d, made[0], 3, 2, 1), expected)
            assert torch.equal(check(functional.sum_pool2d, made[1], 3, 2, 1), total)


def test_whole_levels_are_the_least_sums_that_reach_them():
    generator = torch.Generator().manual_seed(8)
    unit, bias = torch.rand(6, generator=generator) * 0.01 + 1e-3, torch.randn(6, generator=generator)
    levels = functional.levels(torch.rand(6, generator=generator) + 0.5, 16)
    table = functional.whole_levels(levels, unit, bias).double()
    for sums, reached in ((table, True), (table - 1, False)):
        assert ((unit.double()[:, None] * sums + bias.double()[:, None] >= levels.double()) == reached).all()
    assert (functional.whole_levels(torch.full((6, 3), torch.inf), unit) == WHOLE).all()


BASE = dict(
    counts=torch.zeros(1, 4, 5, 5, dtype=torch.uint8), weight=torch.zeros(3, 4, 2, 2), levels=torch.arange(1.0, 5.0)
)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (
            dict(counts=torch.zeros(1, 4, 5, 5, dtype=torch.int64)),
            TypeError,
            "counts: expected dtype .*uint8 or .*float32, got",
        ),
        (
            dict(counts=torch.zeros(1, 4, 5, 5), weight=torch.zeros(3, 4, 2, 2, dtype=torch.int8)),
            TypeError,
            "counts: expected dtype",
        ),
        (dict(counts=torch.zeros(4, 5, 5, dtype=torch.uint8)), ValueError, r"counts: expected \[N, 4, H, W\]"),
        (dict(counts=torch.zeros(1, 3, 5, 5, dtype=torch.uint8)), ValueError, r"counts: expected \[N, 4, H, W\]"),
        (
            dict(counts=torch.zeros(1, 4, 1, 5, dtype=torch.uint8)),
            ValueError,
            "counts: expected at least the size of the kernel",
        ),
        (dict(weight=torch.zeros(3, 4, 2, 2, dtype=torch.float64)), TypeError, "weight: expected dtype"),
        (dict(weight=torch.zeros(3, 4, 2)), ValueError, "weight: expected"),
        (dict(groups=2), ValueError, "weight: expected .* multiple of 2 groups"),
        (dict(groups=0), ValueError, "groups: expected a value"),
        (dict(stride=0), ValueError, "stride: expected a value"),
        (dict(padding=-1), ValueError, "padding: expected a value"),
        (dict(dilation=(1, 2, 3)), ValueError, "dilation: expected a number or two"),
        (dict(bias=torch.zeros(4)), ValueError, r"bias: expected \[3\]"),
        (dict(bias=torch.zeros(3, dtype=torch.float64)), TypeError, "bias: expected dtype"),
        (dict(levels=torch.tensor([2.0, 1.0])), ValueError, "levels: expected ascending values"),
        (dict(levels=torch.zeros(2, 4)), ValueError, "levels: expected one row for each channel"),
        (dict(levels=torch.arange(4, dtype=torch.int32)), TypeError, "levels: expected dtype"),
        (dict(weight=torch.zeros(3, 4, 2, 2, dtype=torch.int8)), TypeError, "levels: expected dtype .*int32"),
        (dict(scale=torch.zeros(2)), ValueError, "scale: expected one row for each channel"),
        (
            dict(residual=torch.zeros(1, 3, 4, 4, dtype=torch.uint8)),
            ValueError,
            "residual_scale: expected with uint8 counts",
        ),
        (dict(residual=torch.zeros(1, 3, 4, 5)), ValueError, "residual: expected the shape of the result"),
        (dict(residual=torch.zeros(1, 3, 4, 4, dtype=torch.float16)), TypeError, "residual: expected dtype"),
        (dict(residual_scale=torch.ones(3)), ValueError, "residual_scale: expected None without a residual"),
        (dict(repeat=3), ValueError, "repeat: expected 0 or a divisor of 4"),
        (dict(timesteps=256), ValueError, "timesteps: expected a value in 1..255"),
        (dict(weight=torch.zeros(3, 4, 2, 2, requires_grad=True)), RuntimeError, "weight requires a gradient"),
    ],
)
def test_convolution_refuses(change, error, words):
    with pytest.raises(error, match=words):
        functional.conv2d_fire(**(BASE | change))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (
            lambda: functional.linear_fire(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(4, 2)),
            ValueError,
            r"weight: expected \[O, 3\]",
        ),
        (
            lambda: functional.linear_fire(torch.zeros(2, 0, dtype=torch.uint8), torch.zeros(4, 0)),
            ValueError,
            r"weight: expected \[O, 0\]",
        ),
        (
            lambda: functional.linear_fire(torch.zeros((), dtype=torch.uint8), torch.zeros(4, 2)),
            ValueError,
            "counts: expected at least 1",
        ),
        (lambda: functional.linear_fire(5, torch.zeros(4, 2)), TypeError, "counts: expected a tensor"),
        (lambda: functional.max_pool2d(torch.zeros(1, 2, 3, 3), 2), TypeError, "counts: expected dtype"),
        (
            lambda: functional.max_pool2d(torch.zeros(2, 3, 3, dtype=torch.uint8), 2),
            ValueError,
            r"counts: expected \[N, C, H, W\]",
        ),
        (
            lambda: functional.max_pool2d(torch.zeros(1, 2, 3, 3, dtype=torch.uint8), 2, padding=2),
            ValueError,
            "padding: expected at most half",
        ),
        (
            lambda: functional.max_pool2d(torch.zeros(1, 2, 3, 3, dtype=torch.uint8), 4),
            ValueError,
            "counts: expected at least the size",
        ),
        (lambda: functional.sum_pool2d(torch.zeros(1, 2, 3, 3), 2), TypeError, "counts: expected dtype"),
        (
            lambda: functional.sum_pool2d(torch.zeros(1, 2, 3, 3, dtype=torch.uint8), 2, padding=2),
            ValueError,
            "padding: expected at most half",
        ),
        (lambda: functional.whole_levels(torch.ones(3), torch.zeros(2)), ValueError, "weight_scale: expected positive"),
        (
            lambda: functional.whole_levels(torch.ones(3), torch.ones(2), torch.ones(3)),
            ValueError,
            r"bias: expected \[2\]",
        ),
    ],
)
def test_other_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_geometry_of_fakes_is_that_of_torch():
    for size, kernel, stride, padding, dilation in itertools.product((5, 8), (1, 3), (1, 2), (0, 1), (1, 2)):
        expected = F.conv2d(
            torch.zeros(1, 1, size, size), torch.zeros(1, 1, kernel, kernel), None, stride, padding, dilation
        )
        assert convolved((size,), (kernel,), (stride,), (padding,), (dilation,))[0] == expected.shape[2]
    assert reference.search(torch.tensor([3]), torch.tensor([3, 4], dtype=torch.int32)).tolist() == [1]
