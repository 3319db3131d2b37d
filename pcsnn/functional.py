"""The operations: sorted spikes and spike counts of parallel neurons, all T time-steps at once.

Math: numbers in brackets are those of docs/mathematics.md. Source: "Faster and Stronger: When ANN-SNN Conversion Meets
Parallel Spiking Calculation" (ICML 2025, arXiv 2412.13610), Eq. 8 and its sorting property.

On every device the result equals `pcsnn.reference` bit for bit. Nothing here has a gradient.
"""

import torch

from pcsnn import reference
from pcsnn.levels.signed import signed_levels
from pcsnn.levels.spacing import spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.operators.attention import spiking_attention
from pcsnn.operators.synapses import conv2d_fire, linear_fire, max_pool2d, sum_pool2d, whole_levels
from pcsnn.tensors import checks
from pcsnn.tensors.host import on_host
from pcsnn.tensors.memo import remembered

__all__ = ["conv2d_fire", "expand_spikes", "fire_counts", "fire_rates", "fire_spikes", "levels", "linear_fire", "max_pool2d",
           "signed_levels", "spiking_attention", "sum_pool2d", "whole_levels"]


@on_host
def levels(threshold, timesteps, *, quantization_levels=None, shift=0.5, offset=0.0, bend=None):
    """The T ascending levels on the mean current at which the next spike is won (10).

    tau_x = (x - shift) * threshold / T - offset; where `quantization_levels` L divides T, m = T / L, the staircase
    tau_x = (ceil(x / m) - shift) * threshold / L - offset, which is lossless against QCFS with L levels. Rounded as (23) says:
    tau_x = fma(ceil(x / m) - 1, step, first), first and step of float32.

    Args:
        threshold: firing threshold > 0, a number or a tensor [C]; +inf for a channel that never fires.
        timesteps: T, 1..255.
        quantization_levels: L of the source's QCFS activation, if it has one; ignored where it does not divide T.
        shift: in units of the threshold of one step; 0.5 is the paper's psi = theta / 2.
        offset: added to the mean current before it is compared, psi_DA of (15); a number or a tensor [C].
        bend: what the levels stray from even spacing (C3), in units of the threshold: a tensor [T0] or [C, T0] of values
            at the positions (k - 1/2) / T0, read between them where T0 is not T; None: evenly spaced. The levels ascend
            whatever it says: each is at least the one before it.

    Returns:
        float32 [T], or [C, T] where threshold, offset or bend is per channel, on the device of the first of these that is a tensor.
        Bent levels are computed in float64 and rounded once.

    Raises:
        ValueError, TypeError: threshold <= 0 or NaN, T outside 1..255, offset, bend or shift not finite.
    """
    device = checks.device_of(threshold, offset, bend)
    theta = checks.threshold(threshold)
    checks.timesteps(timesteps)
    checks.number("shift", shift)
    if quantization_levels is not None:
        checks.integer("quantization_levels", quantization_levels, 1, 2**16)
    offset = torch.as_tensor(offset, dtype=torch.float64, device="cpu").detach()
    if offset.dim() > 1 or not offset.isfinite().all():
        raise ValueError(f"offset: expected finite values, a number or [C], got {offset.tolist()}")
    if theta.dim() and offset.dim() and theta.shape != offset.shape:
        raise ValueError(f"offset: expected {theta.shape[0]} channels like threshold, got {offset.shape[0]}")
    if bend is not None:
        checks.tensor("bend", bend, (torch.float32, torch.float64), 1)
        bend = bend.detach().to("cpu", torch.float64)
        channels = next((value.shape for value in (theta, offset) if value.dim()), bend.shape[:-1])
        if bend.dim() > 2 or bend.shape[-1] == 0 or not bend.isfinite().all() or bend.dim() == 2 and bend.shape[:1] != channels:
            raise ValueError(f"bend: expected finite values, [T] or [C, T], got shape {tuple(bend.shape)}")
    return reference.levels(theta, timesteps, quantization_levels, shift, offset, bend).to(device)


def _as_scalar_tensor(name, value, like):
    """A number as a tensor where `like` is; anything that is no tensor there is left to the checks."""
    if isinstance(value, torch.Tensor):
        return value
    checks.number(name, value)
    return torch.tensor(float(value), dtype=torch.float32, device=getattr(like, "device", None))


def fire_counts(current, levels, residual=None, residual_scale=None, *, repeat=None, spacing=None):
    """Spike counts of neurons under a mean current (10): k = #{x : mean >= levels_x}.

    Args:
        current: mean current [N, ...] or [N, C, ...], float32, float16, bfloat16 (compared in float32) or float64.
        levels: float32 [T] or [C, T], ascending (float64 too with a float64 current).
        residual: a second branch to add first, of the shape of `current`: of its dtype, or spike counts uint8.
        residual_scale: the worth of one spike of a uint8 residual, a number or a tensor [] or [C].
        repeat: how often each level stands in `levels`; 0 bisects the table whatever it is like; None looks.
        spacing: the `pcsnn.levels.spacing.Spacing` of the levels, where it is known; None looks.

    Returns:
        uint8 [N, ...], laid out like `current`. NaN currents give no spike.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: an input requires a gradient.
    """
    if residual_scale is not None and residual is not None:
        residual_scale = _as_scalar_tensor("residual_scale", residual_scale, current)
    checks.once(arguments.mean, current, levels, residual, residual_scale, None)
    checks.no_gradient(current=current, residual=residual)
    repeat, line, reach = spacing or spacing_of(levels, repeat, False)
    return dispatch.call("fire_counts", current, levels, residual, residual_scale, repeat, line, reach)


