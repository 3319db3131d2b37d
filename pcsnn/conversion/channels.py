"""Which dimension of a value is a channel, and which activations a max pool compares.

A channel may have a threshold of its own where dimension 1 of a current is one: all elements of one channel come from
one channel of one layer. Where an operation mixes channels with other dimensions, a layer has one threshold for all.
"""

import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from pcsnn.conversion.signal import Signal
from pcsnn.graph import taxonomy
from pcsnn.graph.max_pools import is_max_pool
from pcsnn.graph.places import argument


@dataclass(frozen=True)
class Layout:
    """A value whose dimension 1 is a channel. rank: its dimensions, None: unknown. features: it has two, or its
    features are last."""

    rank: int | None = None
    features: bool = False


@dataclass(frozen=True)
class Lost:
    """The node behind which dimension 1 is no channel any more; None: before the network's first layer."""

    node: fx.Node | None = None


_SAME_SHAPE = {
    torch.clone,
    torch.detach,
    torch.neg,
    torch.negative,
    operator.neg,
    torch.masked_fill,
    torch.cumsum,
    torch.tril,
    torch.triu,
    torch.flip,
    operator.mul,
    torch.mul,
    torch.multiply,
    *taxonomy.ADDITIONS,
    *taxonomy.QUOTIENTS,
}
_SAME_RANK = (
    taxonomy.AVERAGE_POOL_FUNCTIONS
    | taxonomy.MAX_POOL_FUNCTIONS
    | taxonomy.INTERPOLATIONS
    | {F.pad, torch.narrow, F.channel_shuffle, torch.channel_shuffle, F.pixel_unshuffle, torch.pixel_unshuffle}
) - {torch.mean, torch.amax}
_SAME_METHODS = taxonomy.CASTS | {"contiguous", "clone", "detach", "cpu", "cuda", "flip", "narrow"}
_REDUCTIONS = {torch.mean, torch.sum, torch.amax}
_SPLITS = {torch.chunk, torch.split, torch.tensor_split, "chunk", "split", "tensor_split"}
_KEEPING_MODULES = (
    *taxonomy.POOL_MODULES,
    *taxonomy.PADDINGS,
    nn.Upsample,
    nn.ChannelShuffle,
    nn.PixelUnshuffle,
    taxonomy.ChannelScale,
)
_FUNCTION_RANKS = {
    1: {F.conv1d, F.conv_transpose1d, torch.conv1d, torch.conv_transpose1d},
    2: {F.conv2d, F.conv_transpose2d, torch.conv2d, torch.conv_transpose2d},
    3: {F.conv3d, F.conv_transpose3d, torch.conv3d, torch.conv_transpose3d},
}


def has_channels(node, modules):
    """Whether dimension 1 of a node's value is a channel of fixed size and meaning, so that it may have its own
    threshold.

    None: only if the value has two dimensions (a linear layer's output has its features last).
    """
    found = layout(node, modules)
    return False if isinstance(found, Lost) else (None if found.features else True)


def layout(node, modules, known=None):
    """The Layout of a node's value, or Lost with the node that lost it."""
    if known is None:
        known, before = {}, {node: None}
        waiting = [node]
        for part in waiting:  # what it is made of, so that the last of a long chain of sums comes first
            if part.op != "call_module" or not isinstance(modules[part.target], taxonomy.SYNAPSE_MODULES):
                new = [source for source in part.all_input_nodes if source not in before]
                before |= dict.fromkeys(new)
                waiting += new
        for part in reversed(waiting[1:]):
            layout(part, modules, known)
    if node not in known:
        known[node] = Lost(node)  # of a graph without cycles, never read
        known[node] = _layout(node, modules, known)
    return known[node]


