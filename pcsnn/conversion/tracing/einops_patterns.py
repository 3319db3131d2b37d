"""Calls of einops in a traced network, written as views, permutations and means of torch. Nothing here needs einops."""

import functools
import operator
import re
import string
import sys

import torch

_FUNCTIONS = ("rearrange", "reduce", "repeat", "einsum", "pack", "unpack")
_REDUCTIONS = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}


def modules():
    """einops, where something has imported it."""
    return (sys.modules["einops"],) if "einops" in sys.modules else ()


def functions():
    """Its functions, where something has imported it."""
    return tuple(getattr(module, name) for module in modules() for name in _FUNCTIONS if hasattr(module, name))


def is_layer(module):
    """Whether a module is Rearrange or Reduce of einops."""
    return type(module).__module__ == "einops.layers.torch" and type(module).__name__ in ("Rearrange", "Reduce")


def call_layer(module, value):
    """What a layer of einops does to a traced value."""
    return _rewritten(value, module.pattern, getattr(module, "reduction", None), module.axes_lengths)


def call(function, *args, **kwargs):
    """What a function of einops does to traced values, in operations of torch.

    Raises:
        ValueError: pack and unpack, patterns with "..." or without names, other reductions than mean, sum and max.
    """
    name = function.__name__
    if name == "einsum":
        *factors, pattern = args
        return torch.einsum(_letters(pattern), *factors)
    given = dict(zip(("tensor", "pattern", "reduction"), args)) | kwargs
    if name in ("pack", "unpack"):
        raise ValueError(
            f"calls einops.{name}, whose shapes are unknown before a call; write it with flatten and torch.cat"
        )
    value, pattern, reduction = given.pop("tensor"), given.pop("pattern"), given.pop("reduction", None)
    return _rewritten(value, pattern, reduction, given)


def _letters(pattern):
    """The equation of torch.einsum: a letter for each name."""
    names = dict.fromkeys(re.findall(r"[A-Za-z_]\w*", pattern))
    letter = dict(zip(names, string.ascii_letters))
    return re.sub(r"[A-Za-z_]\w*", lambda found: letter[found[0]], pattern).replace(" ", "")


def _groups(side, pattern, sizes):
    """One side of a pattern: the names of each dimension; numbers become names whose sizes go into `sizes`."""
    groups = []
    for group, single in re.findall(r"\(([^()]*)\)|([^\s()]+)", side):
        groups.append([])
        for name in (group or single).split():
            if not name.isidentifier() and not name.isdecimal():
                raise ValueError(
                    f"calls einops with {pattern!r}, where the number of dimensions is not known before a call; "
                    "name every dimension, or write it with reshape and permute"
                )
            if name.isdecimal():
                name, size = f"{name} {len(sizes)}", int(name)
                sizes[name] = size
            if sizes.get(name) != 1:
                groups[-1].append(name)
    return groups


def _product(sizes):
    return functools.reduce(operator.mul, sizes) if sizes else 1


def _rewritten(value, pattern, reduction, axes):
    sizes = dict(axes)
    left, right = (_groups(side, pattern, sizes) for side in pattern.split("->"))
    if isinstance(value, (list, tuple)):
        value = torch.stack(value)
    for dim, group in enumerate(left):
        unknown = [name for name in group if name not in sizes]
        known = _product([sizes[name] for name in group if name in sizes])
        if len(unknown) > 1:
            raise ValueError(
                f"calls einops with {pattern!r}, where the sizes of {' and '.join(unknown)} are unknown; give one"
            )
        if unknown:
            sizes[unknown[0]] = value.size(dim) if len(group) == 1 else value.size(dim) // known
    source, target = ([name for group in side for name in group] for side in (left, right))
    if any(len(group) != 1 for group in left):
        value = value.reshape(*(sizes[name] for name in source))
    gone = [name for name in source if name not in target]
    if gone:
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"calls einops with {pattern!r} and the reduction {reduction!r}; expected mean, sum or max"
            )
        value = _REDUCTIONS[reduction](value, tuple(source.index(name) for name in gone))
        source = [name for name in source if name not in gone]
    order = [source.index(name) for name in target if name in source]
    if order != sorted(order):
        value = value.permute(*order)
    if len(order) < len(target):
        for dim, name in enumerate(target):
            if name not in source:
                value = value.unsqueeze(dim)
        value = value.expand(*(-1 if name in source else sizes[name] for name in target))
    if any(len(group) != 1 for group in right):
        value = value.reshape(*(_product([sizes[name] for name in group]) for group in right))
    return value