def fire_spikes(current, levels, out_dtype=torch.uint8, amplitude=None, *, repeat=None, spacing=None):
    """Sorted spikes of neurons under T currents (5)-(9): summed in time order, searched, written from the count.

    Args:
        current: [T, N, ...] or [T, N, C, ...], float32, float16, bfloat16 (summed in float32) or float64.
        levels: float32 [T] or [C, T] on the mean current, ascending; the sum is compared with T * levels.
        out_dtype: uint8, bool, float32, float16, bfloat16 or float64.
        amplitude: what a spike is worth, with a floating out_dtype: a number, or a tensor [] or [C].
        repeat: how often each level stands in `levels`; 0 bisects the table whatever it is like; None looks.
        spacing: the `pcsnn.levels.spacing.Spacing` of the levels, where it is known; None looks.

    Returns:
        spikes [T, N, ...] of out_dtype; the last k of the T steps fire. NaN sums give no spike.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: `current` requires a gradient.
    """
    amplitude = _amplitude(amplitude, out_dtype, "out_dtype", current)
    checks.once(arguments.trains, current, levels, amplitude)
    checks.no_gradient(current=current)
    repeat, line, reach = spacing or spacing_of(levels, repeat, False)
    return dispatch.call("fire_spikes", current, levels, amplitude, out_dtype, repeat, line, reach)


def expand_spikes(counts, timesteps, order=None, dtype=torch.uint8, amplitude=None):
    """Spike trains of given counts (7), (13): the last k of T steps fire, or those that `order` puts there.

    Args:
        counts: uint8 [N, ...], values 0..T (larger ones act as T).
        timesteps: T, 1..255.
        order: a permutation of 0..T-1, int64 [T]: step x shows place order[x] of the sorted train.
        dtype: uint8, bool, float32, float16, bfloat16 or float64.
        amplitude: what a spike is worth, with a floating dtype: a number, or a tensor [] or [C].

    Returns:
        spikes [T, N, ...] of `dtype`, each step laid out like `counts`.

    Raises:
        TypeError, ValueError: a dtype, shape, device or order that does not fit.
    """
    amplitude = _amplitude(amplitude, dtype, "dtype", counts)
    checks.once(arguments.counted, counts, timesteps, order, amplitude)
    if order is not None:
        if not (torch.compiler.is_compiling() or remembered(
                order, "permutation", lambda: torch.equal(order.sort().values.cpu(), torch.arange(timesteps)))):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    return dispatch.call("expand_spikes", counts, timesteps, order, dtype, amplitude)


def _amplitude(amplitude, dtype, name, like):
    """The amplitude as a tensor on the device of `like`, or None, for spikes of `dtype`."""
    arguments.spike_dtype(name, dtype, amplitude)
    return None if amplitude is None else _as_scalar_tensor("amplitude", amplitude, like)


def fire_rates(current, levels, scale, residual=None, residual_scale=None, *, repeat=None, inplace=False, turn=0,
               low=0, spacing=None):
    """Firing rates of neurons under a mean current, in one pass: scale * (|k // m - turn| - low), k as in `fire_counts`.

    m is `repeat`, the number of times each level stands in a staircase of `levels`: with T = m L and the scale
    amplitude / L the rate is bit-equal to QCFS with L levels.

    Args:
        current, levels, residual, residual_scale: as in `fire_counts`.
        scale: the worth of one distinct level, amplitude * m / T: a number, or a tensor [] or [C], float32.
        repeat: m; 0 is 1 and bisects the table whatever it is like; None: m is 1.
        turn, low: of a signed table (S1), as `signed_levels` gives them, 0..T: k levels reached are |k - turn| - low spikes.
        spacing: the `pcsnn.levels.spacing.Spacing` of the levels, its repeat m, where it is known; None looks.
        inplace: write the rates over `current`, which must be dense (not expanded), and return it.

    Returns:
        rates [N, ...] in the dtype of `current`, laid out like it.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: an input requires a gradient.
    """
    scale = _as_scalar_tensor("scale", scale, current)
    if residual_scale is not None and residual is not None:
        residual_scale = _as_scalar_tensor("residual_scale", residual_scale, current)
    checks.once(arguments.mean, current, levels, residual, residual_scale, scale)
    checks.no_gradient(current=current, residual=residual)
    checks.integer("turn", turn, 0, levels.shape[-1])
    checks.integer("low", low, 0, levels.shape[-1])
    repeat, line, reach = spacing or spacing_of(levels, repeat, True)
    if not inplace:
        return dispatch.call("fire_rates", current, levels, scale, residual, residual_scale, repeat, turn, low, line, reach)
    dispatch.call("fire_rates_", current, levels, scale, residual, residual_scale, repeat, turn, low, line, reach)
    return current
