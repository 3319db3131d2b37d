"""The search for the number of levels reached (10), in operators that every runtime of ONNX has; exact at ties.

Levels on a line (23): all levels below the one nearest to the current are reached and none above it, so that one
comparison with that level decides. Others: bisection of the table, a comparison for each bit of the count.
"""

import torch
from torch import nn

from pcsnn.exchange.whole_sums import LIMIT


def along(values, axis, ndim):
    """[C] to be broadcast along an axis, 1 or -1, of tensors with `ndim` dimensions; [] as it is."""
    return values.reshape(-1, *[1] * (ndim - 2)) if values.dim() and axis == 1 else values


def search(levels, line, axis):
    """The module that counts the levels reached by currents of the dtype of `levels`: counts of that dtype.

    Args:
        levels: float32 or int32, ascending, each once, [S], or [C, S] where a channel has its own; no int32 current
            reaches 2^31 - 1.
        line: of float32 levels on a line their first one and their distance, rows of [2, ...] or more; else None.
        axis: of the channels, 1 or -1.
    """
    if levels.dtype == torch.int32:
        line = _whole_line(levels)
    if line is None:
        return Bisection(levels, axis)
    first, step = line[0], line[1]
    place = torch.arange(levels.shape[-1])
    if levels.dtype != torch.int32 and not torch.equal(_on_line(place, first[..., None], step[..., None]), levels):
        return Bisection(levels, axis)
    return NearestLevel(first, step, levels.shape[-1], axis)


def _whole_line(levels):
    """(first, step) of int32 levels where every row is on a line; a row that no sum reaches may be on any."""
    table = levels.long()
    never = (table == 2**31 - 1).all(-1)
    first = table[..., 0].masked_fill(never, LIMIT)
    step = (table[..., -1] - table[..., 0]) // max(levels.shape[-1] - 1, 1)
    step = step.masked_fill(never | (step == 0), 1)
    lines = first[..., None] + step[..., None] * torch.arange(levels.shape[-1])
    if (lines != table)[~never].any() or first.abs().max() > LIMIT or step.max() > LIMIT:
        return None
    return torch.stack([first, step]).int()


def _on_line(place, first, step):
    """float32 levels of a line: the product is exact in float64, and so is the sum but for lines that `search` sees."""
    return (place.double() * step.double() + first.double()).float()


class NearestLevel(nn.Module):
    """Count of levels on a line: the number of the nearest one, and one more where it is reached."""

    def __init__(self, first, step, steps, axis):
        super().__init__()
        self.steps, self.axis = steps, axis
        for name, value in (("first", first), ("step", step), ("density", 1 / step.float())):
            self.register_buffer(name, value.clone())

    def forward(self, current):
        first, step, density = (along(value, self.axis, current.dim()) for value in self.buffers())
        nearest = ((current - first).float() * density).round().clamp(0, self.steps - 1)
        if current.dtype == torch.int32:
            nearest = nearest.int()
            level = nearest * step + first
        else:
            level = _on_line(nearest, first, step)
        return nearest + (current >= level).to(current.dtype)


class Bisection(nn.Module):
    """Count of the levels of any ascending table, bit by bit from the highest."""

    def __init__(self, levels, axis):
        super().__init__()
        self.bits, self.axis = levels.shape[-1].bit_length(), axis
        beyond = torch.nan if levels.dtype != torch.int32 else 2**31 - 1  # what no current reaches
        table = nn.functional.pad(levels, (0, 2**self.bits - 1 - levels.shape[-1]), value=beyond)
        self.register_buffer("table", table.flatten())
        starts = torch.arange(0, table.numel(), table.shape[-1]) if levels.dim() == 2 else torch.zeros(())
        self.register_buffer("start", starts.long() - 1)  # a row's place before its first level

    def forward(self, current):
        place = along(self.start, self.axis, current.dim())
        count = torch.zeros_like(current)
        for bit in reversed(range(self.bits)):
            reached = current >= self.table[place + 2**bit]
            count = count + reached.to(current.dtype) * 2**bit
            place = place + reached.long() * 2**bit
        return count
