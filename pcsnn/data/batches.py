"""Calibration data: understood, checked batch by batch, streamed, and run through networks."""

import collections.abc
import contextlib
import itertools
import operator
import os

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pcsnn import distributed
from pcsnn.data.inputs import count, expected, read, rows, shapes

TENSOR_BATCH = 32
LARGEST_CALIBRATION = 2**22  # inputs; beyond, data is taken to be endless
LARGEST_REPLAY = 2**32  # bytes that are kept of a one-shot iterator
_END = object()


class _Replayed:
    """A one-shot iterator, read as far as somebody needs it and kept in memory, so that it can be read again."""

    def __init__(self, iterator, name):
        self.iterator, self._name, self._kept, self._bytes = iterator, name, [], 0

    def __iter__(self):
        for position in itertools.count():
            if position == len(self._kept):
                item = next(self.iterator, _END)
                if item is _END:
                    return
                self._bytes += sum(leaf.nbytes for leaf in tree_leaves(item) if isinstance(leaf, torch.Tensor))
                if self._bytes > LARGEST_REPLAY:
                    raise ValueError(
                        f"{self._name}: an iterator that can be read only once is kept in memory, and this one went "
                        f"beyond {LARGEST_REPLAY} bytes; give a list or a DataLoader"
                    )
                self._kept.append(item)
            yield self._kept[position]

    def __length_hint__(self):
        return len(self._kept) + operator.length_hint(self.iterator)


