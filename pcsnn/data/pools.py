"""Calibration inputs kept in memory: pools of one shape each, cut into mini-batches and shuffled."""

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
    pools, seen, limit = {}, 0, len(range(distributed.rank(), most, distributed.size()))
    whole = bool(collectives.totals(int(batches.whole))[0])
    if whole and distributed.size() > 1:
        raise ValueError(
            f"{batches.name}: the network mixes the inputs of a batch, or takes batches of one size alone, which "
            "several processes cannot share; expected one process, method 'max' or 'paper'"
        )
    with torch.inference_mode(False):
        for index, batch in enumerate(batches):
            batch = batch if whole else rows(batch, slice(limit - seen))
            positions = torch.arange(seen, seen + count(batch), device="cpu")
            key = index if whole else tuple((part.shape[1:], part.dtype) for part in tree_leaves(batch))
            pools.setdefault(key, []).append((positions, batch))
            seen += count(batch)
            if seen >= limit:
                break
        pools = {key: joined(pool) for key, pool in pools.items()}
    if distributed.size() == 1:
        return [batch for _, batch in pools.values()]
    return _interleaved(pools, batches.device)


def _interleaved(pools, device):
    """One list of pools from those of all processes, {key: (positions, batch)}, ordered by position, then process."""
    merged = {}
    hosted = tree_map(lambda part: part.cpu(), list(pools.values()))
    for process, theirs in enumerate(collectives.gathered(dict(zip(pools, hosted)))):
        for key, (positions, batch) in theirs.items():
            merged.setdefault(key, []).append((positions * distributed.size() + process, batch))
    ordered = []
    for positions, batch in map(joined, merged.values()):
        order = positions.argsort()
        if len(order):
            ordered.append(
                (int(positions[order[0]]), tree_map(lambda part, order=order: part[order].to(device), batch))
            )
    return [batch for _, batch in sorted(ordered, key=lambda entry: entry[0])]


def dealt(pools):
    """The inputs among `pools`, which every process holds, that are this one's to work on: dealt out in turn."""
    if distributed.size() == 1:
        return pools
    turn, own = 0, []
    for pool in pools:
        start = (distributed.rank() - turn) % distributed.size()
        turn += count(pool)
        if start < count(pool):
            own.append(rows(pool, slice(start, None, distributed.size())))
    if turn < distributed.size():
        raise ValueError(
            f"calibration: expected at least an input for each of {distributed.size()} processes, got {turn}"
        )
    return own


def mini_batches(pools, size):
    """Batches of at most `size` inputs, in order; size None: the pools as they are."""
    if size is None:
        return list(pools)
    return [rows(pool, slice(start, start + size)) for pool in pools for start in range(0, count(pool), size)]


def shuffled(pools, size, generator):
    """Batches of at most `size` inputs of one pool, in random order, without end; size None: whole pools."""
    while True:
        batches = (
            list(pools)
            if size is None
            else [
                rows(pool, some)
                for pool in pools
                for some in torch.randperm(count(pool), generator=generator, device="cpu").split(size)
            ]
        )
        for i in torch.randperm(len(batches), generator=generator, device="cpu").tolist():
            yield batches[i]
