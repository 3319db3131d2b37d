"""Checks of calibration data against the network: whether it runs, and whether it mixes the inputs of a batch."""

import contextlib

import torch
from torch.utils._pytree import tree_leaves, tree_map

from pcsnn.calibration.lockstep import Run
from pcsnn.data.batches import TENSOR_BATCH
from pcsnn.data.inputs import count, rows
from pcsnn.graph import taxonomy

LARGEST_DIFFERENCE = 0.02  # relative, of an input's output alone and in a batch: what rounding and tipped levels make
_CONVOLUTIONS = taxonomy.functions_of(taxonomy.Role.SYNAPSE) - {torch.nn.functional.linear}


def _dimensions(node, run, modules):
    """(dimensions of the input of a convolution, those it has without a batch), or None for any other node."""
    if node.op == "call_module" and isinstance(modules[node.target], taxonomy.CONVOLUTIONS):
        spatial = len(modules[node.target].kernel_size)
    elif node.op == "call_function" and node.target in _CONVOLUTIONS:
        spatial = run.value(node.args[1] if len(node.args) > 1 else node.kwargs["weight"]).dim() - 2
    else:
        return None
    return run.value(node.args[0] if node.args else node.kwargs["input"]).dim(), spatial + 1


def _outputs(network, batch):
    """The tensors that a network returns; ValueError for a convolution that reads its input as one without a batch."""
    run, modules = Run(network, batch), dict(network.named_modules())
    for node in network.graph.nodes:
        found = _dimensions(node, run, modules)
        if found and found[0] == found[1]:
            raise ValueError(
                f"layer {node.target if node.op == 'call_module' else node.name} takes it as one input without a "
                "batch; expected [N, ...]: image[None] makes a batch of one image, torch.stack one of several, and a "
                "DataLoader batches of a dataset"
            )
        run.step(node)
        run.drop(node)
        if node.op == "output":
            return [leaf for leaf in tree_leaves(run.env[node]) if isinstance(leaf, torch.Tensor)]


def _mixes(network, batch):
    """Whether an input has another output in a batch than alone, or cannot be alone."""
    if len({len(leaf) for leaf in tree_leaves(batch)}) > 1:
        return True
    if count(batch) == 1:  # and another one, made of it
        batch = tree_map(lambda part: torch.cat([part, part.flip(-1)]), batch)
    together = _outputs(network, batch)
    for index in (0, count(batch) - 1):
        alone = _outputs(network, rows(batch, slice(index, index + 1)))
        for one, all_of_them in zip(alone, together):
            if not one.dim() or len(one) != 1 or len(all_of_them) != count(batch):
                return True
            one, other = one[0].double(), all_of_them[index].double()
            if (one - other).norm() > LARGEST_DIFFERENCE * torch.maximum(one.norm(), other.norm()):
                return True
    return False


@torch.no_grad()
def check_calibration(batches, network):
    """The first inputs of `batches`, on which a traced network runs; ValueError where it cannot.

    Where it mixes the inputs of a batch, or runs on none of another size, `batches` are kept whole from then on.
    """
    batch = batches.first()
    lengths = {len(leaf) for leaf in tree_leaves(batch)}
    few = rows(batch, slice(TENSOR_BATCH)) if len(lengths) == 1 else batch
    with contextlib.suppress(Exception):
        if not _mixes(network, few):
            return batch
    batches.keep_whole()
    batch = batches.first()
    with batches.running(batch, network, "the first batch"):
        _outputs(network, batch)
    return batch
