"""Layers of a converted network in operators that every runtime of ONNX has."""

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.exchange.onnx.search import along, search
from pcsnn.exchange.whole_sums import check_sums
from pcsnn.nn import CollapsedNeuron, Rates, SignedNeuron, SpikingAttention
from pcsnn.nn.fused import SpikingSynapse
from pcsnn.nn.synaptic import CountSynapse
from pcsnn.tensors.attention import attend

FLOATS = (torch.bfloat16, torch.float16)


class Neurons(nn.Module):
    """Neurons alone: mean current, and a second branch to add first, to rates."""

    def __init__(self, neuron, axis=1, scale=None):
        super().__init__()
        signed = isinstance(neuron, SignedNeuron)
        spacing = neuron.spacing
        levels = neuron.levels[..., :: 1 if signed else max(spacing.repeat, 1)]
        self.search = search(levels, None if spacing.reach else spacing.line, axis)
        self.axis, self.balance = axis, (neuron.turn, neuron.low) if signed else None
        self.register_buffer("scale", neuron.scale if scale is None else scale)

    def forward(self, current, residual=None):
        count = self.search(current if residual is None else current + residual)
        if self.balance is not None:
            turn, low = self.balance
            count = (count - turn).abs() - low
        return count * along(self.scale, self.axis, count.dim())


class Attention(nn.Module):
    """Attention of spiking queries without softmax (20)."""

    def __init__(self, layer):
        super().__init__()
        self.heads, self.causal = layer.heads, layer.causal
        self.neurons = Neurons(layer.neuron, -1, layer.neuron.scale * layer.scale)

    def forward(self, query, key, value):
        return attend(self.neurons(query), key, value, self.heads, self.causal)


class Worth(nn.Module):
    """Counts to rates."""

    def __init__(self, rates):
        super().__init__()
        self.register_buffer("scale", rates.count_worth())

    def forward(self, counts):
        return counts.float() * along(self.scale, 1, counts.dim())


class Product(nn.Module):
    """The synapse of a fused layer: of integers an int32 current, of values or with float weights a float32 one."""

    def __init__(self, layer):
        super().__init__()
        self.synapse, self.whole = layer.synapse, layer.weight.dtype == torch.int8
        self.axis = 1 if layer.weight.dim() == 4 else -1
        self.register_buffer("weight", layer.weight.contiguous())
        self.register_buffer("bias", layer.operand_bias)

    def forward(self, x):
        if not self.whole:
            geometry = [getattr(self.synapse, name) for name in self.synapse.GEOMETRY]
            return (F.conv2d if geometry else F.linear)(x.float(), self.weight, self.bias, *geometry)
        current = self.synapse.run(x, self.weight, None, None, None, None, None, 1, 255, None, 0, None)
        return current if self.bias is None else current + along(self.bias, self.axis, current.dim())


class FusedNeurons(nn.Module):
    """A synapse and the neurons behind it: counts or values, and a residual branch, to counts or rates."""

    def __init__(self, layer):
        super().__init__()
        self.product = Product(layer)
        levels, line = layer.operand_levels, layer.operand_line
        kept = 1 if layer.emits == "counts" else layer.neuron.full_count // layer.steps
        repeat, reach = layer.operand_spacing
        axis = self.product.axis
        self.search = search(levels[..., ::kept], line if repeat and not reach else None, axis)
        self.register_buffer("worth", layer.operand_residual_scale)
        self.register_buffer("scale", layer.operand_scale)

    def forward(self, x, residual=None):
        current, axis = self.product(x), self.product.axis
        if residual is not None:
            residual = residual.to(current.dtype)
            if self.worth is not None:
                residual = residual * along(self.worth, axis, current.dim())
            current = current + residual
        count = self.search(current)
        if self.scale is None:
            return count.to(torch.uint8)
        return count.float() * along(self.scale, axis, count.dim())


class Currents(nn.Module):
    """A synapse of counts without neurons: currents for another layer to add, or values."""

    def __init__(self, layer):
        super().__init__()
        self.product = Product(layer)
        self.register_buffer("scale", layer.operand_scale)

    def forward(self, counts):
        current = self.product(counts)
        if self.scale is None:
            return current
        return current.float() * along(self.scale, self.product.axis, current.dim())


_FORMS = {
    CollapsedNeuron: Neurons,
    SignedNeuron: Neurons,
    SpikingAttention: Attention,
    Rates: Worth,
    SpikingSynapse: FusedNeurons,
    CountSynapse: Currents,
}


def portable(name, module):
    """The module that computes what one of a converted network does, or None where it is of plain torch already.

    ValueError, naming the layer, where integers might leave 32 bits, or weights are of half precision.
    """
    form = next((form for kind, form in _FORMS.items() if isinstance(module, kind)), None)
    weight = getattr(module, "weight", None)
    if form is None:
        return None
    if weight is not None and weight.dtype in FLOATS:
        raise ValueError(
            f"snn: {name} has weights of {str(weight.dtype).removeprefix('torch.')}; expected a network as "
            "pcsnn.convert made it, or optimised with weights 'float32' or 'int8'"
        )
    if weight is not None and weight.dtype == torch.int8:
        check_sums(name, module)
    return form(module).eval()
