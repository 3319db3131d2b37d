"""Copies of networks, whatever they keep: tensors that a graph hangs on, wrappers, layers in plain lists."""

import copy
import types

import torch
from torch import nn

from pcsnn.conversion.tracing.hooks import separate_hooks
from pcsnn.conversion.tracing.unwrap import inner, stand_in

_PLAIN = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    torch.dtype,
    torch.device,
)


def _held(model):
    """All objects that a network holds, in attributes and containers, however deep."""
    waiting, seen = [model], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif not isinstance(value, torch.Tensor):
            waiting += getattr(value, "__dict__", {}).values()


def modules_of(model):
    """All modules that a network holds, those in plain lists and dicts too, which torch does not know of."""
    return [value for value in _held(model) if isinstance(value, nn.Module)]


def copied(model, memo=None):
    """A deep copy in evaluation mode, without wrappers; `memo` then has all copies by the ids of originals.

    Results of a computation (features that a network keeps, weights that a hook made) are copied without it.

    Raises:
        ValueError: something that the network holds cannot be copied; the message names the attribute.
    """
    memo = {} if memo is None else memo
    try:
        wrappers = []
        for value in _held(model):
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif isinstance(value, nn.Module) and inner(value) is not None:
                wrappers.append(value)
        for wrapper in sorted(wrappers, key=lambda wrapper: len(list(wrapper.modules()))):  # the innermost first
            memo[id(wrapper)] = stand_in(wrapper, copy.deepcopy(inner(wrapper), memo))
        made = copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise ValueError(
            f"model: {_culprit(model)} cannot be copied ({type(error).__name__}: {error}); delete it before "
            "converting, or keep it outside the network"
        ) from error
    separate_hooks(modules_of(made), memo)
    return made


def _culprit(model):
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules") or isinstance(value, nn.Module):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                return f"what {name or type(model).__name__} keeps in its attribute {key}, a {type(value).__name__},"
    return f"{type(model).__name__}"
