"""Operators at the edges: odd windows, whole numbers beyond int32, signs of zeros, denormal and enormous values, any
batch."""

import os
import subprocess
import sys

import cases
import pytest
import torch
from folders import ROOT, SUPPORT

import pcsnn
from pcsnn import functional, use_backend
from pcsnn.operators import dispatch
from pcsnn.tensors.shapes import beyond_borders, convolved, image_layout, laid_out, pooled

TOP = 2**31 - 1


def both(function, *arguments, **options):
    """The result, equal to the reference's in dtype, strides and bits."""
    with use_backend("reference"):
        expected = function(*arguments, **options)
    got = function(*arguments, **options)
    cases.assert_same(got, expected)
    return got


def test_odd_windows_and_ambiguous_strides():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, SUPPORT / "windows.py", "0", "300"],
        cwd=SUPPORT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0 and done.stdout.split() == ["300"], (done.returncode, done.stderr[-2000:])


@pytest.mark.parametrize(
    "kernel, stride, padding, dilation, beyond",
    [
        ((1, 1), (1, 2), (0, 1), (1, 1), True),
        ((1, 1), (2, 1), (0, 1), (1, 1), False),
        ((3, 3), (2, 2), (2, 2), (1, 1), False),
        ((3, 3), (2, 2), (3, 0), (1, 1), True),
        ((3, 3), (1, 1), (9, 9), (1, 1), False),
        ((3, 1), (2, 2), (4, 0), (2, 5), False),
    ],
)
def test_windows_beyond_the_borders(kernel, stride, padding, dilation, beyond):
    assert beyond_borders(kernel, stride, padding, dilation) == beyond
    layer = torch.nn.Conv2d(2, 2, kernel, stride, padding, dilation)
    expected = torch.contiguous_format if beyond else torch.channels_last
    assert image_layout(torch.nn.Sequential(torch.nn.ReLU(), layer)) == expected
    ordinary = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, padding="same"), torch.nn.Linear(2, 2))
    assert image_layout(ordinary) == torch.channels_last


