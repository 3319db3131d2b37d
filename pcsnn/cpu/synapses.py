"""Fused synapses on the CPU: oneDNN's products, reached through torch, and behind them the search of csrc/.

int8 weights: the sum over weights is a whole number that float32 holds where it stays below 2^24, so that oneDNN may return it
as float32. Where the levels of every channel lie on a line that its own requantisation resolves without doubt, it counts the
spikes itself and writes bytes: one primitive.

On processors with AVX2 and no VNNI oneDNN widens every pair of products to 32 bits. Counts are small, so that csrc/products.cpp
adds several pairs in 16 bits first, and takes oneDNN's place where weights and T allow it.
"""

import functools
import itertools
import math

import torch
import torch.nn.functional as F

from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import add_residual, per_channel
from pcsnn.tensors.memo import facts, remembered
from pcsnn.tensors.shapes import beyond_borders, convolved, laid_out

CURRENTS = 2**20  # that are made before their counts are taken
EXACT = 2**24  # float32 holds every whole number up to here
PAIR = 2**15 - 1  # processors without VNNI add products of uint8 and int8 in pairs, saturating in 16 bits
ROUNDING = 2.0**-21  # of a requantised value, relative to its terms; twice what float32 arithmetic can be off
STEPS = 60  # of the search for a line
BLOCK, QUAD = 16, 4  # outputs and inputs side by side in the weights of csrc/products.cpp
DEPTHS = (8, 4)  # quads of inputs whose products it adds in 16 bits; with two it is no faster than oneDNN


def _line(levels, channels):
    """The line through the levels [T] or [O, T] int32 that is farthest from every other whole number.

    Returns (factor, start), float32 [O] each, such that the count of a sum is factor * sum + start, rounded to nearest and
    clipped; or None where some channel has no line that stays clear of doubt.
    """
    table = levels.double().expand(channels, levels.shape[-1])
    steps = table.shape[1]
    silent = table[:, :1] >= checks.NEVER
    points = torch.where(silent, 0.0, table) - 0.5  # between the sums that do and do not reach the level
    place = torch.arange(1, steps + 1, dtype=torch.float64) - 0.5
    if steps == 1:
        slope = torch.ones_like(points[:, :1])
    else:
        slope = (points[:, -1:] - points[:, :1]) / (steps - 1)
        low, high = slope - 1, slope + 1  # the largest deviation is a convex function of the slope
        for _ in range(STEPS):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            first, second = (torch.aminmax(points - trial * place, dim=1, keepdim=True) for trial in (left, right))
            better = first.max - first.min <= second.max - second.min
            low, high = torch.where(better, low, left), torch.where(better, right, high)
        slope = (low + high) / 2
    slope = torch.where(silent, 1.0, slope)
    if (slope <= 0).any():
        return None
    factor = (1 / slope).float()
    rest = points - place / factor.double()
    start = (-(rest.amax(1, keepdim=True) + rest.amin(1, keepdim=True)) / 2 * factor.double()).float()
    off = ((points * factor.double() + start.double() - place) / factor.double()).abs().amax(1, keepdim=True)
    doubt = ROUNDING * (steps + 2 * start.double().abs() + 1) / factor.double()
    if not (off + doubt < 0.5)[~silent].all():
        return None
    factor, start = (torch.where(silent, 0.0, value).flatten() for value in (factor, start))
    return factor, start


def _narrow():
    """Whether this processor's widest product of bytes is AVX2's, in pairs."""
    return torch.ops.pcsnn.cpu_capability() == "avx2" and not torch.cpu._is_vnni_supported()


