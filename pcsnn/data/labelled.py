"""Batches of data with or without labels, and what a network decides about them."""

import operator

import torch
from torch.utils._pytree import tree_leaves

from pcsnn import distributed
from pcsnn.data.batches import Batches, show
from pcsnn.data.inputs import read
from pcsnn.distributed import collectives

_REGRESSION = "a regression is measured without labels, by the error of its outputs"


class _Seen:
    """An iterable that remembers the item it gave last: labels stand in it, behind the inputs that Batches checks."""

    def __init__(self, source):
        self.source, self.item = source, None

    def __iter__(self):
        for item in self.source:
            self.item = item
            yield item

    def __length_hint__(self):
        return operator.length_hint(self.source)


class Labelled:
    """Checked batches of data as (inputs, label or None), under a progress bar, as often as they are read.

    Of several processes some may have no data, all together may not.
    """

    def __init__(self, data, inputs, device, progress):
        self.source = Batches(data, inputs, device, "data").source
        self._inputs, self._device, self._progress = inputs, device, progress

    def read(self, what):
        seen = _Seen(self.source)
        batches = Batches(seen, self._inputs, self._device, "data", empty=distributed.size() > 1)
        with show(batches, what, self._progress) as bar:
            for position, inputs in enumerate(bar):
                yield inputs, self._label(seen.item, position)

    def _label(self, item, position):
        behind = read(item, self._inputs)[1]
        label = behind[0] if behind else None
        if label is None:
            return None
        if not isinstance(label, torch.Tensor):
            raise TypeError(
                f"data: expected labels as a tensor of integers, got {type(label).__name__} in batch {position}"
            )
        return label.to(self._device)


def logits_of(output, whose, images):
    """The first tensor of an output for so many images, [N, classes, ...], or of one logit [N] or [N, 1, ...]; `whose`:
    the argument that a ValueError names."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    shape = tuple(tensors[0].shape) if tensors else "no tensor"
    if not tensors or not shape or 0 in shape[1:2] or (len(shape) == 1 and shape != (images,)):
        raise ValueError(
            f"{whose}: expected outputs [N, classes, ...] or, of one logit, [N] or [N, 1, ...], got {shape}"
        )
    return tensors[0]


def is_one_logit(logits):
    """Whether there are two classes and one value that tells them apart."""
    return logits.dim() == 1 or logits.shape[1] == 1


def choices_of(logits):
    """The classes that are decided for: the argmax over dimension 1; of one logit 1 where it is above 0."""
    if not is_one_logit(logits):
        return logits.argmax(1)
    return (logits if logits.dim() == 1 else logits.squeeze(1)).gt(0).long()


def labels_for(logits, label, ignore, batch):
    """The labels of a batch as integers of the shape of its choices.

    Those of one logit are 0 and 1, of any dtype, and may have the shape of the logits.

    Raises:
        TypeError, ValueError: no integers; another shape; one logit and labels that are no classes.
    """
    one = is_one_logit(logits)
    binary = one and bool(((label == 0) | (label == 1) | (False if ignore is None else label == ignore)).all())
    if not binary and (label.is_floating_point() or label.is_complex()):
        raise TypeError(
            f"data: expected labels as a tensor of integers, got {label.dtype} in batch {batch}; {_REGRESSION}"
        )
    shape = logits.shape[:1] + logits.shape[2:]
    if label.shape != shape and not (one and label.shape == logits.shape):
        raise ValueError(
            f"data: expected labels {tuple(shape)} for outputs {tuple(logits.shape)}, got "
            f"{tuple(label.shape)} in batch {batch}"
        )
    if one and not binary:
        raise ValueError(
            f"data: expected labels 0 and 1 for outputs {tuple(logits.shape)} of one logit, got others in "
            f"batch {batch}; {_REGRESSION}"
        )
    return label.reshape(shape).long() if one else label


def hits(choice, label, ignore):
    """How many labels are hit, and how many count."""
    counting = label != ignore if ignore is not None else torch.ones_like(label, dtype=torch.bool)
    return int(((choice == label) & counting).sum()), int(counting.sum())


class Accuracy:
    """Labels hit, batch by batch, by the argument `whose`. ValueError for outputs and labels that do not fit."""

    def __init__(self, whose, ignore):
        self._whose, self._ignore = whose, ignore
        self.right = self.decisions = self.labelled = self.batches = self.inputs = 0

    def see(self, output, label, images):
        """The output of one batch of so many images, and its label or None."""
        logits = logits_of(output, self._whose, images)
        if not logits.isfinite().all():
            raise ValueError(f"{self._whose}: its output reaches NaN or infinity in batch {self.batches} of data")
        self.batches += 1
        self.inputs += len(logits)
        if label is None:
            return
        label = labels_for(logits, label, self._ignore, self.batches - 1)
        self.labelled += 1
        hit, counting = hits(choices_of(logits), label, self._ignore)
        self.right, self.decisions = self.right + hit, self.decisions + counting

    def reduce(self):
        """Add up what all processes saw, check it, and return the share of labels hit, None without labels."""
        sums = collectives.totals(self.right, self.decisions, self.labelled, self.batches, self.inputs)
        self.right, self.decisions, self.labelled, self.batches, self.inputs = sums
        if not self.batches:
            raise ValueError("data: expected at least one batch with data, got none")
        if self.labelled and not self.decisions:
            raise ValueError(f"ignore: every label of data is {self._ignore}")
        if self.labelled not in (0, self.batches):
            raise ValueError(
                f"data: expected labels in every batch or in none, got them in {self.labelled} of {self.batches}"
            )
        return self.right / self.decisions if self.labelled else None
