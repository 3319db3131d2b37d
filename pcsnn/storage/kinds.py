"""What each value of a file's graph is, tensor or number or several of them, so that no call can be given what it must
not have.

Arithmetic on Python's own values could grow without end (powers of whole numbers, tuples times a number), sizes that
come from tensors are not known before they are made, and functions that return tuples are not to be mixed up with those
that return tensors.
"""

import builtins
import math
from typing import NamedTuple

from torch import fx

from pcsnn.graph.taxonomy import name
from pcsnn.storage import classes, functions
from pcsnn.storage.values import constants, is_whole

MOST_BITS = 512  # of a whole number that a graph computes, and items of a tuple
MOST_OUT = classes.MOST_OUT  # the product of the sizes that a call may name
MOST_NUMBER = 2**31 - 1  # a size, a position, anything but the ends of slices and what is compared
MOST_DEFAULT = 2**16  # of an input that is a number
_SIZE_BITS = 20  # taken for a size of a tensor
_ARITHMETIC = frozenset("add sub mul truediv floordiv mod neg pos pow matmul and_ or_ xor invert lt le gt ge".split())
_VALUES = _ARITHMETIC | frozenset(
    """
getitem eq ne div multiply divide subtract clamp clip clamp_min clamp_max where masked_fill
""".split()
)
_NUMBERS = frozenset(("ndim", "numel", "dim", "ndimension"))


class Kind(NamedTuple):
    """what: "tensor", "tensors" (several), "nested" (tuples of them), "number", "numbers" (several), "other"; bits: of
    a number, or items of a tuple."""

    what: str
    bits: int = 0


TENSOR, TENSORS, NESTED, OTHER = Kind("tensor"), Kind("tensors"), Kind("nested"), Kind("other")


def _refuse(node, why):
    raise ValueError(f"path: the node {node.name!r} {why}, which is not allowed in a network file")


def _kind(value):
    """The kind of an argument."""
    if isinstance(value, fx.Node):
        return value.meta["kind"]
    if isinstance(value, (bool, int, float)):
        return Kind("number", value.bit_length() if is_whole(value) else 1)
    if isinstance(value, (tuple, list)):
        return (
            Kind("numbers", len(value))
            if all(_kind(item).what == "number" for item in value)
            else Kind("tensors", len(value))
        )
    return OTHER


def kind_of(node, modules):
    """The kind of a node's value; ValueError for a call that a file may not make. Nodes before it have meta["kind"]."""
    if node.op == "get_attr":
        return TENSOR
    if node.op == "placeholder":
        return _input(node)
    if node.op == "output":
        return OTHER
    for value in node.kwargs:
        if value not in functions.KEYWORDS:
            _refuse(node, f"gives the argument {value!r}")
    if node.op == "call_module":
        return _module(node, modules[node.target])
    if not node.args and not node.kwargs:
        _refuse(node, "calls something with nothing")
    called = name(node.target)
    _check_options(node)
    if called in functions.GROWING:
        _check_growth(node, called)
    if node.op == "call_method":
        return _method(node, called)
    if node.target is builtins.getattr:
        return _attribute(node)
    if called == "getitem":
        return _item(node)
    if called in _ARITHMETIC and node.target.__module__ == "_operator":
        return _arithmetic(node, called)
    if called in ("eq", "ne") and node.target.__module__ == "_operator":
        return TENSOR if any(_kind(value) == TENSOR for value in node.args) else OTHER
    if called == "numel":
        return Kind("number", _SIZE_BITS)
    return _call(node, called)


def _input(node):
    """A tensor, or a number that has a default."""
    default = node.args[0] if node.args else None
    if (
        len(node.args) > 1
        or node.kwargs
        or not (default is None or isinstance(default, (bool, int, float)))
        or (is_whole(default) and abs(default) > MOST_DEFAULT)
    ):
        _refuse(node, f"is an input with the default {default!r}")
    if node.target.startswith("*"):
        return TENSORS
    return TENSOR if default is None else Kind("number", _SIZE_BITS)


