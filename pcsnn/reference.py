"""Every operation in plain torch: the executable form of the mathematics and the oracle of all tests.

Slow on purpose; nothing is fused. Shapes: T time-steps, N batch, C channels (dimension 1 of [N, C, ...]).

Functions of an operator's name take the arguments of its schema; `repeat`, `line`, `reach` and `timesteps` say how a
search may be shortened, and every level is compared here all the same. Dtypes and layouts of counts are the operators'
affair.
"""

import torch

from pcsnn.levels.signed import balance
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import add_residual, compute_dtype, per_channel
from pcsnn.tensors.shapes import join_heads, laid_out, split_heads


def search(mean, levels):
    """k = #{x : mean >= levels_x}, by comparison with every level; NaN gives 0, and no whole number reaches
    checks.NEVER.

    mean [N, ...], levels [T] or [C, T].
    """
    counts = torch.zeros(mean.shape, dtype=torch.int32, device=mean.device)
    for level in levels.unbind(-1):
        level = per_channel(level, mean.dim())
        counts += (mean >= level) & (level != checks.NEVER) if levels.dtype == torch.int32 else mean >= level
    return counts


def fire_counts(current, levels, residual=None, residual_scale=None, repeat=1, line=None, reach=0):
    """Mean current [N, ...] -> spike counts, uint8 [N, ...] (10)."""
    mean = add_residual(current, residual, residual_scale)
    return search(mean, levels.to(mean.dtype)).to(torch.uint8)


def fire_rates(current, levels, scale, residual=None, residual_scale=None, repeat=1, turn=0, low=0, line=None, reach=0):
    """Mean current [N, ...] -> scale * (|k // repeat - turn| - low), in the dtype of the current (10), (S1); repeat 0
    is 1."""
    mean = add_residual(current, residual, residual_scale)
    counts = balance(search(mean, levels.to(mean.dtype)) // max(repeat, 1), turn, low)
    return (counts.to(mean.dtype) * per_channel(scale.to(mean.dtype), mean.dim())).to(current.dtype)


def fire_spikes(current, levels, amplitude=None, out_dtype=torch.uint8, repeat=1, line=None, reach=0, spike_levels=1):
    """Currents [T, N, ...] -> sorted spikes [T, N, ...] of 0..spike_levels, times amplitude where given (5-7), (22).

    The sum runs in time order; it is compared with T * level, rounded once.
    """
    total = torch.zeros(current.shape[1:], dtype=compute_dtype(current), device=current.device)
    for step in current.unbind(0):
        total = total + step.to(total.dtype)
    counts = search(total, levels.to(total.dtype) * current.shape[0])
    return expand_spikes(counts, current.shape[0], None, out_dtype, amplitude, spike_levels)


def expand_spikes(counts, timesteps, order=None, dtype=torch.uint8, amplitude=None, spike_levels=1):
    """Counts [N, ...] -> spikes [T, N, ...] of 0..spike_levels: the last steps are full, the one before them takes what
    is left (7), (22); step x takes the place order[x] of the sorted train."""
    places = torch.arange(timesteps, device=counts.device) if order is None else order
    places = places.clamp(timesteps - 1 - checks.MAX_TIMESTEPS, timesteps).reshape(-1, *[1] * counts.dim())
    behind = (timesteps - 1 - places) * spike_levels  # what the steps after a place send at most
    spikes = (counts.to(torch.int64) - behind).clamp(0, spike_levels).to(dtype)
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
        return fire_rates(current, levels, scale, residual, residual_scale, repeat)
    if not whole:
        current = add_residual(current, residual, residual_scale)
    if scale is not None:
        return (current.float() * per_channel(scale, current.dim())).to(torch.float32 if whole else weight.dtype)
    return current.clamp(-(2**31), 2**31 - 1).to(torch.int32) if whole else current.to(weight.dtype)


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
    timesteps=None,
    line=None,
    reach=0,
    counts_dtype=None,
):
    """Input [N, C, H, W] -> counts, rates or currents [N, O, H', W'] of neurons behind a convolution (10), (11)."""

    def product(x, w, b):  # torch misreads, or dies of, some strides of channels-last tensors
        x, w = (laid_out(value, torch.contiguous_format) for value in (x, w))
        return torch.nn.functional.conv2d(x, w, b, stride, padding, dilation, groups)

    return _fused(product, counts, weight, bias, levels, scale, residual, residual_scale, repeat)


