"""Which dimension of a value is a channel, and which activations a max pool compares.

A channel may have a threshold of its own where dimension 1 of a current is one: all elements of one channel come from
one channel of one layer. Where an operation mixes channels with other dimensions, a layer has one threshold for all.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from pcsnn.conversion.signal import Signal
from pcsnn.graph import taxonomy
from pcsnn.graph.names import operation_name
from pcsnn.graph.places import argument
from pcsnn.graph.taxonomy import Role, role


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


# what gives a value of its input's layout
_KEEPING = {
    Role.MAX_POOL,
    Role.AVERAGE_POOL,
    Role.INTERPOLATION,
    Role.SUM,
    Role.DIFFERENCE,
    Role.NEGATION,
    Role.SCALE,
    Role.CHANNEL_SCALE,
    Role.QUOTIENT,
    Role.MASK,
    Role.FILL,
    Role.SPLIT,
    Role.COPY,
    Role.PAD,
    Role.CAST,
}
_KEEPING_NAMES = {"cumsum", "flip", "narrow", "channel_shuffle", "ChannelShuffle", "pixel_unshuffle", "PixelUnshuffle"}
_REDUCTIONS = {"mean", "sum", "amax"}
_NORM_RANKS = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}


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
            if role(part, modules) is not Role.SYNAPSE:
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
    if node.op not in ("call_module", "call_function", "call_method"):
        return Lost()
    found = role(node, modules)
    if found is Role.SYNAPSE:
        return _of_synapse(node, modules)
    if node.op == "call_module" or found is Role.NORM:
        source = layout(node.args[0], modules, known)
    else:
        source = _of_sources(node, modules, known)
    if found is Role.NORM:
        return Layout(_NORM_RANKS.get(type(modules.get(node.target))) if isinstance(source, Lost) else source.rank)
    if isinstance(source, Lost) or node.meta.get("activation"):
        return source
    return _moved(node, modules, source) or Lost(node)


def _of_synapse(node, modules):
    if node.op == "call_module":
        module = modules[node.target]
        return Layout(features=True) if isinstance(module, nn.Linear) else Layout(2 + len(module.kernel_size))
    name = taxonomy.name(node.target)
    return Layout(next((2 + int(digit) for digit in "123" if f"{digit}d" in name), None), features=name == "linear")


def _of_sources(node, modules, known):
    """The Layout of what a function reads that changes over time."""
    sources = [
        layout(source, modules, known) for source in node.all_input_nodes if source.meta["signal"] > Signal.CONSTANT
    ]
    lost = next((source for source in sources if isinstance(source, Lost)), None)
    if lost or not sources:
        return lost or Lost(node)
    ranks = {source.rank for source in sources}
    return Layout(ranks.pop() if len(ranks) == 1 else None, any(source.features for source in sources))


def _moved(node, modules, source):
    """The Layout behind an operation on a value with channels; None where they are lost."""
    found, name = role(node, modules), operation_name(node, modules)
    if name in _REDUCTIONS:
        return _reduced(source, argument(node, 1, "dim", None), argument(node, 2, "keepdim", False))
    if found in _KEEPING or name in _KEEPING_NAMES:
        return source
    if found is Role.INDEX:
        return _indexed(node, source, modules)
    if found is Role.JOIN:
        return source if _dimension(argument(node, 1, "dim", 0), source) == 1 else None
    if found is Role.FLATTEN and node.op == "call_module":
        return _flattened(source, modules[node.target].start_dim, modules[node.target].end_dim)
    if name == "Unfold":
        return Layout(3)
    if source.features:
        return None
    if found is Role.FLATTEN:
        return _flattened(source, argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1))
    if name in ("transpose", "swapaxes", "swapdims", "permute", "repeat", "tile", "unflatten"):
        return _behind_channels(name, node, source)
    if name in ("squeeze", "unsqueeze", "select", "unbind"):
        return _one_dimension(name, source, argument(node, 1, "dim", 0 if name == "unbind" else None))
    if name == "index_select":
        return source if (_dimension(argument(node, 1, "dim", None), source) or 0) > 1 else None
    if name == "roll":
        return source if argument(node, 2, "dims", None) not in (None, ()) else None
    return Layout(3) if node.target is F.unfold else None


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


def _indexed(node, source, modules):
    of, index = node.args
    if isinstance(index, int):
        if role(of, modules) is Role.SPLIT:
            return source
        return Layout(source.rank and source.rank - 1) if operation_name(of, modules) == "unbind" else None
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
    return role(node, modules) in (Role.MAX_POOL, Role.MAXIMUM)


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
