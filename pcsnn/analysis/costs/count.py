"""Operations, memory traffic and energy of a network in its four executions, from the spikes really fired."""

import dataclasses
import operator
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from pcsnn.analysis.costs.calls import Call, summed
from pcsnn.analysis.costs.carried import AVERAGE, MOVING, WORD, Carried, outcome
from pcsnn.analysis.costs.results import EXECUTIONS, ByExecution, Count, LayerOperations, Operations
from pcsnn.analysis.costs.rules import cost
from pcsnn.baselines.serial_network import SerialIF, serial
from pcsnn.data.batches import Batches, show
from pcsnn.data.inputs import count, required_inputs
from pcsnn.graph.names import operation_name, source_name
from pcsnn.network.network import SpikingNetwork, check_unfused
from pcsnn.nn import CollapsedNeuron, TimeAverage


class _Walk(fx.Interpreter):
    """One pass over a network: runs it, follows what every value carries, and tallies what each node costs.

    Attributes:
        executions: those that this pass is of.
        steps: how many time-steps it stands for.
        spent: {node name: (kind, detail, once, {execution: Counter})}.
        uncounted: names of operations whose cost is not known.
    """

    executions = ()
    steps = 1

    def __init__(self, network):
        super().__init__(network)
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
        result = cost(Call(node, module, args, kwargs, carried, value, self.steps))
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


def _currents(operands, shape, steps):
    """(additions that bring a neuron's currents together, bits that they are read with)."""
    wide = [operand.map(lambda plane: plane.expand(shape)) for operand in operands]
    return summed(wide, steps), sum(operand.bits(steps) for operand in operands)


class _PackedWalk(_Walk):
    """All T steps at once: sorted trains from counts (5)-(9)."""

    executions = ("packed",)

    def __init__(self, network, timesteps):
        super().__init__(network)
        self.steps = timesteps

    def fire(self, neuron, currents, operands):
        counts = neuron.counts(*currents)
        neurons, spikes = counts.numel(), Carried.spikes(counts)
        additions, bits = _currents(operands, counts.shape, self.steps)
        spent = Counter(
            additions=additions + self.steps * neurons,
            comparisons=self.steps.bit_length() * neurons,
            spikes=int(counts.sum()),
            bits=bits + spikes.bits(self.steps),
            parameters=WORD * neuron.levels.numel(),
        )
        return neuron.rates_of(counts, currents[0].dtype), spikes, {"packed": spent}

    def average(self, node, source):
        over_time = (source.trains > 0) | (source.number == MOVING)
        result = Carried(
            torch.zeros_like(source.events),
            torch.zeros_like(source.trains),
            source.number.masked_fill(over_time, AVERAGE),
        )
        if over_time.any():
            moving = int((source.number == MOVING).sum())
            spent = Counter(
                additions=int(source.events.sum()) + self.steps * moving,
                multiplications=int(over_time.sum()),
                bits=source.bits(self.steps) + result.bits(self.steps),
            )
            self._spend(node, "average", "over time", False, {"packed": spent})
        return result


class _SerialWalk(_Walk):
    """One time-step of serial integrate-and-fire (2)."""

    executions = ("serial",)

    def fire(self, neuron, currents, operands):
        fired = neuron.fire(*currents)
        neurons, spikes = fired.numel(), Carried.spikes(fired)
        additions, bits = _currents(operands, fired.shape, 1)
        potential = 2 * WORD * neurons  # read and written
        spent = Counter(
            additions=additions + 2 * neurons,
            comparisons=neurons,
            spikes=int(fired.sum()),
            bits=bits + potential + spikes.bits(1),
            parameters=WORD * neuron.threshold.numel(),
        )
        return neuron.worth(fired), spikes, {"serial": spent}


class _RateWalk(_Walk):
    """One pass on rates: the collapsed network (11), and the float network, whose operations are the same but for the
    activation."""

    executions = ("collapsed", "float")

    def fire(self, neuron, currents, operands):
        counts = neuron.counts(*currents)
        neurons, rates = counts.numel(), Carried.numbers(counts, MOVING)
        additions, bits = _currents(operands, counts.shape, 1)
        bits += rates.bits(1)
        tables, search = WORD * (neuron.levels.numel() + neuron.scale.numel()), neuron.timesteps.bit_length()
        spent = {
            "collapsed": Counter(
                additions=additions,
                multiplications=neurons,
                spikes=int(counts.sum()),
                comparisons=search * neurons,
                bits=bits,
                parameters=tables,
            ),
            "float": Counter(additions=additions, comparisons=neurons, bits=bits),
        }
        return neuron.rates_of(counts, currents[0].dtype), rates, spent


