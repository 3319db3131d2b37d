"""What was computed from a tensor, kept for as long as the tensor lives and is not written to."""

import weakref

import torch

_known = {}  # id of a tensor -> (weak reference to it, its version, {key: result})


def remembered(tensor, key, compute):
    """compute(), once for each `key` and state of `tensor`; keys of different uses begin with different words."""
    if tensor.is_inference():  # it has no version that would tell of a change
        return compute()
    entry = _known.get(id(tensor))
    if entry is not None and entry[1] == tensor._version and entry[0]() is tensor:
        if key in entry[2]:
            return entry[2][key]
    else:
        entry = None
    result = compute()
    if isinstance(result, torch.Tensor) and (result is tensor or result._base is not None):
        return result  # nothing to keep, and what would keep its own key alive
    if entry is None:
        _known[id(tensor)] = entry = (weakref.ref(tensor, _forget(id(tensor))), tensor._version, {})
    entry[2][key] = result
    return result


def _forget(identity):
    """What is called when the tensor dies, whose identity another one may have from then on."""
    def forget(reference, known=_known):  # the global name is gone when tensors die with the interpreter
        entry = known.get(identity)
        if entry is not None and entry[0] is reference:
            del known[identity]
    return forget
