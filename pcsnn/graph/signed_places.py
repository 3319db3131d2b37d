"""Activations that go below zero: where a neuron with spikes of two signs can stand, if asked for."""

import torch.nn.functional as F
from torch import nn

from pcsnn.graph.places import argument
from pcsnn.levels.signed import TURNS


def signed_activation(node, modules):
    """The activation at a node as a module of its own, if it has a signed form; else None."""
    if node.op == "call_module":
        return modules[node.target] if signed_kind(modules[node.target]) else None
    if node.op != "call_function":
        return None
    module = {
        F.leaky_relu: lambda: nn.LeakyReLU(argument(node, 1, "negative_slope", 0.01)),
        F.elu: lambda: nn.ELU(argument(node, 1, "alpha", 1.0)),
        F.gelu: lambda: nn.GELU(argument(node, 1, "approximate", "none")),
        F.silu: nn.SiLU,
        F.hardswish: nn.Hardswish,
        F.mish: nn.Mish,
    }.get(node.target)
    return module and module()


def signed_kind(module):
    """(kind, slope) as `pcsnn.nn.SignedNeuron` takes them; None for any other module."""
    found = {
        nn.LeakyReLU: lambda: ("leaky_relu", module.negative_slope),
        nn.PReLU: lambda: ("leaky_relu", module.weight.detach() if module.weight.numel() > 1 else module.weight.item()),
        nn.ELU: lambda: ("elu", module.alpha),
        nn.GELU: lambda: ("gelu" if module.approximate == "none" else "gelu_tanh", None),
        nn.SiLU: lambda: ("silu", None),
        nn.Hardswish: lambda: ("hardswish", None),
        nn.Mish: lambda: ("mish", None),
    }.get(type(module))
    return found and found()


def rises_only(module):
    """Whether an activation never falls, so that a maximum may be taken before or behind it."""
    kind = signed_kind(module)
    if kind is None:
        return True
    kind, slope = kind
    return TURNS[kind] is None and (slope >= 0 if isinstance(slope, (int, float)) else bool((slope >= 0).all()))
