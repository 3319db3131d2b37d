"""Fused synapses on the CPU that csrc/ leaves to torch and oneDNN, and behind them the search of csrc/.

With int8 weights, where the levels of every channel lie on a line that oneDNN's own requantisation resolves without
doubt, it counts the spikes itself and writes bytes: one primitive.
"""

import functools
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pcsnn.cpu import integer_products, lines
from pcsnn.cpu.convolution import convolution
from pcsnn.tensors.arithmetic import add_residual, per_channel
from pcsnn.tensors.memo import facts, remembered
from pcsnn.tensors.shapes import convolved, laid_out

CURRENTS_AT_ONCE = 2**20  # that are made before their counts are taken


class Neurons(NamedTuple):
    """What stands behind int8 weights, in the operators' names."""

    bias: torch.Tensor | None
    levels: torch.Tensor | None
    scale: torch.Tensor | None
    residual: torch.Tensor | None  # [N, O, H', W'], channels last
    residual_scale: torch.Tensor | None
    repeat: int
    timesteps: int
    line: torch.Tensor | None


def _fire_integers(x, layer, neurons):
    """int8 weights: x [N, C, H, W], channels last -> counts, rates or currents [N, O, H', W']."""
    if neurons.levels is None or neurons.scale is not None:
        return _from_currents(x, layer, neurons)
    counts = _requantised_counts(x, layer, neurons)
    if counts is None:
        counts = _counts_in_parts(x, layer, neurons) if len(x) > 1 else _from_currents(x, layer, neurons)
    return counts


def _requantised_counts(x, layer, neurons):
    """Counts that the product itself makes; None where it cannot."""
    _, levels, _, _, _, repeat, timesteps, _ = neurons
    outputs = len(layer.weight)
    if neurons.bias is not None or neurons.residual is not None:
        return None
    if not integer_products.fits_one_product(layer, timesteps):
        return None
    line = facts(levels)(("requantised", repeat, outputs), lambda: lines.fit(levels[..., ::repeat], outputs))
    if line is None:
        return None
    counts = integer_products.convolve(x, layer, torch.uint8, timesteps, line, levels.shape[-1] // repeat)
    return counts if repeat == 1 else counts.mul_(repeat)


def _counts_in_parts(x, layer, neurons):
    """Counts, a few images after the other: they need not wait for the currents of the whole batch."""
    outputs = len(layer.weight)
    sizes = convolved(x.shape[2:], integer_products.as_kernel(layer.weight).shape[2:], *layer.options[:3])
    images = max(1, CURRENTS_AT_ONCE // (outputs * math.prod(sizes)))
    if images >= len(x):
        return _from_currents(x, layer, neurons)
    branches = itertools.repeat(None) if neurons.residual is None else neurons.residual.split(images)
    out = torch.empty((len(x), outputs, *sizes), dtype=torch.uint8, memory_format=torch.channels_last)
    for part, counts, branch in zip(x.split(images), out.split(images), branches):
        counts.copy_(_from_currents(part, layer, neurons._replace(residual=branch)))
    return out


def _from_currents(x, layer, neurons):
    """Counts, rates or currents, from the currents of all neurons."""
    bias, levels, scale, residual, residual_scale, repeat, timesteps, line = neurons
    current = integer_products.sums(x, layer, timesteps)
    added = 0 if bias is None else remembered(bias, "largest", lambda: int(bias.long().abs().amax()))
    if residual is not None:
        added += _largest_branch(residual, residual_scale)
    if integer_products.bounds(layer)[1] * timesteps + added >= lines.FLOAT32_EXACT:
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
    dtype = current.dtype
    floating = facts(levels)(("floating", dtype), lambda: lines.floating_levels(levels, dtype))
    if line is not None:
        line = remembered(line, ("floating", dtype), lambda: lines.floating_line(neurons.line, dtype))
    counts = torch.ops.pcsnn.fire_counts(current, floating, residual, residual_scale, repeat, line)
    return counts if scale is None else (counts // repeat).float().mul_(per_channel(scale, 4))


def _largest_branch(residual, residual_scale):
    """The most that a whole residual adds to a current."""
    if residual_scale is not None:
        return 255 * remembered(residual_scale, "largest", lambda: int(residual_scale.long().abs().amax()))
    return max(map(abs, map(int, residual.aminmax()))) if residual.numel() else 0


def _fire_floats(current, levels, scale, residual, residual_scale, repeat, line, reach, counts_dtype):
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


@functools.cache
def _check(name):
    """The checks of an operator's arguments in csrc/synapses.cpp."""
    return getattr(torch.ops.pcsnn, f"_check_{name}").default


def is_not_in_cpp(counts, weight, bias, levels, *others):
    """Whether csrc/synapses.cpp hands an operator on to a function below, by what is quickly seen."""
    return counts.device.type == "cpu" and (levels is None or weight.dtype != torch.float32)


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
    """The operator of `pcsnn.operators.synapses` on the CPU, where csrc/ hands it on."""
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
        options = tuple(stride), tuple(padding), tuple(dilation), groups
        layer = integer_products.Layer(weight, options, facts(weight))
        neurons = Neurons(bias, levels, scale, residual, residual_scale, max(repeat, 1), timesteps, line)
        out = _fire_integers(counts, layer, neurons)
    else:
        current = _product(lambda *given: convolution(*given, stride, padding, dilation, groups), counts, weight, bias)
        out = _fire_floats(
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
    """The operator of `pcsnn.operators.synapses` on the CPU, where csrc/ hands it on."""
    _check("linear_fire")(
        counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps, line, reach, counts_dtype
    )
    shape = (*counts.shape[:-1], len(weight))
    rows = counts.reshape(-1, counts.shape[-1]).contiguous()
    branch = None if residual is None else residual.reshape(-1, len(weight)).contiguous()
    if weight.dtype == torch.int8:
        layer = integer_products.Layer(weight, ((1, 1), (0, 0), (1, 1), 1), facts(weight))
        image = [None if part is None else part.t()[None, :, :, None] for part in (rows, branch)]  # of one column
        neurons = Neurons(bias, levels, scale, image[1], residual_scale, max(repeat, 1), timesteps, line)
        out = _fire_integers(image[0], layer, neurons)[0, :, :, 0].t()
    else:
        out = _fire_floats(
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
