"""The nodes of an optimised network as calls of the functions in `library`."""

import math
from dataclasses import dataclass

import torch
from torch import fx
from torch.nn.modules.utils import _pair

from pcsnn.exchange.c.buffers import Block, Buffer
from pcsnn.exchange.c.text import array
from pcsnn.exchange.whole_sums import check_sums
from pcsnn.graph.names import operation_name, source_name
from pcsnn.graph.places import argument
from pcsnn.graph.taxonomy import Role, role
from pcsnn.nn import CountMaxPool2d, CountSumPool2d, PixelCounts, Rates
from pcsnn.nn.fused import SpikingSynapse
from pcsnn.nn.synaptic import CountSynapse

WANTED = "pcsnn.optimize(snn, 'int8', example_inputs=images, first_last=True)"


@dataclass
class Value:
    """A value of the network: its block, None for the input and the output, and its shape (C, H, W); of a vector the
    shape that it was flattened from. Counts lie [H, W, C] in memory, floats [C, H, W]."""

    block: Block | None
    buffer: Buffer | None
    shape: tuple
    flat: bool = False


class Steps:
    """Constants and calls of a network, made node by node with `visit`; `last` is the node that makes the output."""

    def __init__(self, prefix, last):
        self.prefix, self.last = prefix, last
        self.counts, self.currents = Block("counts", "uint8_t"), Block("currents", "int32_t")
        self.floats = Block("floats", "float")
        self.constants = []
        self.bytes = 0  # of the constants
        self.calls = []  # (function, its arguments: text, numbers and Values)

    def visit(self, node, network, values, shape):
        """The Value of a node whose result is [1, *shape]; ValueError, naming it, where integers of C cannot be it."""
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if node.op == "placeholder":
            return Value(None, None, shape)
        for kind, rule in _LAYERS:
            if isinstance(module, kind):
                return rule(self, node, module, values, shape)
        found = role(node, {node.target: module}) if node.op.startswith("call") else None
        rule = _RULES.get(found)
        sources = [values[part] for part in node.all_input_nodes if part in values]
        made = None
        whole = all(source.block is self.counts for source in sources)
        if rule is not None and sources and (whole or found in _OF_FLOATS and sources[0].block is self.floats):
            made = rule(self, node, module, values, sources, shape)
        if made is None:
            kind = "a constant" if node.op == "get_attr" else operation_name(node, {node.target: module})
            raise ValueError(
                f"snn: {source_name(node)} ({kind}) has no form in integer C; expected a network of {WANTED}: "
                "convolutions, linear layers, pools of counts, concatenation of channels, slices, padding, flattening"
            )
        return made

    def _constant(self, name, what, values):
        if values is None:
            return "NULL"
        name = f"{name}_{what}"
        self.constants.append(array(name, values))
        self.bytes += values.numel() * values.element_size()
        return name

    def _name(self):
        return f"layer{len(self.calls)}"

    def _new(self, block, shape):
        return Value(block, block.buffer(math.prod(shape), len(self.calls)), shape)

    def _call(self, function, *arguments):
        for value in arguments:
            if isinstance(value, Value) and value.buffer is not None:
                value.buffer.read = len(self.calls)
        self.calls.append((function, arguments))

    def _pixels(self, node, layer, values, shape):
        source = values[node.args[0]]
        if source.block is not None:
            raise ValueError(f"snn: {node.target} reads what is no input; expected a network of {WANTED}")
        name, out = self._name(), self._new(self.counts, shape)
        low = self._constant(name, "low", layer.low)
        unit = self._constant(name, "unit", layer.worth / torch.full((), 255.0))
        self._call("pixels", source, low, unit, *source.shape, *layer.padding, out)
        return out

    def _synapse(self, node, layer, source):
        """(name of the struct of a layer's synapse, its shape (O, H, W), the name that its constants begin with)."""
        if layer.weight.dtype != torch.int8 or source.block is not self.counts:
            kind = str(layer.weight.dtype).removeprefix("torch.")
            raise ValueError(f"snn: {node.target} has weights of {kind} for values; expected a network of {WANTED}")
        check_sums(node.target, layer)
        name = self._name()
        channels, *size = source.shape
        if layer.weight.dim() == 2:
            if not source.flat and size != [1, 1]:
                raise ValueError(f"snn: {node.target} is a linear layer on {source.shape}; expected a vector")
            weight = layer.weight.unflatten(1, source.shape)  # laid over all of an image
            geometry = [*size, 1, 1, 0, 0, 1, 1, 1]
            sizes = (1, 1)
        else:
            weight = layer.weight
            geometry = [*weight.shape[2:], *layer.stride, *layer.padding, *layer.dilation, layer.groups]
            taps = [spread * (count - 1) + 1 for spread, count in zip(layer.dilation, weight.shape[2:])]
            sizes = tuple(
                (length + 2 * pad - tap) // step + 1
                for length, pad, tap, step in zip(size, layer.padding, taps, layer.stride)
            )
        weights = self._constant(name, "weight", weight.permute(0, 2, 3, 1))
        bias = self._constant(name, "bias", layer.operand_bias)
        numbers = [*size, channels, *sizes, len(weight), *geometry]
        self.constants.append(f"static const synapse {name} = {{{weights}, {bias}, {', '.join(map(str, numbers))}}};\n")
        return name, (len(weight), *sizes)

    def _fire(self, node, layer, values, shape):
        source = values[node.args[0]]
        branch = values[node.args[1]] if len(node.args) > 1 else None
        name, made = self._synapse(node, layer, source)
        if layer.emits != "counts" or branch is not None and branch.shape != made:
            raise ValueError(f"snn: {node.target} gives rates or adds a branch of another shape; expected {WANTED}")
        worth = layer.operand_residual_scale
        counted = branch is not None and branch.block is self.counts
        worth = self._constant(name, "worth", worth.expand(made[0]) if counted else None)
        levels = self._constant(name, "levels", layer.operand_levels)
        out = self._new(self.counts, made)
        self._call(
            "fire",
            f"&{name}",
            source,
            branch if counted else "NULL",
            worth,
            "NULL" if counted or branch is None else branch,
            levels,
            layer.operand_levels.shape[-1],
            out,
        )
        self.calls.append(("COUNTED", (node.target, out)))
        return out

    def _alone(self, node, layer, values, shape):
        name, made = self._synapse(node, layer, values[node.args[0]])
        if layer.operand_scale is None:
            out = self._new(self.currents, made)
            self._call("current", f"&{name}", values[node.args[0]], out)
            return out
        scale = self._constant(name, "scale", layer.operand_scale.expand(made[0]))
        return self._made_floats(node, "values", made, f"&{name}", values[node.args[0]], scale)

    def _rates(self, node, layer, values, shape):
        source = values[node.args[0]]
        channels, height, width = source.shape
        worth = self._constant(self._name(), "worth", layer.count_worth().expand(channels))
        return self._made_floats(node, "rates", source.shape, source, worth, channels, height * width)

    def _made_floats(self, node, function, shape, *arguments):
        """A call that makes floats, where the caller wants the output if they are that."""
        shape = tuple(shape)
        out = Value(None, None, shape) if node is self.last else self._new(self.floats, shape)
        self._call(function, *arguments, out)
        return out

    def _linear(self, node, module, values, sources, shape):
        """A linear layer of floats behind the last neurons."""
        source = sources[0]
        if not isinstance(module, torch.nn.Linear) or source.block is not self.floats or not source.flat:
            return None
        name, weight = self._name(), module.weight
        bias = self._constant(name, "bias", module.bias)
        weights = self._constant(name, "weight", weight)
        made = (len(weight), 1, 1)
        return self._made_floats(node, "dense", made, source, weights, bias, weight.shape[1], len(weight))

    def _average(self, node, module, values, sources, shape):
        """Average pooling of floats: windows without padding that all lie within the image."""
        source, name = sources[0], operation_name(node, {node.target: module})
        if source.block is not self.floats or source.flat or len(shape) != 3:
            return None
        size = source.shape[1:]
        if name in ("AdaptiveAvgPool2d", "adaptive_avg_pool2d"):
            kernel = stride = tuple(length // wanted for length, wanted in zip(size, shape[1:]))
            if any(length % wanted for length, wanted in zip(size, shape[1:])):
                return None
        elif name == "AvgPool2d" and not any(_pair(module.padding)) and not module.divisor_override:
            kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        else:
            return None
        if any((made - 1) * step + taps > length for made, step, taps, length in zip(shape[1:], stride, kernel, size)):
            return None
        return self._made_floats(node, "average", shape, source, source.shape[0], *size, *shape[1:], *kernel, *stride)

    def _max_pool(self, node, layer, values, shape):
        return self._pool(node, layer, values, shape, _pair(layer.dilation), 0)

    def _sum_pool(self, node, layer, values, shape):
        return self._pool(node, layer, values, shape, (1, 1), 1)

    def _pool(self, node, layer, values, shape, dilation, sums):
        source, name = values[node.args[0]], self._name()
        channels, *size = source.shape
        numbers = [*size, channels, *shape[1:], *_pair(layer.kernel_size), *_pair(layer.stride), *_pair(layer.padding)]
        self.constants.append(f"static const window {name} = {{{', '.join(map(str, [*numbers, *dilation]))}}};\n")
        out = self._new(self.counts, shape)
        self._call("pool", f"&{name}", sums, source, out)
        return out

    def _reshape(self, node, module, values, sources, shape):
        source = sources[0]
        if tuple(shape) == source.shape and not source.flat:
            return source
        return (
            Value(source.block, source.buffer, source.shape, True)
            if tuple(shape) == (math.prod(source.shape),)
            else None
        )

    @staticmethod
    def passes(node, modules):
        """Whether a node gives the elements that it reads, in their order."""
        return role(node, modules) in (Role.FLATTEN, Role.RESHAPE, Role.COPY)

    def _copy(self, node, module, values, sources, shape):
        return sources[0]

    def _laid(self, shape, places):
        """Silence but for sources: (source, first row, row step, first column, column step, rows, columns, offset)."""
        out = self._new(self.counts, shape)
        channels, height, width = out.shape
        self._call("silence", out, channels * height * width)
        for one, top, down, left, right, rows, columns, offset in places:
            size = (one.shape[2], one.shape[0], rows, columns)
            self._call("place", one, top, down, left, right, *size, *offset, width, channels, out)
        return out

    def _join(self, node, module, values, sources, shape):
        parts = [values[part] for part in node.args[0]]
        if argument(node, 1, "dim", 0) != 1 or any(part.flat for part in parts):
            return None
        places, at = [], 0
        for part in parts:
            places.append((part, 0, 1, 0, 1, *part.shape[1:], (0, 0, at)))
            at += part.shape[0]
        return self._laid(shape, places)

    def _index(self, node, module, values, sources, shape):
        source, index = sources[0], node.args[1]
        if source.flat or not isinstance(index, tuple) or not all(isinstance(part, slice) for part in index):
            return None
        whole = (*index, *[slice(None)] * (4 - len(index)))
        if any(isinstance(end, fx.Node) for part in whole for end in (part.start, part.stop, part.step)):
            return None
        rows, columns = (part.indices(length) for part, length in zip(whole[2:], source.shape[1:]))
        if whole[:2] != (slice(None), slice(None)):
            return None
        place = (source, rows[0], rows[2], columns[0], columns[2], *shape[1:], (0, 0, 0))
        return self._laid(shape, [place])

    def _pad(self, node, module, values, sources, shape):
        source = sources[0]
        sides = [*argument(node, 1, "pad", ()), *[0] * 6][:6]
        if source.flat or min(sides) < 0 or argument(node, 3, "value", None):
            return None
        if argument(node, 2, "mode", "constant") != "constant":
            return None
        place = (source, 0, 1, 0, 1, *source.shape[1:], (sides[2], sides[0], sides[4]))
        return self._laid(shape, [place])


_LAYERS = (
    (PixelCounts, Steps._pixels),
    (SpikingSynapse, Steps._fire),
    (CountSynapse, Steps._alone),
    (CountMaxPool2d, Steps._max_pool),
    (CountSumPool2d, Steps._sum_pool),
    (Rates, Steps._rates),
)
_RULES = {
    Role.FLATTEN: Steps._reshape,
    Role.RESHAPE: Steps._reshape,
    Role.COPY: Steps._copy,
    Role.JOIN: Steps._join,
    Role.INDEX: Steps._index,
    Role.PAD: Steps._pad,
    Role.SYNAPSE: Steps._linear,
    Role.AVERAGE_POOL: Steps._average,
}
_OF_FLOATS = {Role.FLATTEN, Role.RESHAPE, Role.COPY, Role.SYNAPSE, Role.AVERAGE_POOL}
