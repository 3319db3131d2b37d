"""From the nodes of a converted network to those of a NIR graph."""

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.utils import _pair

from pcsnn.exchange.nir import uneven
from pcsnn.exchange.nir.values import Value, channel_affine, full, reaches_over, weights
from pcsnn.graph.names import operation_name, source_name
from pcsnn.graph.places import argument
from pcsnn.graph.taxonomy import Role, role

_POOL_OPTIONS = (
    ("kernel_size", None),
    ("stride", None),
    ("padding", 0),
    ("ceil_mode", False),
    ("count_include_pad", True),
    ("divisor_override", None),
)


class Builder:
    """Collects the `nodes` and `edges` of a graph; `visit` is called for every node of the network, in order."""

    def __init__(self, nir, dtype, parallel):
        self.nir, self.dtype, self.parallel = nir, dtype, parallel
        self.nodes, self.edges = {}, []
        self.own = set()  # synapses in NIR that only one node of the network reads

    def visit(self, node, network, values, shape):
        """The Value of a node that gives a tensor [N, *shape]; ValueError, naming it, where NIR has no form for it.

        `values` are the Values of those of its inputs that are tensors.
        """
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if node.op == "placeholder":
            return Value((self._add("input", self.nir.Input(input_type=np.array(shape)), ()),), shape)
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise ValueError("snn: expected a network of one output tensor for NIR, got a structure of several")
            last = self._plain(values[node.args[0]])
            self._add("output", self.nir.Output(output_type=np.array(last.shape)), last.sources)
            return last
        operands = [values.get(part) if isinstance(part, fx.Node) else None for part in node.args]
        rule = _RULES.get(role(node, {node.target: module})) if any(operands) else None
        value = None if rule is None else rule(self, node, module, operands, shape)
        if value is None:
            name = source_name(node)
            kind = "a constant" if node.op == "get_attr" else operation_name(node, {node.target: module})
            where = node.meta.get("location")
            raise ValueError(
                f"snn: {name} ({kind}{f', {where}' if where else ''}) has no form in NIR; expected "
                "convolutions of one or two dimensions, linear layers on [N, C], average and sum pools, "
                "flattening, sums and IF neurons"
            )
        return value

    def _add(self, wanted, made, sources):
        wanted = wanted.replace(".", "_")
        name, count = wanted, 0
        while name in self.nodes:
            count += 1
            name = f"{wanted}_{count}"
        self.nodes[name] = made
        self.edges += [(source, name) for source in sources]
        return name

    def _plain(self, value, always=False):
        """The same value with its scale as a node of the graph."""
        if value.scale is None and not always:
            return value
        scale = torch.ones(()) if value.scale is None else value.scale
        name = self._add(f"{value.sources[0]}_scale", self.nir.Scale(full(scale, value.shape)), value.sources)
        return Value((name,), value.shape)

    def _neuron(self, node, neuron, values, shape):
        if any(value is None or value.shape != shape for value in values):
            return None
        if neuron.bend is not None:
            return self._parallel_levels(node, neuron, values, shape)
        theta = neuron.threshold.clamp(max=torch.finfo(neuron.threshold.dtype).max)
        if neuron.offset.any():
            self._shift(node, values, neuron.offset)
        sources = self._joined(values)
        metadata = {
            "reset": "subtract",
            "fires": ">=",
            "v_initial": full(theta * neuron.shift, shape),
            "shift": neuron.shift,
        }
        if neuron.quantization_levels is not None:
            metadata["quantization_levels"] = neuron.quantization_levels
        made = self.nir.IF(r=full(torch.ones_like(theta), shape), v_threshold=full(theta, shape), metadata=metadata)
        return self._sent(neuron, (self._add(node.target, made, sources),), shape)

    def _parallel_levels(self, node, neuron, values, shape):
        """An IF node for each level; their spikes add up where they are read."""
        if not self.parallel:
            raise ValueError(
                f"snn: {node.target} was calibrated to uneven levels (C3), which an IF neuron of NIR cannot hold; "
                f"uneven='parallel' writes {neuron.timesteps} of them, one for each; or calibrate with method 'max' or "
                "'paper', or at T > 16"
            )
        lifted = uneven.lift(neuron, self.dtype)
        if lifted.any():
            self._shift(node, values, lifted)
        sources = self._joined(values)
        made = uneven.level_nodes(self.nir, neuron, lifted, shape, node.target)
        return self._sent(neuron, tuple(self._add(name, each, sources) for name, each in made), shape)

    @staticmethod
    def _sent(neuron, names, shape):
        """The spikes of these nodes together, times what a spike of the neuron is worth."""
        return Value(names, shape, None if (neuron.spike == 1).all() else neuron.spike)

    def _shift(self, node, values, offset):
        """Add an offset [] or [C] to the current: to the bias of a synapse that nothing else reads, or by a node."""
        for source, value in zip(node.args, values):
            made = self.nodes[value.sources[0]]
            if (
                len(value.sources) == 1
                and value.scale is None
                and value.sources[0] in self.own
                and len(source.users) == 1
            ):
                made.bias = made.bias + offset.numpy()
                return
        channels = values[0].shape[0]
        values[0] = self._affine(f"{node.target}.offset", torch.ones(channels), offset.expand(channels), values[0])

    def _joined(self, values):
        """The sources of a sum, each once, as NIR takes them: a node adds up what comes in."""
        sources = []
        for value in values:
            plain = self._plain(value, always=bool(set(value.sources) & set(sources)) and value.scale is None)
            sources += plain.sources
        return tuple(sources)

    def _synapse(self, node, module, operands, shape):
        if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            return None
        value = operands[0]
        bias = module.weight.new_zeros(module.weight.shape[0]) if module.bias is None else module.bias.detach()
        weight = weights(module, value.scale)
        if isinstance(module, nn.Linear):
            if len(value.shape) != 1:
                return None
            made = self.nir.Affine(weight.numpy(), bias.numpy())
        else:
            if module.padding_mode != "zeros":
                return None
            made = self._convolution(module, weight, bias, value.shape)
        name = self._add(node.target, made, value.sources)
        if len(node.users) == 1:
            self.own.add(name)
        return Value((name,), shape)

    def _convolution(self, module, weight, bias, shape):
        flat = isinstance(module, nn.Conv1d)
        options = {key: getattr(module, key) for key in ("stride", "padding", "dilation")}
        if flat:
            options = {key: value if isinstance(value, str) else value[0] for key, value in options.items()}
        return (self.nir.Conv1d if flat else self.nir.Conv2d)(
            input_shape=shape[1] if flat else tuple(shape[1:]),
            weight=weight.numpy(),
            bias=bias.numpy(),
            groups=1,
            **options,
        )

    def _norm(self, node, norm, operands, shape):
        return None if norm is None else self._affine(node.target, *channel_affine(norm), operands[0])

    def _affine(self, name, factor, bias, value):
        """factor [C] and bias [C] as a node: a diagonal matrix, or a convolution of one pixel where there are some."""
        kinds = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d}
        if len(value.shape) not in kinds:
            return None
        channels = value.shape[0]
        factor = factor if value.scale is None else factor * value.scale
        factor, bias = factor.to(self.dtype), bias.to(self.dtype).contiguous()
        if len(value.shape) == 1:
            made = self.nir.Affine(torch.diag(factor).numpy(), bias.numpy())
        else:
            module = kinds[len(value.shape)](channels, channels, 1)
            weight = torch.diag(factor).view(channels, channels, *[1] * (len(value.shape) - 1))
            made = self._convolution(module, weight, bias, value.shape)
        return Value((self._add(name, made, value.sources),), value.shape)

    def _average_pool(self, node, module, operands, shape):
        name = operation_name(node, {node.target: module})
        if name in ("AdaptiveAvgPool2d", "adaptive_avg_pool2d"):
            return self._whole_pool(node, operands[0], shape)
        if name not in ("AvgPool2d", "avg_pool2d"):
            return None
        options = [
            getattr(module, name) if module else argument(node, 1 + place, name, default)
            for place, (name, default) in enumerate(_POOL_OPTIONS)
        ]
        return self._pool(node, operands[0], shape, *options)

    def _pool(self, node, value, shape, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override):
        """Average pooling; with a divisor of its own a SumPool2d, and the divisor in the value's scale."""
        padding = np.array(_pair(padding))
        padded = padding.any() and not count_include_pad and divisor_override is None
        if len(value.shape) != 3 or padded or (ceil_mode and reaches_over(value, shape, kernel, stride, padding)):
            return None
        kind = self.nir.AvgPool2d if divisor_override is None else self.nir.SumPool2d
        made = kind(kernel_size=np.array(_pair(kernel)), stride=np.array(_pair(stride or kernel)), padding=padding)
        pooled = Value((self._add(source_name(node), made, value.sources),), shape, value.scale)
        if divisor_override in (None, 1):
            return pooled
        return pooled.times(torch.tensor(1 / divisor_override, dtype=self.dtype))

    def _whole_pool(self, node, value, shape):
        """Adaptive pooling to a size that divides the input's."""
        if any(size % result for size, result in zip(value.shape[1:], shape[1:])):
            return None
        kernel = tuple(size // result for size, result in zip(value.shape[1:], shape[1:]))
        return self._pool(node, value, shape, kernel, kernel, 0, False, True, None)

    def _mean(self, node, module, operands, shape):
        """The mean over height and width."""
        value = operands[0]
        dims = argument(node, 1, "dim", ())
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        if len(value.shape) != 3 or {dim % 4 for dim in dims} != {2, 3}:
            return None
        pooled = self._whole_pool(node, value, (value.shape[0], 1, 1))
        return self._reshape(node, module, [pooled], shape)

    def _reshape(self, node, module, operands, shape):
        value = operands[0]
        if shape == value.shape:
            return value
        if shape != (int(np.prod(value.shape)),):
            return None
        scale = value.scale
        if scale is not None and scale.dim():
            scale = scale.repeat_interleave(shape[0] // value.shape[0])
        made = self.nir.Flatten(input_type=np.array(value.shape), start_dim=0, end_dim=-1)
        return Value((self._add(source_name(node), made, value.sources),), shape, scale)

    def _channel_scale(self, node, module, operands, shape):
        return operands[0].times(module.scale)

    def _number(self, value):
        return torch.tensor(value, dtype=self.dtype)

    def _negation(self, node, module, operands, shape):
        return operands[0].times(self._number(-1.0))

    def _sum(self, node, module, operands, shape):
        if len(operands) != 2 or node.kwargs or None in operands or operands[0].shape != operands[1].shape:
            return None
        return Value(self._joined(operands), operands[0].shape)

    def _difference(self, node, module, operands, shape):
        if None in operands or node.target is torch.rsub:
            return None
        first, *others = operands
        return self._sum(node, module, [first, *(other.times(self._number(-1.0)) for other in others)], shape)

    def _scale(self, node, module, operands, shape):
        """Products with numbers, and quotients by them."""
        numbers = [part for part in node.args if isinstance(part, (int, float))]
        if len(operands) != 2 or node.kwargs or len(numbers) != 1:
            return None
        value, number = next(filter(None, operands)), self._number(float(numbers[0]))
        if role(node, {}) is Role.SCALE:
            return value.times(number)
        return None if operands[0] is None else value.times(1 / number)


_RULES = {
    Role.NEURON: Builder._neuron,
    Role.SYNAPSE: Builder._synapse,
    Role.NORM: Builder._norm,
    Role.CHANNEL_SCALE: Builder._channel_scale,
    Role.AVERAGE_POOL: Builder._average_pool,
    Role.MEAN: Builder._mean,
    Role.FLATTEN: Builder._reshape,
    Role.RESHAPE: Builder._reshape,
    Role.COPY: Builder._reshape,
    Role.NEGATION: Builder._negation,
    Role.SUM: Builder._sum,
    Role.DIFFERENCE: Builder._difference,
    Role.SCALE: Builder._scale,
    Role.QUOTIENT: Builder._scale,
}
