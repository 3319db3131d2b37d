"""Calibration of half-precision networks in float32: their own dtype would lose sums, gradients and small steps."""

import contextlib

import torch
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_map_only

HALVES = (torch.float16, torch.bfloat16)


def single(values):
    """The same tensors, of any structure, those of half precision in float32."""
    return tree_map_only(torch.Tensor, lambda value: value.float() if value.dtype in HALVES else value, values)


def largest(network):
    """The largest value that the half-precision tensors of a network can take; infinity where it has none."""
    kinds = {tensor.dtype for tensor in (*network.parameters(), *network.buffers())} & set(HALVES)
    return min((torch.finfo(kind).max for kind in kinds), default=torch.inf)


@contextlib.contextmanager
def widened(network):
    """Inside, a traced half-precision network computes in float32; afterwards its tensors are rounded back.

    Tensors that nothing has changed come back bit for bit. Casts to half precision that its graph spells out do not
    round.
    """
    known = dict(_tensors(network))
    kinds = {name: tensor.dtype for name, tensor in known.items() if tensor.dtype in HALVES}
    if not kinds:
        yield
        return
    before = [(node, node.target, node.args, node.kwargs) for node in network.graph.nodes]
    for node, target, args, kwargs in before:
        if node.op == "call_method" and target in ("half", "bfloat16"):
            node.target = "float"
        node.args, node.kwargs = map_aggregate((args, kwargs), lambda part: torch.float32 if part in HALVES else part)
    for tensor in known.values():
        tensor.data = single(tensor.data)
    network.recompile()
    try:
        yield
    finally:
        for node, target, args, kwargs in before:
            node.target, node.args, node.kwargs = target, args, kwargs
        for name, tensor in _tensors(network):
            like = name if name in known else f"{name.rpartition('.')[0]}.weight"  # a bias that was added
            kind = kinds.get(like)
            if kind is not None:
                tensor.data = tensor.data.to(kind)
        network.recompile()


def _tensors(network):
    return [*network.named_parameters(), *network.named_buffers()]
