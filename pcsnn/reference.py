"""Every operation in plain torch: the executable form of the mathematics and the oracle of all tests.

Slow on purpose; nothing is fused. Shapes: T time-steps, N batch, C channels (dimension 1 of [N, C, ...]).
"""

import torch

from pcsnn.tensors.shapes import laid_out

NEVER = 2**31 - 1  # a level in whole numbers that no sum reaches


def repeats(timesteps, quantization_levels):
    """m = T / L: how often each level of QCFS with L levels stands in a table of T; 1 where L does not divide T."""
    if quantization_levels is None or timesteps % quantization_levels:
        return 1
    return timesteps // quantization_levels


def divided(values, number):
    """values / number, rounded once on every device: CUDA multiplies by the reciprocal of a number, which is rounded too."""
    return values / torch.full((), number, dtype=values.dtype, device=values.device)


def resample_bend(bend, timesteps):
    """A bend [..., T0], the values of a curve at the positions (k - 1/2) / T0 -> at (k - 1/2) / T, linear between them."""
    known = bend.shape[-1]
    place = (torch.arange(timesteps, dtype=torch.float64, device=bend.device) + 0.5) * known / timesteps - 0.5
    place = place.clamp(0, known - 1)
    left = place.floor().long().clamp(max=max(known - 2, 0))
    right = (left + 1).clamp(max=known - 1)
    return bend[..., left] + (place - left) * (bend[..., right] - bend[..., left])


def fma(count, step, first):
    """count * step + first of float32 tensors and whole numbers 0..255, rounded once to float32 (23).

    The product is exact in float64; where the sum is not, it is rounded to odd, which leaves the rounding to float32 right.
    """
    product, first = count.double() * step.double(), first.double()
    total = product + first
    part = total - product
    error = (product - (total - part)) + (first - part)  # exact: what the sum lost
    bits = total.view(torch.int64)
    toward = torch.where((error > 0) == (total > 0), 1, -1)
    odd = torch.where((error != 0) & error.isfinite() & (bits % 2 == 0), bits + toward, bits)
    return odd.view(torch.float64).to(torch.float32)


def line(threshold, steps, shift=0.5, offset=0.0):
    """float64 threshold [] or [C] -> (first, step), float32: where `steps` evenly spaced levels start, and how far apart
    they lie (23). A channel that never fires has (inf, 1)."""
    dead = threshold == torch.inf
    step = threshold / steps
    offset = torch.as_tensor(offset, dtype=torch.float64, device=threshold.device)
    first = torch.where(dead, torch.inf, (1 - shift) * step - offset)
    return first.to(torch.float32), torch.where(dead, 1.0, step).to(torch.float32).expand(first.shape)


def on_line(first, step, steps):
    """The float32 levels [..., steps] of a line [...]: level x is fma(x - 1, step, first) (23)."""
    count = torch.arange(steps, device=first.device)
    return fma(count, step.unsqueeze(-1), first.unsqueeze(-1))


