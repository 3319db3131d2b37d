"""Sorted spikes of neurons under T currents, and of given counts. The names are those of `pcsnn.functional`."""

import torch
from torch import Tensor

from pcsnn.levels.spacing import Spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks
from pcsnn.tensors.memo import remembered
from pcsnn.tensors.shapes import steps_like


def _check_spike_dtype(name, dtype, amplitude):
    """Of what dtype spikes may be."""
    if dtype not in checks.SPIKE_DTYPES:
        raise TypeError(f"{name}: expected {' or '.join(map(str, checks.SPIKE_DTYPES))}, got {dtype}")
    if amplitude is not None and not dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating dtype with an amplitude, got {dtype}")


def _amplitude(amplitude, dtype, name, like):
    """The amplitude as a tensor on the device of `like`, or None, for spikes of `dtype`."""
    _check_spike_dtype(name, dtype, amplitude)
    return None if amplitude is None else arguments.scalar_tensor("amplitude", amplitude, like)


def _check_trains(current, levels, amplitude):
    """The tensors of `fire_spikes`."""
    checks.tensor("current", current, checks.CURRENT_DTYPES, 2)
    if not 1 <= current.shape[0] <= checks.MAX_TIMESTEPS:
        raise ValueError(
            f"current.shape[0], the time-steps: expected a value in 1..{checks.MAX_TIMESTEPS}, got {current.shape[0]}"
        )
    checks.level_table(levels, current.shape[1:], current.dtype, current.shape[0])
    if amplitude is not None:
        checks.per_layer_or_channel("amplitude", amplitude, current.shape[1:], arguments.VALUE_DTYPES)
    checks.same_device(current=current, levels=levels, amplitude=amplitude)


def _check_spikes(current, levels, amplitude, out_dtype, repeat, line=None, reach=0):
    _check_spike_dtype("out_dtype", out_dtype, amplitude)
    _check_trains(current, levels, amplitude)
    arguments.spaced(levels, repeat, line, reach)


dispatch.define(
    "fire_spikes(Tensor current, Tensor levels, Tensor? amplitude, ScalarType out_dtype, int repeat, "
    "Tensor? line=None, int reach=0) -> Tensor",
    _check_spikes,
    out=lambda current, levels, amplitude, out_dtype, *_: steps_like(current.select(0, 0), current.shape[0], out_dtype),
)


def fire_spikes(
    current: Tensor,
    levels: Tensor,
    out_dtype: torch.dtype = torch.uint8,
    amplitude: Tensor | float | None = None,
    *,
    repeat: int | None = None,
    spacing: Spacing | None = None,
) -> Tensor:
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
    checks.once(_check_trains, current, levels, amplitude)
    checks.no_gradient(current=current)
    repeat, line, reach = spacing or spacing_of(levels, repeat, False)
    return dispatch.call("fire_spikes", current, levels, amplitude, out_dtype, repeat, line, reach)


def _check_expanded(counts, timesteps, order, amplitude):
    """The tensors of `expand_spikes`."""
    checks.tensor("counts", counts, (torch.uint8,), 1)
    checks.timesteps(timesteps)
    if order is not None:
        checks.tensor("order", order, (torch.int64,))
        if order.shape != (timesteps,):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    if amplitude is not None:
        checks.per_layer_or_channel("amplitude", amplitude, counts.shape, arguments.VALUE_DTYPES)
    checks.same_device(counts=counts, order=order, amplitude=amplitude)


def _check_expansion(counts, timesteps, order, dtype, amplitude):
    _check_spike_dtype("dtype", dtype, amplitude)
    _check_expanded(counts, timesteps, order, amplitude)


dispatch.define(
    "expand_spikes(Tensor counts, int timesteps, Tensor? order, ScalarType dtype, Tensor? amplitude) -> Tensor",
    _check_expansion,
    out=lambda counts, timesteps, order, dtype, amplitude: steps_like(counts, timesteps, dtype),
)


def expand_spikes(
    counts: Tensor,
    timesteps: int,
    order: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
    amplitude: Tensor | float | None = None,
) -> Tensor:
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
    checks.once(_check_expanded, counts, timesteps, order, amplitude)
    if order is not None:
        if not (
            torch.compiler.is_compiling()
            or remembered(order, "permutation", lambda: torch.equal(order.sort().values.cpu(), torch.arange(timesteps)))
        ):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    return dispatch.call("expand_spikes", counts, timesteps, order, dtype, amplitude)
