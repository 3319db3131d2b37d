"""Checks of what each operator of `pcsnn.operators.dispatch` gets: a function by the name and with the arguments of each.

csrc/arguments.h has the same checks for the operators in C++. These are for those in Python, for meta tensors, and for
GPUs: exported programs and C++ call operators without the public functions, which ask for more (levels that ascend,
say) but use the parts of these. Nothing here looks at values.
"""

import torch

from pcsnn.tensors import checks
from pcsnn.tensors.shapes import HALVES, convolved

MOST = 2**31 - 1  # of a stride, a padding, a dilation or a side
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
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


def _table(levels, repeat, line, reach):
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


def _given(value):
    return "None" if value is None else "given"


def mean(current, levels, residual, residual_scale, scale=None):
    """The tensors of `fire_counts`, and with a scale of `fire_rates`."""
    checks.tensor("current", current, checks.CURRENT_DTYPES, 1)
    checks.level_table(levels, current.shape, current.dtype)
    if residual is None:
        if residual_scale is not None:
            raise ValueError("residual_scale: expected None without a residual")
    else:
        checks.tensor("residual", residual, (torch.uint8, current.dtype))
        if residual.shape != current.shape:
            raise ValueError(
                f"residual: expected the shape of current {tuple(current.shape)}, got {tuple(residual.shape)}"
            )
        if (residual.dtype == torch.uint8) != (residual_scale is not None):
            raise ValueError(
                "residual_scale: expected with uint8 counts, and only with them; "
                f"residual is {residual.dtype}, residual_scale is {_given(residual_scale)}"
            )
        if residual_scale is not None:
            checks.per_layer_or_channel("residual_scale", residual_scale, current.shape, VALUE_DTYPES)
    checks.same_device(current=current, levels=levels, residual=residual, residual_scale=residual_scale, scale=scale)
    if scale is not None:
        checks.per_layer_or_channel("scale", scale, current.shape, VALUE_DTYPES)


def fire_counts(current, levels, residual, residual_scale, repeat, line=None, reach=0):
    mean(current, levels, residual, residual_scale)
    _table(levels, repeat, line, reach)


def fire_rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0, line=None, reach=0):
    checks.tensor("scale", scale)
    mean(current, levels, residual, residual_scale, scale)
    _table(levels, repeat, line, reach)
    checks.integer("turn", turn, 0, levels.shape[-1])
    checks.integer("low", low, 0, levels.shape[-1])


def fire_rates_(current, *arguments):
    fire_rates(current, *arguments)
    apart("current", current)


def apart(name, tensor):
    """ValueError where elements of what is written over may lie in one place."""
    if tensor.is_contiguous() or 0 in tensor.shape:
        return
    reach = 0
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if size != 1):
        if stride <= reach:
            raise ValueError(
                f"{name}: expected elements that do not overlap, got shape {tuple(tensor.shape)} with "
                f"strides {tensor.stride()}"
            )
        reach += (size - 1) * stride


def trains(current, levels, amplitude):
    """The tensors of `fire_spikes`."""
    checks.tensor("current", current, checks.CURRENT_DTYPES, 2)
    if not 1 <= current.shape[0] <= checks.MAX_TIMESTEPS:
        raise ValueError(
            f"current.shape[0], the time-steps: expected a value in 1..{checks.MAX_TIMESTEPS}, got {current.shape[0]}"
        )
    checks.level_table(levels, current.shape[1:], current.dtype, current.shape[0])
    if amplitude is not None:
        checks.per_layer_or_channel("amplitude", amplitude, current.shape[1:], VALUE_DTYPES)
    checks.same_device(current=current, levels=levels, amplitude=amplitude)


def spike_dtype(name, dtype, amplitude):
    """Of what dtype spikes may be."""
    if dtype not in checks.SPIKE_DTYPES:
        raise TypeError(f"{name}: expected {' or '.join(map(str, checks.SPIKE_DTYPES))}, got {dtype}")
    if amplitude is not None and not dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating dtype with an amplitude, got {dtype}")


