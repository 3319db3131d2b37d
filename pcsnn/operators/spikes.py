"""Sorted spikes of neurons under T currents, and of given counts. The names are those of `pcsnn.functional`."""

import torch

from pcsnn.levels.spacing import spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks
from pcsnn.tensors.memo import remembered


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
        if not (
            torch.compiler.is_compiling()
            or remembered(order, "permutation", lambda: torch.equal(order.sort().values.cpu(), torch.arange(timesteps)))
        ):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    return dispatch.call("expand_spikes", counts, timesteps, order, dtype, amplitude)


def _amplitude(amplitude, dtype, name, like):
    """The amplitude as a tensor on the device of `like`, or None, for spikes of `dtype`."""
    arguments.spike_dtype(name, dtype, amplitude)
    return None if amplitude is None else arguments.scalar_tensor("amplitude", amplitude, like)
