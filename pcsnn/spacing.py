"""How the levels of a table are spaced, looked up once for each table and not at every call."""

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from pcsnn import validate
from pcsnn.remembered import remembered

_known = WeakTensorKeyDictionary()


def spacing(levels):
    """`validate.level_spacing` of a table; its checks are made again when the table has changed."""
    if torch.compiler.is_compiling():
        return 0  # values are unknown while tracing: bisect, which is right for every ascending table
    return remembered(_known, levels, None, lambda: validate.level_spacing(levels))


def repeat_of(levels, repeat, rates):
    """`repeat`, checked, or where it is None what the levels say; rates need it, and take 1 or 0."""
    if repeat is None:
        repeat = spacing(levels)
        if rates:
            repeat = 1 if repeat == 1 else 0
    validate.repeat(repeat, levels)
    return repeat
