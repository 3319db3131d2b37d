"""Layers to try fused synapses on: geometries, what follows the sum, operands whose sums are exact in any order."""

from typing import NamedTuple

import torch

from gpu_free.cases import Guarded, assert_same
from pcsnn import reference
from pcsnn.kernels import synapses
from pcsnn.levels.spacing import level_spacing, spacing
from pcsnn.tensors.shapes import convolved

TIMESTEPS = (1, 4, 127, 128, 255)


class Geometry(NamedTuple):
    counts: tuple  # [N, C, H, W]
    weight: tuple  # [O, C / groups, R, S]
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: tuple = (1, 1)
    groups: int = 1

    def result(self):
        sizes = convolved(self.counts[2:], self.weight[2:], self.stride, self.padding, self.dilation)
        return (self.counts[0], self.weight[0], *sizes)

    def synapse(self):
        return self.stride, self.padding, self.dilation, self.groups


GEOMETRIES = {
    "pixels": Geometry((3, 33, 1, 1), (7, 33, 1, 1)),
    "images of pixels": Geometry((2, 70, 3, 5), (35, 70, 1, 1)),
    "strided pixels": Geometry((2, 20, 5, 6), (11, 20, 1, 1), stride=(2, 3)),
    "taps": Geometry((1, 72, 5, 7), (18, 72, 3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "padding alone": Geometry((2, 40, 1, 1), (5, 40, 3, 3), padding=(1, 1)),
    "few channels": Geometry((2, 5, 7, 6), (9, 5, 3, 3), padding=(1, 1)),
    "wide kernel": Geometry((1, 3, 12, 11), (17, 3, 7, 5), stride=(2, 2), padding=(3, 2)),
    "wide kernel of four": Geometry((1, 4, 12, 11), (17, 4, 7, 5), stride=(2, 2), padding=(3, 2)),
    "groups of few": Geometry((1, 48, 4, 5), (34, 24, 3, 3), padding=(1, 1), groups=2),
    "groups": Geometry((1, 96, 3, 4), (12, 32, 2, 2), dilation=(1, 2), groups=3),
    "aligned pixels": Geometry((1, 128, 3, 7), (64, 128, 1, 1)),
    "aligned taps": Geometry((1, 64, 5, 6), (32, 64, 3, 3), padding=(1, 1)),
    "aligned taps in parts": Geometry((1, 256, 4, 3), (32, 256, 2, 3), padding=(0, 1)),
    "taps without padding": Geometry((1, 64, 5, 6), (40, 64, 3, 2), stride=(1, 2)),
    "long runs": Geometry((1, 24, 6, 9), (9, 24, 2, 7), stride=(1, 2), padding=(1, 3)),
    "few channels in a column": Geometry((1, 9, 8, 4), (6, 9, 5, 1), padding=(2, 0), dilation=(1, 3)),
    "few channels, dilated": Geometry((1, 5, 6, 9), (6, 5, 3, 3), padding=(1, 1), dilation=(1, 2)),
    "depthwise": Geometry((2, 7, 6, 5), (7, 1, 3, 3), stride=(2, 1), padding=(1, 1), groups=7),
    "multiplied": Geometry((1, 6, 5, 5), (18, 1, 3, 3), padding=(2, 0), dilation=(2, 1), groups=6),
    "small groups": Geometry((1, 12, 4, 4), (8, 3, 3, 1), padding=(1, 0), groups=4),
    "aligned depthwise": Geometry((1, 128, 2, 3), (128, 1, 3, 3), padding=(1, 1), groups=128),
}


class Form(NamedTuple):
    """What stands behind the sum."""

    levels: str = "layer"  # "layer", "channel", "bent" (by channel), "none"
    repeat: int = 1  # as in the schema; where it does not divide the number of levels, 1
    bias: bool = False
    residual: str = (
        "none"  # "none", "counts", "counts as the weights", of the dtype of those of half precision, "current"
    )
    scale: str = "none"  # "none", "layer", "channel"
    residual_rows: bool = False


FORMS = {
    "line": Form(),
    "line by channel": Form("channel", bias=True, residual="counts as the weights", residual_rows=True),
    "near a line": Form("bent", repeat=0, bias=True, residual="counts"),
    "bisected": Form(repeat=0),
    "bisected by channel": Form("channel", repeat=0, bias=True, residual="counts", residual_rows=True),
    "stairs": Form("channel", repeat=5, residual="counts"),
    "residual current": Form("layer", residual="current"),
    "rates": Form("layer", repeat=4, scale="layer", residual="counts"),
    "rates by channel": Form("channel", repeat=0, bias=True, scale="channel", residual="current"),
    "currents": Form("none", bias=True),
    "currents with residual": Form("none", bias=True, residual="counts", residual_rows=True),
    "scaled currents": Form("none", scale="channel", residual="current"),
    "scaled currents by layer": Form("none", scale="layer", bias=True, residual="counts"),
}


def _integers(low, high, shape, generator, dtype):
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def _levels(current, steps, repeat, by_channel, dtype, generator, bent=False):
    """A table through the middle of the currents [N, O, ...], evenly spaced unless bent, so that some saturate at
    either end; of several channels one never fires."""
    groups = steps // repeat
    finite = current[current.isfinite()].double()
    middle, spread = finite.mean(), finite.std().clamp(min=1)
    unit = 1.0 if dtype == torch.int32 else 1 / 64
    step = max((spread / groups / unit).round().item(), 1) * unit
    start = ((middle - spread / 2) / unit).round().item() * unit
    start = max(min(start, 1000 * step), -1000 * step)  # within what a guess allows
    table = start + step * torch.arange(groups, dtype=torch.float64).repeat_interleave(repeat)
    if by_channel:
        shifts = torch.randint(-3, 4, (current.shape[1], 1), generator=generator) * step
        table = table + shifts
        if bent:
            table = (
                table
                + (4 * step * torch.linspace(0, 1, table.shape[1], dtype=torch.float64) ** 2 / unit).round() * unit
            )
        if len(table) > 1:
            table[len(table) // 2] = 2**31 - 1 if dtype == torch.int32 else torch.inf
    return table.to(dtype)


def arguments(geometry, form, dtype, timesteps, generator, levels=None, valued=False):
    """Arguments of reference.conv2d_fire for weights of `dtype` and counts up to T; valued: an input of `dtype`.

    levels: how many; as many as timesteps unless given.
    """
    whole = dtype == torch.int8
    counts = (
        _integers(-16, 16, geometry.counts, generator, dtype) / 4
        if valued
        else _integers(0, timesteps, geometry.counts, generator, torch.uint8)
    )
    weight = (
        _integers(-128, 127, geometry.weight, generator, dtype)
        if whole
        else _integers(-8, 8, geometry.weight, generator, dtype) / 8
    )
    shape, outputs = geometry.result(), geometry.weight[:1]
    bias = _integers(-40, 40, outputs, generator, torch.int32 if whole else dtype) if form.bias else None
    residual = residual_scale = None
    if form.residual.startswith("counts"):
        residual = _integers(0, 255, shape, generator, torch.uint8)
        if form.residual == "counts as the weights" and dtype in (torch.float16, torch.bfloat16):
            residual = residual.to(dtype)
        residual_scale = _integers(-9, 9, outputs if form.residual_rows else (), generator, torch.int32)
        residual_scale = residual_scale if whole else residual_scale / 4
    elif form.residual == "current":
        residual = _integers(-100, 100, shape, generator, torch.int32 if whole else dtype)
    scale = None
    if form.scale != "none":
        scale = torch.rand(outputs if form.scale == "channel" else (), generator=generator) - 0.5
    synapse = geometry.synapse()
    if form.levels == "none":
        return counts, weight, bias, None, scale, residual, residual_scale, *synapse, 1
    current = reference.conv2d_fire(counts, weight, bias, None, None, residual, residual_scale, *synapse, 1)
    steps = levels or timesteps
    repeat = form.repeat if form.repeat == 0 or steps % form.repeat == 0 else 1
    table = _levels(
        current,
        steps,
        max(repeat, 1),
        form.levels in ("channel", "bent"),
        torch.int32 if whole else torch.float32,
        generator,
        form.levels == "bent",
    )
    if repeat:
        assert level_spacing(table) in (repeat, steps)
    return counts, weight, bias, table, scale, residual, residual_scale, *synapse, repeat


def searched(made):
    """(line, reach) of the table in the arguments `made`, as the public functions find them; of one that is evenly
    spaced only where its repeat says so."""
    levels, repeat = made[3], made[-1]
    if levels is None:
        return None, 0
    known = spacing(levels)
    return (known.line, known.reach) if known.repeat == repeat else (None, 0)


def check(run, made, timesteps, misaligned=0, tile=None):
    """Run the launch of the arguments `made` between guard bytes; the result must be the reference's, bit for bit, and
    again as counts of the dtype of half precision weights."""
    expected = reference.conv2d_fire(*made)
    counts, weight, bias, levels, scale, residual, residual_scale, *rest = made
    results = [expected]
    if levels is not None and scale is None and weight.dtype in (torch.float16, torch.bfloat16):
        results.append(expected.to(weight.dtype))
    counts, residual = (
        None if x is None else x.contiguous(memory_format=torch.channels_last) for x in (counts, residual)
    )
    strides = torch.empty(expected.shape, device="meta", memory_format=torch.channels_last).stride()
    for due in results:
        out = Guarded(expected.shape, strides, due.dtype, misaligned)
        run(
            synapses.plan(
                out.tensor,
                counts,
                weight,
                bias,
                levels,
                scale,
                residual,
                residual_scale,
                *rest,
                timesteps,
                *searched(made),
                tile,
            )
        )
        out.check()
        assert_same(out.tensor, due)
    return expected
