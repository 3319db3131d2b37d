"""Activation places: where a network clips at zero from below, so that a spiking neuron can stand there."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.graph.written import ClippedReLU
from pcsnn.nn.own_neuron import OwnNeuron

_RELU_FUNCTIONS = {F.relu, torch.relu}
_CLAMP_FUNCTIONS = {torch.clamp, torch.clip}


def _clamp(low, high):
    if low != 0 or isinstance(low, bool):
        return None
    if high is None or high == math.inf:
        return nn.ReLU()
    return nn.Hardtanh(0.0, float(high)) if high > 0 else None


def argument(node, position, name, default):
    """What a call node is given for a parameter, by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _is_number(value):
    return value is None or (isinstance(value, (int, float)) and not math.isnan(value))


def activation(node, modules):
    """The activation at a node as a module of its own: nn.ReLU, nn.Hardtanh(0, bound), ClippedReLU, or one that
    brings its neuron with it; else None."""
    if node.op == "call_module":
        module = modules[node.target]
        if isinstance(module, (OwnNeuron, ClippedReLU)):
            return module
        if isinstance(module, nn.ReLU6):
            return _clamp(0, 6)
        if isinstance(module, nn.Hardtanh):
            return _clamp(module.min_val, module.max_val)
        return nn.ReLU() if isinstance(module, nn.ReLU) else None
    if node.op == "call_function":
        if node.target in _RELU_FUNCTIONS:
            return nn.ReLU()
        if node.target is F.relu6:
            return _clamp(0, 6)
        if node.target is F.hardtanh:
            return _clamp(argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))
        if node.target in _CLAMP_FUNCTIONS:
            low, high = argument(node, 1, "min", None), argument(node, 2, "max", None)
            return _clamp(low, high) if _is_number(low) and _is_number(high) else None
        if node.target is torch.clamp_min:
            low = argument(node, 1, "min", None)
            return _clamp(low, None) if _is_number(low) else None
    return None


def bound(module):
    """The threshold of an activation module or the value it saturates at, a number or a tensor; None for ReLU."""
    if isinstance(module, OwnNeuron):
        return module.threshold.detach()
    if isinstance(module, ClippedReLU):
        return module.bound.reshape(-1)
    return module.max_val if isinstance(module, nn.Hardtanh) else None


def worth(module):
    """What all spikes at an activation are worth if it keeps its own amplitude; None where that is not one number."""
    value = getattr(module, "amplitude", None)
    value = bound(module) if value is None else value
    value = None if value is None else torch.as_tensor(value, dtype=torch.float64, device="cpu").flatten().unique()
    return value.item() if value is not None and value.numel() == 1 else None
