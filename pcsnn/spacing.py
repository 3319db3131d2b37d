"""How the levels of a table are spaced, looked up once for each table and not at every call."""

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from pcsnn import validate

_known = WeakTensorKeyDictionary()  # level table -> (its version, its spacing)


def spacing(levels):
    """`validate.level_spacing` of a table; its checks are made again when the table has changed."""
    if torch.compiler.is_compiling():
        return 0  # values are unknown while tracing: bisect, which is right for every ascending table
    if levels.is_inference():
        return validate.level_spacing(levels)
    known = _known.get(levels)
    if known is None or known[0] != levels._version:
        known = (levels._version, validate.level_spacing(levels))
        _known[levels] = known
    return known[1]


def repeat_of(levels, repeat, rates):
    """`repeat`, checked, or where it is None what the levels say; rates need it, and take 1 or 0."""
    if repeat is None:
        repeat = spacing(levels)
        if rates:
            repeat = 1 if repeat == 1 else 0
    validate.repeat(repeat, levels)
    return repeat
