"""Nodes of a torch.fx graph: replaced and taken out, what they lead to, and the shapes of their values."""

import torch
from torch import fx

from pcsnn.graph.taxonomy import Role, role


def replace(node, replacement):
    """Let all that read a node read another in its place, and take it out of its graph."""
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)


def finish(network):
    """What ends a pass over a GraphModule: a sound graph, no layers that it does not call, new code."""
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()


def is_fresh(node, modules):
    """Whether a node makes a new tensor that one node alone reads, which may then overwrite it."""
    return role(node, modules) in (Role.SYNAPSE, Role.NORM, Role.SUM) and len(node.users) == 1


def leads_to(node, wanted):
    """Whether a value is read, near or far, by a node of which wanted(node) is true."""
    waiting, seen = [node], set()
    while waiting:
        new = [user for user in waiting.pop().users if user not in seen]
        if any(map(wanted, new)):
            return True
        seen.update(new)
        waiting += new
    return False


class _Shapes(fx.Interpreter):
    def __init__(self, network):
        super().__init__(network)
        self.found = {}

    def run_node(self, node):
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.found[node] = tuple(result.shape)
        return result


@torch.no_grad()
def shapes(network, *inputs):
    """{node: shape} of all values that are tensors, when a GraphModule runs on `inputs`."""
    run = _Shapes(network)
    run.run(*inputs)
    return run.found
