"""What was computed from a tensor, kept for as long as the tensor lives and is not written to."""

import torch


def remembered(cache, tensor, key, compute):
    """compute(), once for each `key` and state of `tensor`. `cache`: a WeakTensorKeyDictionary."""
    if tensor.is_inference():  # it has no version that would tell of a change
        return compute()
    version, known = cache.get(tensor, (None, {}))
    if version != tensor._version:
        known = {}
    elif key in known:
        return known[key]
    result = compute()
    if isinstance(result, torch.Tensor) and (result is tensor or result._base is not None):
        return result  # nothing to keep, and what would keep its own key alive
    known[key] = result
    cache[tensor] = tensor._version, known
    return result
