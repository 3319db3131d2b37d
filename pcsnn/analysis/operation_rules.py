"""What one operation of a network costs, by what its operands carry. Neurons are in pcsnn.analysis.operations.

A sum starts at its bias, so that a bias costs nothing and n terms cost n additions. A spike costs an addition wherever it
goes: what it is worth is in the weight. A number costs a multiplication and an addition at every step, or once where it is
the same at every step.
"""

import builtins
import operator
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.analysis import fan_out
from pcsnn.analysis.signals import WORD, Signals, outcome
from pcsnn.convert import operations as ops
from pcsnn.convert.canonicalise import is_max_pool

_TAPS = {"linear": 2, "bilinear": 4, "trilinear": 8, "bicubic": 16}
_REDUCTIONS = {torch.sum, torch.mean, torch.cumsum, F.fold}
_UNCHANGED = {torch.neg, torch.negative, operator.neg}  # the sign goes into the weights behind
_SAME_PLACES = {torch.tril, torch.triu}
_NO_BIAS = {"conv_transpose": ("stride", "padding", "output_padding", "groups", "dilation"),
            "conv": ("stride", "padding", "dilation", "groups")}  # arguments behind the bias


@dataclass
class Call:
    """A node at work: values and signals of its arguments, and of what it gave.

    Attributes:
        node, module: module is None for functions and methods.
        args, kwargs: values.
        signals: as args, Signals in the place of tensors.
        value: the result.
        steps: how many time-steps it stands for.
    """

    node: torch.fx.Node
    module: nn.Module | None
    args: tuple
    kwargs: dict
    signals: tuple
    value: torch.Tensor
    steps: int

    @property
    def source(self):
        return self.signals[0]

    def argument(self, position, name, default=None):
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def run(self, first):
        """The same operation with another first argument."""
        if self.module is not None:
            return self.module(first)
        if self.node.op == "call_method":
            return getattr(first, self.node.target)(*self.args[1:], **self.kwargs)
        return self.node.target(first, *self.args[1:], **self.kwargs)

    def passes(self, *sources):
        return self.steps if any(source.over_time for source in sources) else 1


def tensors(tree):
    """The Signals among arguments, lists of them included."""
    if isinstance(tree, Signals):
        return [tree]
    if isinstance(tree, (tuple, list)):
        return [found for part in tree for found in tensors(part)]
    return []


def _whole(number):
    return int(round(number))


def _moved(call, result, *sources):
    return sum(source.bits(call.steps) for source in sources) + result.bits(call.steps)


def _multiplied(call, result, accumulates, products, sources, words=0):
    """What a synapse or a matrix product costs: so many additions of spikes, so many multiply-accumulates a pass."""
    over_time = any(source.over_time for source in sources)
    macs = products * call.passes(*sources)
    apart = "macs" if over_time or any(source.averaged for source in sources) else "input_macs"
    return Counter({"additions": accumulates + macs, "multiplications": macs, "accumulates": accumulates, apart: macs,
                    "bits": _moved(call, result, *sources), "parameters": WORD * words})


def synapse(call, fan, words):
    """fan: sum over a plane of each element times its fan-out; words: how many parameters are read."""
    source = call.source
    result = outcome(call.value, [source])
    counted = [_whole(fan(plane)) if plane.any() else 0 for plane in (source.events, source.filled)]
    return "synapse", _multiplied(call, result, *counted, [source], words), result


def product(call):
    """A matrix product. A spike of the left factor adds a row of the right one; a spike of the right one adds a column of
    the left one's numbers; numbers are multiplied."""
    first = 1 if isinstance(call.args[0], str) else 0  # torch.einsum
    left, right = call.signals[first:first + 2]

    def through(a, b):
        return _whole(call.node.target(*call.args[:first], a, b).sum().item()) if a.any() and b.any() else 0

    result = outcome(call.value, [left, right])
    accumulates = through(left.events, torch.ones_like(right.events)) + through(left.filled, right.events)
    spent = _multiplied(call, result, accumulates, through(left.filled, right.filled), [left, right])
    return "product", spent, result


def summed(operands, passes):
    """Additions that bring operands together: spikes one by one, numbers onto each other."""
    shapes = torch.broadcast_shapes(*(operand.events.shape for operand in operands))
    numbers = sum(operand.filled.expand(shapes) for operand in operands)
    spikes = sum(operand.events.expand(shapes).sum() for operand in operands)
    return _whole(spikes.item()) + _whole((numbers - 1).clamp(min=0).sum().item()) * passes


