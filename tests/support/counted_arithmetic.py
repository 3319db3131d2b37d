"""Operations on the arrays of one step, number by number, that count themselves: what operation_reference runs.

Every addition, multiplication and comparison is one of `Number`, which tallies itself. Spikes go to their targets one
by one: binary ones, the 1s among the bits of one of several levels, or integers.
"""

import itertools
import math
import operator
from collections import Counter, defaultdict
from typing import NamedTuple

import torch
from torch import nn


class Meter:
    """Tallies: {node name: Counter}. What an execution of an operation has loaded of an operand, it keeps."""

    def __init__(self):
        self.rows = defaultdict(Counter)
        self._row, self._loaded = None, set()

    def execution(self, name):
        self._row, self._loaded = self.rows[name], set()

    def tally(self, what, count=1):
        self._row[what] += count

    def load(self, operand, cells):
        for cell in cells:
            if (operand, id(cell)) not in self._loaded:
                self._loaded.add((operand, id(cell)))
                self.tally("bits", cell.bits)

    def store(self, cells):
        for cell in cells:
            self.tally("bits", cell.bits)


class Number:
    def __init__(self, value, meter):
        self.value, self.meter = value, meter

    def _with(self, value, what):
        self.meter.tally(what)
        return Number(value, self.meter)

    def __add__(self, other):
        return self._with(self.value + other.value, "additions")

    def __sub__(self, other):
        return self._with(self.value - other.value, "additions")

    def __mul__(self, other):
        return self._with(self.value * other.value, "multiplications")

    def __ge__(self, other):
        self.meter.tally("comparisons")
        return self.value >= other.value

    def __gt__(self, other):
        self.meter.tally("comparisons")
        return self.value > other.value


class Spike(NamedTuple):
    """What one train sends at a step: an integer, what 1 is worth, and the bits that it takes."""

    value: int
    worth: float
    bits: int

    @property
    def ones(self):
        """What the bits that are 1 are worth."""
        return [2**plane * self.worth for plane in range(self.bits) if self.value >> plane & 1]


class Cell:
    """What an element holds at a step: a number, or the spikes of some trains; neither is padding."""

    def __init__(self, number=None, trains=(), fixed=False, averaged=False):
        self.number, self.trains, self.fixed, self.averaged = number, list(trains), fixed, averaged
        self.bits = 32 if number is not None else sum(spike.bits for spike in self.trains)

    @property
    def over_time(self):
        return bool(self.trains) or self.number is not None and not self.fixed

    @property
    def fired(self):
        return [spike for spike in self.trains if spike.value]

    @property
    def value(self):
        return sum(spike.value * spike.worth for spike in self.trains) if self.number is None else self.number.value


class Array:
    def __init__(self, shape, cells):
        self.shape, self.cells = tuple(shape), list(cells)
        assert len(self.cells) == math.prod(self.shape)

    def at(self, *index):
        place = 0
        for length, i in zip(self.shape, index):
            place = place * length + i
        return self.cells[place]

    @property
    def over_time(self):
        return any(cell.over_time for cell in self.cells)


