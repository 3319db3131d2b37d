"""Networks of SpikingJelly 2.0, its converter's included, as networks of torch and places of IF neurons.

Its classes are known by name and package, so that nothing here needs SpikingJelly: a network that holds them has
imported it.
"""

import math

from torch import nn

from pcsnn.conversion.tracing.copies import copied
from pcsnn.nn import ChannelScale
from pcsnn.nn.integrate_fire import IntegrateFire
from pcsnn.tensors import checks

NEURONS = ("IFNode", "SimpleIFNode", "HalfThresholdIFNode")
_DYNAMICS = {
    "forward",
    "single_step_forward",
    "multi_step_forward",
    "single_step_functional_forward",
    "multi_step_functional_forward",
    "materialize_states",
    "neuronal_charge",
    "neuronal_fire",
    "neuronal_reset",
}
_CONTAINERS = ("SeqToANNContainer", "MultiStepContainer", "StepModeContainer")
_DROPPED = ("Dropout", "Dropout2d", "VoltageHook")


def classes(module):
    """Names of the classes of SpikingJelly that a module's class is or inherits from, the nearest first."""
    return [kind.__name__ for kind in type(module).__mro__ if kind.__module__.partition(".")[0] == "spikingjelly"]


def is_spikingjelly(model):
    """Whether a module of SpikingJelly is anywhere in a network."""
    return any(classes(module) for module in model.modules())


def is_multi_step(model):
    """Whether the network takes all time-steps at once, [T, N, ...]."""
    modes = {getattr(module, "step_mode", None) for module in model.modules() if classes(module)}
    return "m" in modes or any(
        classes(module)[:1] in (["SeqToANNContainer"], ["MultiStepContainer"]) for module in model.modules()
    )


def is_neuron(module):
    """Whether a module is a neuron of SpikingJelly, of any kind."""
    known = classes(module)
    return bool({"BaseNode", "SimpleBaseNode"} & set(known)) or (bool(known) and known[0].endswith("Node"))


def neuron_settings(name, module):
    """(threshold, shift) of an IF node with soft reset; ValueError, naming it, for any other neuron."""
    what = f"model: {name} is {type(module).__name__}"
    expected = f"expected {', '.join(NEURONS[:-1])} or {NEURONS[-1]} with soft reset (v_reset=None)"
    known = classes(module)[0]
    changed = [
        method
        for kind in type(module).__mro__
        if kind.__module__.partition(".")[0] != "spikingjelly" and issubclass(kind, nn.Module) and kind is not nn.Module
        for method in _DYNAMICS & set(vars(kind))
    ]
    if known not in NEURONS:
        raise ValueError(
            f"{what}; {expected}: the count of a neuron that leaks, adapts or learns does not follow from "
            "the mean current"
        )
    if changed:
        raise ValueError(f"{what}, which changes {changed[0]} of {known}; {expected}")
    if module.v_reset is not None:
        raise ValueError(
            f"{what} with hard reset (v_reset={module.v_reset}), which forgets what is above the threshold; {expected}"
        )
    if not getattr(module.surrogate_function, "spiking", True):
        raise ValueError(f"{what} whose surrogate function does not spike; {expected}")
    threshold = float(module.v_threshold)
    if not (math.isfinite(threshold) and threshold > 0):
        raise ValueError(f"{what} with v_threshold={threshold}; expected a finite number above zero")
    first = module.get_reset_value("v")
    if not isinstance(first, (int, float)):
        raise ValueError(f"{what} whose potential at first is of type {type(first).__name__}; expected a number")
    return threshold, first / threshold


def _stand_in(name, module, shift):
    """What stands for a module of SpikingJelly; the module itself where it is to be traced into."""
    known = classes(module)
    kind = known[0]
    if kind in _DROPPED:
        return nn.Identity()
    if is_neuron(module):
        threshold, first = neuron_settings(name, module)
        return IntegrateFire(threshold, first if shift is None else shift)
    if kind == "VoltageScaler":
        return ChannelScale(module.scale)
    if kind == "ChannelVoltageScaler":
        if module.scale.dim() and module.channel_dim != 1:
            raise ValueError(f"model: {name} scales channels of dimension {module.channel_dim}; expected dimension 1")
        return ChannelScale(module.scale)
    if kind == "_StepModeTensorOp":  # what its converter puts for torch.flatten and the like
        if module.step_mode != "s":
            raise ValueError(
                f"model: {name} is {type(module).__name__}({module.op_name}) in multi-step mode; expected a converted "
                f'network in single-step mode, as after functional.set_step_mode(model, "s")'
            )
        return module  # its forward is that of torch
    if kind == "VotingLayer":
        return nn.Sequential(nn.Unflatten(1, (1, -1)), nn.AvgPool1d(module.voting_size), nn.Flatten(1))
    plain = getattr(nn, kind, None)
    if isinstance(plain, type) and isinstance(module, plain) and type(module).__name__ == kind:
        made = plain.__new__(
            plain
        )  # the same layer without steps, sharing weights and options; its network may read the mode
        made.__dict__.update(vars(module), step_mode=module.step_mode)
        return made
    if "MemoryModule" in known or not list(module.children()):
        raise ValueError(
            f"model: {name} is {type(module).__name__} of SpikingJelly, which pcsnn does not know; expected its "
            f"layers of torch.nn, its IF nodes and its scalers"
        )
    return module


def read(model, shift=None, memo=None):
    """A copy of a network with all that is of SpikingJelly replaced: layers of torch.nn, ChannelScale, IntegrateFire.

    Shared modules stay shared. `shift`: potential at first in units of the threshold; None: that of each node after a
    reset. memo: as in `copied`.
    """
    network = _read("", copied(model, memo), shift, {})
    device = checks.device_of(*model.parameters(), *model.buffers())
    for module in network.modules():
        if isinstance(module, (IntegrateFire, ChannelScale)):  # some are made of numbers
            module.to(device)
    return network


def _read(name, module, shift, done):
    if module in done:
        return done[module]
    known = classes(module)
    if known and known[0] in _CONTAINERS and type(module).__name__ == known[0]:
        made = nn.Sequential(*module)
    else:
        made = _stand_in(name or "itself", module, shift) if known else module
    done[module] = made
    if not isinstance(made, IntegrateFire):
        for key, child in list(made._modules.items()):
            if child is not None:
                made._modules[key] = _read(f"{name}.{key}" if name else key, child, shift, done)
    return made
