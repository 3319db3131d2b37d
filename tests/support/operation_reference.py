"""Runs a small converted network number by number and counts what it does: the oracle of count_operations.

Spikes come from the neurons run here, step by step; every cell read or written tallies its bits. Only the graph, the
parameters and moves of elements (done to their places) are taken from the network.
"""

import math
import operator
from collections import Counter, defaultdict

import torch
from counted_arithmetic import Arithmetic, Array, Cell, Spike
from torch import fx, nn

from pcsnn.graph.taxonomy import MOVES, role
from pcsnn.nn import CollapsedNeuron, TimeAverage


class Machine(Arithmetic):
    """One execution of a network on one image: "serial", "packed", "collapsed" or "float"; of spikes that are sent as
    integers "serial integers" or "packed integers"."""

    def __init__(self, snn, execution):
        self.execution, _, integers = execution.partition(" ")
        super().__init__(dict(snn.network.named_modules()), integers == "integers")
        self.graph, self.timesteps, self.spike_levels = snn.network.graph, snn.timesteps, snn.spike_levels
        self.potentials, self.kept = {}, {}

    # ---- neurons: lists of currents, one for each step, to lists of arrays ----
    def per_cell(self, value, array):
        value = value.flatten().tolist()
        each = len(array.cells) // len(value)
        return [value[i // each] for i in range(len(array.cells))]

    def currents(self, operands):
        """For each step, the current of each neuron."""
        return [
            [self.together(cells) for cells in zip(*(array.cells for array in step), strict=True)]
            for step in zip(*operands, strict=True)
        ]

    def search(self, value, levels):
        """How many levels a value reaches, by bisection of a table filled up to 2^b - 1 levels."""
        size = 1
        while size <= len(levels):
            size *= 2
        table = levels + [math.inf] * (size - 1 - len(levels))
        count = 0
        while size > 1:
            size //= 2
            if value >= self.number(table[count + size - 1]):
                count += size
        return count

    def level_rows(self, neuron, array, factor):
        rows = (neuron.levels if neuron.levels.dim() == 2 else neuron.levels[None]) * factor
        each = len(array.cells) // len(rows)
        rows = rows.tolist()
        return [rows[i // each] for i in range(len(array.cells))]

    def fire(self, node, neuron, operands):
        like = operands[0][0]
        currents = self.currents(operands)
        worth = self.per_cell(neuron.spike, like)
        if self.execution == "serial":
            return [self.integrate(node, neuron, like, currents[0], worth)]
        if self.execution == "packed":
            self.parameters(neuron.levels)
            steps = [[] for _ in range(self.timesteps)]
            for i, levels in enumerate(self.level_rows(neuron, like, self.timesteps)):
                total = self.number(0)
                for step in currents:
                    total = total + step[i]
                count = self.search(total, levels)
                for t, cells in enumerate(steps, 1):  # the last of them fire (7), (22)
                    room = count - (self.timesteps - t) * self.spike_levels
                    cells.append(self.spiking(min(max(room, 0), self.spike_levels), worth[i]))
            return [Array(like.shape, cells) for cells in steps]
        if self.execution == "collapsed":
            self.parameters(neuron.levels, neuron.scale)
            scales, cells = self.per_cell(neuron.scale, like), []
            for current, levels, scale in zip(currents[0], self.level_rows(neuron, like, 1), scales):
                count = self.search(current, levels)
                self.meter.tally("spikes", count)
                cells.append(Cell(self.number(count // max(neuron.spacing.repeat, 1)) * self.number(scale)))
            return [Array(like.shape, cells)]
        zero = self.number(0)
        return [Array(like.shape, [Cell(current if current > zero else zero) for current in currents[0]])]

    def spiking(self, value, worth):
        """A cell with one spike of a neuron."""
        spike = Spike(value, worth, math.ceil(math.log2(self.spike_levels + 1)))
        self.meter.tally("spikes", (1 if value else 0) if self.integers else len(spike.ones))
        return Cell(trains=[spike])

    def integrate(self, node, neuron, like, currents, worth):
        """One step of serial integrate-and-fire (2), (22); psi_DA is part of the bias, as (15) says."""
        self.parameters(*[neuron.threshold] * self.spike_levels)
        least = neuron.threshold / self.spike_levels
        thresholds, offsets = self.per_cell(least, like), self.per_cell(neuron.offset, like)
        potentials = self.potentials.setdefault(node, [self.number(theta / 2) for theta in thresholds])
        cells = []
        for i, (current, theta) in enumerate(zip(currents, thresholds)):
            self.meter.tally("bits", 32)
            v = potentials[i] + self.number(current.value + offsets[i])
            fired = self.search(v, [theta * multiple for multiple in range(1, self.spike_levels + 1)])
            potentials[i] = v - self.number(theta * fired)
            self.meter.tally("bits", 32)
            cells.append(self.spiking(fired, worth[i]))
        return Array(like.shape, cells)

    def average_over_time(self, steps):
        """The factor of a product that (20) averages; only the parallel execution has the steps to do it."""
        cells = []
        for over_time in zip(*(step.cells for step in steps)):
            if not over_time[0].over_time:
                cells.append(over_time[0])
                continue
            total = self.number(0)
            for cell in over_time:
                total = self.gather(total, cell) if cell.number is None else total + cell.number
            cells.append(Cell(total * self.number(1 / len(steps)), fixed=True, averaged=True))
        return Array(steps[0].shape, cells)

    # ---- the network ----
    def move(self, node, values):
        """A move of elements, done to their places, counted from 1: padding is 0. Sizes come out as they are."""
        cells = []

        def places(source):
            value = values[source]
            if not isinstance(value, Array):
                return value
            start = len(cells) + 1
            cells.extend(value.cells)
            return torch.arange(start, start + len(value.cells), dtype=torch.float64).reshape(1, *value.shape)

        args, kwargs = fx.map_arg(node.args, places), fx.map_arg(node.kwargs, places)
        if node.op == "call_module":
            out = self.modules[node.target](*args, **kwargs)
        elif node.op == "call_method":
            out = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            out = node.target(*args, **kwargs)
        if not isinstance(out, torch.Tensor):
            return out
        return Array(out.shape[1:], [cells[int(place) - 1] if place else Cell() for place in out.flatten().tolist()])

    def is_move(self, node):
        return node.op == "call_method" or node.target is getattr or role(node, self.modules) in MOVES

    def walk(self, image, steps):
        """Run the network on `steps` steps at once. A value is a list of arrays; one alone is the same at each step."""
        values = {}
        for node in self.graph.nodes:
            if node.op == "output":
                return
            if node in self.kept:
                values[node] = self.kept[node]
                continue
            module = self.modules.get(node.target) if node.op == "call_module" else None
            if node.op == "placeholder":
                cells = [Cell(self.number(value), fixed=True) for value in image.flatten().tolist()]
                values[node] = [Array(image.shape, cells)]
            elif self.is_move(node):
                sources = [values[source] for source in node.all_input_nodes]
                count = max((len(value) for value in sources if isinstance(value, list)), default=1)
                moved = [
                    self.move(node, {source: _step(values[source], t) for source in node.all_input_nodes})
                    for t in range(count)
                ]
                values[node] = moved if isinstance(moved[0], Array) else moved[0]
            else:
                operands = [values[arg] for arg in node.args if isinstance(arg, fx.Node)]
                values[node] = self.compute(node, module, operands, steps)
            if not isinstance(values[node], list) or not any(array.over_time for array in values[node]):
                self.kept[node] = values[node]

    def compute(self, node, module, operands, steps):
        self.meter.execution(node.name)
        arrays = [array for operand in operands for array in operand]
        neuron, over_time = isinstance(module, CollapsedNeuron), any(array.over_time for array in arrays)
        if isinstance(module, TimeAverage) and (self.execution != "packed" or not over_time):
            return operands[0]
        if node.target is operator.add and not any(cell.number for array in arrays for cell in array.cells):
            one, two = operands
            return [
                Array(a.shape, [Cell(trains=x.trains + y.trains) for x, y in zip(a.cells, b.cells, strict=True)])
                for a, b in zip(one, two, strict=True)
            ]
        if isinstance(module, nn.AdaptiveAvgPool2d) and self.pooled(module, arrays[0]) == arrays[0].shape[1:]:
            return operands[0]  # each window is one place
        for position, operand in enumerate(operands):
            for array in operand:
                self.meter.load(position, array.cells)
        if isinstance(module, nn.Module) and not neuron:
            if isinstance(module, nn.BatchNorm2d):
                self.parameters(module.weight, module.bias)
            else:
                self.parameters(*module.parameters())
        count = steps if over_time or neuron else 1
        operands = [[_step(operand, t) for t in range(count)] for operand in operands]
        if neuron:
            out = self.fire(node, module, operands)
        elif isinstance(module, TimeAverage):
            out = [self.average_over_time(operands[0])]
        else:
            out = [self.operate(node, step) for step in zip(*operands)]
        for array in out:
            self.meter.store(array.cells)
        return out


def _step(value, t):
    return value[t if len(value) > 1 else 0] if isinstance(value, list) else value


def count(snn, images, execution):
    """{node name: Counter} over all images [N, ...] of one execution, with bits for bytes."""
    total = defaultdict(Counter)
    for image in images:
        machine = Machine(snn, execution)
        if machine.execution == "serial":
            for _ in range(snn.timesteps):
                machine.walk(image, 1)
        else:
            machine.walk(image, snn.timesteps if machine.execution == "packed" else 1)
        for name, row in machine.meter.rows.items():
            total[name].update(row)
    return total
