"""What processes tell each other. All must call these in the same order; one process gets back what it gave."""

import contextlib
import hashlib

import torch
import torch.distributed as dist

from pcsnn.distributed.processes import rank, size


def _home():
    """The device whose tensors the process group moves."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextlib.contextmanager
def _waiting():
    """Around an exchange: what torch.distributed raises when another process is gone says so."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"process {rank()} of {size()} waited for the others, and one of them ended or failed, or took longer "
            f"than the timeout of the process group; its own output says why ({error})"
        ) from error


def _reduced(tensor, operation):
    if size() == 1:
        return tensor
    result = tensor.detach().to(_home(), copy=True).contiguous()
    with _waiting():
        dist.all_reduce(result, operation)
    return result.to(tensor.device)


def summed(tensor):
    """The sum of a tensor over all processes."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def highest(tensor):
    """The elementwise maximum of a tensor over all processes."""
    return _reduced(tensor, dist.ReduceOp.MAX)


def totals(*numbers):
    """The sums of integers, or of floats (in float64), over all processes, as a list of numbers."""
    if size() == 1 or not numbers:
        return list(numbers)
    kind = torch.int64 if all(isinstance(number, int) for number in numbers) else torch.float64
    return summed(torch.tensor(numbers, dtype=kind)).tolist()


def mean(rows):
    """The mean of [C, M] over dimension 1, whatever M each process has: [C]."""
    if size() == 1:
        return rows.mean(1)
    return (summed(rows.sum(1, dtype=torch.float64)) / totals(rows.shape[1])[0]).to(rows)


def means(values, weights):
    """Means of some tensors over all processes, each with a weight of its own in each process; one exchange for all."""
    if size() == 1:
        return values
    parts = [value.reshape(-1).double() * weight for value, weight in zip(values, weights)]
    together = torch.tensor(weights, dtype=torch.float64, device=parts[0].device)
    *sums, together = summed(torch.cat([*parts, together])).split([*map(len, parts), len(parts)])
    return [(total / weight).view_as(value).to(value.dtype) for total, weight, value in zip(sums, together, values)]


def in_step(items):
    """The items of this process, then None, as long as another process has one left."""
    if size() == 1:
        yield from items
        return
    items, item = iter(items), None
    while True:
        item = next(items, None)
        if not totals(int(item is not None))[0]:
            return
        yield item


def gathered(value):
    """What each process gave, in order: a list with an entry for each. Tensors must be on the host."""
    if size() == 1:
        return [value]
    values = [None] * size()
    with _waiting():
        dist.all_gather_object(values, value)
    return values


def divided(count, compute):
    """compute(slice) of `count` rows, of which each process takes some: tensors with a row for each, or None."""
    first, last = (count * process // size() for process in (rank(), rank() + 1))
    own = compute(slice(first, last))
    if size() == 1:
        return own
    parts = zip(*gathered([value if value is None else value.cpu() for value in own]))
    return [value if value is None else torch.cat(part).to(value) for value, part in zip(own, parts)]


def from_first(value):
    """What process 0 gave. Tensors must be on the host."""
    if size() == 1:
        return value
    box = [value]
    with _waiting():
        dist.broadcast_object_list(box, 0)
    return box[0]


def like_first(module):
    """Give a module the parameters and buffers of process 0's, in place."""
    if size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            value = tensor.detach().to(_home()).contiguous()
            with _waiting():
                dist.broadcast(value, 0)
            tensor.data.copy_(value)


def sum_gradients(parameters):
    """Sum the gradients of some parameters over all processes, in place; one exchange for each dtype."""
    if size() == 1:
        return
    for kind in {parameter.dtype: None for parameter in parameters}:
        ours = [parameter for parameter in parameters if parameter.dtype == kind]
        gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in ours]
        together = summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for parameter, part in zip(ours, together.split([gradient.numel() for gradient in gradients])):
            parameter.grad = part.view_as(parameter)


def agree(name, module, *values):
    """ValueError, in every process, unless all have a module with the same tensors, and the same values (by repr)."""
    if size() == 1:
        return
    digest = hashlib.sha256(repr(values).encode())
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    digests = gathered(digest.hexdigest())
    others = [str(process) for process, other in enumerate(digests) if other != digests[0]]
    if others:
        raise ValueError(
            f"{name}: expected the same in all processes, and the same options, got others in process "
            f"{', '.join(others)} than in process 0 (this is process {rank()})"
        )