class Batches:
    """What the caller gave as the argument `name`, as an iterable of checked inputs that can be read again and again.

    Yields the `inputs` of one call, as `pcsnn.data.inputs` says. A data loader, a list or a tensor is not copied.
    `empty`: to hold nothing is no error (one process of several). `most`: inputs after which data is taken to have no
    end.

    Attributes:
        source: an iterable of the caller's items.
        whole: whether the network needs batches as the caller made them, which `pcsnn.calibration.check` finds out.
    """

    def __init__(self, calibration, inputs, device, name="calibration", empty=False, most=None):
        self.inputs, self.device, self.name, self.empty, self.most = inputs, device, name, empty, most
        self.whole, self._uncut = False, None
        self.source = self._understood(calibration)

    def _understood(self, data):
        if isinstance(data, torch.Tensor):
            if data.dim() < 2 or len(data) == 0:
                raise ValueError(f"{self.name}: expected a tensor [N, ...] with N > 0, got shape {tuple(data.shape)}")
            self._uncut = data
            return data.split(TENSOR_BATCH)
        if isinstance(data, (str, bytes, os.PathLike)):
            raise TypeError(
                f"{self.name}: expected tensors, got {data!r}: read what is there, e.g. by torch.load or a DataLoader"
            )
        if hasattr(data, "__array__"):
            raise TypeError(
                f"{self.name}: expected a tensor, got {type(data).__name__}; torch.from_numpy makes one of an array"
            )
        if self._one_batch(data):
            self._uncut = data
            return self._cut(data)
        if isinstance(data, Dataset) and not isinstance(data, collections.abc.Iterable):
            return DataLoader(data, TENSOR_BATCH)
        if not isinstance(data, collections.abc.Iterable):
            raise TypeError(
                f"{self.name}: expected a tensor, or an iterable of tensors or of (input, label), "
                f"got {type(data).__name__}"
            )
        return _Replayed(data, self.name) if isinstance(data, collections.abc.Iterator) else data

    def _one_batch(self, data):
        """Whether this is no iterable of batches but (images, labels), labels [N], or the inputs by name."""
        if isinstance(data, collections.abc.Mapping):
            if read(data, self.inputs)[0] is None:
                raise TypeError(f"{self.name}: expected {expected(self.inputs)}, got {_kind(data, self.inputs)}")
            return True
        return (
            isinstance(data, (tuple, list))
            and len(data) > len(self.inputs) == 1
            and all(isinstance(part, torch.Tensor) for part in data)
            and data[0].dim() > 1
            and all(part.dim() == 1 and len(part) == len(data[0]) for part in data[1:])
        )

    def _cut(self, item):
        if isinstance(item, collections.abc.Mapping):
            item = read(item, self.inputs)[0]
        lengths = {len(leaf) if leaf.dim() else 0 for leaf in tree_leaves(item)}
        if len(lengths) > 1:
            return [item]
        return [rows(item, slice(start, start + TENSOR_BATCH)) for start in range(0, lengths.pop(), TENSOR_BATCH)]

    def keep_whole(self):
        """Take batches as the caller made them, and a single tensor as one batch."""
        self.whole = True
        if self._uncut is not None:
            self.source = [self._uncut]

    def first(self):
        """The first batch with data, as the caller made it: the inputs of one call."""
        return next(iter(self), None)

    def __iter__(self):
        found = seen = 0
        for position, item in enumerate(self._items()):
            batch, _ = read(item, self.inputs)
            if batch is None:
                raise TypeError(
                    f"{self.name}: expected {expected(self.inputs)}, with or without labels behind, "
                    f"got {_kind(item, self.inputs)} in batch {position}"
                )
            leaves = tree_leaves(batch)
            if not all(leaf.dim() for leaf in leaves):
                raise ValueError(
                    f"{self.name}: expected tensors [N, ...], the batch first, got {shapes(batch)} in batch {position}"
                )
            if any(leaf.is_floating_point() and not leaf.isfinite().all() for leaf in leaves):
                raise ValueError(f"{self.name}: expected finite values, got NaN or infinity in batch {position}")
            if not all(leaf.numel() for leaf in leaves):
                continue
            found, seen = found + 1, seen + count(batch)
            if self.most and seen > self.most:
                raise ValueError(
                    f"{self.name}: expected data that ends, and read {self.most} inputs of it without an end; "
                    "methods 'quick', 'light' and 'advanced' take the first 1,024 whatever follows"
                )
            yield tree_map(self._plain, batch)
        if not found and not self.empty:
            dropped = ", since its DataLoader drops the last batch" if getattr(self.source, "drop_last", False) else ""
            raise ValueError(f"{self.name}: expected at least one batch with data, got none{dropped}")

    def _items(self):
        items = iter(self.source)
        while True:
            before = torch.is_inference_mode_enabled()
            item = next(items, _END)
            if item is _END:
                return
            if torch.is_inference_mode_enabled() and not before:
                self._close()
                raise ValueError(
                    f"{self.name}: its iterator leaves torch.inference_mode switched on while it waits; decorate "
                    "the generator's function with @torch.inference_mode(), or yield behind the with block"
                )
            yield item

    def _close(self):
        """End a generator here: its end, wherever it is collected, sets the modes that it found when it began."""
        iterator = self.source.iterator if isinstance(self.source, _Replayed) else self.source
        if hasattr(iterator, "close"):
            iterator.close()

    def _plain(self, part):
        """A tensor on the network's device, without a gradient and none of inference mode."""
        with torch.inference_mode(False):
            return part.detach().to(self.device, copy=part.is_inference())

    @contextlib.contextmanager
    def running(self, batch, network, where):
        """Around a run of `network` on `batch`: what it raises becomes a ValueError that says on what."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            kinds = {leaf.dtype for leaf in tree_leaves(batch) if leaf.is_floating_point() or leaf.dtype == torch.uint8}
            own = next((tensor.dtype for tensor in network.parameters() if tensor.is_floating_point()), None)
            hint = f" The network's parameters are {own}: convert the inputs to that." if own and kinds - {own} else ""
            raise ValueError(
                f"{self.name}: the network cannot run on {where}, tensors {shapes(batch)} with the batch first: "
                f"{error}.{hint}"
            ) from error


def _kind(item, inputs):
    """Words for an item that was not understood."""
    if isinstance(item, collections.abc.Mapping):
        return (
            f"{type(item).__name__} with keys {', '.join(map(str, list(item)[:8]))} where the inputs are "
            f"{', '.join(one.name for one in inputs)}"
        )
    return type(item).__name__


def show(batches, what, progress):
    """`batches` behind a progress bar, on a terminal, if asked for, in the first process; `with` closes it always."""
    total = operator.length_hint(batches.source) or None  # a loader may have a len() that raises
    return tqdm(batches, desc=what, total=total, disable=_hidden(progress), leave=False, unit="batch")


def show_steps(steps, what, progress):
    """Any list behind a progress bar; `with` closes it whatever happens."""
    return tqdm(steps, desc=what, disable=_hidden(progress), leave=False)


def _hidden(progress):
    return None if progress and distributed.rank() == 0 else True  # None: unless on a terminal


@torch.no_grad()
def run_through(network, batches, what, progress):
    """Run a network on every batch, for its hooks."""
    with show(batches, what, progress) as bar:
        for position, batch in enumerate(bar):
            if isinstance(network, torch.nn.Module):
                with batches.running(batch, network, f"batch {position}"):
                    network(*batch)
            else:
                network(*batch)
