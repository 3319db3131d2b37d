"""What was computed from a tensor, kept for as long as the tensor lives and holds the same values.

Whether it does is asked of the values themselves on the CPU, by a checksum: writes through `.data`, NumPy or another
process leave no trace in the tensor's version. Elsewhere a checksum would wait for the device, so that the version has
to do; `forget` is for those writes that it does not tell of.
"""

import weakref

import torch

_known = {}  # id of a tensor -> (weak reference to it, its state, {key: result})


def _checksum_of_bytes(tensor):
    """What the extension's checksum is, where there is none."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_neg() and not tensor.is_conj()
    if not plain or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return None
    values = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    return hash((tensor.dtype, tensor.shape, tensor.stride(), values.tobytes()))


def _pick_checksum():
    try:
        from pcsnn._C import checksum
    except ImportError:
        return _checksum_of_bytes
    return checksum


_checksum = _pick_checksum()


class Facts:
    """What is known of a tensor in its present state."""

    def __init__(self, tensor, known):
        self._tensor, self._known = tensor, known

    def __call__(self, key, compute):
        """compute(), once for each `key`; keys of different uses begin with different words."""
        known = self._known
        if known is not None and key in known:
            return known[key]
        result = compute()
        if known is None or isinstance(result, torch.Tensor) and (result is self._tensor or result._base is not None):
            return result  # nothing to keep, or what would keep its own key alive
        known[key] = result
        return result


def facts(tensor):
    """The Facts of a tensor, for as long as one call lasts: its values are looked at here, and not again."""
    state = _checksum(tensor)
    if state is None:
        if tensor.is_inference():  # nothing tells of a change
            return Facts(tensor, None)
        state = (tensor._version,)
    entry = _known.get(id(tensor))
    if entry is None or entry[1] != state or entry[0]() is not tensor:
        _known[id(tensor)] = entry = (weakref.ref(tensor, _forget(id(tensor))), state, {})
    return Facts(tensor, entry[2])


def remembered(tensor, key, compute):
    """compute(), once for each `key` and state of `tensor`."""
    return facts(tensor)(key, compute)


def forget(of: torch.Tensor | torch.nn.Module | None = None) -> None:
    """Drop what is remembered of a tensor, of the parameters and buffers of a module, or (None) of every tensor.

    On the CPU nothing stale is ever used. On a GPU a write that does not change a tensor's version (through `.data`, or
    by torch.distributed) goes unnoticed: packed weights and the spacing of levels stay those of before until this is
    called.

    Raises:
        TypeError: `of` is no tensor, module or None.
    """
    if of is None:
        _known.clear()
    elif isinstance(of, torch.Tensor):
        _known.pop(id(of), None)
    elif isinstance(of, torch.nn.Module):
        for tensor in (*of.parameters(), *of.buffers()):
            _known.pop(id(tensor), None)
    else:
        raise TypeError(f"of: expected a tensor, a module or None, got {type(of).__name__}")


def _forget(identity):
    """What is called when the tensor dies, whose identity another one may have from then on."""

    def forget(reference, known=_known):  # the global name is gone when tensors die with the interpreter
        entry = known.get(identity)
        if entry is not None and entry[0] is reference:
            del known[identity]

    return forget
