"""How the levels of a table are spaced, looked up once for each table and not at every call."""

from typing import NamedTuple

import torch

from pcsnn.levels import even
from pcsnn.tensors import checks
from pcsnn.tensors.host import on_host
from pcsnn.tensors.memo import remembered

# From so many distinct levels on a search near a fitted line pays; fewer are compared one after the other.
_MIN_FITTED = 17
# Levels of a line start at most this many steps from zero, and its steps are in this range, so that float32 guesses of
# the nearest level are off by less than half a step.
_MAX_START = 2.0**16
_STEP_RANGE = (1e-30, 1e30)
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
    repeat, first, step = level_line(levels)
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


def level_line(levels):
    """Check that a table [T] or [C, T] ascends; find the line on which its levels lie, if they do (23).

    Returns (m, first, step): every row is T/m levels fma(x - 1, step, first), bit for bit, each m times; float32 [C] or
    [1], of an int32 table int32 levels first + (x - 1) step. Where they are not so, (0, None, None), and also where a
    guess from a line could be off by half a step: levels that start far from zero. A row of +inf (2^31 - 1 in whole
    numbers), a channel that never fires, lies on any line: its first is +inf and its step 1 (2^31 - 1 and 0). Raises
    ValueError for NaN and for a falling table.
    """
    whole = levels.dtype == torch.int32
    table = levels.detach().to("cpu", torch.float64).reshape(-1, levels.shape[-1])
    never = checks.NEVER if whole else torch.inf
    rising = table[:, 1:] >= table[:, :-1]
    if table.isnan().any() or not rising.all():
        raise ValueError(
            "levels: expected ascending values without NaN, got "
            f"{table[(table.isnan().any(1) | ~rising.all(1))][0].tolist()[:8]}"
        )
    none = 0, None, None
    dead = (table == never).all(1)
    alive = table[~dead]
    if not alive.isfinite().all() or whole and (alive == never).any() or not whole and (alive.float() != alive).any():
        return none
    steps = levels.shape[-1]
    jumps = (alive[:, 1:] > alive[:, :-1]).any(0).nonzero().flatten() + 1 if len(alive) else ()
    repeat = int(jumps[0]) if len(jumps) else steps
    if steps % repeat:
        return none
    groups = alive.reshape(len(alive), steps // repeat, repeat)
    distinct = groups[:, :, 0]
    if not (groups == distinct[:, :, None]).all():
        return none
    found = _line_of(distinct, whole)
    if found is None:
        return none
    dtype = torch.int32 if whole else torch.float32
    first = torch.full((len(table),), never, dtype=dtype)
    step = torch.full((len(table),), 0 if whole else 1, dtype=dtype)
    first[~dead], step[~dead] = distinct[:, 0].to(dtype), found.to(dtype)
    return repeat, first, step


def _line_of(distinct, whole):
    """The step of each row of float64 [C, S], finite, for `level_line`; None where a row has none."""
    first, count = distinct[:, 0], distinct.shape[1]
    if count == 1:
        return torch.ones_like(first)
    if whole:
        step = distinct[:, 1] - first
        on_line = (distinct == first[:, None] + step[:, None] * torch.arange(count)).all(1)
    else:
        # A level is what its line rounds to if the line passes between the midpoints to its neighbours among float32.
        level = distinct.float()
        up, down = (
            torch.nextafter(level, torch.tensor(end, dtype=torch.float32)).double() for end in (torch.inf, -torch.inf)
        )
        x = torch.arange(1, count, dtype=torch.float64)
        low = (((distinct + down) / 2)[:, 1:] - first[:, None]).div(x).amax(1)
        high = (((distinct + up) / 2)[:, 1:] - first[:, None]).div(x).amin(1)
        step, on_line = low, torch.zeros(len(first), dtype=torch.bool)
        for trial in ((low + high) / 2, low, high):
            middle = trial.float()
            for candidate in (
                middle,
                *(torch.nextafter(middle, torch.tensor(end, dtype=torch.float32)) for end in (-torch.inf, torch.inf)),
            ):
                fits = (even.on_line(first.float(), candidate, count) == level).all(1) & ~on_line
                step, on_line = torch.where(fits, candidate.double(), step), on_line | fits
    usable = on_line & (step > _STEP_RANGE[0]) & (step < _STEP_RANGE[1]) & (first.abs() <= _MAX_START * step)
    return step if usable.all() else None


def level_spacing(levels):
    """Check a table as `level_line` does; how often each evenly spaced level stands in it, 0 where they are not."""
    return level_line(levels)[0]
