"""The inputs that a calibration keeps in memory: groups of one shape, cut and shuffled as the methods need them."""

import torch
from torch.utils._pytree import tree_leaves, tree_map

from pcsnn import distributed
from pcsnn.data.inputs import count, joined, rows
from pcsnn.distributed import collectives


def first(batches, most):
    """The first `most` inputs of the data, kept in memory: a list of batches, one for each shape of input.

    Where `batches.whole` says so, each batch is one of the caller's, and the last may go beyond `most`.
    Several processes: of all their data, in every process. The order is that of `distributed.shard`: the first input of
    process 0, the first of process 1, ..., the second of process 0, ...
    """
    groups, seen, limit = {}, 0, len(range(distributed.rank(), most, distributed.size()))
    whole = bool(collectives.totals(int(batches.whole))[0])
    if whole and distributed.size() > 1:
        raise ValueError(
            f"{batches.name}: the network mixes the inputs of a batch, or takes batches of one size alone, which "
            "several processes cannot share; expected one process, method 'max' or 'paper'"
        )
    with torch.inference_mode(False):
        for position, batch in enumerate(batches):
            batch = batch if whole else rows(batch, slice(limit - seen))
            place = torch.arange(seen, seen + count(batch), device="cpu")
            key = position if whole else tuple((part.shape[1:], part.dtype) for part in tree_leaves(batch))
            groups.setdefault(key, []).append((place, batch))
            seen += count(batch)
            if seen >= limit:
                break
        groups = {key: joined(group) for key, group in groups.items()}
    if distributed.size() == 1:
        return [batch for _, batch in groups.values()]
    return _interleaved(groups, batches.device)


def _interleaved(groups, device):
    """One list of groups from those of all processes, {key: (places, batch)}, ordered by place, then process."""
    merged = {}
    hosted = tree_map(lambda part: part.cpu(), list(groups.values()))
    for process, theirs in enumerate(collectives.gathered(dict(zip(groups, hosted)))):
        for key, (place, batch) in theirs.items():
            merged.setdefault(key, []).append((place * distributed.size() + process, batch))
    ordered = []
    for place, batch in map(joined, merged.values()):
        order = place.argsort()
        if len(order):
            ordered.append((int(place[order[0]]), tree_map(lambda part: part[order].to(device), batch)))
    return [batch for _, batch in sorted(ordered, key=lambda entry: entry[0])]


def dealt(groups):
    """The inputs among `groups`, which every process holds, that are this one's to work on: dealt out in turn."""
    if distributed.size() == 1:
        return groups
    turn, own = 0, []
    for group in groups:
        start = (distributed.rank() - turn) % distributed.size()
        turn += count(group)
        if start < count(group):
            own.append(rows(group, slice(start, None, distributed.size())))
    if turn < distributed.size():
        raise ValueError(
            f"calibration: expected at least an input for each of {distributed.size()} processes, got {turn}"
        )
    return own


def mini_batches(groups, size):
    """Batches of at most `size` inputs, in order; size None: the groups as they are."""
    if size is None:
        return list(groups)
    return [rows(group, slice(start, start + size)) for group in groups for start in range(0, count(group), size)]


def shuffled(groups, size, generator):
    """Batches of at most `size` inputs of one group, in random order, without end; size None: whole groups."""
    while True:
        batches = (
            list(groups)
            if size is None
            else [
                rows(group, some)
                for group in groups
                for some in torch.randperm(count(group), generator=generator, device="cpu").split(size)
            ]
        )
        for i in torch.randperm(len(batches), generator=generator, device="cpu").tolist():
            yield batches[i]