def test_windows_that_see_no_image_at_all():
    x, bias = torch.ones(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([0.5, 4.0])
    for dtype in (torch.float32, torch.bfloat16):
        got = both(
            functional.conv2d_fire,
            x,
            torch.ones(2, 3, 1, 1, dtype=dtype),
            torch.tensor([1.0, 2.0, 3.0, 4.0]),
            bias=bias.to(dtype),
            stride=100,
            padding=2,
        )
        assert got.flatten().tolist() == [0, 4] * 2


@pytest.mark.parametrize("shape", ((2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 1, 1), (0, 3, 1, 5), (2, 3, 4, 1)))
@pytest.mark.parametrize("layout", (torch.channels_last, torch.contiguous_format))
def test_strides_of_a_new_tensor(shape, layout):
    wild = torch.zeros(10000).as_strided(shape, [7 if size <= 1 else 1 + 4 * d for d, size in enumerate(shape)])
    new = torch.empty(shape, memory_format=layout)
    got = laid_out(wild, layout)
    assert torch.equal(got, wild) and (0 in shape or got.stride() == new.stride())


def test_sizes_are_those_of_torch():
    for size in range(1, 9):
        for taps, step, pad, spread in ((1, 1, 0, 1), (2, 2, 1, 1), (3, 2, 1, 2), (2, 3, 1, 3), (3, 1, 0, 1)):
            for ceil_mode in (False, True):
                (found,) = pooled([size], [taps], [step], [pad], [spread], ceil_mode)
                if size + 2 * pad > spread * (taps - 1):
                    window = (1, taps), (1, step), (0, pad), (1, spread)
                    image = torch.zeros(1, 1, 1, size)
                    assert found == torch.nn.functional.max_pool2d(image, *window, ceil_mode).shape[-1]
                    if not ceil_mode:
                        assert [found] == convolved([size], [taps], [step], [pad], [spread])


# ---- whole numbers ---------------------------------------------------------------------------------------------------
COUNTS = torch.full((1, 16, 4, 4), 8, dtype=torch.uint8)
FULL = torch.full((16, 16, 3, 3), 127, dtype=torch.int8)


@pytest.mark.parametrize("sign", (1, -1))
def test_currents_are_cut_to_int32(sign):
    weight, bias = sign * FULL, torch.full((16,), sign * TOP, dtype=torch.int32)
    end = TOP if sign > 0 else -(2**31)
    got = both(functional.conv2d_fire, COUNTS, weight, bias=bias, timesteps=8)
    assert got.dtype == torch.int32 and (got == end).all()
    residual = torch.full((1, 16, 2, 2), sign * TOP, dtype=torch.int32)
    assert (both(functional.conv2d_fire, COUNTS, weight, residual=residual, timesteps=8) == end).all()
    counts, worth = torch.full((1, 16, 2, 2), 255, dtype=torch.uint8), torch.full((16,), sign * TOP, dtype=torch.int32)
    given = dict(residual=counts, residual_scale=worth, timesteps=8)
    assert (both(functional.conv2d_fire, COUNTS, weight, **given) == end).all()
    got = both(functional.linear_fire, COUNTS[0, :, 0].t(), weight[:, :, 0, 0], bias=bias, timesteps=8)
    assert (got == end).all()
    scaled = both(functional.conv2d_fire, COUNTS, weight, bias=bias, scale=torch.tensor(2.0**-10), timesteps=8)
    assert (scaled.abs() > 2.0**21).all()  # times a scale they are exact


@pytest.mark.parametrize("per_channel", (False, True))
def test_no_sum_reaches_the_level_never(per_channel):
    tables = [[0, TOP], [TOP, TOP], [TOP - 1, TOP], [-(2**31), TOP]]
    for table in tables:
        levels = torch.tensor(table, dtype=torch.int32)
        levels = levels.expand(16, 2).contiguous() if per_channel else levels
        below = sum(level != TOP for level in table)
        for bias in (TOP, TOP - 8 * 127 * 144, TOP - 8 * 127 * 144 - 1):
            added = torch.full((16,), bias, dtype=torch.int32)
            got = both(functional.conv2d_fire, COUNTS, FULL, levels, bias=added, timesteps=8)
            assert (got == below).all() or table[0] == TOP - 1
        residual = torch.full((1, 16, 2, 2), TOP, dtype=torch.int32)
        assert (both(functional.conv2d_fire, COUNTS, FULL, levels, residual=residual, timesteps=8) == below).all()
        assert (
            both(
                functional.linear_fire,
                COUNTS[0, :, 0].t(),
                FULL[:, :, 0, 0],
                levels,
                bias=torch.full((16,), TOP, dtype=torch.int32),
                timesteps=8,
            )
            == below
        ).all()


# ---- floating values -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
@pytest.mark.parametrize("causal", (False, True))
def test_attention_of_zeros_is_positive_zero(dtype, causal):
    generator = torch.Generator().manual_seed(0)
    for tokens, features, heads in ((1, 1, 1), (3, 2, 1), (70, 4, 2), (5, 8, 2)):
        shape = 2, tokens, features
        query, key, value = (torch.randint(-1, 2, shape, generator=generator).to(dtype) for _ in range(3))
        for signs in (1.0, -1.0):
            zeros = query * 0 * signs
            for given in (
                (query, key, value),
                (query, -0.0 * key, value),
                (zeros, key, value),
                (query, key, -0.0 * value),
            ):
                got = both(
                    functional.spiking_attention,
                    *given,
                    functional.levels(1.0, 4),
                    scale=-0.25 * signs,
                    heads=heads,
                    causal=causal,
                )
                assert not (got.signbit() & (got == 0)).any()


@pytest.mark.parametrize("theta", (1e-45, 3e-42, 1e-38, 1e-30, 1e30, 3e38))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_thresholds_of_any_size(theta, dtype):
    generator = torch.Generator().manual_seed(0)
    for steps in (1, 4, 32, 255):
        for threshold in (theta, torch.tensor([theta, 1.0, torch.inf])):
            levels = functional.levels(threshold, steps)
            assert (levels[..., 1:] >= levels[..., :-1]).all()
            current = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64) * theta
            current[0] = torch.tensor([0.0, 1e30, -1e30])[:, None]
            current = current.to(dtype)
            both(functional.fire_counts, current, levels)
            both(functional.fire_rates, current, levels, torch.ones(3) * theta / steps, repeat=1)
            both(functional.fire_spikes, current.expand(steps, 7, 3, 5), levels, torch.float32, 0.5)


