"""Synapses whose weights calibration may change one by one, and which of them are branches of a sum."""

import torch
from torch import nn

from pcsnn.graph import taxonomy
from pcsnn.graph.activations import signed_kind

SYNAPSES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def own_synapses(network):
    """{node: module} of synapses that are called once and whose weight is a parameter that nothing else reads."""
    modules = dict(network.named_modules())
    calls = [node.target for node in network.graph.nodes if node.op == "call_module"]
    read = {node.target.rpartition(".")[0] for node in network.graph.nodes if node.op == "get_attr"}
    weights = [id(value) for module in set(modules.values()) for value in module._parameters.values()]
    return {
        node: modules[node.target]
        for node in network.graph.nodes
        if node.op == "call_module"
        and isinstance(modules[node.target], SYNAPSES)
        and isinstance(modules[node.target]._parameters.get("weight"), nn.Parameter)
        and calls.count(node.target) == 1
        and node.target not in read
        and weights.count(id(modules[node.target].weight)) == 1
    }


def sum_behind(node, modules):
    """The sum of two values that alone reads a node, or None."""
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    if reader is None or taxonomy.role(reader, modules) is not taxonomy.Role.SUM or reader.kwargs:
        return None
    plain = len(reader.args) == 2 and all(isinstance(part, torch.fx.Node) for part in reader.args)
    return reader if plain else None


def last_of_sums(network, synapses):
    """{sum: the last of `synapses` that it alone reads}."""
    modules = dict(network.named_modules())
    found = ((sum_behind(node, modules), node) for node in synapses)
    return {reader: node for reader, node in found if reader is not None}


def clipped(network):
    """The nodes that activations alone read, of which none goes below zero."""
    modules = dict(network.named_modules())
    return {
        node
        for node in network.graph.nodes
        if node.users
        and all(reader.meta.get("activation") and not signed_kind(modules[reader.target]) for reader in node.users)
    }
