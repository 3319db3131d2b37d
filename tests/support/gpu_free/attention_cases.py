"""Attention to try the fused kernels on: sizes, forms, and operands whose products and sums are exact in any order."""

from typing import NamedTuple

import torch

from gpu_free.cases import Guarded, assert_same
from pcsnn import functional, reference
from pcsnn.kernels import attention
from pcsnn.levels.spacing import UNKNOWN, find_spacing
from pcsnn.tensors.shapes import split_heads


class Size(NamedTuple):
    """N, M, S, H, D, E."""

    images: int
    queries: int
    keys: int
    heads: int
    width: int
    out_width: int


SIZES = {
    "few queries": Size(2, 5, 70, 3, 17, 40),
    "one token": Size(1, 1, 1, 1, 1, 1),
    "image": Size(2, 49, 49, 2, 32, 32),
    "wide values": Size(1, 35, 9, 1, 20, 130),
    "wide heads": Size(1, 20, 33, 2, 100, 16),
}


class Form(NamedTuple):
    causal: bool = False
    rows: bool = False  # levels and scale by feature
    repeat: int = 1
    timesteps: int = 4


FORMS = {
    "guessed": Form(),
    "bisected": Form(repeat=0),
    "causal": Form(causal=True),
    "by feature": Form(rows=True),
    "causal, by feature, bisected": Form(causal=True, rows=True, repeat=0),
    "stairs": Form(repeat=2),
}


def arguments(size, form, dtype, generator):
    """Arguments of the operator, the line of its levels at the end where the form says how they repeat.

    Keys and values are few small whole numbers, so that bfloat16 holds every score.
    """
    images, queries, keys, heads, width, out_width = size
    keys = queries if form.causal else keys
    features = heads * width

    def whole(low, high, *shape):
        return torch.randint(low, high + 1, shape, generator=generator).to(dtype)

    query = whole(-8, 24, images, queries, features) / 4
    key = whole(-1, 1, images, keys, features) * (torch.rand(images, keys, features, generator=generator) < 16 / width)
    value = whole(-2, 2, images, keys, heads * out_width)
    theta = 4 + 2 * torch.rand(features, generator=generator) if form.rows else 4.0
    levels = functional.levels(theta, form.timesteps, quantization_levels=form.timesteps // max(form.repeat, 1))
    scale = 2.0 ** torch.randint(-1, 1, (features,), generator=generator) if form.rows else torch.tensor(0.5)
    spacing = find_spacing(levels) if form.repeat else UNKNOWN
    assert spacing.repeat == form.repeat
    return query, key, value, levels, scale, heads, form.causal, *spacing


def summed(made):
    """The same arguments with K^T V in place of K and V."""
    query, key, value, *rest = made
    heads = made[5]
    return query, None, split_heads(key, heads).transpose(-2, -1).float() @ split_heads(value, heads).float(), *rest


def check(run, made, misaligned=0, tile=None):
    """Run the launch of the arguments `made` between guard bytes; the result must be the reference's, bit for bit."""
    expected = reference.spiking_attention(*made[:8])
    forms = [made] if made[6] else [made, summed(made)]
    for form in forms:
        form = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in form]
        out = Guarded(expected.shape, expected.contiguous().stride(), expected.dtype, misaligned)
        run(attention.plan(out.tensor, *form, tile=tile))
        out.check()
        assert_same(out.tensor, expected)
    return expected


def counts_through_identity(query, levels, repeat, call):
    """The counts that attention fires, seen through K = V = 1 (one head, scale 1): call(*arguments) -> [N, M, D]."""
    eye = torch.eye(query.shape[-1], dtype=query.dtype).expand(len(query), -1, -1)
    spacing = find_spacing(levels) if repeat else UNKNOWN
    return call(query, eye, eye, levels, torch.tensor(float(max(repeat, 1))), 1, False, *spacing)