def levels(threshold, timesteps, quantization_levels=None, shift=0.5, offset=0.0, bend=None):
    """float64 threshold [] or [C] -> float32 levels [T] or [C, T] on the mean current: those of a line (10), (23), or bent
    ones (C3), computed in float64 and rounded once."""
    m = repeats(timesteps, quantization_levels)
    if bend is None:
        return on_line(*line(threshold, timesteps // m, shift, offset), timesteps // m).repeat_interleave(m, -1)
    steps = torch.arange(1, timesteps + 1, dtype=torch.float64, device=threshold.device)
    theta, offset = threshold.unsqueeze(-1), torch.as_tensor(offset, dtype=torch.float64, device=threshold.device).unsqueeze(-1)
    table = (torch.ceil(steps / m) - shift) * theta / (timesteps // m) - offset
    table = (table + resample_bend(bend, timesteps) * theta).cummax(-1).values
    return torch.where(theta == torch.inf, torch.inf, table).to(torch.float32)  # not (1 - shift) * inf, which may be NaN


def scale(amplitude, timesteps, quantization_levels=None):
    """float64 amplitude -> the float32 worth of one distinct level, amplitude * m / T."""
    return divided(amplitude * repeats(timesteps, quantization_levels), timesteps).to(torch.float32)


def per_channel(table, ndim):
    """[C] or [C, T] or a scalar or [T] -> the same, to be broadcast against [N, C, ...] with `ndim` dimensions."""
    if table.dim() == 0:
        return table
    return table.reshape(1, table.shape[0], *[1] * (ndim - 2))


def search(mean, levels):
    """k = #{x : mean >= levels_x}, by comparison with every level; NaN gives 0, and no whole number reaches NEVER.

    mean [N, ...], levels [T] or [C, T].
    """
    counts = torch.zeros(mean.shape, dtype=torch.int32, device=mean.device)
    for level in levels.unbind(-1):
        level = per_channel(level, mean.dim())
        counts += (mean >= level) & (level != NEVER) if levels.dtype == torch.int32 else mean >= level
    return counts


def compute_dtype(current):
    """Currents are compared in float32; float64 stays float64."""
    return torch.float64 if current.dtype == torch.float64 else torch.float32


def add_residual(current, residual, residual_scale):
    """Mean current of a neuron behind a residual sum: current + residual, or current + scale * counts, in float32."""
    mean = current.to(compute_dtype(current))
    if residual is None:
        return mean
    branch = residual.to(mean.dtype)
    if residual_scale is not None:
        branch = branch * per_channel(residual_scale.to(mean.dtype), mean.dim())
    return mean + branch


def fire_counts(current, levels, residual=None, residual_scale=None):
    """Mean current [N, ...] -> spike counts, uint8 [N, ...] (10)."""
    mean = add_residual(current, residual, residual_scale)
    return search(mean, levels.to(mean.dtype)).to(torch.uint8)


def balance(counts, turn, low):
    """k levels of a signed table reached -> spikes, those below zero counted negative: int32 |k - turn| - low (S1)."""
    return (counts.to(torch.int32) - turn).abs() - low


def signed_spikes(spikes, turn, low):
    """Sorted spikes [T, ...] of k -> int8 in -1..1, whose sum is `balance`; step t is won by level T - t (S2)."""
    level = torch.arange(len(spikes), 0, -1, device=spikes.device).reshape(-1, *[1] * (spikes.dim() - 1))
    down = ((level > turn) & (level <= low)).to(torch.int8)  # silent where the level is reached, else negative
    up = (level <= turn - low).to(torch.int8)
    return torch.where(level <= turn, -1, 1).to(torch.int8) * spikes.to(torch.int8) + up - down


def fire_rates(current, levels, scale, residual=None, residual_scale=None, repeat=1, turn=0, low=0):
    """Mean current [N, ...] -> scale * (|k // repeat - turn| - low), in the dtype of the current (10), (S1)."""
    mean = add_residual(current, residual, residual_scale)
    counts = balance(search(mean, levels.to(mean.dtype)) // repeat, turn, low)
    return (counts.to(mean.dtype) * per_channel(scale.to(mean.dtype), mean.dim())).to(current.dtype)


def fire_spikes(current, levels, amplitude=None, out_dtype=torch.uint8):
    """Currents [T, N, ...] -> sorted spikes [T, N, ...], times amplitude where given (5-7).

    The sum runs in time order; it is compared with T * level, rounded once.
    """
    total = torch.zeros(current.shape[1:], dtype=compute_dtype(current), device=current.device)
    for step in current.unbind(0):
        total = total + step.to(total.dtype)
    counts = search(total, levels.to(total.dtype) * current.shape[0])
    return expand_spikes(counts, current.shape[0], None, out_dtype, amplitude)


def expand_spikes(counts, timesteps, order=None, dtype=torch.uint8, amplitude=None):
    """Counts [N, ...] -> spikes [T, N, ...]: the last k steps fire; step x takes the place order[x] of the sorted train."""
    steps = torch.arange(timesteps, device=counts.device) if order is None else order
    steps = steps.reshape(-1, *[1] * counts.dim())
    spikes = (steps >= timesteps - counts.to(torch.int64)).to(dtype)
    return spikes if amplitude is None else spikes * per_channel(amplitude.to(dtype), counts.dim())


def _fused(product, counts, weight, bias, levels, scale, residual, residual_scale, repeat):
    """What a synapse and the neurons behind it give; product(counts, weight, bias) makes [N, C, ...].

    Float weights: the current has their dtype, as if the synapse had run alone. int8 weights: all is a whole number, in
    units of what the weights of an output channel are multiples of; it is exact, and currents are cut to int32 at last.
    """
    whole = weight.dtype == torch.int8
    if whole:  # float64 holds whole numbers up to 2^53
        current = product(counts.double(), weight.double(), None if bias is None else bias.double()).to(torch.int64)
        if residual is not None:
            branch = residual.to(torch.int64)
            if residual_scale is not None:
                branch = branch * per_channel(residual_scale.to(torch.int64), branch.dim())
            current = current + branch
    else:
        current = product(counts.float(), weight.float(), None if bias is None else bias.float()).to(weight.dtype)
    if levels is not None:
        if whole:
            k = search(current, levels)
            if scale is None:
                return k.to(torch.uint8)
            return (k // max(repeat, 1)).float() * per_channel(scale, current.dim())
        if scale is None:
            return fire_counts(current, levels, residual, residual_scale)
        return fire_rates(current, levels, scale, residual, residual_scale, max(repeat, 1))
    if not whole:
        current = add_residual(current, residual, residual_scale)
    if scale is not None:
        return (current.float() * per_channel(scale, current.dim())).to(torch.float32 if whole else weight.dtype)
    return current.clamp(-(2**31), 2**31 - 1).to(torch.int32) if whole else current.to(weight.dtype)


def conv2d_fire(counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat):
    """Input [N, C, H, W] -> counts, rates or currents [N, O, H', W'] of neurons behind a convolution (10), (11)."""
    def product(x, w, b):  # torch misreads, or dies of, some strides of channels-last tensors
        x, w = (laid_out(value, torch.contiguous_format) for value in (x, w))
        return torch.nn.functional.conv2d(x, w, b, stride, padding, dilation, groups)
    return _fused(product, counts, weight, bias, levels, scale, residual, residual_scale, repeat)


def linear_fire(counts, weight, bias, levels, scale, residual, residual_scale, repeat):
    """Input [..., K] -> counts, rates or currents [..., O] of neurons behind a linear layer; channels are O."""
    rows = counts.reshape(-1, counts.shape[-1])
    branch = None if residual is None else residual.reshape(-1, weight.shape[0])
    out = _fused(torch.nn.functional.linear, rows, weight, bias, levels, scale, branch, residual_scale, repeat)
    return out.view(*counts.shape[:-1], weight.shape[0])


def whole_levels(levels, weight_scale, bias=None):
    """Levels [T] or [O, T] on a current of which the sum over int8 weights counts multiples of weight_scale [O] -> int32
    [O, T] on that sum: the least whole number at which a level and the bias are reached, computed in float64."""
    unit = weight_scale.double().unsqueeze(-1)
    start = 0.0 if bias is None else bias.double().unsqueeze(-1)
    table = torch.ceil((levels.double() - start) / unit)
    return table.clamp(-(2**31), 2**31 - 1).to(torch.int32)


def _windows(counts, kernel, stride, padding, dilation, sizes):
    """[taps, N, C, *sizes]; beyond the borders there is no spike."""
    shape = [(size - 1) * step + spread * (taps - 1) + 1 for size, step, spread, taps in zip(sizes, stride, dilation, kernel)]
    ends = [max(0, needed - length - pad) for needed, length, pad in zip(shape, counts.shape[2:], padding)]
    padded = torch.nn.functional.pad(counts, (padding[1], ends[1], padding[0], ends[0]))
    windows = [padded[:, :, y * dilation[0]:, x * dilation[1]:][:, :, ::stride[0], ::stride[1]][:, :, :sizes[0], :sizes[1]]
               for y in range(kernel[0]) for x in range(kernel[1])]
    return torch.stack(windows)


def max_pool2d(*arguments):
    """The largest count of each window: [N, C, H, W] -> [N, C, *sizes]; beyond the borders there is no spike."""
    return _windows(*arguments).amax(0)


def sum_pool2d(*arguments):
    """The sum of the counts of each window, of uint8 modulo 256: [N, C, H, W] -> [N, C, *sizes]."""
    return _windows(*arguments).sum(0).to(arguments[0].dtype)