@pytest.mark.parametrize("batch", (0, 1, 10000))
@pytest.mark.parametrize("weight", ("int8", "bfloat16", "float32"))
def test_layers_take_batches_of_any_size(batch, weight):
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-9, 10, (16, 16, 3, 3), generator=generator).to(getattr(torch, weight))
    levels = torch.arange(1, 9) * 20
    levels = levels.to(torch.int32 if weight == "int8" else torch.float32)
    x = torch.randint(0, 9, (batch, 16, 3, 3), generator=generator).to(torch.uint8)
    got = both(functional.conv2d_fire, x, w, levels, timesteps=8)
    assert got.shape == (batch, 16, 1, 1)
    both(functional.linear_fire, x[:, :, 0, 0], w[:, :, 0, 0], levels, timesteps=8)
    both(functional.fire_counts, x.float(), functional.levels(4.0, 8))
    both(functional.max_pool2d, x, 2)


def test_networks_of_denormal_thresholds_and_enormous_activations():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 16, 3),
        pcsnn.nn.QCFS(4),
        torch.nn.Conv2d(16, 16, 3),
        pcsnn.nn.QCFS(4),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    ).eval()
    for theta in (1e-41, 1e-30, 1e30):
        for layer in net:
            if isinstance(layer, pcsnn.nn.QCFS):
                torch.nn.init.constant_(layer.threshold, theta)
        snn = pcsnn.convert(net, 4, progress=False)
        for x in (torch.randn(3, 2, 5, 5), torch.full((2, 2, 5, 5), 1e30), torch.zeros(0, 2, 5, 5)):
            assert torch.equal(snn(x), net(x))  # lossless at T = L
            torch.testing.assert_close(pcsnn.optimize(snn, "float32")(x), snn(x))
            fast = pcsnn.optimize(snn, "int8")
            with use_backend("reference"):
                expected = fast(x)
            torch.testing.assert_close(fast(x), expected)


