"""Calibration data: checked batch by batch, streamed, and run through networks."""

import collections.abc

import torch
from tqdm import tqdm

TENSOR_BATCH = 32  # a calibration tensor is taken in batches of this many


class Batches:
    """What the caller gave as calibration, as an iterable of checked inputs that can be read again and again.

    Yields a tuple of `inputs` tensors, what the network takes. A one-shot iterator is kept in memory when it is read; a
    data loader, a list or a tensor is not copied.
    """

    def __init__(self, calibration, inputs, device):
        if isinstance(calibration, torch.Tensor):
            if calibration.dim() < 2 or len(calibration) == 0:
                raise ValueError(f"calibration: expected a tensor [N, ...] with N > 0, got shape {tuple(calibration.shape)}")
            calibration = calibration.split(TENSOR_BATCH)
        elif not isinstance(calibration, collections.abc.Iterable):
            raise TypeError("calibration: expected a tensor, or an iterable of tensors or of (input, label), "
                            f"got {type(calibration).__name__}")
        elif isinstance(calibration, collections.abc.Iterator):
            calibration = list(calibration)
        self.source, self.inputs, self.device = calibration, inputs, device

    def __iter__(self):
        count = 0
        for item in self.source:
            batch = item if isinstance(item, (tuple, list)) else (item,)
            batch = tuple(batch[0] if batch and isinstance(batch[0], (tuple, list)) else batch)[:self.inputs]
            if len(batch) != self.inputs or not all(isinstance(part, torch.Tensor) for part in batch):
                expected = f"{self.inputs} tensor{'s' if self.inputs > 1 else ''} a batch"
                raise TypeError(f"calibration: expected {expected}, with or without labels behind, "
                                f"got {type(item).__name__} in batch {count}")
            if any(part.is_floating_point() and not part.isfinite().all() for part in batch):
                raise ValueError(f"calibration: expected finite values, got NaN or infinity in batch {count}")
            if all(part.numel() for part in batch):
                yield tuple(part.to(self.device) for part in batch)
                count += 1
        if not count:
            raise ValueError("calibration: expected at least one batch with data, got none")


def show(batches, what, progress):
    """`batches` behind a progress bar (on a terminal, if asked for)."""
    total = len(batches.source) if hasattr(batches.source, "__len__") else None
    return tqdm(batches, desc=what, total=total, disable=None if progress else True, leave=False, unit="batch")


@torch.no_grad()
def run_through(network, batches, what, progress):
    """Run a network on every batch, for its hooks."""
    for batch in show(batches, what, progress):
        network(*batch)
