"""Activations that torch.nn has no module for."""

import torch
from torch import fx, nn

from pcsnn.levels.activations import activation
from pcsnn.nn.own_neuron import OwnNeuron
from pcsnn.tensors.arithmetic import per_channel


class ClippedReLU(nn.Module):
    """clip(z, 0, bound) with a bound for each channel.

    Args:
        bound: float64 tensor whose shape broadcasts against z, above zero: [C], or [C, 1, ...] for dimension 1 of z.

    Shape: [N, C, ...] to the same.
    """

    def __init__(self, bound):
        super().__init__()
        self.register_buffer("bound", bound)

    @property
    def rank(self):
        """How many dimensions z has for whose dimension 1 these bounds are; None where they are not of dimension 1."""
        shape = self.bound.shape
        size = self.bound.numel()
        found = [axis for axis, length in enumerate(shape) if length == size]
        if not found or len(shape) - found[0] < 1:
            return None
        return len(shape) - found[0] + 1

    def forward(self, z):
        return torch.minimum(z.clamp_min(0), self.bound.to(z.dtype))


class Staircase(OwnNeuron):
    """A clip-floor-shift activation that a network writes out: theta / L * clip(floor(z * L / theta + 1/2), 0, L).

    It computes what its source does, operation by operation; the neuron that takes its place is that of a QCFS.

    Args:
        graph: the operations from z to the activation, one input.
        root: whose parameters and buffers they read.
        threshold: theta. levels: L.
    """

    def __init__(self, root, graph, threshold, levels):
        super().__init__()
        self.steps, self.levels = fx.GraphModule(root, graph), levels
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64, device="cpu"))

    def forward(self, z):
        return self.steps(z)

    def extra_repr(self):
        return f"levels={self.levels}, threshold={self.threshold.item():.4g}"


class KnownActivation(nn.Module):
    """A call of a registered function: the formula of its kind, and its parameter, a number or a tensor [C], or None.

    Shape: [N, ...] or [N, C, ...] to the same.
    """

    def __init__(self, kind, parameter):
        super().__init__()
        self.kind = kind
        if isinstance(parameter, torch.Tensor):
            self.register_buffer("parameter", parameter)
        else:
            self.parameter = parameter

    def forward(self, z):
        parameter = self.parameter
        if isinstance(parameter, torch.Tensor):
            parameter = per_channel(parameter.to(z.dtype), z.dim())
        return activation(self.kind, z, parameter)

    def _get_name(self):
        return self.kind
