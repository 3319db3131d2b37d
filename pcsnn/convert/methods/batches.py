"""Calibration data: checked batch by batch, streamed, and run through networks."""

import collections.abc

import torch
from tqdm import tqdm

TENSOR_BATCH = 32  # a calibration tensor is taken in batches of this many


class Batches:
    """What the caller gave as calibration, as an iterable of checked input tensors that can be read again and again.

    A one-shot iterator is kept in memory when it is read; a data loader, a list or a tensor is not copied.
    """

    def __init__(self, calibration, device):
        if isinstance(calibration, torch.Tensor):
            if calibration.dim() < 2 or len(calibration) == 0:
                raise ValueError(f"calibration: expected a tensor [N, ...] with N > 0, got shape {tuple(calibration.shape)}")
            calibration = calibration.split(TENSOR_BATCH)
        elif not isinstance(calibration, collections.abc.Iterable):
            raise TypeError("calibration: expected a tensor, or an iterable of tensors or of (input, label), "
                            f"got {type(calibration).__name__}")
        elif isinstance(calibration, collections.abc.Iterator):
            calibration = list(calibration)
        self.source, self.device = calibration, device

    def __iter__(self):
        count = 0
        for item in self.source:
            batch = item[0] if isinstance(item, (tuple, list)) and len(item) else item
            if not isinstance(batch, torch.Tensor):
                raise TypeError(f"calibration: expected tensors or (input, label), got {type(item).__name__} in batch {count}")
            if batch.is_floating_point() and not batch.isfinite().all():
                raise ValueError(f"calibration: expected finite values, got NaN or infinity in batch {count}")
            if batch.numel():
                yield batch.to(self.device)
            count += bool(batch.numel())
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
        network(batch)