def _module(node, module):
    if isinstance(module, classes.PASSING):
        return _kind(node.args[0]) if node.args else OTHER
    if isinstance(module, classes.RECURRENT):
        return NESTED
    return (
        TENSORS if isinstance(module, classes.SEVERAL) or getattr(module, "return_indices", False) is True else TENSOR
    )


def _check_options(node):
    """Nothing is written over, no weights are changed, and no number is beyond what sizes and positions are."""
    called = name(node.target)
    for value in ("out", "max_norm"):
        if node.kwargs.get(value) is not None:
            _refuse(node, f"gives the argument {value!r}")
    if node.kwargs.get("inplace", False) is not False or any(value is not False for value in _in_place_argument(node)):
        _refuse(node, "writes over its input")
    others = [*node.args[1:], *(value for key, value in node.kwargs.items() if key != "input")]
    if called in ("batch_norm", "instance_norm") and any(
        isinstance(value, fx.Node) and value.op != "get_attr" for value in others
    ):
        _refuse(node, f"gives {called} what is no tensor of the network")  # statistics are written over where it trains
    for value in constants((node.args, node.kwargs)):
        if is_whole(value) and abs(value) > MOST_NUMBER and called not in _VALUES:
            _refuse(node, f"has the number {value}")


def _in_place_argument(node):
    """What stands by position where some functions have `inplace`, and F.embedding `max_norm`."""
    called = name(node.target)
    places = {
        "relu": 1,
        "relu6": 1,
        "selu": 1,
        "silu": 1,
        "mish": 1,
        "hardswish": 1,
        "hardsigmoid": 1,
        "elu": 2,
        "celu": 2,
        "leaky_relu": 2,
        "hardtanh": 3,
        "threshold": 3,
        "rrelu": 4,
        "dropout": 3,
        "dropout1d": 3,
        "dropout2d": 3,
        "dropout3d": 3,
        "alpha_dropout": 3,
        "feature_alpha_dropout": 3,
    }
    if called == "embedding" and len(node.args) > 3 and node.args[3] is not None and not isinstance(node.args[3], bool):
        _refuse(node, "gives the argument 'max_norm'")
    return node.args[places[called] : places[called] + 1] if called in places else ()


