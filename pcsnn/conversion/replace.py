"""Puts neurons where activations stood, each reading its residual branch itself and writing over its current where it may, and
averages over time where products of activations take them."""

import torch

from pcsnn.conversion.averages import insert_averages
from pcsnn.conversion.signal import Signal
from pcsnn.graph.nodes import is_fresh
from pcsnn.graph.taxonomy import Role, role


def replace_activations(network, neurons):
    """`neurons`: {place name: CollapsedNeuron}. Changes `network`."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if not node.meta.get("activation"):
            continue
        neuron = neurons[node.target]
        network.set_submodule(node.target, neuron)
        current = node.args[0]
        if _is_residual_sum(current, modules):
            branches = sorted(current.args, key=lambda branch: not is_fresh(branch, modules))
            node.args = tuple(branches)
            network.graph.erase_node(current)
            current = branches[0]
        neuron.inplace = is_fresh(current, modules)
    insert_averages(network)


def _is_residual_sum(node, modules):
    return (
        role(node, modules) is Role.SUM
        and len(node.users) == 1
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(branch, torch.fx.Node) and branch.meta["signal"] > Signal.CONSTANT for branch in node.args)
    )
