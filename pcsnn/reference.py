"""Every operation in plain torch: the executable form of the mathematics and the oracle of all tests.

Slow on purpose; nothing is fused. Shapes: T time-steps, N batch, C channels (dimension 1 of [N, C, ...]).
"""

import torch


def repeats(timesteps, quantization_levels):
    """m = T / L: how often each level of QCFS with L levels stands in a table of T; 1 where L does not divide T."""
    if quantization_levels is None or timesteps % quantization_levels:
        return 1
    return timesteps // quantization_levels


def resample_bend(bend, timesteps):
    """A bend [..., T0], the values of a curve at the positions (k - 1/2) / T0 -> at (k - 1/2) / T, linear between them."""
    known = bend.shape[-1]
    place = (torch.arange(timesteps, dtype=torch.float64, device=bend.device) + 0.5) * known / timesteps - 0.5
    place = place.clamp(0, known - 1)
    left = place.floor().long().clamp(max=max(known - 2, 0))
    right = (left + 1).clamp(max=known - 1)
    return bend[..., left] + (place - left) * (bend[..., right] - bend[..., left])


def levels(threshold, timesteps, quantization_levels=None, shift=0.5, offset=0.0, bend=None):
    """float64 threshold [] or [C] -> float32 levels [T] or [C, T] on the mean current (10), (C3), rounded once."""
    m = repeats(timesteps, quantization_levels)
    steps = torch.arange(1, timesteps + 1, dtype=torch.float64, device=threshold.device)
    theta, offset = threshold.unsqueeze(-1), torch.as_tensor(offset, dtype=torch.float64, device=threshold.device).unsqueeze(-1)
    table = (torch.ceil(steps / m) - shift) * theta / (timesteps // m) - offset
    if bend is not None:
        table = (table + resample_bend(bend, timesteps) * theta).cummax(-1).values
    return torch.where(theta == torch.inf, torch.inf, table).to(torch.float32)  # not (1 - shift) * inf, which may be NaN


def scale(amplitude, timesteps, quantization_levels=None):
    """float64 amplitude -> the float32 worth of one distinct level, amplitude * m / T."""
    return (amplitude * repeats(timesteps, quantization_levels) / timesteps).to(torch.float32)


def per_channel(table, ndim):
    """[C] or [C, T] or a scalar or [T] -> the same, to be broadcast against [N, C, ...] with `ndim` dimensions."""
    if table.dim() == 0:
        return table
    return table.reshape(1, table.shape[0], *[1] * (ndim - 2))


def search(mean, levels):
    """k = #{x : mean >= levels_x}, by comparison with every level; NaN gives 0. mean [N, ...], levels [T] or [C, T]."""
    counts = torch.zeros(mean.shape, dtype=torch.int32, device=mean.device)
    for level in levels.unbind(-1):
        counts += mean >= per_channel(level, mean.dim())
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


def fire_rates(current, levels, scale, residual=None, residual_scale=None, repeat=1):
    """Mean current [N, ...] -> scale * (k // repeat), in the dtype of the current (10)."""
    mean = add_residual(current, residual, residual_scale)
    counts = search(mean, levels.to(mean.dtype)) // repeat
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
