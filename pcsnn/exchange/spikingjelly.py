"""SpikingJelly 2.0: its networks for `pcsnn.convert`, and parallel neurons inside them. It need not be installed."""

import copy

import torch

from pcsnn.conversion.spikingjelly.read import is_neuron, is_spikingjelly, neuron_settings
from pcsnn.conversion.tracing.trace import trace
from pcsnn.nn import ParallelSpikingNeuron
from pcsnn.tensors import checks


def _check(model, shift):
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not is_spikingjelly(model):
        raise ValueError(
            f"model: expected a network with modules of SpikingJelly, got {type(model).__name__} without any"
        )
    if shift is not None:
        checks.number("shift", shift)


def read_spikingjelly(model: torch.nn.Module, *, shift: float | None = None) -> torch.fx.GraphModule:
    """A network of SpikingJelly 2.0 as one of torch.nn layers, with places for neurons where its IF nodes stood.

    `pcsnn.convert` does this itself; call it first to start the neurons at another potential. At rest, as IF nodes
    start, the rate is rounded down; at half a threshold (shift=0.5) it is rounded to the nearest, which takes that bias
    away.

    Args:
        model: a network whose neurons are IFNode, SimpleIFNode or HalfThresholdIFNode with soft reset (v_reset=None),
            in single-step or multi-step mode, written by hand or by `ann2snn`; it is not changed.
        shift: the potential at first, in units of each node's threshold; None: that of each node after a reset.

    Returns:
        A torch.fx.GraphModule for `pcsnn.convert`, in evaluation mode. Where `model` takes [T, N, ...], it takes the
        mean over time [N, ...]. The scalers of `ann2snn` are folded into thresholds and amplitudes.

    Raises:
        TypeError, ValueError: not a module, none of SpikingJelly in it; a neuron with hard reset or of another kind, a
            layer that is not known, or something done to the time dimension but making and averaging it: the message
            names it.
    """
    _check(model, shift)
    return trace(model, shift)


def replace_if_nodes(
    model: torch.nn.Module, timesteps: int, *, shift: float | None = None, spike_levels: int = 1
) -> torch.nn.Module:
    """A copy of a multi-step SpikingJelly network with a `pcsnn.nn.ParallelSpikingNeuron` in place of every IF node.

    It runs in SpikingJelly as before, [T, N, ...] to [T, N, ...] with spikes of 0 and 1, sorted, all T steps of a layer
    at once. For inference: parallel neurons have no gradient.

    With spikes of several levels (22) they are 0, 1/D, 2/D, ..., 1, and averages over time as fine as those of T D
    binary steps, in T.

    Args:
        model: a network in multi-step mode ("m") with soft-reset IF nodes; it is not changed.
        timesteps: T, 1..255.
        shift: the potential at first, in units of each node's threshold, at D > 1 of a D-th of it; None: that of each
            node after a reset.
        spike_levels: D, T D <= 255: a time-step sends an integer 0..D, times 1/D.

    Raises:
        TypeError, ValueError: as `read_spikingjelly`; an IF node in single-step mode; T or D out of range.
    """
    _check(model, shift)
    checks.full_count(timesteps, spike_levels)
    made, device = {}, checks.device_of(*model.parameters(), *model.buffers())
    for name, module in model.named_modules():
        if not is_neuron(module):
            continue
        threshold, first = neuron_settings(name or "itself", module)
        if module.step_mode != "m":
            raise ValueError(
                f"model: {name} is in single-step mode; expected multi-step, "
                "spikingjelly.activation_based.functional.set_step_mode(model, 'm')"
            )
        neuron = ParallelSpikingNeuron(
            threshold, timesteps, shift=first if shift is None else shift, amplitude=1.0, spike_levels=spike_levels
        )
        made[id(module)] = neuron.to(device)
    if not made:
        raise ValueError("model: expected IF nodes, got none")
    return copy.deepcopy(model, made).eval()
