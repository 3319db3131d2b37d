"""Pools in other words: sums of windows, and maxima whose indices nobody reads."""

import math
import operator

import torch.nn.functional as F
from torch import nn

from pcsnn.graph import taxonomy
from pcsnn.graph.forms.calls import called, setting
from pcsnn.graph.names import unused_name
from pcsnn.graph.nodes import replace

_AVERAGES = {"lp_pool1d": F.avg_pool1d, "lp_pool2d": F.avg_pool2d, "lp_pool3d": F.avg_pool3d}
_DIVIDED = {"lp_pool2d": nn.AvgPool2d, "lp_pool3d": nn.AvgPool3d}
_WITH_INDICES = {
    F.max_pool1d_with_indices: F.max_pool1d,
    F.max_pool2d_with_indices: F.max_pool2d,
    F.max_pool3d_with_indices: F.max_pool3d,
    F.adaptive_max_pool1d_with_indices: F.adaptive_max_pool1d,
    F.adaptive_max_pool2d_with_indices: F.adaptive_max_pool2d,
    F.adaptive_max_pool3d_with_indices: F.adaptive_max_pool3d,
}


def known_pools(network):
    """LPPool of norm 1 becomes a sum pool; a max pool whose indices are not read returns none. Changes `network`."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if called(node, modules) in _AVERAGES and node.args:
            _sum_pool(network, node, modules)
        else:
            _without_indices(network, node, modules)


def _sum_pool(network, node, modules):
    def given(position, name, default=None):
        return setting(node, modules, position, name, default)

    name = called(node, modules)
    kernel, stride, ceil = given(2, "kernel_size"), given(3, "stride"), given(4, "ceil_mode", False)
    if given(1, "norm_type") != 1 or isinstance(ceil, type(node)):
        return
    rank = int(name[-2])
    size = math.prod(kernel) if isinstance(kernel, (tuple, list)) else kernel**rank
    with network.graph.inserting_before(node):
        if ceil or name not in _DIVIDED:  # a window over the edge averages what is in it, times its whole size
            pooled = network.graph.call_function(_AVERAGES[name], (node.args[0], kernel, stride, 0, ceil))
            pooled.meta = dict(node.meta)
            pooled = network.graph.call_function(operator.mul, (pooled, size))
        else:
            target = unused_name(network, f"{node.name}_sum")
            network.add_submodule(target, _DIVIDED[name](kernel, stride or None, divisor_override=1))
            pooled = network.graph.call_module(target, (node.args[0],))
    pooled.meta = dict(node.meta)
    replace(node, pooled)


def _without_indices(network, node, modules):
    module = modules[node.target] if node.op == "call_module" else None
    by_module = isinstance(module, taxonomy.modules_of(taxonomy.Role.MAX_POOL)) and module.return_indices
    if not by_module and not (node.op == "call_function" and node.target in _WITH_INDICES):
        return
    if not node.users or not all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
        return
    if by_module:
        others = [
            other
            for other in network.graph.nodes
            if other.op == "call_module" and other.target == node.target and other is not node
        ]
        if others:
            return
        module.return_indices = False
    else:
        node.target, node.kwargs = (
            _WITH_INDICES[node.target],
            {key: value for key, value in node.kwargs.items() if key != "return_indices"},
        )
    for user in list(node.users):
        replace(user, node)