def _layout(node, modules, known):
    if node.op == "call_module":
        return _of_module(node, modules, known)
    if node.op not in ("call_function", "call_method"):
        return Lost()
    if node.target is F.batch_norm:
        source = layout(node.args[0], modules, known)
        return Layout(None if isinstance(source, Lost) else source.rank)
    if node.target in taxonomy.SYNAPSE_FUNCTIONS:
        rank = next((rank + 2 for rank, functions in _FUNCTION_RANKS.items() if node.target in functions), None)
        return Layout(rank, features=node.target is F.linear)
    sources = [
        layout(source, modules, known) for source in node.all_input_nodes if source.meta["signal"] > Signal.CONSTANT
    ]
    lost = next((source for source in sources if isinstance(source, Lost)), None)
    if lost or not sources:
        return lost or Lost(node)
    ranks = {source.rank for source in sources}
    source = Layout(ranks.pop() if len(ranks) == 1 else None, any(source.features for source in sources))
    return _moved(node, source) or Lost(node)


def _of_module(node, modules, known):
    module = modules[node.target]
    if isinstance(module, nn.Linear):
        return Layout(features=True)
    if isinstance(module, taxonomy.CONVOLUTIONS):
        return Layout(2 + len(module.kernel_size))
    source = layout(node.args[0], modules, known)
    if isinstance(module, taxonomy.BATCH_NORMS):
        return Layout(
            {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}.get(type(module)) if isinstance(source, Lost) else source.rank
        )
    if isinstance(source, Lost) or node.meta.get("activation") or isinstance(module, _KEEPING_MODULES):
        return source
    if isinstance(module, nn.Flatten):
        return _flattened(source, module.start_dim, module.end_dim) or Lost(node)
    if isinstance(module, nn.Unfold):
        return Layout(3)
    return Lost(node)


def _moved(node, source):
    """The Layout behind an operation on a value with channels; None where they are lost."""
    target = node.target
    if target in _SAME_SHAPE or target in _SAME_RANK or target in _SAME_METHODS or target in _SPLITS:
        return source
    if target is operator.getitem:
        return _indexed(node, source)
    if target in (torch.cat, torch.concat, torch.concatenate):
        return source if _dimension(argument(node, 1, "dim", 0), source) == 1 else None
    if target in _REDUCTIONS:
        return _reduced(source, argument(node, 1, "dim", None), argument(node, 2, "keepdim", False))
    if source.features:
        return None
    name = taxonomy.name(target)
    if name in ("transpose", "swapaxes", "swapdims", "permute", "repeat", "tile", "unflatten"):
        return _behind_channels(name, node, source)
    if name == "flatten":
        return _flattened(source, argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1))
    if name in ("squeeze", "unsqueeze", "select", "unbind"):
        return _one_dimension(name, source, argument(node, 1, "dim", 0 if name == "unbind" else None))
    if name == "index_select":
        return source if (_dimension(argument(node, 1, "dim", None), source) or 0) > 1 else None
    if name == "roll":
        return source if argument(node, 2, "dims", None) not in (None, ()) else None
    if name == "unfold" and target is F.unfold:
        return Layout(3)
    return None


def _dimension(dim, source, extra=0):
    """A dimension counted from the front; None where that is not known."""
    if not isinstance(dim, int) or dim < 0 and source.rank is None:
        return None
    return dim if dim >= 0 else dim + source.rank + extra


def _one_dimension(name, source, dim):
    """Behind an operation that takes out or puts in one dimension behind the channels."""
    dim = _dimension(dim, source, extra=name == "unsqueeze")
    if dim is None or dim < 2:
        return None
    more = 1 if name == "unsqueeze" else -1
    return Layout(None if source.rank is None else source.rank + more)


def _behind_channels(name, node, source):
    """Behind an operation that leaves the first two dimensions as they are."""
    sizes = node.args[1:] if len(node.args) != 2 or not isinstance(node.args[1], (tuple, list)) else node.args[1]
    if name == "unflatten":
        dim, parts = _dimension(argument(node, 1, "dim", None), source), argument(node, 2, "sizes", ())
        return Layout(source.rank and source.rank + len(parts) - 1) if dim is not None and dim > 1 else None
    if name == "permute":
        return source if tuple(sizes[:2]) == (0, 1) else None
    if name in ("repeat", "tile"):
        return source if len(sizes) == source.rank and sizes[0] == 1 else None  # each channel still comes from one
    dims = [_dimension(dim, source) for dim in sizes]
    return source if len(dims) == 2 and None not in dims and min(dims) > 1 else None


