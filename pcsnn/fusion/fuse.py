"""The walk over a graph in which each synapse and the neurons behind it become one layer; layers that pass on rates."""

import torch
from torch import nn

from pcsnn.fusion.sources import Source, neuron_arguments
from pcsnn.graph.names import unused_name
from pcsnn.nn import CollapsedNeuron
from pcsnn.nn.synapses import synapse_of


class Fuser:
    """Walks a graph once; `fused` says of each fused layer what it became."""

    def __init__(self, network):
        self.network, self.graph = network, network.graph
        self.modules = dict(network.named_modules())
        self.fused = {}

    def module(self, node, kind=nn.Module):
        """The module a node calls, if it is of a kind."""
        found = self.modules.get(node.target) if isinstance(node, torch.fx.Node) and node.op == "call_module" else None
        return found if isinstance(found, kind) else None

    def neuron(self, node):
        """The neurons of one sign that a node calls, which a synapse may take in; else None."""
        return self.module(node, CollapsedNeuron)

    def source(self, node):
        """The Source at a node that has a fused form and one reader; else None."""
        module = self.module(node)
        synapse = None if module is None or len(node.users) != 1 else synapse_of(module)
        return None if synapse is None else Source(module, synapse)

    def put(self, node, module, name, args):
        """Let a node call a new module."""
        shared = any(
            other.op == "call_module" and other.target == name for other in self.graph.nodes if other is not node
        )
        name = unused_name(self.network, name) if shared or name != node.target else name
        self.network.set_submodule(name, module)
        self.modules[name] = module
        node.op, node.target, node.args, node.kwargs = "call_module", name, args, {}

    def insert(self, module, name, source):
        """A new node right behind `source` that calls a new module on it."""
        name = unused_name(self.network, name)
        self.network.add_submodule(name, module)
        self.modules[name] = module
        with self.graph.inserting_after(source):
            return self.graph.call_module(name, (source,))

    def finish(self):
        for node in self.graph.nodes:  # views may not fit the layout that layers now return
            if node.op == "call_method" and node.target == "view":
                node.target = "reshape"
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.network.delete_all_unused_submodules()
        self.network.recompile()


class RateFuser(Fuser):
    """float32: layers pass on rates, and compute what they did."""

    def run(self):
        for node in list(self.graph.nodes):
            neuron = self.neuron(node)
            source = self.source(node.args[0]) if neuron is not None else None
            if source is None or len(node.args) > 1 and not source.synapse.JOINS:
                continue
            weight = source.synapse.by_output(source.layer.weight)
            layer = source.spiking(
                weight, bias=source.layer.bias, counted=False, emits="rates", **neuron_arguments(neuron)
            )
            self.put(node, layer, node.target, (node.args[0].args[0], *node.args[1:]))
            self.fused[node.target] = "float32 weights, rates"
        self.finish()
