"""Casts in the middle of a network: which of them round."""

import torch
from torch import fx

_BY_NAME = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int": torch.int32,
    "long": torch.int64,
    "short": torch.int16,
    "char": torch.int8,
    "byte": torch.uint8,
    "bool": torch.bool,
}
_TENSOR_TYPES = {
    "Float": "float",
    "Double": "double",
    "Half": "half",
    "BFloat16": "bfloat16",
    "Int": "int",
    "Long": "long",
    "Short": "short",
    "Char": "char",
    "Byte": "byte",
    "Bool": "bool",
}


def _target(node):
    """The dtype that a call of a cast names; None where it names none, or one of another tensor."""
    if node.target in _BY_NAME:
        return _BY_NAME[node.target]
    for value in (*node.args[1:], *node.kwargs.values()):
        if isinstance(value, torch.dtype):
            return value
        if isinstance(value, str) and value.endswith("Tensor"):
            return _BY_NAME.get(_TENSOR_TYPES.get(value.rpartition(".")[2].removesuffix("Tensor"), ""))
        if isinstance(value, fx.Node):
            return None
    return None


def _precision(dtype):
    return torch.finfo(dtype).eps if dtype.is_floating_point else float("inf")


def rounding(node, network):
    """Why a call of .to() and the like changes values, in words: it rounds to a dtype coarser than the network's
    parameters; None where it does not."""
    dtype = _target(node)
    if dtype is None or dtype.is_complex:
        return None
    own = min(
        (value.dtype for value in (*network.parameters(), *network.buffers()) if value.is_floating_point()),
        key=_precision,
        default=torch.float32,
    )
    if _precision(dtype) <= _precision(own):
        return None
    return (
        f"{node.target} rounds to {str(dtype).removeprefix('torch.')} in a network of "
        f"{str(own).removeprefix('torch.')}, and the average "
        "of rounded values over time is not the rounded average; leave the cast out, or keep it analog with "
        "strict=False"
    )
