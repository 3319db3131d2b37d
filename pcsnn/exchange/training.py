"""From a converted network back to one that is trained, and converted again without loss."""

import copy
import operator

import torch

from pcsnn.network.network import SpikingNetwork, check_unfused
from pcsnn.nn import DAQCFS, QCFS, TimeAverage


def to_qcfs(snn: SpikingNetwork) -> torch.fx.GraphModule:
    """A trainable network with the outputs of a converted one: activations with its thresholds where its neurons stand.

    For fine-tuning after conversion. The result is an ordinary network whose weights and activations learn, with a
    straight-through gradient; `pcsnn.convert` of it at the same T D needs no data and is lossless (8).

        net = pcsnn.exchange.to_qcfs(pcsnn.convert(relu_net, 4, calibration=images))
        ...                                                         # train net
        snn = pcsnn.convert(net.eval(), 4)                          # computes what net does

    A neuron with one threshold, evenly spaced levels and no calibrated shift or amplitude becomes `pcsnn.nn.QCFS`, any
    other `pcsnn.nn.DAQCFS`. Where weights alone are to learn, and where neurons have spikes of two signs, train the
    spiking network itself: snn.requires_grad_(True).

    Args:
        snn: a SpikingNetwork that `pcsnn.convert` made; it is not changed, and shares nothing with the result.

    Returns:
        torch.fx.GraphModule in evaluation mode, all parameters requiring gradients. In float32 and float64 its outputs
        are those of `snn` bit for bit; in half precision where no branches are added in front of a neuron.

    Raises:
        TypeError, ValueError: not a SpikingNetwork; optimised; a neuron with spikes of two signs, or whose spikes are
            worth less than zero: the message names it.
    """
    check_unfused(snn)
    network = copy.deepcopy(snn.network)
    made = {name: _activation(name, neuron) for name, neuron in snn.neurons()}
    for node in list(network.graph.nodes):
        if node.op != "call_module":
            continue
        if node.target in made:
            current, *residual = list(node.args) + list(node.kwargs.values())
            if residual:
                with network.graph.inserting_before(node):
                    current = network.graph.call_function(operator.add, (current, *residual))
            node.args, node.kwargs = (current,), {}
            network.set_submodule(node.target, made[node.target])
        elif isinstance(network.get_submodule(node.target), TimeAverage):  # conversion puts it there
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()
    return network.requires_grad_(True).eval()


def _activation(name, neuron):
    if neuron.spike_range[0] < 0:
        raise ValueError(
            f"snn: {name} has spikes of two signs, and no activation with learned levels; train the "
            "spiking network itself, snn.requires_grad_(True)"
        )
    if (neuron.amplitude < 0).any():
        raise ValueError(f"snn: a spike of {name} is worth {neuron.amplitude.min().item():g}; expected at least zero")
    full = neuron.full_count
    repeats = neuron.quantization_levels is not None and full % neuron.quantization_levels == 0
    levels = neuron.quantization_levels if repeats else full
    if levels < full and neuron.bend is not None:
        raise ValueError(f"snn: {name} has {full} uneven levels and {levels} of a QCFS activation; expected either")
    theta = neuron.threshold
    plain = neuron.bend is None and not neuron.offset.any() and neuron.shift == 0.5
    if plain and torch.equal(neuron.amplitude, theta) and not theta.dim() and theta < torch.inf:
        return QCFS(levels, theta)
    return DAQCFS(levels, theta, offset=neuron.offset, amplitude=neuron.amplitude, bend=neuron.bend, shift=neuron.shift)