def addition(call):
    """a + b. Sums of trains are no work: each spike goes on by itself."""
    like = call.value
    operands = []
    for signals, value in zip(call.signals[:2], call.args[:2]):
        if isinstance(signals, Signals):
            operands.append(signals)
        elif value != 0:
            operands.append(Signals.numbers(torch.empty((), device=like.device), 1))
    operands = [operand.map(lambda plane: plane.expand(like.shape)) for operand in operands]
    if not any(operand.filled.any() for operand in operands):
        total = Signals(*(sum(planes) for planes in zip(*((o.events, o.trains, o.number) for o in operands))))
        return "sum", Counter(), total
    passes = call.passes(*operands)
    result = outcome(like, operands)
    spent = Counter(additions=summed(operands, passes), bits=_moved(call, result, *operands))
    if call.kwargs.get("alpha", 1) != 1:
        spent["multiplications"] = _whole(operands[-1].filled.sum().item()) * passes
    return "sum", spent, result


def scaling(call):
    """Products of elements. A single number goes into what a spike is worth; a tensor of them multiplies each spike."""
    operands = tensors(call.signals[:2])
    many = [operand for operand in operands if operand.events.numel() > 1 or operand.over_time] or operands[:1]
    if len(many) == 1:
        result = many[0].map(lambda plane: plane.expand(call.value.shape))
        if not result.filled.any():
            return "scale", Counter(), result
        spent = Counter(multiplications=_whole(result.filled.sum().item()) * call.passes(result),
                        bits=_moved(call, result, result))
        return "scale", spent, result
    operands = [operand.map(lambda plane: plane.expand(call.value.shape)) for operand in operands]
    result, passes = outcome(call.value, operands), call.passes(*operands)
    spikes = _whole(sum(operand.events.sum().item() for operand in operands))
    both = _whole((operands[0].filled * operands[1].filled).sum().item())
    return "scale", Counter(multiplications=spikes + both * passes, bits=_moved(call, result, *operands)), result


def _gathered(call, through, divides):
    """A sum over windows, each divided by a number: that goes into the worth of spikes, and multiplies sums of numbers."""
    source = call.source
    result, passes = outcome(call.value, [source]), call.passes(source)
    spent = Counter(additions=_whole(through(source.events)) + _whole(through(source.filled)) * passes,
                    bits=_moved(call, result, source))
    if divides:
        spent["multiplications"] = int((call.run(source.filled) > 0).sum()) * passes
    return "pool", spent, result


def _lengths(call):
    """Lengths and sizes of the dimensions that a pool works on."""
    name = type(call.module).__name__ if call.module is not None else ops.name(call.node.target)
    dimensions = next(int(part) for part in "123" if f"{part}d" in name)
    return name.lower(), call.args[0].shape[-dimensions:], call.value.shape[-dimensions:]


def _windows(call, dilated):
    name, lengths, sizes = _lengths(call)
    if "adaptive" in name:
        return fan_out.adaptive_windows(lengths, sizes)
    if call.module is not None:
        pool = call.module
        return fan_out.windows(lengths, sizes, pool.kernel_size, pool.stride, pool.padding,
                               pool.dilation if dilated else 1)
    return fan_out.windows(lengths, sizes, call.argument(1, "kernel_size"), call.argument(2, "stride"),
                           call.argument(3, "padding", 0), call.argument(4, "dilation", 1) if dilated else 1)


def average_pool(call):
    cover = _windows(call, False)
    return _gathered(call, lambda plane: fan_out.through_windows(cover, plane), True)


def maximum(call):
    """n - 1 comparisons a window of n places, at every step. The spikes of the maximum of sorted trains are the largest
    count of them (12)."""
    source = call.source
    if call.node.op == "call_function" and call.node.target is torch.amax:
        result = source.map(call.run)
        compared = source.events.numel() - result.events.numel()
    else:
        cover = _windows(call, True)
        result = source.map(call.run)
        channels = call.value.numel() // torch.Size(len(places) for places in cover).numel()
        compared = fan_out.covered_places(cover) * channels - call.value.numel()
    return "pool", Counter(comparisons=compared * call.passes(source), bits=_moved(call, result, source)), result


