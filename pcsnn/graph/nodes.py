"""Nodes of a torch.fx graph: replaced, taken out, and whether another may write over what they make."""

import operator

import torch

from pcsnn.graph import taxonomy

SUMS = {operator.add, torch.add}


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
    made = (
        node.op == "call_module"
        and isinstance(modules[node.target], taxonomy.SYNAPSE_MODULES)
        or node.op == "call_function"
        and node.target in taxonomy.SYNAPSE_FUNCTIONS | SUMS
    )
    return made and len(node.users) == 1
