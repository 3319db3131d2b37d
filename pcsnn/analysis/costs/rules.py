"""What an operation of a network costs, by what its operands carry. Neurons are in pcsnn.analysis.costs.count.

Each rule gives (kind, Counter, what the result carries), or None if it does not know. The Counter has the fields of
Count for all images together, but for the bytes: `bits` of values, of all images, and of `parameters`, once.
"""

from collections import Counter
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.analysis.costs import fan_out
from pcsnn.analysis.costs.calls import gathered, largest, multiplied, summed, whole
from pcsnn.analysis.costs.carried import PLANES, STILL, Carried, outcome
from pcsnn.analysis.costs.pools import average_pool, interpolation, maximum
from pcsnn.graph import taxonomy
from pcsnn.graph.taxonomy import Role, role
from pcsnn.tensors.arithmetic import per_channel

_CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)


def _synapse(call, fan, words):
    """fan: sum over a plane of each element times its fan-out; words: how many parameters are read."""
    counted = [round(fan(plane)) if plane.any() else 0 for plane in (call.source.events, call.source.filled)]
    return "synapse", *multiplied(call, [call.source], *counted, words)


def _weights(call):
    if call.module is None:
        return _functional_synapse(call)
    words = sum(parameter.numel() for parameter in call.module.parameters())
    return _synapse(call, lambda plane: fan_out.through_module(call.module, plane), words)


def _norm(call):
    words = 2 * call.args[0].shape[1]  # one scale and one shift for each channel
    return _synapse(call, lambda plane: plane.sum().item(), words)


def _functional_synapse(call):
    function = call.node.target
    options = fan_out.options_of(function, call.args, call.kwargs)
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    words = weight.numel() + (0 if bias is None else bias.numel())
    return _synapse(call, lambda plane: fan_out.through_function(function, plane, weight, options), words)


def _product(call):
    """A matrix product. A spike of the left factor adds a row of the right one; a spike of the right one adds a column
    of the left one's numbers, an integer one times itself; numbers are multiplied."""
    first = 1 if call.node.target is torch.einsum else 0
    if call.node.target not in taxonomy.MATRIX_PRODUCTS and not (first and len(call.args) == 3):
        return None
    left, right = call.carried[first : first + 2]

    def through(a, b):
        return whole(call.node.target(*call.args[:first], a, b)) if a.any() and b.any() else 0

    accumulates = through(left.events, torch.ones_like(right.events)) + through(left.filled, right.events)
    return "product", *multiplied(call, [left, right], accumulates, through(left.filled, right.filled))


def _addition(call):
    """a + b. A sum of spike trains is no work: each spike goes on by itself."""
    operands = []
    for carried, value in zip(call.carried[:2], call.args[:2]):
        if isinstance(carried, Carried):
            operands.append(carried)
        elif value != 0:
            operands.append(Carried.numbers(torch.empty((), device=call.value.device), STILL))
    wide = call.wide(operands)
    if len(wide) == 1 or not any(operand.filled.any() for operand in wide):
        return None, Counter(), _joined(wide, sum)
    passes, result = call.passes(*operands), outcome(call.value, operands)
    spent = summed(wide, passes, call.coding) + Counter(bits=call.bits(result, *operands))
    if call.kwargs.get("alpha", 1) != 1:
        spent["multiplications"] += whole(wide[-1].filled) * passes
    return "sum", spent, result


def _scaling(call):
    return _scaled(call, [carried for carried in call.carried[:2] if isinstance(carried, Carried)])


def _channel_scaling(call):
    scale = per_channel(call.module.scale, call.value.dim())
    return _scaled(call, [call.source, Carried.numbers(scale, STILL)])


def _scaled(call, operands):
    """Products of elements. A single number goes into what a spike is worth; a tensor of them multiplies each spike."""
    many = [operand for operand in operands if operand.events.numel() > 1 or operand.over_time]
    if len(many) < 2:
        (result,) = call.wide(many or operands[:1])
        spent = Counter()
        if result.filled.any():
            spent = Counter(multiplications=whole(result.filled) * call.passes(result), bits=call.bits(result, result))
        return "scale", spent, result
    left, right = call.wide(operands)
    result = outcome(call.value, operands)
    spikes, numbers = whole(left.events) + whole(right.events), whole(left.filled * right.filled)
    spent = Counter(multiplications=spikes + numbers * call.passes(*operands), bits=call.bits(result, *operands))
    return "scale", spent, result


def _larger(call):
    """The larger of two trains of one worth: a comparison of each pair at every step."""
    operands = call.wide([carried for carried in call.carried[:2] if isinstance(carried, Carried)])
    result = largest(_joined(operands, lambda planes: torch.stack(planes).amax(0)), call.coding)
    return (
        "pool",
        Counter(comparisons=call.value.numel() * call.passes(*operands), bits=call.bits(result, *operands)),
        result,
    )


def _joined(operands, change):
    """One Carried of several, each plane the `change` of a list of theirs."""
    return Carried(*(change([getattr(operand, plane) for operand in operands]) for plane in PLANES))


def _same_places(call):
    return None, Counter(), call.source.map(call.run)


def _filled(call):
    return _same_places(call) if call.argument(2, "value") == 0 else None


def _negated(call):
    """The sign goes into the weights behind."""
    return None, Counter(), call.source


def _reduced(call):
    return gathered(
        call, lambda plane: plane.sum().item(), role(call.node, {call.node.target: call.module}) is Role.MEAN
    )


def _moved(call):
    """Elements go elsewhere, at no cost."""
    source = call.source

    def change(plane):
        """Methods like type_as may change the dtype too."""
        moved = call.run(
            [getattr(part, plane) for part in source] if isinstance(source, (tuple, list)) else getattr(source, plane)
        )
        return moved.double() if isinstance(moved, torch.Tensor) else tuple(part.double() for part in moved)

    return None, Counter(), Carried(*map(change, PLANES))


def _padded(call):
    """Padding carries nothing, or a number where it is not 0."""
    source, module = call.source, call.module
    if module is None:
        constant = call.argument(2, "mode", "constant") == "constant"
        pad, value = call.args[1], call.argument(3, "value")
    else:
        constant = isinstance(module, _CONSTANT_PADS)
        pad, value = module.padding, getattr(module, "value", 0)
    if not constant:
        return _moved(call)
    padded = source.map(lambda plane: F.pad(plane, pad))
    return None, Counter(), replace(padded, number=F.pad(source.number, pad, value=STILL if value else 0))


_RULES = {
    **dict.fromkeys(taxonomy.MOVES, _moved),
    Role.SYNAPSE: _weights,
    Role.NORM: _norm,
    Role.MAX_POOL: maximum,
    Role.MAXIMUM: _larger,
    Role.AVERAGE_POOL: average_pool,
    Role.MEAN: _reduced,
    Role.REDUCTION: _reduced,
    Role.INTERPOLATION: interpolation,
    Role.SUM: _addition,
    Role.DIFFERENCE: _addition,
    Role.NEGATION: _negated,
    Role.MASK: _same_places,
    Role.FILL: _filled,
    Role.SCALE: _scaling,
    Role.QUOTIENT: _scaling,
    Role.CHANNEL_SCALE: _channel_scaling,
    Role.PRODUCT: _product,
    Role.PAD: _padded,
    Role.ATTRIBUTE: _moved,
    Role.CAST: _moved,
}


def cost(call):
    """(kind, Counter, what the result carries) of a call; None if its cost is not known."""
    rule = _RULES.get(role(call.node, {call.node.target: call.module})) if call.carried else None
    return None if rule is None else rule(call)
