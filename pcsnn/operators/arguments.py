"""Checks of arguments that the families of operators, and layers of them, share.

The `check` of each operator stands beside it. csrc/arguments.h has the same for the operators in C++; those in Python
are for meta tensors and for GPUs: exported programs and C++ call operators without the public functions, which ask for
more (levels that ascend, say) but use the parts of these. Nothing here looks at values.
"""

import torch

from pcsnn.tensors import checks

MOST = 2**31 - 1  # of a stride, a padding, a dilation or a side
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
Size = int | tuple[int, int]  # of both dimensions of an image, or of each
VALUE_DTYPES = (torch.float32, torch.float64)  # of what a spike is worth


def stored(name, value):
    """ValueError where a tensor on the CPU has lost some of its storage since it was made: torch would read beyond."""
    if isinstance(value, torch.Tensor) and value.numel():
        last = value.storage_offset() + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
        if (last + 1) * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"{name}: expected a storage of all its elements {tuple(value.shape)}, got "
                f"{value.untyped_storage().nbytes()} bytes"
            )


def spaced(levels, repeat, line, reach):
    """What is said of levels [T] or [C, T] that were checked already."""
    checks.repeat(repeat, levels)
    checks.integer("reach", reach, 0, checks.MAX_TIMESTEPS)
    if line is not None:
        checks.tensor("line", line, (torch.int32 if levels.dtype == torch.int32 else torch.float32,))
        if tuple(line.shape) != (3, *levels.shape[:-1]):
            raise ValueError(
                f"line: expected {[3, *levels.shape[:-1]]} with levels {tuple(levels.shape)}, got shape "
                f"{tuple(line.shape)}"
            )
        checks.same_device(levels=levels, line=line)


def branch(residual, residual_scale, dtype, shape, of, outputs, scale_dtypes, halves=()):
    """A residual branch: of `dtype`, or counts, uint8 or `halves`, with what each is worth; shape: of `of`."""
    if residual is None:
        if residual_scale is not None:
            raise ValueError("residual_scale: expected None without a residual")
        return
    checks.tensor("residual", residual, (torch.uint8, dtype))
    if tuple(residual.shape) != tuple(shape):
        raise ValueError(f"residual: expected the shape of {of} {tuple(shape)}, got {tuple(residual.shape)}")
    scaled = residual_scale is not None
    if residual.dtype == torch.uint8 and not scaled or scaled and residual.dtype not in (torch.uint8, *halves):
        raise ValueError(
            f"residual_scale: expected with uint8 counts, and only with them"
            f"{' (or those of half precision)' if halves else ''}; residual is {residual.dtype}, "
            f"residual_scale is {'given' if scaled else 'None'}"
        )
    if scaled:
        checks.per_layer_or_channel("residual_scale", residual_scale, outputs, scale_dtypes)


def pair(name, value, low):
    """A number, or two for height and width, as a pair."""
    if isinstance(value, bool) or not isinstance(value, (int, tuple, list)):
        raise TypeError(f"{name}: expected a number or two, got {type(value).__name__} ({value!r})")
    found = (value, value) if isinstance(value, int) else tuple(value)
    if len(found) != 2:
        raise ValueError(f"{name}: expected a number or two, got {value!r}")
    for part in found:
        checks.integer(name, part, low, MOST)
    return found


def pairs(low, **values):
    for name, value in values.items():
        if len(value) != 2:
            raise ValueError(f"{name}: expected two values, got {list(value)}")
        for part in value:
            checks.integer(name, part, low, MOST)


def image(counts):
    if counts.dim() != 4:
        raise ValueError(f"counts: expected [N, C, H, W], got {tuple(counts.shape)}")


def too_small(counts, kernel, padding, dilation):
    raise ValueError(
        f"counts: expected at least the size of the kernel {tuple(kernel)} with padding {tuple(padding)} "
        f"and dilation {tuple(dilation)}, got {tuple(counts.shape)}"
    )


def kernel(weight, groups):
    """A convolution's weight, and into how many groups it is to be split."""
    checks.tensor("weight", weight, WEIGHT_DTYPES)
    checks.integer("groups", groups, 1, MOST)
    if weight.dim() != 4 or weight.shape[0] % groups or 0 in weight.shape:
        raise ValueError(
            f"weight: expected [O, C / groups, R, S] with O a multiple of {groups} groups, got {tuple(weight.shape)}"
        )


def attention(query, key, value, heads, causal):
    """Shapes and dtypes of [..., M, H * D], [..., S, H * D], [..., S, H * E], with equal leading dimensions."""
    checks.integer("heads", heads, 1, MOST)
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected True or False, got {causal!r}")
    checks.tensor("query", query, checks.CURRENT_DTYPES, 3)
    checks.tensor("key", key, (query.dtype,), 3)
    checks.tensor("value", value, (query.dtype,), 3)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.shape[-1] == 0 or x.shape[-1] % heads:
            raise ValueError(
                f"{name}: expected features (the last dimension) of {heads} heads, got shape {tuple(x.shape)}"
            )
    if key.shape != (*query.shape[:-2], key.shape[-2], query.shape[-1]):
        raise ValueError(
            f"key: expected {tuple(query.shape[:-2])}, any number of tokens, {query.shape[-1]}; "
            f"got shape {tuple(key.shape)}"
        )
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(f"value: expected the tokens of key {tuple(key.shape[:-1])}, got shape {tuple(value.shape)}")
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"key: expected as many tokens as query has, {query.shape[-2]}, to be causal, got {key.shape[-2]}"
        )


def scalar_tensor(name, value, like):
    """A number as a tensor where `like` is; anything that is no tensor there is left to the checks."""
    if isinstance(value, torch.Tensor):
        return value
    checks.number(name, value)
    return torch.tensor(float(value), dtype=torch.float32, device=getattr(like, "device", None))
