"""Calibration data: checked batch by batch, streamed, and run through networks."""

import collections.abc
import operator

import torch
from tqdm import tqdm

TENSOR_BATCH = 32  # a calibration tensor is taken in batches of this many


class Batches:
    """What the caller gave as the argument `name`, as an iterable of checked inputs that can be read again and again.

    Yields a tuple of `inputs` tensors, what the network takes. A one-shot iterator is kept in memory when it is read; a
    data loader, a list or a tensor is not copied.
    """

    def __init__(self, calibration, inputs, device, name="calibration"):
        if isinstance(calibration, torch.Tensor):
            if calibration.dim() < 2 or len(calibration) == 0:
                raise ValueError(f"{name}: expected a tensor [N, ...] with N > 0, got shape {tuple(calibration.shape)}")
            calibration = calibration.split(TENSOR_BATCH)
        elif not isinstance(calibration, collections.abc.Iterable):
            raise TypeError(f"{name}: expected a tensor, or an iterable of tensors or of (input, label), "
                            f"got {type(calibration).__name__}")
        elif isinstance(calibration, collections.abc.Iterator):
            calibration = list(calibration)
        self.source, self.inputs, self.device, self.name = calibration, inputs, device, name

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
                yield tuple(part.to(self.device) for part in batch)
                count += 1
        if not count:
            raise ValueError(f"{self.name}: expected at least one batch with data, got none")


def show(batches, what, progress):
    """`batches` behind a progress bar (on a terminal, if asked for)."""
    total = operator.length_hint(batches.source) or None  # a loader may have a len() that raises
    return tqdm(batches, desc=what, total=total, disable=None if progress else True, leave=False, unit="batch")


def show_steps(steps, what, progress):
    """Any list behind a progress bar."""
    return tqdm(steps, desc=what, disable=None if progress else True, leave=False)


def first(batches, count):
    """The first `count` inputs of the data, kept in memory: a list of tuples of tensors, one for each shape of input."""
    groups, left = {}, count
    for batch in batches:
        batch = tuple(part[:left] for part in batch)
        groups.setdefault(tuple(part.shape[1:] for part in batch), []).append(batch)
        left -= len(batch[0])
        if left <= 0:
            break
    return [tuple(map(torch.cat, zip(*group))) for group in groups.values()]


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