def linear_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    repeat,
    timesteps=None,
    line=None,
    reach=0,
    counts_dtype=None,
):
    """Input [..., K] -> counts, rates or currents [..., O] of neurons behind a linear layer; channels are O."""
    rows = counts.reshape(-1, counts.shape[-1])
    branch = None if residual is None else residual.reshape(-1, weight.shape[0])
    out = _fused(torch.nn.functional.linear, rows, weight, bias, levels, scale, branch, residual_scale, repeat)
    return out.view(*counts.shape[:-1], weight.shape[0])


def _windows(counts, kernel, stride, padding, dilation, sizes):
    """[taps, N, C, *sizes]; beyond the borders there is no spike."""
    shape = [
        (size - 1) * step + spread * (taps - 1) + 1 for size, step, spread, taps in zip(sizes, stride, dilation, kernel)
    ]
    ends = [max(0, needed - length - pad) for needed, length, pad in zip(shape, counts.shape[2:], padding)]
    padded = torch.nn.functional.pad(counts, (padding[1], ends[1], padding[0], ends[0]))
    windows = [
        padded[:, :, y * dilation[0] :, x * dilation[1] :][:, :, :: stride[0], :: stride[1]][
            :, :, : sizes[0], : sizes[1]
        ]
        for y in range(kernel[0])
        for x in range(kernel[1])
    ]
    return torch.stack(windows)


def max_pool2d(counts, kernel, stride, padding, dilation, sizes):
    """The largest count of each window: [N, C, H, W] -> [N, C, *sizes]; beyond the borders there is no spike."""
    return _windows(counts, kernel, stride, padding, dilation, sizes).amax(0)


def sum_pool2d(counts, kernel, stride, padding, dilation, sizes):
    """The sum of the counts of each window, of uint8 modulo 256: [N, C, H, W] -> [N, C, *sizes]."""
    return _windows(counts, kernel, stride, padding, dilation, sizes).sum(0).to(counts.dtype)


def attention_products(query, key, value, heads, causal):
    """(Q K^T) V head by head; causal: query i sees keys 0..i. A sum begins at +0: one of zeros alone is +0."""
    query, key, value = (split_heads(x, heads) for x in (query, key, value))
    scores = query @ key.transpose(-2, -1)
    return join_heads((scores.tril() if causal else scores) @ value) + 0.0


def time_average(x):
    """[T, ...] -> [...], summed in time order in float32 (float64 stays)."""
    total = torch.zeros(x.shape[1:], dtype=compute_dtype(x), device=x.device)
    for step in x.unbind(0):
        total = total + step.to(total.dtype)
    return (total / len(x)).to(x.dtype)


def query_spikes(query, levels, scale):
    """Currents [T, N, M, H * D] -> sorted spikes, times scale."""
    return fire_spikes(query.flatten(1, 2), levels, scale, query.dtype).view(query.shape)


def spiking_attention(query, key, value, levels, scale, heads, causal, repeat, line=None, reach=0):
    """Collapsed: mean current [N, M, H * D], key [N, S, H * D], value [N, S, H * E] -> [N, M, H * E], all averages over
    time.

    Products and sums are float32 (float64 stays); rates, as everywhere, are rounded to the dtype of the current.
    """
    rates = fire_rates(query.flatten(0, 1), levels, scale, repeat=repeat).view(query.shape)
    precise = compute_dtype(query)
    return attention_products(rates.to(precise), key.to(precise), value.to(precise), heads, causal).to(query.dtype)


def step_by_step(query, key, value, levels, scale, heads, causal):
    """O(T): currents [T, N, ...] -> [T, N, M, H * E]; K and V averaged first, then one attention a step."""
    key, value = time_average(key), time_average(value)
    return torch.stack(
        [attention_products(step, key, value, heads, causal) for step in query_spikes(query, levels, scale).unbind(0)]
    )


def every_pair_of_steps(query, key, value, levels, scale, heads, causal):
    """O(T^2): the same without averages, each step of Q by each step of K and what that gives by each step of V."""
    steps = len(query)
    keys, values = (split_heads(x, heads).unbind(0) for x in (key, value))
    out = []
    for spike in split_heads(query_spikes(query, levels, scale), heads).unbind(0):
        scores = sum(spike @ step.transpose(-2, -1) for step in keys) / steps
        scores = scores.tril() if causal else scores
        out.append(join_heads(sum(scores @ step for step in values) / steps))
    return torch.stack(out)
