"""One operation at work, and what all rules of pcsnn.analysis.costs.rules share.

A sum starts at its bias, so that a bias costs nothing and n terms cost n additions. A binary spike, or a bit of one of
several levels, costs an addition wherever it goes: what it is worth is in the weight. An integer spike is multiplied by
the weight first. A number costs a multiplication and an addition at every step, or once where it is the same at every
step.
"""

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from pcsnn.analysis.costs.carried import WORD, outcome
from pcsnn.analysis.costs.coding import Coding


@dataclass
class Call:
    """A node at work: its arguments, what they carry over time, and its result.

    Attributes:
        node, module: module is None for functions and methods.
        args, kwargs: values.
        carried: as args, Carried in the place of tensors.
        value: the result.
        coding: how its spikes are sent, and how many time-steps it stands for.
    """

    node: fx.Node
    module: nn.Module | None
    args: tuple
    kwargs: dict
    carried: tuple
    value: torch.Tensor
    coding: Coding

    @property
    def steps(self):
        return self.coding.steps

    @property
    def source(self):
        return self.carried[0]

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
        """How often it runs: at every step, or once where no source changes."""
        return self.steps if any(source.over_time for source in sources) else 1

    def wide(self, sources):
        """Sources broadcast to the shape of the result."""
        return [source.map(lambda plane: plane.expand(self.value.shape)) for source in sources]

    def bits(self, result, *sources):
        """What is read and written."""
        return sum(source.bits(self.steps) for source in sources) + result.bits(self.steps)


def whole(plane):
    """The sum of a plane of whole numbers."""
    return round(plane.sum().item())


def summed(operands, passes, coding):
    """What brings operands of one shape together: spikes one by one, numbers onto each other."""
    numbers = sum(operand.filled for operand in operands)
    spikes = sum(whole(operand.events) for operand in operands)
    additions = spikes + whole((numbers - 1).clamp(min=0)) * passes
    return Counter(additions=additions, multiplications=coding.products(spikes))


def largest(planes, coding):
    """What a maximum of trains of one worth sends: by its values, as a larger integer may have fewer bits."""
    return replace(planes, events=coding.events(planes.values))


def unlike(source, coding):
    """Multiplications of sums of trains: integers of different worths are multiplied before they are added."""
    return coding.products(source.events) * (source.width > coding.width)


def multiplied(call, sources, spikes, products, words=0):
    """Costs of a synapse or a matrix product, and what its result carries.

    Args:
        sources: Carried of the values it reads.
        spikes: additions of a weight for a spike, over all steps, or of its product with an integer one.
        products: multiply-accumulates of a pass.
        words: how many parameters it reads.
    """
    result = outcome(call.value, sources)
    over_time = any(source.over_time for source in sources)
    macs = products * call.passes(*sources)
    apart = "macs" if over_time or any(source.averaged for source in sources) else "input_macs"
    return Counter(
        {
            "additions": spikes + macs,
            "multiplications": macs + call.coding.products(spikes),
            "spike_macs" if call.coding.integers else "accumulates": spikes,
            apart: macs,
            "bits": call.bits(result, *sources),
            "parameters": WORD * words,
        }
    ), result


def gathered(call, through, divides):
    """A sum over windows, each divided by a number: that goes into the worth of spikes, and multiplies sums of numbers.
    Integers of one neuron layer are added as they are.

    Args:
        through: sum over a plane of each element times the number of windows it is in.
        divides: whether there is a division.
    """
    source = call.source
    result, passes = outcome(call.value, [source]), call.passes(source)
    additions = round(through(source.events)) + round(through(source.filled)) * passes
    spent = Counter(additions=additions, bits=call.bits(result, source))
    spent["multiplications"] = round(through(unlike(source, call.coding)))
    if divides:
        spent["multiplications"] += int((call.run(source.filled) > 0).sum()) * passes
    return "pool", spent, result
