"""Kinds of synapses that are one operation with the neurons behind them, and the layers of each kind.

To add one: a subclass of Synapse, its two layers, and their line in LAYERS; `pcsnn.optimize` and files ask nothing
more.
"""

import torch
from torch import nn

from pcsnn import functional
from pcsnn.nn.fused import SpikingSynapse
from pcsnn.nn.synaptic import CountSynapse
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors.shapes import convolved

__all__ = ["SpikingConv2d", "SpikingLinear", "SynapticConv2d", "SynapticLinear"]


class Synapse:
    """A kind of synapse: its operator, its geometry, and how its weights are laid out.

    Attributes:
        OPERATOR: name of its operator, which is its name in `pcsnn.functional` too.
        DIMENSIONS: of its weight.
        GEOMETRY: names of the arguments that say how it is laid over its input, attributes of an instance.
        LEAST_INT8: so many incoming channels of a group make int8 pay in any form; below, only one primitive for it all
            does.
        JOINS: whether a residual branch may be added to its currents.
        READS_IMAGES: whether it pads with zeros what comes in, so that pixels can be padded as counts before.
    """

    GEOMETRY: tuple[str, ...] = ()
    LEAST_INT8 = 0
    JOINS = READS_IMAGES = False
    groups = 1

    def __init__(self, weight):
        pass

    @classmethod
    def of(cls, module):
        """The Synapse of a torch layer, or None where the layer is of another kind or has no fused form."""
        raise NotImplementedError

    def geometry(self):
        """Geometry by name."""
        return {name: getattr(self, name) for name in self.GEOMETRY}

    def outputs(self, weight):
        """O, the number of output channels."""
        return weight.shape[0]

    def shape(self, x, weight):
        """The shape of the result, or None where x does not fit."""
        raise NotImplementedError

    def by_output(self, weight):
        """Weights as [O, incoming channels of a group, ...]."""
        return weight

    def from_output(self, weight):
        """The inverse of `by_output`."""
        return weight

    def run(self, x, weight, bias, levels, scale, residual, residual_scale, *rest):
        """The operator, on operands that fit; its other arguments stand before and behind the geometry."""
        placed = [getattr(self, name) for name in self.GEOMETRY]
        return dispatch.call(self.OPERATOR, x, weight, bias, levels, scale, residual, residual_scale, *placed, *rest)

    def refuse(self, x, weight):
        """The public function, which names what does not fit."""
        getattr(functional, self.OPERATOR)(x, weight, **self.geometry())


class Linear(Synapse):
    """A linear layer: weight [O, K], [..., K] to [..., O]."""

    OPERATOR, DIMENSIONS = "linear_fire", 2

    @classmethod
    def of(cls, module):
        return cls(module.weight) if type(module) is nn.Linear else None

    def shape(self, x, weight):
        fits = x.dim() and x.shape[-1] == weight.shape[1]
        return torch.Size((*x.shape[:-1], weight.shape[0])) if fits else None


class Conv2d(Synapse):
    """A convolution: weight [O, C / groups, R, S], [N, C, H, W] to [N, O, H', W']."""

    OPERATOR, DIMENSIONS = "conv2d_fire", 4
    GEOMETRY = ("stride", "padding", "dilation", "groups")
    LEAST_INT8 = 16
    JOINS = READS_IMAGES = True

    def __init__(self, weight, stride=1, padding=0, dilation=1, groups=1):
        self.stride, self.dilation = arguments.pair("stride", stride, 1), arguments.pair("dilation", dilation, 1)
        self.padding, self.groups = arguments.pair("padding", padding, 0), groups
        arguments.kernel(weight, groups)

    @classmethod
    def of(cls, module):
        if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        return cls(module.weight, module.stride, module.padding, module.dilation, module.groups)

    def shape(self, x, weight):
        if x.dim() != 4 or x.shape[1] != weight.shape[1] * self.groups:
            return None
        sizes = convolved(x.shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation)
        return None if min(sizes) < 1 else torch.Size((x.shape[0], weight.shape[0], *sizes))


class SpikingConv2d(SpikingSynapse, kind=Conv2d):
    """A convolution and the spiking neurons behind it: one operation (10), (11).

    Args:
        weight: [O, C / groups, R, S] float32, bfloat16, float16 or int8, in units of `weight_scale`. For incoming
            counts it is multiplied by the amplitude of the incoming neurons. The layer, with all other tensors, is on
            its device.
        timesteps: T, 1..255.
        stride, padding, dilation, groups: of the convolution.
        weight_scale: [O], for int8 weights. bias: [O] or None.
        counted: whether distinct counts come in (uint8), or values (of the dtype of `weight`).
        input_levels, input_area: L of the incoming neurons, or None, and how many of them were added up
            (CountSumPool2d).
        fixed_steps: the largest incoming count where that does not depend on T (PixelCounts), or None.
        residual_worth, residual_levels, residual_area: amplitude [] or [O], L and number of neurons whose counts are
            the residual branch; None where there is none or it is a current.
        emits: "counts", distinct ones, or "rates".
        threshold, quantization_levels, offset, amplitude, bend, shift: of the neurons, as in CollapsedNeuron.

    Shape: [N, C, H, W] to [N, O, H', W'], channels last in memory.
    """


class SpikingLinear(SpikingSynapse, kind=Linear):
    """A linear layer and the spiking neurons behind it: one operation. Arguments as of SpikingConv2d; weight [O, K].

    Shape: [..., K] to [..., O].
    """


class SynapticConv2d(CountSynapse, kind=Conv2d):
    """A convolution of counts without neurons behind it.

    Args:
        weight, timesteps, stride, padding, dilation, groups, weight_scale, bias, input_levels, input_area: as of
            SpikingConv2d.
        emits: "current": what another layer adds to its own current, in the units of that layer's weights; "values":
            float32 values, from int8 weights.

    Shape: distinct counts [N, C, H, W] to [N, O, H', W']: currents int32 for int8 weights, else of their dtype; or
        float32.
    """


class SynapticLinear(CountSynapse, kind=Linear):
    """A linear layer of counts without neurons behind it. Arguments as of SynapticConv2d; weight [O, K].

    Shape: distinct counts [..., K] to [..., O].
    """


LAYERS: dict[type[Synapse], tuple[type, type]] = {
    Conv2d: (SpikingConv2d, SynapticConv2d),
    Linear: (SpikingLinear, SynapticLinear),
}


def synapse_of(module):
    """The Synapse of a torch layer that has a fused form; else None."""
    return next((found for kind in LAYERS if (found := kind.of(module)) is not None), None)
