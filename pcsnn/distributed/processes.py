"""The processes that share the work, and the share of each."""

import contextlib
import contextvars
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, TensorDataset

from pcsnn.tensors import checks

TIMEOUT = 1800  # seconds that a process waits for the others before it gives up
_ALONE = contextvars.ContextVar("pcsnn_alone", default=False)


def size() -> int:
    """How many processes share the work: those of the default process group; 1 without one, and inside `alone`."""
    if _ALONE.get() or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """The number of this process among them, 0..size() - 1."""
    return dist.get_rank() if size() > 1 else 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, whatever the process group: `with pcsnn.distributed.alone(): ...`.

    For a conversion that only some processes do, which would wait for the others in vain.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@contextlib.contextmanager
def group(backend: str | None = None, timeout: float = TIMEOUT) -> Iterator[torch.device]:
    """The process group of a program that torchrun started: `with pcsnn.distributed.group() as device: main(device)`.

    A program that was started otherwise, as one process, runs as such. An exception inside is written where torchrun
    looks for it: torchrun then ends all processes, and names the first that failed, with its traceback.

    Args:
        backend: of torch.distributed; None: "nccl" where there are GPUs, else "gloo".
        timeout: seconds that a process waits for the others in one exchange before it fails: longer than their shares
            may differ in time. A process that ends is noticed at once.

    Yields:
        torch.device: the GPU of this process, number LOCAL_RANK, with "nccl"; else the CPU.

    Raises:
        RuntimeError: there is a process group already (nothing needs this one then), or no GPU for this process.
        TypeError, ValueError: a timeout that is no number above zero.
    """
    checks.number("timeout", timeout)
    if timeout <= 0:
        raise ValueError(f"timeout: expected seconds above zero, got {timeout}")
    if dist.is_available() and dist.is_initialized():
        raise RuntimeError("group: expected no process group, got one that is initialised already, which pcsnn uses")
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise RuntimeError(
                f"group: expected a GPU for each process of a machine, got process {device.index} and "
                f"{torch.cuda.device_count()} GPUs"
            )
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler  # not in every build of torch

    errors = get_error_handler()
    errors.initialize()
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
        yield device
    except Exception as error:
        errors.record_exception(error)
        raise  # and no destroy_process_group, which with nccl would wait for the others; our end tells them
    dist.destroy_process_group()


class _Share(DistributedSampler):
    """A DistributedSampler in order and without padding: items rank, rank + size, ..., each in one process only."""

    def __init__(self, dataset):
        super().__init__(dataset, size(), rank(), shuffle=False)
        self.total_size = len(dataset)
        self.num_samples = len(range(self.rank, self.total_size, self.num_replicas))


def shard(
    data: torch.Tensor | tuple[torch.Tensor, ...] | Dataset[Any], batch_size: int = 32, **options: Any
) -> DataLoader[Any]:
    """The share of this process of some data, as a DataLoader: items rank, rank + size, rank + 2 size, ... in order.

    Every item is in the share of exactly one process, so that shares differ by one where `size()` does not divide
    their number. Batch i of all processes together has the items of batch i of one process with a `size()` times larger
    batch.

    Args:
        data: a tensor [N, ...], a tuple of such tensors (e.g. images and labels), or a dataset with a length.
        batch_size: of this process.
        options: further ones of torch.utils.data.DataLoader, e.g. num_workers.

    Raises:
        TypeError: data of another kind; options that would change which items are read.
        ValueError: tensors of different lengths; a batch size below 1.
    """
    checks.integer("batch_size", batch_size, 1, 2**31)
    refused = sorted(set(options) & {"shuffle", "sampler", "batch_sampler", "drop_last"})
    if refused:
        raise TypeError(f"options: expected those that leave open which items are read, got {', '.join(refused)}")
    tensors = (data,) if isinstance(data, torch.Tensor) else data if isinstance(data, tuple) else ()
    if tensors:
        for tensor in tensors:
            checks.tensor("data", tensor, min_dim=1)
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"data: expected tensors of one length, got {', '.join(map(str, lengths))}")
        dataset = TensorDataset(*tensors)
        return DataLoader(dataset, None, sampler=BatchSampler(_Share(dataset), batch_size, False), **options)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise TypeError(f"data: expected tensors or a dataset with a length, got {type(data).__name__}")
    return DataLoader(data, batch_size, sampler=_Share(data), **options)  # type: ignore[arg-type]