def _check_growth(node, called):
    """The sizes that a call names make no more than MOST_OUT of each element, and come from no tensor."""
    given = [*node.args[0 if called in functions.MAKES else 1 :], *node.kwargs.values()]
    if called in functions.SIZED and any(map(_has_tensor, given)):
        _refuse(node, f"takes sizes for {called} from a tensor")
    numbers = [value for value in constants(given) if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if called in ("interpolate", "upsample"):
        if any(not math.isfinite(value) or value <= 0 for value in numbers):
            _refuse(node, f"gives {called} the sizes or scales {numbers}")
    elif called == "arange":
        smallest = min((abs(value) for value in numbers if value), default=1)
        numbers = [max(map(abs, numbers), default=1) / min(smallest, 1)]
    elif called == "pad":
        pads = node.kwargs.get("pad", node.args[1] if len(node.args) > 1 else ())
        pads = [abs(value) for value in pads if is_whole(value)] if isinstance(pads, (tuple, list)) else []
        numbers = [sum(pads[place : place + 2]) + 1 for place in range(0, len(pads), 2)]
    elif called == "one_hot":
        if not any(is_whole(value) and value > 0 for value in numbers):
            _refuse(node, "calls one_hot without num_classes")
    else:
        if called == "fold":
            numbers = constants(node.kwargs.get("output_size", node.args[1:2]))
        numbers = [value for value in numbers if is_whole(value)]
    if not math.prod(max(abs(value), 1) for value in numbers) <= MOST_OUT:
        _refuse(node, f"asks {called} for {numbers}")


def _has_tensor(value):
    if isinstance(value, (tuple, list)):
        return any(map(_has_tensor, value))
    return isinstance(value, fx.Node) and value.meta["kind"].what not in ("number", "numbers", "other")


def _method(node, called):
    of = _kind(node.args[0]) if node.args else OTHER
    if (
        not isinstance(node.args[0] if node.args else None, fx.Node)
        or of.what not in ("tensor", "numbers")
        or (of.what == "numbers" and called != "numel")
    ):
        _refuse(node, f"calls the method {called} of what is no tensor")
    if called == "size" and len(node.args) == 1 and not node.kwargs:
        return Kind("numbers", 16)
    if called == "size" or called in _NUMBERS:
        return Kind("number", _SIZE_BITS)
    if called == "type" and len(node.args) == 1 and not node.kwargs:
        return OTHER
    return _call(node, called)


def _attribute(node):
    if (
        len(node.args) != 2
        or node.kwargs
        or not isinstance(node.args[1], str)
        or node.args[1] not in functions.ATTRIBUTES
    ):
        read = node.args[1] if len(node.args) > 1 else None
        raise ValueError(f"path: reads the attribute {str(read)[:100]!r}, which is not allowed in a network file")
    source, attribute = node.args
    if not isinstance(source, fx.Node) or _kind(source).what not in ("tensor", "tensors"):
        _refuse(node, f"reads {attribute} of what is no tensor")
    if attribute == "shape":
        return Kind("numbers", 16)
    return {"ndim": Kind("number", _SIZE_BITS), "dtype": OTHER, "device": OTHER}.get(attribute, TENSOR)


def _item(node):
    if len(node.args) != 2 or node.kwargs or not isinstance(node.args[0], fx.Node):
        _refuse(node, "takes an item of what is no value of the network")
    of, index = _kind(node.args[0]), node.args[1]
    if of.what == "numbers":
        return of if isinstance(index, slice) else Kind("number", _SIZE_BITS)
    if of.what == "nested":
        return TENSORS if index == 1 else TENSOR
    if of.what == "tensors":
        return of if isinstance(index, slice) else TENSOR
    if of.what != "tensor":
        _refuse(node, "takes an item of what is no value of the network")
    return TENSOR


def _arithmetic(node, called):
    kinds = [_kind(value) for value in node.args]
    if node.kwargs:
        _refuse(node, f"gives {called} arguments by name")
    if all(kind.what == "numbers" for kind in kinds) and called == "add":
        return _bounded(node, Kind("numbers", sum(kind.bits for kind in kinds)))
    if any(kind.what not in ("tensor", "number") for kind in kinds):
        _refuse(node, f"calls {called} of {' and '.join(kind.what for kind in kinds)}")
    if TENSOR in kinds:
        return TENSOR
    if called == "pow":
        exponent = node.args[1] if len(node.args) > 1 else None
        if not isinstance(exponent, (int, float)) or not abs(exponent) <= 64:
            _refuse(node, "takes a power of a number")
        return _bounded(node, Kind("number", kinds[0].bits * max(math.ceil(exponent), 1)))
    bits = sum(kind.bits for kind in kinds) if called == "mul" else max(kind.bits for kind in kinds) + 1
    return _bounded(node, Kind("number", bits))


def _bounded(node, kind):
    if kind.bits > MOST_BITS:
        _refuse(
            node,
            f"makes {'a number of up to' if kind.what == 'number' else 'a tuple of'} {kind.bits} "
            f"{'bits' if kind.what == 'number' else 'items'}",
        )
    return kind


def _call(node, called):
    """A function of tensors."""
    if called == "repeat_interleave" and len(node.args) < 2 and "repeats" not in node.kwargs:
        _refuse(node, "repeats as often as a tensor says")
    indices = "max_pool" in called and any(value is True for value in node.args[1:])
    if indices or node.kwargs.get("return_indices", False) is not False:
        return TENSORS
    by_count = called == "where" and len(node.args) == 1 or called.startswith("atleast") and len(node.args) > 1
    if by_count or called in functions.SEVERAL:
        return TENSORS
    if called in functions.SEVERAL_OVER_DIM:
        second = node.args[1] if len(node.args) > 1 else None
        return TENSORS if is_whole(second) or "dim" in node.kwargs or "axis" in node.kwargs else TENSOR
    return TENSOR
