"""Maxima over dimensions and of two values, one spelling for each."""

import builtins
import operator

import torch
from torch import fx

from pcsnn.graph.nodes import replace


def known_maximum(node):
    """torch.max of values alone becomes torch.amax, that of two tensors and torch.fmax torch.maximum. Changes the
    graph."""
    if node.op == "call_function" and node.target is torch.fmax:
        node.target = torch.maximum
    if node.op != "call_function" or node.target is not torch.max:
        return
    arguments = dict(zip(("input", "dim", "keepdim"), node.args)) | node.kwargs
    dim = arguments.get("dim", arguments.get("other"))
    if isinstance(dim, fx.Node):
        if len(arguments) == 2:
            node.target, node.args, node.kwargs = torch.maximum, (arguments["input"], dim), {}
        return
    if dim is None:
        if len(arguments) == 1:
            node.target, node.args, node.kwargs = torch.amax, (arguments["input"],), {}
        return
    if all(map(_reads_values, node.users)):
        node.target, node.args = torch.amax, (arguments["input"], dim)
        node.kwargs = {"keepdim": True} if arguments.get("keepdim") else {}
        for user in list(node.users):
            replace(user, node)


def _reads_values(user):
    if user.op != "call_function":
        return False
    if user.target is operator.getitem:
        return user.args[1] == 0
    return user.target is builtins.getattr and user.args[1] == "values"