class _Totals:
    """Sums over all passes."""

    def __init__(self, network):
        self._layers = {node.name: None for node in network.graph.nodes}
        self._uncounted = {}

    def add(self, walk, inputs, first=True):
        """Run a pass; what runs once is counted in the first of several."""
        walk.run(*inputs)
        self._uncounted.update(dict.fromkeys(walk.uncounted))
        for key, (name, kind, detail, once, spent) in walk.spent.items():
            if self._layers[key] is None:
                self._layers[key] = LayerOperations(
                    name, kind, detail, once, {execution: Counter() for execution in EXECUTIONS}
                )
            for execution, counter in spent.items():
                if first or not once:
                    counts = self._layers[key].counts[execution]
                    counts.update(counter)
                    counts["bits"] += count(inputs) * counts.pop("parameters", 0)  # read anew for each image

    def result(self, timesteps, images):
        def count(counter):
            per_image = {name: amount / images for name, amount in counter.items()}
            return Count(bytes=per_image.pop("bits", 0) / 8, **per_image)

        layers = [
            dataclasses.replace(layer, counts=ByExecution((name, count(spent)) for name, spent in layer.counts.items()))
            for layer in self._layers.values()
            if layer is not None
        ]
        return Operations(timesteps, images, layers, list(self._uncounted))


@torch.no_grad()
def count_operations(snn: SpikingNetwork, data: Tensor | Iterable, *, progress: bool = True) -> Operations:
    """Additions, multiplications, comparisons and memory traffic of each layer, per image, in four executions:

    - "serial": integrate-and-fire step by step (2): T synaptic passes, 2 T additions and T comparisons a neuron.
    - "packed": the paper's form (3)-(9), all T steps in one batch through [T, N] neurons: T synaptic passes, T
      additions and ceil(log2(T + 1)) comparisons a neuron. "parallel" is the older name, which results still find.
    - "collapsed": one synaptic pass on rates (11), ceil(log2(T + 1)) comparisons and one multiplication a neuron. That
      is the search in any table of levels; where levels are evenly spaced the kernels guess and compare once (9).
    - "float": the network that was converted, in the form of `snn` (batch norms folded or not): multiply-accumulates,
      one comparison an activation.

    In the serial and the packed execution a synapse works on the spikes really fired, those of serial
    integrate-and-fire and the parallel neuron's: an addition for each target of each spike, none beyond the borders.
    What reads numbers (the image, sums of windows, sums with a current) multiplies and adds at every step; what depends
    on the image alone runs once, and is apart (`LayerOperations.once`, `Count.input_macs`). See docs/operations.md for
    every convention.

    Args:
        snn: a SpikingNetwork, not optimised, without analog operations; it runs on its device and is not changed.
        data: what `pcsnn.convert` takes as calibration: a tensor [N, ...], or an iterable of input tensors or of
            (input, label, ...). It is read once. The serial network makes T passes over each batch.
        progress: show a progress bar on a terminal.

    Returns:
        Operations: `layers`, `total(execution)`, `energy()`, `table()`, `as_dict()`, `save(path)`.

    Raises:
        TypeError, ValueError: not a SpikingNetwork, an optimised one, one with analog operations; empty, NaN or
            infinite data.
    """
    check_unfused(snn)
    stepwise = serial(snn)
    device = next(neuron.levels.device for _, neuron in snn.neurons())
    totals, images = _Totals(snn.network), 0
    batches = Batches(data, required_inputs(snn.network), device, "data")
    for inputs in show(batches, "counting operations", progress):
        totals.add(_RateWalk(snn.network), inputs)
        totals.add(_PackedWalk(snn.network, snn.timesteps), inputs)
        stepwise.reset()
        for step in range(snn.timesteps):
            totals.add(_SerialWalk(stepwise.network), inputs, step == 0)
        images += count(inputs)
    return totals.result(snn.timesteps, images)
