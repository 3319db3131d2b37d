"""Convolutions of odd windows and strides against the reference: `python windows.py SEED CALLS`. In a process of its
own, since torch itself dies of some of them."""

import random
import sys

import torch

from pcsnn import functional, use_backend

DTYPES = torch.float32, torch.bfloat16, torch.float16, torch.int8


def ambiguous(draw, x):
    """The values of x with any strides where a size is 1, where every stride is legal, and any order of the others."""
    order = draw.sample(range(x.dim()), x.dim())
    strides, step = [0] * x.dim(), 1
    for d in order:
        strides[d] = step if x.shape[d] > 1 else draw.choice([0, 1, 4, step, 1000])
        step *= max(x.shape[d], 1)
    room = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides))
    out = torch.zeros(room, dtype=x.dtype).as_strided(x.shape, strides)
    return out.copy_(x)


def window(draw):
    """(size, kernel side, stride, padding, dilation) of one dimension, the kernel within the padded image."""
    while True:
        size, taps, pad = draw.choice([1, 1, 2, 3, 7]), draw.choice([1, 1, 2, 3]), draw.choice([0, 1, 2, 5, 9])
        step, spread = draw.randint(1, 5), draw.randint(1, 4)
        if size + 2 * pad > spread * (taps - 1):
            return size, taps, step, pad, spread


def check(draw, generator):
    (height, width), kernel, stride, padding, dilation = zip(window(draw), window(draw))
    groups, inside, outside = draw.choice([1, 1, 2, 4]), draw.choice([1, 4, 16]), draw.choice([1, 2, 8])
    dtype = draw.choice(DTYPES)
    x = torch.randint(0, 9, (draw.choice([1, 2]), groups * inside, height, width), generator=generator).to(torch.uint8)
    w = torch.randint(-4, 5, (groups * outside, inside, *kernel), generator=generator).to(dtype)
    whole = dtype == torch.int8
    levels = torch.arange(1, 9) * 5 - 20
    given = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, timesteps=8)
    if draw.random() < 0.7:
        given["bias"] = torch.randint(-9, 9, (len(w),), generator=generator).to(torch.int32 if whole else dtype)
    table = None if draw.random() < 0.2 else levels.to(torch.int32 if whole else torch.float32)
    with use_backend("reference"):
        expected = functional.conv2d_fire(x, w, table, **given)
    got = functional.conv2d_fire(ambiguous(draw, x), ambiguous(draw, w), table, **given)
    assert torch.equal(got, expected) and got.stride() == expected.stride(), (dtype, x.shape, w.shape, given)


def main(seed, calls):
    torch.set_num_threads(1)
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(calls):
        check(draw, generator)
    print(calls)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