# ---- operators called directly ---------------------------------------------------------------------------------------
LEVELS, FLOAT, TOKENS = functional.levels(1.0, 4), FULL.float(), torch.ones(2, 3, 4)
BAD = {  # operator: arguments, what the message names
    "fire_counts": [
        ((COUNTS, LEVELS, None, None, 1), "current"),
        ((COUNTS.float(), LEVELS, None, None, 3), "repeat"),
        ((COUNTS.float(), LEVELS, None, None, 1, LEVELS), "line"),
        ((COUNTS.float(), LEVELS, None, None, 0, None, -1), "reach"),
        ((COUNTS.float(), LEVELS, COUNTS[:, :2], torch.ones(()), 0), "residual"),
    ],
    "fire_rates_": [
        ((torch.zeros(()).expand(3, 4), LEVELS, torch.ones(()), None, None, 0), "current"),
        ((torch.zeros(9).as_strided((3, 3), (2, 1)), LEVELS, torch.ones(()), None, None, 0), "current"),
        ((torch.zeros(3, 4), LEVELS, torch.ones(()), None, None, 0, 5), "turn"),
    ],
    "expand_spikes": [
        ((COUNTS, 256, None, torch.uint8, None), "timesteps"),
        ((COUNTS, 4, torch.arange(3), torch.uint8, None), "order"),
        ((COUNTS, 4, None, torch.int8, None), "dtype"),
        ((COUNTS, 4, None, torch.bool, None, 2), "dtype"),
        ((COUNTS, 4, None, torch.uint8, None, 0), "spike_levels"),
        ((COUNTS, 4, None, torch.uint8, None, 64), "spike_levels"),
        ((COUNTS, 4, None, torch.uint8, None, 2**62), "spike_levels"),
    ],
    "fire_spikes": [
        ((FLOAT, LEVELS, None, torch.uint8, 1, None, 0, 0), "spike_levels"),
        ((FLOAT, LEVELS, None, torch.uint8, 1, None, 0, 256), "spike_levels"),
        ((FLOAT[:2], LEVELS, None, torch.uint8, 1, None, 0, 4), "levels"),
        ((FLOAT[:2], LEVELS, None, torch.bool, 1, None, 0, 2), "out_dtype"),
    ],
    "max_pool2d": [
        ((COUNTS, [2, 2], [0, 1], [0, 0], [1, 1], [2, 2]), "stride"),
        ((COUNTS, [2], [1, 1], [0, 0], [1, 1], [2, 2]), "kernel"),
        ((COUNTS, [2, 2], [1, 1], [0, 0], [1, 1], [9, 3]), "sizes"),
        ((COUNTS, [2, 2], [1, 1], [2**62, 0], [1, 1], [3, 3]), "padding"),
    ],
    "conv2d_fire": [
        ((COUNTS, FULL, None, None, None, None, None, [1, 0], [0, 0], [1, 1], 1, 1, 8), "stride"),
        ((COUNTS, FULL, None, None, None, None, None, [1, 1], [0, 0], [2**40, 1], 1, 1, 8), "dilation"),
        ((COUNTS, FULL, None, None, None, None, None, [1, 1], [0, 0], [1, 1], 3, 1, 8), "weight"),
        ((COUNTS[:, :, :2], FULL, None, None, None, None, None, [2, 2], [0, 0], [1, 1], 1, 1, 8), "counts"),
        ((COUNTS, FLOAT, None, LEVELS, None, None, None, [1, 1], [0, 0], [1, 1], 1, 1, 0), "timesteps"),
        ((COUNTS, FLOAT, LEVELS, LEVELS, None, None, None, [1, 1], [0, 0], [1, 1], 1, 1, 8), "bias"),
    ],
    "linear_fire": [
        ((COUNTS[0, 0, 0, 0], FULL[0, :, :, 0].float(), None, LEVELS, None, None, None, 1, 8), "counts"),
        ((COUNTS, FULL[0, 0].float(), None, LEVELS, None, None, None, 1, 8), "weight"),
    ],
    "spiking_attention": [((TOKENS, TOKENS, TOKENS, LEVELS, torch.ones(()), 3, False, 0), "query")],
}


def on_meta(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@pytest.mark.parametrize("device", ("cpu", "meta"))
@pytest.mark.parametrize("name, place", [(name, i) for name, calls in BAD.items() for i in range(len(calls))])
def test_direct_calls_name_the_argument(name, place, device):
    arguments, named = BAD[name][place]
    moved = [on_meta(value) if isinstance(value, torch.Tensor) and device == "meta" else value for value in arguments]
    with pytest.raises((RuntimeError, ValueError, TypeError), match=rf"\b{named}: expected"):
        getattr(torch.ops.pcsnn, name)(*moved)
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}: expected"):
        dispatch._operators[name].check(*moved)  # as without a compiler, and on a GPU


def test_views_whose_elements_lie_apart_are_written():
    views = torch.zeros(6, 8).t()[::2], torch.zeros(4, 6)[:, ::3], torch.zeros(1).expand(1, 1), torch.zeros(0, 3)
    for view in views:
        torch.ops.pcsnn.fire_rates_(view, LEVELS, torch.ones(()), None, None, 0)
