"""Sums of counts times int8 weights in csrc/products.cpp, against whole numbers."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from folders import SUPPORT

from pcsnn import functional, use_backend
from pcsnn.cpu import integer_products as products
from pcsnn.operators import dispatch
from pcsnn.tensors.arithmetic import LARGEST_PAIR_SUM

pytestmark = pytest.mark.skipif(
    bool(dispatch._no_extension) or torch.ops.pcsnn.cpu_capability() == "default", reason="no C++ kernels for AVX2"
)
GEOMETRIES = {  # counts, outputs, kernel, stride, padding, dilation
    "pixels": ((3, 32, 1, 1), 16, (1, 1), (1, 1), (0, 0), (1, 1)),
    "rows of pixels": ((2, 16, 5, 7), 48, (1, 1), (1, 1), (0, 0), (1, 1)),
    "strided pixels": ((2, 16, 9, 10), 16, (1, 1), (2, 3), (0, 0), (1, 1)),
    "taps": ((2, 64, 9, 8), 32, (3, 3), (1, 1), (1, 1), (1, 1)),
    "strided taps": ((1, 48, 12, 11), 16, (3, 2), (2, 1), (1, 2), (1, 1)),
    "dilated": ((1, 80, 11, 13), 16, (3, 3), (1, 2), (2, 0), (2, 3)),
    "padding alone": ((2, 32, 1, 1), 16, (3, 3), (1, 1), (1, 1), (1, 1)),
    "strips": ((2, 32, 67, 90), 64, (3, 3), (1, 1), (1, 1), (1, 1)),
    "strided strips": ((1, 64, 131, 60), 32, (5, 3), (3, 1), (2, 1), (1, 1)),
}


def made(shape, outputs, kernel, depth, seed=0):
    """Counts up to 32 and weights whose sums of `depth` quads just fit 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(33, shape, generator=generator).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    most = LARGEST_PAIR_SUM // (2 * depth * 32)
    weight = (
        torch.randint(-most, most + 1, (outputs, shape[1], *kernel), generator=generator)
        .clamp(-128, 127)
        .to(torch.int8)
    )
    return counts, weight


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("depth", products.DEPTHS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_sums_and_counts(geometry, depth, threads):
    shape, outputs, kernel, stride, padding, dilation = GEOMETRIES[geometry]
    if shape[1] % (products.QUAD * depth):
        depth = 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for extreme in (False, True):
            counts, weight = made(shape, outputs, kernel, depth)
            if extreme:
                counts.fill_(32)
                weight = torch.where(weight >= 0, weight.amax(), -weight.amax())
            expected = F.conv2d(counts.double(), weight.double(), None, stride, padding, dilation)
            rest = outputs, kernel, stride, padding, dilation
            sums = torch.ops.pcsnn._products(counts, products.blocks(weight), None, None, *rest, 0, depth)
            assert sums.dtype == torch.float32 and torch.equal(sums.double(), expected)
            factor, start = torch.full((outputs,), 2.0**-9), torch.arange(outputs) / 2 + 0.25 + 2.0**-11
            found = torch.ops.pcsnn._products(counts, products.blocks(weight), factor, start, *rest, 13, depth)
            line = (expected * 2.0**-9 + start.double().view(-1, 1, 1)).round().clamp(0, 13)
            assert found.dtype == torch.uint8 and torch.equal(found.double(), line)
            assert found.is_contiguous(memory_format=torch.channels_last)
    finally:
        torch.set_num_threads(before)


def test_depth_is_what_16_bits_hold():
    weight = torch.zeros(16, 64, 3, 3, dtype=torch.int8)
    assert products.depth_of(weight, 255) == 8
    weight[3, 32:36, 1, 1] = torch.tensor([127, -127, 127, 127])
    assert products.depth_of(weight, 129) == 8  # one pair, in either half
    weight[3, 36:40, 1, 1] = torch.tensor([127, -128, 0, 0])
    assert (products.depth_of(weight, 64), products.depth_of(weight, 65), products.depth_of(weight, 129)) == (
        8,
        None,
        None,
    )
    assert products.depth_of(weight[:, :48], 64) == 4 and products.depth_of(weight[:, 16:48], 64) == 8
    assert products.depth_of(weight[:, :40], 1) is None
    weight[3] = 127
    assert [products.depth_of(weight, timesteps) for timesteps in (16, 17, 32, 33)] == [8, 4, 4, None]
    assert (
        products.depth_of(torch.full((16, 16, 1, 1), -128, dtype=torch.int8), 32) is None
    )  # 4 * 2 * 128 * 32 is one too many


@pytest.mark.parametrize("timesteps", (1, 8, 16, 17, 32, 33, 64, 65, 129, 255))
def test_the_operator_with_and_without_them(timesteps, monkeypatch):
    generator = torch.Generator().manual_seed(timesteps)
    counts = torch.randint(timesteps + 1, (2, 32, 9, 7), generator=generator).to(torch.uint8)
    even = torch.arange(1, timesteps + 1, dtype=torch.int32) * 901 - 450 * timesteps
    uneven = even + torch.randint(0, 300, even.shape, generator=generator).int()
    for small in (False, True):
        weight = torch.randint(-127, 128, (48, 32, 3, 3), generator=generator).to(torch.int8)
        weight = weight // 16 if small else weight
        residual = torch.randint(256, (2, 48, 9, 7), generator=generator).to(torch.uint8)
        worth = torch.randint(-50, 50, (48,), generator=generator).int()
        for levels, branch in ((even, None), (uneven, None), (even, residual), (None, None)):
            given = dict(
                residual=branch, residual_scale=None if branch is None else worth, padding=1, timesteps=timesteps
            )
            with use_backend("reference"):
                expected = functional.conv2d_fire(counts, weight, levels, **given)
            for narrow in (True, False):
                monkeypatch.setattr(products, "multiplies_in_pairs", lambda: narrow)
                assert torch.equal(functional.conv2d_fire(counts, weight.clone(), levels, **given), expected)


def test_what_does_not_fit_is_refused():
    counts, weight = made((1, 32, 5, 5), 16, (3, 3), 4)
    blocks, rest = products.blocks(weight), (16, (3, 3), (1, 1), (0, 0), (1, 1), 0)
    calls = (
        (counts.float(), blocks, None, *rest, 4),
        (counts, blocks[:, :2], None, *rest, 4),
        (counts, blocks, None, *rest, 2),
        (counts[:, :12], blocks, None, *rest, 4),
        (counts, blocks, torch.ones(16), *rest, 4),
        (counts[:, :, :2], blocks, None, *rest, 4),
        (counts, blocks, None, 16, (3, 3), (0, 1), *rest[3:], 4),
    )
    for x, packed, factor, *other in calls:
        with pytest.raises(RuntimeError, match="expected"):
            torch.ops.pcsnn._products(x, packed, factor, None, *other)


def test_without_avx2_they_are_refused_and_not_used():
    code = """
import torch
from pcsnn.cpu import integer_products
assert not integer_products.multiplies_in_pairs()
x, w = torch.zeros(1, 16, 1, 1, dtype=torch.uint8), torch.zeros(256, dtype=torch.int8)
torch.ops.pcsnn._products(x, w, None, None, 16, [1, 1], [1, 1], [0, 0], [1, 1], 0, 4)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PCSNN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        cwd=SUPPORT,
    )
    assert done.returncode and "this processor has no AVX2" in done.stderr
