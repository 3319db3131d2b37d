"""Sorted spikes of neurons under T currents, and of given counts. The names are those of `pcsnn.functional`."""

import torch
from torch import Tensor

from pcsnn.levels.spacing import Spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks
from pcsnn.tensors.memo import remembered
from pcsnn.tensors.shapes import steps_like


def _check_spike_dtype(name, dtype, amplitude, spike_levels):
    """Of what dtype spikes of 0..spike_levels may be."""
    if spike_levels > 1 and dtype == torch.bool:
        raise TypeError(f"{name}: expected torch.uint8 or a floating dtype of spikes up to {spike_levels}, got {dtype}")
    if dtype not in checks.SPIKE_DTYPES:
        raise TypeError(f"{name}: expected {' or '.join(map(str, checks.SPIKE_DTYPES))}, got {dtype}")
    if amplitude is not None and not dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating dtype with an amplitude, got {dtype}")


def _check_trains(current, levels, amplitude, out_dtype, spike_levels):
    """What `fire_spikes` is told but for the spacing of the levels."""
    checks.tensor("current", current, checks.CURRENT_DTYPES, 2)
    if not 1 <= current.shape[0] <= checks.MAX_TIMESTEPS:
        raise ValueError(
            f"current.shape[0], the time-steps: expected a value in 1..{checks.MAX_TIMESTEPS}, got {current.shape[0]}"
        )
    full = checks.full_count(int(current.shape[0]), spike_levels)
    _check_spike_dtype("out_dtype", out_dtype, amplitude, spike_levels)
    checks.level_table(levels, current.shape[1:], current.dtype)
    if levels.shape[-1] != full:
        raise ValueError(
            f"levels: expected {full} levels, {spike_levels} for each time-step of current, got shape "
            f"{tuple(levels.shape)}"
        )
    if amplitude is not None:
        checks.per_layer_or_channel("amplitude", amplitude, current.shape[1:], arguments.VALUE_DTYPES)
    checks.same_device(current=current, levels=levels, amplitude=amplitude)


def _check_spikes(current, levels, amplitude, out_dtype, repeat, line=None, reach=0, spike_levels=1):
    _check_trains(current, levels, amplitude, out_dtype, spike_levels)
    arguments.spaced(levels, repeat, line, reach)


dispatch.define(
    "fire_spikes(Tensor current, Tensor levels, Tensor? amplitude, ScalarType out_dtype, int repeat, "
    "Tensor? line=None, int reach=0, int spike_levels=1) -> Tensor",
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
    spike_levels: int = 1,
) -> Tensor:
    """Sorted spikes of neurons under T currents (5)-(9), (22): summed in time order, searched, written from the count.

    Args:
        current: [T, N, ...] or [T, N, C, ...], float32, float16, bfloat16 (summed in float32) or float64.
        levels: float32 [T D] or [C, T D] on the mean current, ascending; the sum is compared with T * levels.
        out_dtype: uint8, bool (of binary spikes, D = 1), float32, float16, bfloat16 or float64.
        amplitude: what a spike of value 1 is worth, with a floating out_dtype: a number, or a tensor [] or [C].
        repeat: how often each level stands in `levels`; 0 bisects the table whatever it is like; None looks.
        spacing: the `pcsnn.levels.spacing.Spacing` of the levels, where it is known; None looks.
        spike_levels: D, what a step sends at most: integers 0..D; 1 is the binary spike. T D is at most 255.

    Returns:
        spikes [T, N, ...] of out_dtype: of a count k the last k // D of the T steps send D, the step before them what
        is left. NaN sums give no spike.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: `current` requires a gradient.
    """
    amplitude = None if amplitude is None else arguments.scalar_tensor("amplitude", amplitude, current)
    checks.once(_check_trains, current, levels, amplitude, out_dtype, spike_levels)
    checks.no_gradient(current=current)
    repeat, line, reach = spacing or spacing_of(levels, repeat, False)
    return dispatch.call("fire_spikes", current, levels, amplitude, out_dtype, repeat, line, reach, spike_levels)


def _check_expansion(counts, timesteps, order, dtype, amplitude, spike_levels=1):
    checks.tensor("counts", counts, (torch.uint8,), 1)
    checks.full_count(timesteps, spike_levels)
    _check_spike_dtype("dtype", dtype, amplitude, spike_levels)
    if order is not None:
        checks.tensor("order", order, (torch.int64,))
        if order.shape != (timesteps,):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    if amplitude is not None:
        checks.per_layer_or_channel("amplitude", amplitude, counts.shape, arguments.VALUE_DTYPES)
    checks.same_device(counts=counts, order=order, amplitude=amplitude)


dispatch.define(
    "expand_spikes(Tensor counts, int timesteps, Tensor? order, ScalarType dtype, Tensor? amplitude, "
    "int spike_levels=1) -> Tensor",
    _check_expansion,
    out=lambda counts, timesteps, order, dtype, *_: steps_like(counts, timesteps, dtype),
)


def expand_spikes(
    counts: Tensor,
    timesteps: int,
    order: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
    amplitude: Tensor | float | None = None,
    spike_levels: int = 1,
) -> Tensor:
    """Spike trains of given counts (7), (13), (22): the last steps of T are full, or those that `order` puts there.

    Args:
        counts: uint8 [N, ...], values 0..T D (larger ones act as T D).
        timesteps: T, 1..255.
        order: a permutation of 0..T-1, int64 [T]: step x shows place order[x] of the sorted train.
        dtype: uint8, bool (of binary spikes, D = 1), float32, float16, bfloat16 or float64.
        amplitude: what a spike of value 1 is worth, with a floating dtype: a number, or a tensor [] or [C].
        spike_levels: D, what a step sends at most: integers 0..D, as of `fire_spikes`. T D is at most 255.

    Returns:
        spikes [T, N, ...] of `dtype`, each step laid out like `counts`.

    Raises:
        TypeError, ValueError: a dtype, shape, device or order that does not fit.
    """
    amplitude = None if amplitude is None else arguments.scalar_tensor("amplitude", amplitude, counts)
    checks.once(_check_expansion, counts, timesteps, order, dtype, amplitude, spike_levels)
    if order is not None:
        if not (
            torch.compiler.is_compiling()
            or remembered(order, "permutation", lambda: torch.equal(order.sort().values.cpu(), torch.arange(timesteps)))
        ):
            raise ValueError(f"order: expected a permutation of 0..{timesteps - 1}, got shape {tuple(order.shape)}")
    return dispatch.call("expand_spikes", counts, timesteps, order, dtype, amplitude, spike_levels)
