"""Arguments of calls and of modules as JSON, and back: numbers, short plain texts, tuples, dtypes, and nodes by
name."""

import re

import torch
from torch import fx

from pcsnn.storage.container import DTYPES

_NAMED = {
    str(value).removeprefix("torch."): value
    for value in (
        *DTYPES.values(),
        torch.complex64,
        torch.complex128,
        torch.strided,
        torch.contiguous_format,
        torch.preserve_format,
        torch.channels_last,
        torch.channels_last_3d,
    )
}
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,2})?", re.ASCII)
_TEXT = re.compile(r"[\w .,:>/-]{0,200}", re.ASCII)  # names of modes, equations of einsum, devices, keys of outputs
MOST_DEPTH = 12
MOST_WHOLE = 2**63 - 1


def is_whole(value):
    """Whether a value is an integer, and no flag."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check(value, whose):
    """A number, flag, text or None as a file may hold it; else ValueError that starts with `whose`."""
    if is_whole(value) and abs(value) > MOST_WHOLE:
        raise ValueError(f"{whose} the number {value:.3e}, which is not allowed in a network file: expected 64 bits")
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        raise ValueError(
            f"{whose} the text {value[:100]!r}, which is not allowed in a network file: expected at most "
            f"200 letters, "
            "digits, spaces and .,:>/-_"
        )
    return value


def encode(value, depth=0):
    """A value as JSON; ValueError for what a file cannot carry."""
    if depth > MOST_DEPTH:
        raise ValueError(f"snn: cannot save an argument that is nested deeper than {MOST_DEPTH}")
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (tuple, list)):
        return {"list" if isinstance(value, list) else "tuple": [encode(item, depth + 1) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(item, depth + 1) for item in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)) and value in _NAMED.values():
        return {"torch": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return _check(value, "snn: cannot save")
    raise ValueError(f"snn: cannot save the argument {value!r} of type {type(value).__name__}")


def decode(value, nodes=None, depth=0):
    """The value of JSON; `nodes`: those that it may name."""
    if depth > MOST_DEPTH:
        raise ValueError(f"path: has an argument that is nested deeper than {MOST_DEPTH}")
    if value is None or isinstance(value, (bool, int, float, str)):
        return _check(value, "path: has")
    ((kind, content),) = value.items()
    if kind == "node":
        if not isinstance(content, str) or content not in (nodes or {}):
            raise ValueError(f"path: reads the value {content!r}, which no node before has")
        return nodes[content]
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(decode(item, nodes, depth + 1) for item in content)
    if kind == "dict":
        return _dict([(decode(key, nodes, depth + 1), decode(item, nodes, depth + 1)) for key, item in content])
    if kind == "slice":
        start, stop, step = (decode(item, nodes, depth + 1) for item in content)
        return slice(start, stop, step)
    if kind == "ellipsis":
        return Ellipsis
    if kind == "device" and isinstance(content, str) and _DEVICE.fullmatch(content):
        return torch.device(content)
    if kind == "torch" and content in _NAMED:
        return _NAMED[content]
    raise ValueError(f"path: has an argument {value!r} that this version does not know")


def _dict(pairs):
    for key, _ in pairs:
        if not isinstance(key, (str, int)):
            raise ValueError(f"path: has a dict with the key {key!r}; expected a text or a number")
    return dict(pairs)


def constants(value):
    """All numbers, texts and other leaves of an argument but nodes."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from constants(item)
    elif isinstance(value, dict):
        yield from constants(list(value.values()))
    elif isinstance(value, slice):
        yield from constants((value.start, value.stop, value.step))
    elif not isinstance(value, fx.Node):
        yield value