def _reduced(source, dims, keep):
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    found = [_dimension(dim, source) for dim in dims]
    if source.features or not found or any(dim is None or dim < 2 for dim in found):
        return None
    return source if keep else Layout(None if source.rank is None else source.rank - len(found))


def _flattened(source, start, end):
    start, last = _dimension(start, source), _dimension(end, source)
    if source.features or start is None or start < 2:
        return None
    return Layout(None if source.rank is None or last is None else source.rank - (last - start))


def _indexed(node, source):
    of, index = node.args
    if isinstance(index, int):
        return (
            source
            if of.target in _SPLITS
            else (Layout(source.rank and source.rank - 1) if of.target in (torch.unbind, "unbind") else None)
        )
    parts = index if isinstance(index, tuple) else (index,)
    if source.features:
        whole = all(isinstance(part, slice) for part in parts[:2]) and None not in parts
        return source if whole else None
    if Ellipsis in parts:
        place, used = parts.index(Ellipsis), sum(part is not None and part is not Ellipsis for part in parts)
        if source.rank is None or used > source.rank:
            return None
        parts = (*parts[:place], *[slice(None)] * (source.rank - used), *parts[place + 1 :])
    if not all(isinstance(part, slice) for part in parts[:2]) or not all(
        part is None or isinstance(part, (slice, int)) for part in parts[2:]
    ):
        return None
    change = sum(part is None for part in parts) - sum(isinstance(part, int) for part in parts[2:])
    return Layout(None if source.rank is None else source.rank + change)


def compares(node, modules):
    """Whether a node takes the larger of several spike trains: a max pool, or a maximum of two values."""
    return is_max_pool(node, modules) or node.op == "call_function" and node.target is torch.maximum


def compared_by(pool, modules):
    """(activations, others) that a max pool compares with one another: the nodes of the activations, and nodes of
    values that are no spike trains. Both empty where it compares only what one channel of one layer made."""
    if _within_channels(pool, modules):
        return [], []
    places, others, seen = [], [], set()
    waiting = list(pool.args if pool.target is torch.maximum else pool.args[:1])
    while waiting:
        node = waiting.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if node.meta.get("activation"):
            places.append(node)
        elif node.meta["signal"] != Signal.TRAINS or node.op not in ("call_function", "call_method", "call_module"):
            if not _is_zero(node):
                others.append(node)
        elif node.target is torch.maximum:
            waiting += node.args
        else:
            waiting += node.args[0] if isinstance(node.args[0], (tuple, list)) else node.args[:1]
    return places, others


def _is_zero(node):
    return taxonomy.name(node.target) in ("zeros_like", "zeros", "new_zeros")


def _within_channels(pool, modules):
    if pool.target is torch.maximum:
        return False
    source = layout(pool.args[0], modules)
    if isinstance(source, Lost) or source.features:
        return False
    if pool.target is torch.amax:
        return _reduced(source, argument(pool, 1, "dim", ()), True) is not None
    return True


def _maxima(network, modules):
    return [node for node in network.graph.nodes if compares(node, modules) and node.meta["signal"] == Signal.TRAINS]


def mixed_by_max_pool(network):
    """The activations of which a max pool compares several channels: they need one amplitude for all (12)."""
    modules = dict(network.named_modules())
    return {place for pool in _maxima(network, modules) for place in compared_by(pool, modules)[0]}


def unequal(network, neurons):
    """[(max pool, names of layers)] where it compares spikes of neurons that are not worth the same."""
    modules = dict(network.named_modules())
    found = []
    for pool in _maxima(network, modules):
        names = [place.target for place in compared_by(pool, modules)[0]]
        if len({neurons[name].spike.item() for name in names if len(names) > 1}) > 1:
            found.append((pool, names))
    return found
