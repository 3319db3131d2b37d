"""What a node calls, whichever way it is written."""

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from pcsnn.graph import taxonomy

_MODULES = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Softplus: "softplus",
    nn.Threshold: "threshold",
    nn.Hardtanh: "hardtanh",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.RReLU: "rrelu",
    nn.LPPool1d: "lp_pool1d",
    nn.LPPool2d: "lp_pool2d",
    nn.LPPool3d: "lp_pool3d",
}
_SAME = {
    "subtract": "sub",
    "multiply": "mul",
    "truediv": "div",
    "divide": "div",
    "true_divide": "div",
    "negative": "neg",
    "clip": "clamp",
    "absolute": "abs",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "special_erf": "erf",
    "special_expit": "sigmoid",
    "concat": "cat",
    "concatenate": "cat",
    "_threshold": "threshold",
}
_CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as"}
_SAME_VALUES = _CASTS | {"cpu", "cuda", "detach", "contiguous", "clone"}


def called(node, modules):
    """The name of the torch operation that a node is, one for all ways to write it; "" for anything else."""
    if not isinstance(node, fx.Node):
        return ""
    if node.op == "call_module":
        return _MODULES.get(type(modules[node.target]), "")
    if node.op == "call_method":
        return _SAME.get(node.target, node.target)
    name = taxonomy.name(node.target) if node.op == "call_function" else ""
    known = any(getattr(holder, name, None) is node.target for holder in (operator, torch, F, torch.special) if name)
    return _SAME.get(name, name) if known else ""


def setting(node, modules, position, name, default=None):
    """An argument of a call, or the attribute of that name of a module."""
    if node.op == "call_module":
        return getattr(modules[node.target], name, default)
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def two_operands(node):
    """(first, second) of a call that takes just these; None for any other."""
    others = [value for name, value in node.kwargs.items() if name in ("other", "exponent", "input")]
    operands = [*node.args, *others]
    return operands if len(operands) == 2 and len(others) == len(node.kwargs) else None


def chosen(node):
    """(mask, value where it is set, value elsewhere) of a call of where; None for any other way to call it."""
    if len(node.args) != 3 or node.kwargs:
        return None
    one, two, other = node.args
    return (two, one, other) if node.op == "call_method" else (one, two, other)


def without_casts(node):
    """What a node casts, moves to a device or copies; itself where it does not."""
    while (
        isinstance(node, fx.Node)
        and node.op == "call_method"
        and node.target in _SAME_VALUES
        and isinstance(node.args[0], fx.Node)
    ):
        node = node.args[0]
    return node