def fire_spikes(current, levels, amplitude, out_dtype, repeat, line=None, reach=0):
    spike_dtype("out_dtype", out_dtype, amplitude)
    trains(current, levels, amplitude)
    _table(levels, repeat, line, reach)


def counted(counts, timesteps, order, amplitude):
    """The tensors of `expand_spikes`."""
    checks.tensor("counts", counts, (torch.uint8,), 1)
    checks.timesteps(timesteps)
    if order is not None:
        checks.tensor("order", order, (torch.int64,))
        if order.shape != (timesteps,):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    if amplitude is not None:
        checks.per_layer_or_channel("amplitude", amplitude, counts.shape, VALUE_DTYPES)
    checks.same_device(counts=counts, order=order, amplitude=amplitude)


def expand_spikes(counts, timesteps, order, dtype, amplitude):
    spike_dtype("dtype", dtype, amplitude)
    counted(counts, timesteps, order, amplitude)


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


def _two(low, **values):
    for name, value in values.items():
        if len(value) != 2:
            raise ValueError(f"{name}: expected two values, got {list(value)}")
        for part in value:
            checks.integer(name, part, low, MOST)


def _image(counts):
    if counts.dim() != 4:
        raise ValueError(f"counts: expected [N, C, H, W], got {tuple(counts.shape)}")


def _too_small(counts, kernel, padding, dilation):
    raise ValueError(
        f"counts: expected at least the size of the kernel {tuple(kernel)} with padding {tuple(padding)} "
        f"and dilation {tuple(dilation)}, got {tuple(counts.shape)}"
    )


def max_pool2d(counts, kernel, stride, padding, dilation, sizes):
    checks.tensor("counts", counts, (torch.uint8, *HALVES))
    _image(counts)
    _two(1, kernel=kernel, stride=stride, dilation=dilation, sizes=sizes)
    _two(0, padding=padding)
    window = counts.shape[2:], kernel, stride, padding, dilation
    for size, least, most in zip(sizes, convolved(*window), convolved(*window, up=True)):
        if most < 1:
            _too_small(counts, kernel, padding, dilation)
        checks.integer("sizes", size, max(least, 1), most)


sum_pool2d = max_pool2d


def linear(counts, weight):
    """Shapes of a linear layer; returns that of its result."""
    checks.tensor("weight", weight, WEIGHT_DTYPES)
    checks.tensor("counts", counts, None, 1)
    if weight.dim() != 2 or 0 in weight.shape or counts.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"weight: expected [O, {counts.shape[-1]}] for counts {tuple(counts.shape)}, got {tuple(weight.shape)}"
        )
    return (*counts.shape[:-1], weight.shape[0])


def kernel(weight, groups):
    """A convolution's weight, and into how many groups it is to be split."""
    checks.tensor("weight", weight, WEIGHT_DTYPES)
    checks.integer("groups", groups, 1, MOST)
    if weight.dim() != 4 or weight.shape[0] % groups or 0 in weight.shape:
        raise ValueError(
            f"weight: expected [O, C / groups, R, S] with O a multiple of {groups} groups, got {tuple(weight.shape)}"
        )


def convolution(counts, weight, stride, padding, dilation, groups):
    """Shapes of a convolution whose numbers are pairs in range; returns that of its result."""
    kernel(weight, groups)
    checks.tensor("counts", counts)
    if counts.dim() != 4 or counts.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"counts: expected [N, {weight.shape[1] * groups}, H, W] for weight {tuple(weight.shape)} in "
            f"{groups} groups, got {tuple(counts.shape)}"
        )
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    if min(sizes) < 1:
        _too_small(counts, weight.shape[2:], padding, dilation)
    return (counts.shape[0], weight.shape[0], *sizes)


def synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape):
    """Everything but the synapse's own shapes; shape: of the result."""
    whole = weight.dtype == torch.int8
    outputs = 1, weight.shape[0]  # of a neuron: channels are outputs
    checks.tensor("counts", counts, (torch.uint8,) if whole else (torch.uint8, weight.dtype))
    if bias is not None:
        checks.tensor("bias", bias, (torch.int32 if whole else weight.dtype,))
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected [{weight.shape[0]}], got shape {tuple(bias.shape)}")
    if levels is not None:
        checks.level_table(levels, outputs, torch.int32 if whole else torch.float32)
    if scale is not None:
        checks.per_layer_or_channel("scale", scale, outputs, (torch.float32,))
    if residual is None:
        if residual_scale is not None:
            raise ValueError("residual_scale: expected None without a residual")
    else:
        _residual(residual, residual_scale, weight, outputs, shape)
    if counts_dtype not in (None, torch.uint8) and (counts_dtype != weight.dtype or weight.dtype not in HALVES):
        raise TypeError(
            "counts_dtype: expected torch.uint8, or the dtype of float16 or bfloat16 weights, got "
            f"{counts_dtype} with weights of {weight.dtype}"
        )
    checks.same_device(
        counts=counts,
        weight=weight,
        bias=bias,
        levels=levels,
        scale=scale,
        residual=residual,
        residual_scale=residual_scale,
    )


def _residual(residual, residual_scale, weight, outputs, shape):
    whole = weight.dtype == torch.int8
    checks.tensor("residual", residual, (torch.uint8, torch.int32 if whole else weight.dtype))
    if tuple(residual.shape) != tuple(shape):
        raise ValueError(f"residual: expected the shape of the result {tuple(shape)}, got {tuple(residual.shape)}")
    counts = residual.dtype in (torch.uint8, *HALVES)  # of half precision: counts, or a current
    if (residual.dtype == torch.uint8 and residual_scale is None) or (residual_scale is not None and not counts):
        raise ValueError(
            "residual_scale: expected with uint8 counts, and only with them (or those of half precision); "
            f"residual is {residual.dtype}, residual_scale is {_given(residual_scale)}"
        )
    if residual_scale is not None:
        allowed = (torch.int32 if whole else torch.float32,)
        checks.per_layer_or_channel("residual_scale", residual_scale, outputs, allowed)


def _neurons(levels, repeat, timesteps, line, reach):
    checks.timesteps(timesteps)
    if levels is not None:
        _table(levels, repeat, line, reach)


def linear_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, linear(counts, weight))
    _neurons(levels, repeat, timesteps, line, reach)


def conv2d_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    stride,
    padding,
    dilation,
    groups,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    _two(1, stride=stride, dilation=dilation)
    _two(0, padding=padding)
    shape = convolution(counts, weight, stride, padding, dilation, groups)
    synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape)
    _neurons(levels, repeat, timesteps, line, reach)


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


def spiking_queries(query, key, value, levels, scale, heads, causal):
    """The tensors of `spiking_attention`."""
    attention(query, key, value, heads, causal)
    if query.dim() != 3:
        raise ValueError(f"query: expected [N, M, H * D], got shape {tuple(query.shape)}")
    channels = 1, query.shape[-1]
    checks.level_table(levels, channels, query.dtype)
    checks.per_layer_or_channel("scale", scale, channels, VALUE_DTYPES)
    checks.same_device(query=query, key=key, value=value, levels=levels, scale=scale)


def spiking_attention(query, key, value, levels, scale, heads, causal, repeat, line=None, reach=0):
    spiking_queries(query, key, value, levels, scale, heads, causal)
    _table(levels, repeat, line, reach)


def scalar_tensor(name, value, like):
    """A number as a tensor where `like` is; anything that is no tensor there is left to the checks."""
    if isinstance(value, torch.Tensor):
        return value
    checks.number(name, value)
    return torch.tensor(float(value), dtype=torch.float32, device=getattr(like, "device", None))