class Arithmetic:
    """Operations but for neurons: shapes and cells in, shape and numbers out.

    integers: whether a spike is sent as one integer; else as its bits.
    """

    def __init__(self, modules, integers=False):
        self.modules, self.integers, self.meter, self.category = modules, integers, Meter(), None

    def number(self, value):
        return Number(float(value), self.meter)

    # ---- what a synapse does with one element ----
    def multiply_add(self, sum_, number, weight):
        self.meter.tally(self.category)
        return sum_ + number * weight

    def accumulate(self, sum_, spike, weight):
        if self.integers:
            self.meter.tally("spike_macs")
            return sum_ + self.number(spike.value) * self.number(spike.worth * weight)
        for worth in spike.ones:
            self.meter.tally("accumulates")
            sum_ = sum_ + self.number(worth * weight)
        return sum_

    def gather(self, sum_, cell, factor=1.0):
        """Adds the spikes of a cell, whose worth is known behind the sum; integers of several trains have several."""
        for spike in cell.fired:
            if not self.integers:
                for worth in spike.ones:
                    sum_ = sum_ + self.number(worth * factor)
            elif len(cell.trains) > 1:
                sum_ = sum_ + self.number(spike.value) * self.number(spike.worth * factor)
            else:
                sum_ = sum_ + self.number(spike.value * spike.worth * factor)
        return sum_

    def send(self, sum_, cell, weight):
        """An element's contribution to one target."""
        if cell.number is not None:
            return self.multiply_add(sum_, cell.number, self.number(weight))
        for spike in cell.fired:
            sum_ = self.accumulate(sum_, spike, weight)
        return sum_

    def parameters(self, *tensors):
        self.meter.tally("bits", 32 * sum(tensor.numel() for tensor in tensors if tensor is not None))

    # ---- operations ----
    def convolution(self, m, x):
        transposed = isinstance(m, nn.ConvTranspose2d)
        outside, weight = m.out_channels, m.weight.tolist()
        inside_group, outside_group = m.in_channels // m.groups, outside // m.groups
        if transposed:
            sizes = [
                (n - 1) * s - 2 * p + d * (k - 1) + o + 1
                for n, s, p, d, k, o in zip(
                    x.shape[1:], m.stride, m.padding, m.dilation, m.kernel_size, m.output_padding
                )
            ]
        else:
            sizes = [
                (n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, s, p, d, k in zip(x.shape[1:], m.stride, m.padding, m.dilation, m.kernel_size)
            ]
        bias = [0.0] * outside if m.bias is None else m.bias.tolist()
        sums = {
            (o, *place): self.number(bias[o]) for o in range(outside) for place in itertools.product(*map(range, sizes))
        }
        taps = list(itertools.product(*map(range, m.kernel_size)))
        for c, y, z in itertools.product(*map(range, x.shape)):  # each element to its targets
            group = c // inside_group
            for (ky, kz), o in itertools.product(taps, range(outside_group)):
                target = []
                for at, k, s, p, d in zip((y, z), (ky, kz), m.stride, m.padding, m.dilation):
                    if transposed:
                        target.append(at * s - p + k * d)
                    else:
                        lead, off = divmod(at + p - k * d, s)
                        target.append(-1 if off else lead)
                key = (group * outside_group + o, *target)
                if key in sums:
                    w = weight[c][o][ky][kz] if transposed else weight[key[0]][c % inside_group][ky][kz]
                    sums[key] = self.send(sums[key], x.at(c, y, z), w)
        return (outside, *sizes), sums.values()

    def linear(self, m, x):
        rows, bias = m.weight.tolist(), [0.0] * m.out_features if m.bias is None else m.bias.tolist()
        out = []
        for start in range(0, len(x.cells), m.in_features):
            for row, b in zip(rows, bias):
                total = self.number(b)
                for cell, w in zip(x.cells[start : start + m.in_features], row):
                    total = self.send(total, cell, w)
                out.append(total)
        return (*x.shape[:-1], m.out_features), out

    def batch_norm(self, m, x):
        scale = (m.running_var + m.eps).rsqrt() * m.weight
        shift = (m.bias - m.running_mean * scale).tolist()
        each = len(x.cells) // len(shift)
        scale = scale.tolist()
        out = [self.send(self.number(shift[i // each]), cell, scale[i // each]) for i, cell in enumerate(x.cells)]
        return x.shape, out

    def windows(self, m, x, sizes):
        """(channel, the cells of a window) for each output in turn."""
        for c, oy, oz in itertools.product(range(x.shape[0]), *map(range, sizes)):
            if isinstance(m, nn.AdaptiveAvgPool2d):
                spans = [
                    range(math.floor(o * n / s), math.ceil((o + 1) * n / s))
                    for o, n, s in zip((oy, oz), x.shape[1:], sizes)
                ]
            else:
                k, s, p = (v if isinstance(v, tuple) else (v, v) for v in (m.kernel_size, m.stride, m.padding))
                spans = [
                    range(max(o * step - pad, 0), min(o * step - pad + taps, n))
                    for o, taps, step, pad, n in zip((oy, oz), k, s, p, x.shape[1:])
                ]
            yield [x.at(c, y, z) for y, z in itertools.product(*spans)]

    def pooled(self, m, x):
        return tuple(m(torch.zeros(1, *x.shape, dtype=torch.float64)).shape[2:])

    def average(self, cells, area):
        total, any_number = self.number(0), False
        for cell in cells:
            if cell.number is not None:
                total, any_number = total + cell.number, True
        if any_number:
            total = total * self.number(1 / area)
        for cell in cells:
            total = self.gather(total, cell, 1 / area)
        return total

    def maximum(self, cells):
        best = cells[0]
        for cell in cells[1:]:
            a, b = (self.number(c.value) for c in (cell, best))
            best = cell if a > b else best
        return Cell(best.number, best.trains, best.fixed)

    def together(self, cells):
        """The sum of what several elements hold at one place."""
        numbers = [cell.number for cell in cells if cell.number is not None]
        total = numbers[0] if numbers else self.number(0)
        for number in numbers[1:]:
            total = total + number
        for spike in (spike for cell in cells for spike in cell.fired):
            if self.integers:
                total = total + self.number(spike.value) * self.number(spike.worth)
            else:
                for worth in spike.ones:
                    total = total + self.number(worth)
        return total

    def matrix_product(self, a, b):
        rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
        batch = math.prod(a.shape[:-2])
        out = []
        for n, i, j in itertools.product(range(batch), range(rows), range(columns)):
            total = self.number(0)
            for k in range(inner):
                left, right = a.cells[(n * rows + i) * inner + k], b.cells[(n * inner + k) * columns + j]
                if left.number is None:
                    for spike in left.fired:
                        total = self.accumulate(total, spike, right.value)
                else:
                    total = self.send(total, right, left.number.value)
            out.append(total)
        return (*a.shape[:-1], columns), out

    def operate(self, node, arrays):
        """The result of an operation on the arrays of one step."""
        module = self.modules.get(node.target) if node.op == "call_module" else None
        over_time = any(array.over_time for array in arrays)
        averaged = any(cell.averaged for array in arrays for cell in array.cells)
        self.category = "macs" if over_time or averaged else "input_macs"
        x = arrays[0]
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            shape, out = self.convolution(module, x)
        elif isinstance(module, nn.Linear):
            shape, out = self.linear(module, x)
        elif isinstance(module, nn.BatchNorm2d):
            shape, out = self.batch_norm(module, x)
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            sizes = self.pooled(module, x)
            windows = list(self.windows(module, x, sizes))
            shape = (x.shape[0], *sizes)
            if isinstance(module, nn.MaxPool2d):
                return Array(shape, [self.maximum(cells) for cells in windows])
            area = module.kernel_size**2 if isinstance(module, nn.AvgPool2d) else None
            out = [self.average(cells, area or len(cells)) for cells in windows]
        elif node.target is torch.mean:
            (first, second), shape = node.args[1], x.shape[:1]
            assert (first, second) == (2, 3)
            size = len(x.cells) // shape[0]
            out = [self.average(x.cells[start : start + size], size) for start in range(0, len(x.cells), size)]
        elif node.target in (operator.add, torch.add):
            shape, out = x.shape, [self.together(pair) for pair in zip(*(array.cells for array in arrays), strict=True)]
        elif node.target is operator.matmul:
            shape, out = self.matrix_product(*arrays)
        elif node.target is operator.mul:
            shape, out = x.shape, [cell.number * self.number(node.args[1]) for cell in x.cells]
        else:
            raise NotImplementedError(node.format_node())
        return Array(shape, [Cell(number, fixed=not over_time, averaged=averaged and not over_time) for number in out])
