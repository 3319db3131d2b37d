"""How the levels of a table are spaced, looked up once for each table and not at every call."""

from typing import NamedTuple

import torch

from pcsnn.tensors import checks
from pcsnn.tensors.host import on_host
from pcsnn.tensors.memo import remembered

# From so many distinct levels on a search near a fitted line pays; fewer are compared one after the other.
_MIN_FITTED = 17
_FITS = 8  # rounds of pulling a line towards the levels that are farthest from it


class Spacing(NamedTuple):
    """What a search may use of a level table [T] or [C, T].

    repeat: m, how often each level stands in it; 0 where that is not known.
    line: None, or first, step and 1 / step, [3] or [3, C]: float32, or int32 with the third row's float32 as its bits.
    reach: 0: the levels are those of the line (23); r > 0: the count is within r of the nearest whole number to
        (mean - first) / step.
    """

    repeat: int
    line: torch.Tensor | None
    reach: int


UNKNOWN = Spacing(0, None, 0)


def pack(first, step):
    """first and step [] or [C] -> a line [3] or [3, C] on their device."""
    if step.dtype != torch.int32:
        return torch.stack([first, step, 1 / step])
    inverse = torch.where(step > 0, 1 / step.double(), 0.0).float()
    return torch.stack([first, step, inverse.view(torch.int32)])


def spacing(levels):
    """The Spacing of a table, its line on the table's device; the table is checked, and again when it has changed."""
    if torch.compiler.is_compiling() or levels.is_meta:
        return UNKNOWN  # values are unknown: bisect, which is right for every ascending table
    return remembered(levels, "spacing", lambda: find_spacing(levels))


@on_host
def find_spacing(levels):
    """As `spacing`, found anew."""
    repeat, first, step = checks.level_line(levels)
    reach = 0
    if not repeat:
        first, step, reach = _fit(levels)
        if first is None:
            return UNKNOWN
    line = pack(first, step)
    return Spacing(repeat, (line if levels.dim() == 2 else line[:, 0]).contiguous().to(levels.device), reach)


def _fit(levels):
    """(first, step, reach) of lines through levels that lie on none, float32 [C]; (None, None, 0) where none pays."""
    steps = levels.shape[-1]
    table = levels.detach().to("cpu", torch.float64).reshape(-1, steps)
    if steps < _MIN_FITTED or levels.dtype == torch.int32:
        return None, None, 0
    dead = (table == torch.inf).all(1)
    alive = table[~dead]
    if not len(alive) or not alive.isfinite().all():
        return None, None, 0
    count = torch.arange(steps, dtype=torch.float64) + 0.5  # midway between the counts below and at a level
    slope = (steps - 1) / (alive[:, -1:] - alive[:, :1])
    for _ in range(_FITS):
        off = alive * slope - count
        low, high = off.argmin(1, keepdim=True), off.argmax(1, keepdim=True)
        span = alive.gather(1, high) - alive.gather(1, low)
        slope = slope - torch.where(span == 0, 0.0, 0.25 * (off.gather(1, high) - off.gather(1, low)) / span)
    off = alive * slope - count
    start = -(off.amax(1, keepdim=True) + off.amin(1, keepdim=True)) / 2
    usable = slope.isfinite() & (slope > 1e-30) & (slope < 1e30) & (start.abs() < 2.0**16)
    if not usable.all():
        return None, None, 0
    first, step = (-start / slope).float(), (1 / slope).float()
    position = (alive - first.double()) / step.double()
    doubt = 2.0**-6  # what float32 may be off, where levels start at most 2^16 steps from zero
    above = (position + doubt + 0.5).floor().clamp(0, steps) - torch.arange(steps)
    below = torch.arange(1, steps + 1) - (position - doubt + 0.5).floor().clamp(0, steps)
    reach = int(torch.maximum(above.amax(), below.amax()).clamp_min(1))
    if probes(reach) >= steps.bit_length():
        return None, None, 0
    firsts, distances = (torch.full((len(table),), value, dtype=torch.float32) for value in (torch.inf, 1.0))
    firsts[~dead], distances[~dead] = first[:, 0], step[:, 0]
    return firsts, distances, reach


def probes(reach):
    """How many comparisons find a count within `reach` of a guess."""
    return (2 * reach).bit_length()


def spacing_of(levels, repeat, rates):
    """The Spacing that an operator gets, with `repeat` as its caller says, or as the levels say where that is None;
    rates then take m to be 1."""
    if repeat is None:
        known = spacing(levels)
        return known if known.repeat <= 1 or not rates else UNKNOWN
    checks.repeat(repeat, levels)
    known = spacing(levels) if repeat else UNKNOWN
    return known if known.repeat == repeat else Spacing(repeat, None, 0)
