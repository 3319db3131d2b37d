"""Scales that SpikingJelly keeps as layers of their own, folded into the neurons between them."""

import collections

from pcsnn.graph.nodes import replace
from pcsnn.nn.integrate_fire import IntegrateFire
from pcsnn.nn.scale import ChannelScale


def fold_scales(network):
    """Take a ChannelScale right before or behind an IntegrateFire into its threshold or amplitude. Changes `network`.

    Only scales above zero, with which the maximum of what a max pool compares stays the maximum.
    """
    modules = dict(network.named_modules())

    def scale_at(node):
        module = modules.get(node.target) if node.op == "call_module" else None
        return module.scale.double() if isinstance(module, ChannelScale) and (module.scale > 0).all() else None

    calls = collections.Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    for node in list(network.graph.nodes):
        place = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(place, IntegrateFire) or calls[node.target] > 1:
            continue
        before = node.args[0]
        scale = scale_at(before)
        if scale is not None and len(before.users) == 1:
            place.threshold = place.threshold / scale
            replace(before, before.args[0])
        behind = next(iter(node.users), None)
        scale = None if behind is None else scale_at(behind)
        if scale is not None and len(node.users) == 1:
            place.amplitude = place.amplitude * scale
            replace(behind, node)
    network.delete_all_unused_submodules()
    network.recompile()
