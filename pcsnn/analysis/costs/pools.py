"""What pools and interpolations cost; rules as in pcsnn.analysis.costs.rules."""

from collections import Counter

import torch
from torch import nn

from pcsnn.analysis.costs import fan_out
from pcsnn.analysis.costs.calls import gathered, largest
from pcsnn.analysis.costs.carried import outcome
from pcsnn.graph import taxonomy

_TAPS = {"linear": 2, "bilinear": 4, "trilinear": 8, "bicubic": 16}


def _windows(call, dilated):
    """Which places the windows of a pool cover, dimension by dimension."""
    name = type(call.module).__name__ if call.module is not None else taxonomy.name(call.node.target)
    dimensions = next(int(digit) for digit in "123" if f"{digit}d" in name)
    lengths, sizes = call.args[0].shape[-dimensions:], call.value.shape[-dimensions:]
    if "adaptive" in name.lower():
        return fan_out.adaptive_windows(lengths, sizes)
    if call.module is not None:
        pool = call.module
        dilation = pool.dilation if dilated else 1
        return fan_out.windows(lengths, sizes, pool.kernel_size, pool.stride, pool.padding, dilation)
    return fan_out.windows(
        lengths,
        sizes,
        call.argument(1, "kernel_size"),
        call.argument(2, "stride"),
        call.argument(3, "padding", 0),
        call.argument(4, "dilation", 1) if dilated else 1,
    )


def average_pool(call):
    """A sum of each window and a division; windows of one place do nothing, and spikes stay spikes."""
    cover = _windows(call, False)
    if fan_out.copies(cover):
        return None, Counter(), call.source
    return gathered(call, lambda plane: fan_out.through_windows(cover, plane), True)


def maximum(call):
    """n - 1 comparisons for each window of n places, at every step. The maximum of sorted trains is the train of the
    largest count (12): at every step each of them sends no more than that one does."""
    source = call.source
    if call.node.op == "call_function" and call.node.target is torch.amax:
        compared = call.args[0].numel() - call.value.numel()
    else:
        cover = _windows(call, True)
        if fan_out.copies(cover):
            return None, Counter(), source
        compared = fan_out.windows_less_one(cover, call.value)
    result = largest(source.map(call.run), call.coding)
    return "pool", Counter(comparisons=compared * call.passes(source), bits=call.bits(result, source)), result


def interpolation(call):
    """Each output is a weighted sum of 2, 4, 8 or 16 inputs, taken as numbers. Copies of elements cost nothing."""
    mode = call.module.mode if isinstance(call.module, nn.Upsample) else call.argument(3, "mode", "nearest")
    if taxonomy.is_nearest(mode):
        return None, Counter(), call.source.map(call.run)
    if mode == "area":
        cover = fan_out.adaptive_windows(call.args[0].shape[2:], call.value.shape[2:])
        return gathered(call, lambda plane: fan_out.through_windows(cover, plane), True)
    if mode not in _TAPS or call.kwargs.get("antialias"):
        return None
    result = outcome(call.value, [call.source])
    products = _TAPS[mode] * call.value.numel() * call.passes(call.source)
    spent = Counter(additions=products, multiplications=products, bits=call.bits(result, call.source))
    return "interpolation", spent, result
