"""Walks over a network in its executions: what every value carries, and what each operation costs."""

import operator
from collections import Counter

import torch
from torch import fx

from pcsnn.analysis.costs.calls import Call, summed, unlike, whole
from pcsnn.analysis.costs.carried import AVERAGE, MOVING, WORD, Carried, outcome
from pcsnn.analysis.costs.results import execution_of
from pcsnn.analysis.costs.rules import cost
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.graph.names import operation_name, source_name
from pcsnn.nn import CollapsedNeuron, TimeAverage


class Walk(fx.Interpreter):
    """One pass over a network: runs it, follows what every value carries, and tallies what each node costs.

    Attributes:
        executions: those that this pass is of.
        coding: how spikes are sent, and how many time-steps it stands for.
        spent: {node name: (kind, detail, once, {execution: Counter})}.
        uncounted: names of operations whose cost is not known.
    """

    executions: tuple[str, ...] = ()

    def __init__(self, network, coding):
        super().__init__(network)
        self.coding = coding
        self.spent, self.uncounted = {}, []
        self._carried, self._fixed = {}, set()

    def run_node(self, node):
        module = self.fetch_attr(node.target) if node.op == "call_module" else None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if isinstance(module, (CollapsedNeuron, SerialIF)):
            value, spikes, spent = self.fire(module, args, [self._carried[source] for source in node.all_input_nodes])
            self._carried[node] = spikes
            self._spend(node, "neuron", "", False, spent)
            return value
        value = super().run_node(node)
        parts = value if isinstance(value, (tuple, list)) else (value,)
        if node.op != "output" and any(isinstance(part, torch.Tensor) for part in parts):
            self._carried[node] = self._follow(node, module, args, kwargs, value)
        return value

    def _is_input(self, node):
        """Whether a node is an input, or what stands in one that is a dict."""
        if node.op == "placeholder":
            return True
        return node.target is operator.getitem and node.args[0] not in self._carried and self._is_input(node.args[0])

    def _follow(self, node, module, args, kwargs, value):
        """What the value of a node carries; tallies what the node costs."""
        sources = [source for source in node.all_input_nodes if source in self._carried]
        given = self._is_input(node)
        if node.op == "get_attr" or (not given and all(source in self._fixed for source in sources)):
            self._fixed.add(node)  # of parameters alone: made once for all images
        if given or node in self._fixed:
            return outcome(value, [])
        if isinstance(module, TimeAverage):
            return self.average(node, self._carried[node.args[0]])
        carried = fx.map_arg(node.args, lambda source: self._carried.get(source, source))
        if "other" in kwargs:
            other = kwargs["other"]
            args, carried = (*args, other), (*carried, self._carried.get(node.kwargs["other"], other))
        result = cost(Call(node, module, args, kwargs, carried, value, self.coding))
        operands = [self._carried[source] for source in sources]
        if result is None:
            self.uncounted.append(source_name(node))
            return outcome(value, operands)
        kind, spent, made = result
        if spent:
            detail = operation_name(node, {node.target: module})
            once = not any(operand.over_time or operand.averaged for operand in operands)
            self._spend(node, kind, detail, once, dict.fromkeys(self.executions, spent))
        return made

    def _spend(self, node, kind, detail, once, spent):
        self.spent[node.name] = (source_name(node), kind, detail, once, spent)

    def average(self, node, source):
        """What a product takes of its right factor."""
        return source

    def fire(self, neuron, currents, operands):
        """(value, Carried, {execution: Counter}) of a neuron, given its one or two currents and what they carry."""
        raise NotImplementedError


def _currents(operands, shape, coding):
    """What brings a neuron's currents together, and the bits that they are read with."""
    wide = [operand.map(lambda plane: plane.expand(shape)) for operand in operands]
    return summed(wide, coding.steps, coding) + Counter(bits=sum(operand.bits(coding.steps) for operand in operands))


class PackedWalk(Walk):
    """All T steps at once: sorted trains from counts (5)-(9), (22)."""

    def __init__(self, network, coding):
        super().__init__(network, coding)
        self.executions = (execution_of("packed", coding.integers),)

    def fire(self, neuron, currents, operands):
        counts, steps = neuron.counts(*currents), self.coding.steps
        neurons, spikes = counts.numel(), Carried.spikes(counts, self.coding)
        spent = _currents(operands, counts.shape, self.coding) + Counter(
            additions=steps * neurons,
            comparisons=neuron.full_count.bit_length() * neurons,
            spikes=whole(spikes.events),
            bits=spikes.bits(steps),
            parameters=WORD * neuron.levels.numel(),
        )
        return neuron.rates_of(counts, currents[0].dtype), spikes, dict.fromkeys(self.executions, spent)

    def average(self, node, source):
        steps, over_time = self.coding.steps, (source.width > 0) | (source.number == MOVING)
        none = torch.zeros_like(source.number)
        result = Carried(none, none, none, source.number.masked_fill(over_time, AVERAGE))
        if over_time.any():
            moving = int((source.number == MOVING).sum())
            spent = Counter(
                additions=whole(source.events) + steps * moving,
                multiplications=int(over_time.sum()) + whole(unlike(source, self.coding)),
                bits=source.bits(steps) + result.bits(steps),
            )
            self._spend(node, "average", "over time", False, dict.fromkeys(self.executions, spent))
        return result


class SerialWalk(Walk):
    """One time-step of serial integrate-and-fire (2), (22)."""

    def __init__(self, network, coding):
        super().__init__(network, coding)
        self.executions = (execution_of("serial", coding.integers),)

    def fire(self, neuron, currents, operands):
        fired = neuron.fire(*currents)
        neurons, spikes = fired.numel(), Carried.spikes(fired, self.coding)
        potential = 2 * WORD * neurons  # read and written
        multiples = self.coding.spike_levels * neuron.threshold.numel()  # of thresholds, which a potential reaches
        spent = _currents(operands, fired.shape, self.coding) + Counter(
            additions=2 * neurons,
            comparisons=self.coding.width * neurons,
            spikes=whole(spikes.events),
            bits=potential + spikes.bits(1),
            parameters=WORD * multiples,
        )
        return neuron.worth(fired), spikes, dict.fromkeys(self.executions, spent)


class RateWalk(Walk):
    """One pass on rates: the collapsed network (11), and the float network, whose operations are the same but for the
    activation."""

    executions = ("collapsed", "float")

    def fire(self, neuron, currents, operands):
        counts = neuron.counts(*currents)
        neurons, rates = counts.numel(), Carried.numbers(counts, MOVING)
        both = _currents(operands, counts.shape, self.coding) + Counter(bits=rates.bits(1))
        collapsed = both + Counter(
            multiplications=neurons,
            spikes=int(counts.sum()),
            comparisons=neuron.full_count.bit_length() * neurons,
            parameters=WORD * (neuron.levels.numel() + neuron.scale.numel()),
        )
        spent = {"collapsed": collapsed, "float": both + Counter(comparisons=neurons)}
        return neuron.rates_of(counts, currents[0].dtype), rates, spent