def _depth(weight, timesteps):
    """How many quads of products of counts up to `timesteps` add up in 16 bits, of DEPTHS; None: fewer."""
    outputs, inputs = weight.shape[:2]
    pairs = weight.movedim(1, -1).int().abs().reshape(outputs, -1, inputs // 2, 2).sum(-1)
    for depth in DEPTHS:
        if inputs % (QUAD * depth) == 0:
            lanes = pairs.view(outputs, -1, inputs // (QUAD * depth), depth, QUAD // 2).sum(3)
            if timesteps * int(lanes.amax()) <= PAIR:
                return depth
    return None


def _blocks(weight):
    """Weights [O, C, R, S] as csrc/products.cpp reads them, [O / BLOCK, R, S, C / QUAD, BLOCK, QUAD]."""
    outputs, inputs, *kernel = weight.shape
    split = weight.reshape(outputs // BLOCK, BLOCK, inputs // QUAD, QUAD, *kernel)
    return split.permute(0, 4, 5, 2, 1, 3).contiguous()


def _own_product(known, weight, options, timesteps):
    """(blocks, depth) for csrc/products.cpp, or None where oneDNN is faster or the only one that can."""
    if (
        weight.dim() != 4
        or options[-1] != 1
        or len(weight) % BLOCK
        or weight.shape[1] % (QUAD * DEPTHS[-1])
        or not _narrow()
    ):
        return None
    depth = _depth(weight, timesteps)
    return None if depth is None else (known("blocks", lambda: _blocks(weight)), depth)


def _convolve(x, layer, dtype, timesteps, line=None, steps=None):
    """An int8 convolution of counts up to `timesteps`: float32 sums, or bytes, clipped at `steps`, of a line (factor, start) for
    each channel."""
    weight, options, known = layer
    stride, padding, dilation, groups = options
    own = known(("own product", options, timesteps), lambda: _own_product(known, weight, options, timesteps))
    if own is not None:
        blocks, depth = own
        return torch.ops.pcsnn._products(
            x,
            blocks,
            *(line or (None, None)),
            len(weight),
            weight.shape[2:],
            stride,
            padding,
            dilation,
            steps or 0,
            depth,
        )
    packed, ones, zeros = known(("packed", options), lambda: _pack(weight, options))
    factor, start = line or (ones, None)
    attribute, bounds = ("none", []) if steps is None else ("hardtanh", [0.0, float(steps)])
    return torch.ops.onednn.qconv2d_pointwise.default(
        x, 1.0, 0, packed, factor, zeros, start, stride, padding, dilation, groups, 1.0, 0, dtype, attribute, bounds, ""
    )


def _pack(weight, options):
    """The weight as oneDNN wants it, and scales and zero points that change nothing."""
    stride, padding, dilation, groups = options
    ones = torch.ones(len(weight))
    kernel = laid_out(_as_kernel(weight), torch.channels_last)
    packed = torch.ops.onednn.qconv_prepack(kernel, ones, 1.0, 0, stride, padding, dilation, groups, None)
    return packed, ones, torch.zeros(len(weight), dtype=torch.int32)


def _as_kernel(weight):
    """The weight of a linear layer as that of a 1x1 convolution."""
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def _largest(weight):
    """The largest magnitude in int8 weights, and of the sum of those of a channel."""
    magnitudes = weight.flatten(1).int().abs()
    return int(magnitudes.amax()), int(magnitudes.sum(1).amax())


def _sums(x, layer, timesteps, single, total):
    """Exact sums over int8 weights: float32 where that holds them and one product is enough, else float64."""
    weight, options, _ = layer
    if single:
        return _convolve(x, layer, torch.float32, timesteps)
    if 15 * total < EXACT and not _beyond(weight, options):  # in two halves of four bits
        high, low = (_convolve(part, layer, torch.float32, 15).double() for part in (x >> 4, x & 15))
        return high.mul_(16).add_(low)
    return convolution(x.double(), _as_kernel(weight).double(), None, *options)


def _float_levels(levels, dtype):
    return torch.where(levels == checks.NEVER, torch.inf, levels.to(dtype))


def _float_line(line, dtype):
    """An int32 line as one of float32; None where that is not exact and currents of `dtype` are compared with it."""
    first, step = line[0].double(), line[1].double()
    dead = line[0] == checks.NEVER
    if dtype == torch.float32 and bool(((first.abs().maximum(step) >= EXACT) & ~dead).any()):
        return None
    first, step = torch.where(dead, torch.inf, first), torch.where(dead, 1.0, step)
    return torch.stack([first, step, 1 / step]).float()


def _whole(x, layer, bias, levels, scale, residual, residual_scale, repeat, timesteps, line):
    """int8 weights; x and residual [N, C, H, W], channels last."""
    weight, options, known = layer
    largest, total = known("largest", lambda: _largest(weight))
    single = total * timesteps < EXACT and 2 * timesteps * largest <= PAIR and not _beyond(weight, options)
    repeat = max(repeat, 1)
    table = None if levels is None else facts(levels)
    if single and bias is None and residual is None and scale is None and levels is not None:
        requantised = table(("requantised", repeat, len(weight)), lambda: _line(levels[..., ::repeat], len(weight)))
        if requantised is not None:
            out = _convolve(x, layer, torch.uint8, timesteps, requantised, levels.shape[-1] // repeat)
            return out if repeat == 1 else out.mul_(repeat)
    if len(x) > 1 and levels is not None and scale is None:  # counts need not wait for the currents of the whole batch
        sizes = convolved(x.shape[2:], _as_kernel(weight).shape[2:], *options[:3])
        images = max(1, CURRENTS // (len(weight) * math.prod(sizes)))
        if images < len(x):
            branches = itertools.repeat(None) if residual is None else residual.split(images)
            out = torch.empty((len(x), len(weight), *sizes), dtype=torch.uint8, memory_format=torch.channels_last)
            for i, (part, branch) in enumerate(zip(x.split(images), branches)):
                found = _whole(part, layer, bias, levels, scale, branch, residual_scale, repeat, timesteps, line)
                out[i * images : i * images + len(found)] = found
            return out
    current = _sums(x, layer, timesteps, single, total)
    added = 0 if bias is None else remembered(bias, "largest", lambda: int(bias.long().abs().amax()))
    if residual is not None:
        added += _most(residual, residual_scale)
    if total * timesteps + added >= EXACT:
        current = current.double()
    if bias is not None:
        current.add_(per_channel(bias.to(current.dtype), 4))
    if residual is not None and residual_scale is None:
        current.add_(residual)
        residual = None
    if residual is not None:
        residual_scale = residual_scale.to(current.dtype)
    if levels is None:
        current = add_residual(current, residual, residual_scale)
        if scale is not None:
            return current.float().mul_(per_channel(scale, 4))
        return (current if current.dtype == torch.float32 else current.clamp_(-(2**31), 2**31 - 1)).to(torch.int32)
    floating = table(("floating", current.dtype), lambda: _float_levels(levels, current.dtype))
    if line is not None:
        line = remembered(line, ("floating", current.dtype), lambda: _float_line(line, current.dtype))
    counts = torch.ops.pcsnn.fire_counts(current, floating, residual, residual_scale, repeat, line)
    return counts if scale is None else (counts // repeat).float().mul_(per_channel(scale, 4))


def _most(residual, residual_scale):
    """The most that a whole residual adds to a current."""
    if residual_scale is not None:
        return 255 * remembered(residual_scale, "largest", lambda: int(residual_scale.long().abs().amax()))
    return max(map(abs, map(int, residual.aminmax()))) if residual.numel() else 0


def _fired(current, levels, scale, residual, residual_scale, repeat, line, reach, counts_dtype):
    """Neurons behind a fresh float current, which is written over."""
    if levels is None:
        mean = add_residual(current, residual, residual_scale)
        return (mean if scale is None else mean * per_channel(scale, mean.dim())).to(current.dtype)
    if residual is not None and residual_scale is not None:
        residual = residual.to(torch.uint8)
    if scale is None:
        counts = torch.ops.pcsnn.fire_counts(current, levels, residual, residual_scale, repeat, line, reach)
        return counts if counts_dtype is None else counts.to(counts_dtype)
    torch.ops.pcsnn.fire_rates_(current, levels, scale, residual, residual_scale, repeat, 0, 0, line, reach)
    return current


def _runs(dtype):
    """Whether oneDNN multiplies this dtype here; otherwise float32 gives the same, rounded once."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype == torch.float32 or supported[dtype]()


def _product(product, counts, weight, bias):
    dtype = weight.dtype if _runs(weight.dtype) else torch.float32
    x, w, b = (None if value is None else value.to(dtype) for value in (counts, weight, bias))
    return product(x, w, b).to(weight.dtype)


def _beyond(weight, options):
    return weight.dim() == 4 and beyond_borders(weight.shape[2:], *options[:3])


def convolution(x, weight, bias, stride, padding, dilation, groups):
    """torch's convolution of channels-last images, also where it would crash: windows that see nothing but padding are
    left out, and are the bias."""
    weight = laid_out(weight, torch.channels_last)
    options = stride, padding, dilation, groups
    if not _beyond(weight, options):
        return F.conv2d(x, weight, bias, *options)
    shape = (len(x), len(weight), *convolved(x.shape[2:], weight.shape[2:], *options[:3]))
    out = x.new_zeros(()) if bias is None else per_channel(bias, 4)
    out = out.expand(shape).contiguous(memory_format=torch.channels_last)
    borders, inner = [], [slice(None), slice(None)]
    for size, count, taps, step, pad, spread in zip(x.shape[2:], shape[2:], weight.shape[2:], *options[:3]):
        reach = spread * (taps - 1)
        first = max(0, -((reach - pad) // step))  # of the windows that reach the image
        last = min(count - 1, (pad + size - 1) // step)
        if first > last:
            return out
        borders = [pad - first * step, (last * step - pad) + reach - (size - 1), *borders]
        inner.append(slice(first, last + 1))
    x = laid_out(F.pad(x, borders), torch.channels_last)  # cut where a border is below zero
    out[tuple(inner)] = F.conv2d(x, weight, bias, stride, 0, dilation, groups)
    return out


@functools.cache
def _check(name):
    """The checks of an operator's arguments in csrc/synapses.cpp."""
    return getattr(torch.ops.pcsnn, f"_check_{name}").default


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
    """The operator of `pcsnn.operators.dispatch` for the CPU."""
    _check("conv2d_fire")(
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
        line,
        reach,
        counts_dtype,
    )
    counts = laid_out(counts, torch.channels_last)
    if residual is not None:
        residual = laid_out(residual, torch.channels_last)
    if weight.dtype == torch.int8:
        layer = weight, (tuple(stride), tuple(padding), tuple(dilation), groups), facts(weight)
        out = _whole(counts, layer, bias, levels, scale, residual, residual_scale, repeat, timesteps, line)
    else:
        current = _product(lambda *given: convolution(*given, stride, padding, dilation, groups), counts, weight, bias)
        out = _fired(
            current.contiguous(memory_format=torch.channels_last),
            levels,
            scale,
            residual,
            residual_scale,
            repeat,
            line,
            reach,
            counts_dtype,
        )
    return laid_out(out, torch.channels_last)


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
    """The operator of `pcsnn.operators.dispatch` for the CPU."""
    _check("linear_fire")(
        counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps, line, reach, counts_dtype
    )
    shape = (*counts.shape[:-1], len(weight))
    rows = counts.reshape(-1, counts.shape[-1]).contiguous()
    branch = None if residual is None else residual.reshape(-1, len(weight)).contiguous()
    if weight.dtype == torch.int8:
        layer = weight, ((1, 1), (0, 0), (1, 1), 1), facts(weight)
        image = [None if part is None else part.t()[None, :, :, None] for part in (rows, branch)]  # of one column
        out = _whole(image[0], layer, bias, levels, scale, image[1], residual_scale, repeat, timesteps, line)
        out = out[0, :, :, 0].t()
    else:
        out = _fired(
            _product(F.linear, rows, weight, bias),
            levels,
            scale,
            branch,
            residual_scale,
            repeat,
            line,
            reach,
            counts_dtype,
        )
    return laid_out(out.reshape(shape), torch.contiguous_format)