def interpolation(call):
    """Every output is a weighted sum of 2, 4, 8 or 16 inputs, spikes or not. Those that copy elements cost nothing."""
    mode = call.module.mode if call.module is not None else call.argument(3, "mode", "nearest")
    if ops.is_nearest(mode):
        return moved(call)
    if mode == "area":
        cover = fan_out.adaptive_windows(call.args[0].shape[2:], call.value.shape[2:])
        return _gathered(call, lambda plane: fan_out.through_windows(cover, plane), True)
    if mode not in _TAPS or call.kwargs.get("antialias"):
        return None
    result = outcome(call.value, [call.source])
    products = _TAPS[mode] * call.value.numel() * call.passes(call.source)
    spent = Counter(additions=products, multiplications=products, bits=_moved(call, result, call.source))
    return "interpolation", spent, result


def moved(call):
    """Elements go elsewhere, at no cost. Padding is nothing, or a number where it is not 0."""
    value = getattr(call.module, "value", 0)
    if call.module is None and call.node.target is F.pad:
        value = call.argument(3, "value") or 0
        mode = call.argument(2, "mode", "constant")
        if mode == "constant":
            pad = call.args[1]
            return None, Counter(), _padded(call.source, pad, value)
    if call.module is not None and isinstance(call.module, (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)):
        return None, Counter(), _padded(call.source, call.module.padding, value)

    def change(name):
        source = call.source
        planes = [getattr(part, name) for part in source] if isinstance(source, (tuple, list)) else getattr(source, name)
        return call.run(planes)
    return None, Counter(), Signals(*(_double(change(name)) for name in ("events", "trains", "number")))


def _double(planes):
    return planes.double() if isinstance(planes, torch.Tensor) else tuple(map(_double, planes))


def _padded(source, pad, value):
    return Signals(F.pad(source.events, pad), F.pad(source.trains, pad), F.pad(source.number, pad, value=float(value != 0)))


def _masked(call):
    return None, Counter(), call.source.map(call.run)


def _functional_synapse(call):
    function = call.node.target
    names = _NO_BIAS["conv_transpose" if "transpose" in function.__name__ else "conv"]
    options = {name: call.argument(3 + place, name) for place, name in enumerate(names)}
    options = {name: value for name, value in options.items() if value is not None}
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    words = weight.numel() + (0 if bias is None else bias.numel())
    return synapse(call, lambda plane: fan_out.through_function(function, plane, weight, options), words)


def _module_synapse(call):
    module = call.module
    if isinstance(module, ops.BATCH_NORMS):
        words = 2 * module.num_features  # one scale and one shift
    else:
        words = sum(parameter.numel() for parameter in module.parameters())
    return synapse(call, lambda plane: fan_out.through_module(module, plane), words)


def _of_module(call):
    module = call.module
    if isinstance(module, ops.SYNAPSE_MODULES):
        return _module_synapse(call)
    if is_max_pool(call.node, {call.node.target: module}):
        return maximum(call)
    if isinstance(module, nn.Upsample):
        return interpolation(call)
    if isinstance(module, nn.Fold):
        return _gathered(call, lambda plane: plane.sum().item(), False)
    if isinstance(module, ops.LINEAR_MODULES):
        return average_pool(call)
    return moved(call) if isinstance(module, ops.MOVING_MODULES) else None


def _of_function(call):
    function = call.node.target
    if function in ops.SYNAPSE_FUNCTIONS:
        return _functional_synapse(call)
    if function is F.batch_norm:
        return synapse(call, lambda plane: plane.sum().item(), 2 * call.args[0].shape[1])
    if is_max_pool(call.node, {}):
        return maximum(call)
    if function in ops.INTERPOLATIONS:
        return interpolation(call)
    if function in _REDUCTIONS:
        return _gathered(call, lambda plane: plane.sum().item(), function is torch.mean)
    if function in ops.AVERAGE_POOL_FUNCTIONS:
        return average_pool(call)
    if function in ops.MATRIX_PRODUCTS or function is torch.einsum and len(call.args) == 3:
        return product(call)
    if function in ops.PRODUCTS | ops.QUOTIENTS and function is not torch.einsum:
        return scaling(call)
    if function in ops.ADDITIONS:
        return addition(call)
    if function in _UNCHANGED:
        return None, Counter(), call.source
    if function in _SAME_PLACES or function is torch.masked_fill and call.argument(2, "value") == 0:
        return _masked(call)
    if function in ops.MOVING_FUNCTIONS or function is builtins.getattr:
        return moved(call)
    return None


def cost(call):
    """(kind, Counter, the signals of the result) of a call; None if its cost is not known.

    The Counter has the fields of Count for all images together, but for the bytes: `bits` of values, of all images, and of
    `parameters`, once.
    """
    if call.module is not None:
        return _of_module(call)
    if call.node.op == "call_method":
        return moved(call) if call.node.target in ops.MOVING_METHODS else None
    return _of_function(call)
