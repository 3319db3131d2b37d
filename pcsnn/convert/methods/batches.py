"""Calibration data: checked batch by batch, streamed, and run through networks."""

import collections.abc
import operator

import torch
from tqdm import tqdm

from pcsnn import collectives, distributed

TENSOR_BATCH = 32  # a calibration tensor is taken in batches of this many


class Batches:
    """What the caller gave as the argument `name`, as an iterable of checked inputs that can be read again and again.

    Yields a tuple of `inputs` tensors, what the network takes. A one-shot iterator is kept in memory when it is read; a
    data loader, a list or a tensor is not copied. `empty`: to hold nothing is no error (one process of several).
    """

    def __init__(self, calibration, inputs, device, name="calibration", empty=False):
        if isinstance(calibration, torch.Tensor):
            if calibration.dim() < 2 or len(calibration) == 0:
                raise ValueError(f"{name}: expected a tensor [N, ...] with N > 0, got shape {tuple(calibration.shape)}")
            calibration = calibration.split(TENSOR_BATCH)
        elif not isinstance(calibration, collections.abc.Iterable):
            raise TypeError(f"{name}: expected a tensor, or an iterable of tensors or of (input, label), "
                            f"got {type(calibration).__name__}")
        elif isinstance(calibration, collections.abc.Iterator):
            calibration = list(calibration)
        self.source, self.inputs, self.device, self.name, self.empty = calibration, inputs, device, name, empty

    def __iter__(self):
        count = 0
        for item in self.source:
            batch = item if isinstance(item, (tuple, list)) else (item,)
            batch = tuple(batch[0] if batch and isinstance(batch[0], (tuple, list)) else batch)[:self.inputs]
            if len(batch) != self.inputs or not all(isinstance(part, torch.Tensor) for part in batch):
                expected = f"{self.inputs} tensor{'s' if self.inputs > 1 else ''} a batch"
                raise TypeError(f"{self.name}: expected {expected}, with or without labels behind, "
                                f"got {type(item).__name__} in batch {count}")
            if any(part.is_floating_point() and not part.isfinite().all() for part in batch):
                raise ValueError(f"{self.name}: expected finite values, got NaN or infinity in batch {count}")
            if all(part.numel() for part in batch):
                yield tuple(_plain(part, self.device) for part in batch)
                count += 1
        if not count and not self.empty:
            raise ValueError(f"{self.name}: expected at least one batch with data, got none")


def _plain(part, device):
    """A tensor on `device`, without a gradient and none of inference mode."""
    with torch.inference_mode(False):
        return part.detach().to(device, copy=part.is_inference())


def show(batches, what, progress):
    """`batches` behind a progress bar (on a terminal, if asked for, in the first process)."""
    total = operator.length_hint(batches.source) or None  # a loader may have a len() that raises
    return tqdm(batches, desc=what, total=total, disable=_hidden(progress), leave=False, unit="batch")


def show_steps(steps, what, progress):
    """Any list behind a progress bar."""
    return tqdm(steps, desc=what, disable=_hidden(progress), leave=False)


def _hidden(progress):
    return None if progress and distributed.rank() == 0 else True  # None: unless on a terminal


def first(batches, count):
    """The first `count` inputs of the data, kept in memory: a list of tuples of tensors, one for each shape of input.

    Several processes: of all their data, in every process. The order is that of `distributed.shard`: the first input of
    process 0, the first of process 1, ..., the second of process 0, ...
    """
    groups, seen, limit = {}, 0, len(range(distributed.rank(), count, distributed.size()))
    for batch in batches:
        batch = tuple(part[:limit - seen] for part in batch)
        place = torch.arange(seen, seen + len(batch[0]))
        groups.setdefault(tuple(part.shape[1:] for part in batch), []).append((place, *batch))
        seen += len(batch[0])
        if seen >= limit:
            break
    groups = {shapes: tuple(map(torch.cat, zip(*group))) for shapes, group in groups.items()}
    if distributed.size() == 1:
        return [parts for _, *parts in groups.values()]
    return _interleaved(groups, batches.device)


def _interleaved(groups, device):
    """One list of groups from those of all processes, {shapes: (places, tensors ...)}, ordered by place, then process."""
    merged = {}
    hosted = {shapes: [part.cpu() for part in group] for shapes, group in groups.items()}
    for process, theirs in enumerate(collectives.gathered(hosted)):
        for shapes, (place, *parts) in theirs.items():
            merged.setdefault(shapes, []).append((place * distributed.size() + process, *parts))
    ordered = []
    for group in merged.values():
        place, *parts = map(torch.cat, zip(*group))
        order = place.argsort()
        if len(order):
            ordered.append((int(place[order[0]]), [part[order].to(device) for part in parts]))
    return [parts for _, parts in sorted(ordered, key=lambda entry: entry[0])]


def dealt(groups):
    """The inputs among `groups`, which every process holds, that are this one's to work on: dealt out in turn."""
    if distributed.size() == 1:
        return groups
    turn, own = 0, []
    for group in groups:
        start = (distributed.rank() - turn) % distributed.size()
        turn += len(group[0])
        if start < len(group[0]):
            own.append([part[start::distributed.size()] for part in group])
    if turn < distributed.size():
        raise ValueError(f"calibration: expected at least an input for each of {distributed.size()} processes, got {turn}")
    return own


def mini_batches(groups, size):
    """Tuples of at most `size` inputs, in order."""
    return [batch for group in groups for batch in zip(*(part.split(size) for part in group))]


def shuffled(groups, size, generator):
    """Tuples of at most `size` inputs of one group, in random order, without end."""
    while True:
        batches = [tuple(part[rows.to(part.device)] for part in group) for group in groups
                   for rows in torch.randperm(len(group[0]), generator=generator).split(size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]


@torch.no_grad()
def run_through(network, batches, what, progress):
    """Run a network on every batch, for its hooks."""
    for batch in show(batches, what, progress):
        network(*batch)
