"""Batch norms folded into the synapses before them."""

from torch.nn.utils.fusion import fuse_conv_bn_eval

from pcsnn.graph import taxonomy
from pcsnn.graph.names import unused_name
from pcsnn.graph.nodes import finish, replace


def fold_batch_norms(network):
    """Fold every batch norm that alone reads a convolution into it; others stay, exact as they are.

    One behind a linear layer stays: whether it normalises the features depends on the number of dimensions.
    """
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], taxonomy.BATCH_NORMS):
            continue
        synapse, norm = node.args[0], modules[node.target]
        if synapse.op != "call_module" or len(synapse.users) != 1 or norm.running_mean is None:
            continue
        module = modules[synapse.target]
        transposed = isinstance(module, taxonomy.TRANSPOSED_CONVOLUTIONS)
        if (
            not isinstance(module, taxonomy.CONVOLUTIONS) or transposed and module.groups > 1
        ):  # torch cannot fold the latter
            continue
        folded = fuse_conv_bn_eval(module, norm, transposed)
        name = unused_name(network, synapse.target) if _is_read_elsewhere(synapse) else synapse.target
        folded.requires_grad_(False)
        network.add_submodule(name, folded)
        modules[name] = folded
        synapse.target = name
        synapse.meta["folded"] = node.target
        replace(node, synapse)
    finish(network)


def _is_read_elsewhere(node):
    """Whether the layer that a node calls, or one of its weights, is used by another node too."""
    others = [
        other.target for other in node.graph.nodes if other.op in ("call_module", "get_attr") and other is not node
    ]
    return any(target == node.target or target.startswith(f"{node.target}.") for target in others)
