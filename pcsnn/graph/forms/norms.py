"""Batch norms that are called as a function, and those that stand behind a max pool."""

import torch.nn.functional as F
from torch import fx, nn

from pcsnn.graph import taxonomy
from pcsnn.graph.max_pools import is_max_pool, move_before
from pcsnn.graph.names import attribute, unused_name
from pcsnn.graph.nodes import replace
from pcsnn.graph.places import argument

_BY_RANK = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _rank(convolution):
    """The spatial dimensions of a convolution module."""
    return len(convolution.kernel_size)


def norms_to_modules(network):
    """F.batch_norm right behind a convolution, on statistics of the network, becomes a module, which can be folded.
    Changes `network`."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if node.target is not F.batch_norm or argument(node, 5, "training", False) is not False:
            continue
        source = node.args[0]
        behind = source.op == "call_module" and isinstance(modules[source.target], taxonomy.CONVOLUTIONS)
        tensors = [
            argument(node, place, name, None)
            for place, name in enumerate(("running_mean", "running_var", "weight", "bias"), start=1)
        ]
        eps = argument(node, 7, "eps", 1e-5)
        if (
            not behind
            or None in tensors[:2]
            or not isinstance(eps, float)
            or not all(value is None or isinstance(value, fx.Node) and value.op == "get_attr" for value in tensors)
        ):
            continue
        mean, variance, weight, bias = (
            None if value is None else attribute(network, value.target).detach() for value in tensors
        )
        module = _BY_RANK[_rank(modules[source.target])](mean.numel(), eps, device=mean.device, dtype=mean.dtype).eval()
        module.running_mean, module.running_var = mean, variance
        module.weight, module.bias = (
            None if value is None else nn.Parameter(value, requires_grad=False) for value in (weight, bias)
        )
        name = unused_name(network, node.name)
        network.add_submodule(name, module)
        with network.graph.inserting_before(node):
            norm = network.graph.call_module(name, (source,))
        norm.meta = dict(node.meta)
        replace(node, norm)


def _rises(norm):
    return norm.running_mean is not None and (norm.weight is None or bool((norm.weight >= 0).all()))


def norms_before_pools(network):
    """conv - max pool - batch norm - activation becomes conv - batch norm - max pool - activation: equal where no
    factor of the norm is below zero. Changes `network`."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        norm = modules[node.target] if node.op == "call_module" else None
        if not isinstance(norm, taxonomy.BATCH_NORMS) or not _rises(norm):
            continue
        if len(node.users) != 1 or not next(iter(node.users)).meta.get("activation"):
            continue
        pool = node.args[0]
        while (
            _keeps_rank(pool, modules)
            and len(pool.users) == 1
            and isinstance(pool.args[0], fx.Node)
            and pool.args[0].op == "call_module"
            and not pool.args[0].meta.get("activation")
        ):
            pool = move_before(node, pool)


def _keeps_rank(node, modules):
    windowed = node.op == "call_module" or node.target in taxonomy.WINDOWED_MAX_POOLS
    return windowed and is_max_pool(node, modules)
