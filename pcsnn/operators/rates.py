"""Spike counts and firing rates of neurons under a mean current. The names are those of `pcsnn.functional`."""

from pcsnn.levels.spacing import spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks


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
        residual_scale = arguments.scalar_tensor("residual_scale", residual_scale, current)
    checks.once(arguments.mean, current, levels, residual, residual_scale, None)
    checks.no_gradient(current=current, residual=residual)
    repeat, line, reach = spacing or spacing_of(levels, repeat, False)
    return dispatch.call("fire_counts", current, levels, residual, residual_scale, repeat, line, reach)


def fire_rates(
    current,
    levels,
    scale,
    residual=None,
    residual_scale=None,
    *,
    repeat=None,
    inplace=False,
    turn=0,
    low=0,
    spacing=None,
):
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
    scale = arguments.scalar_tensor("scale", scale, current)
    if residual_scale is not None and residual is not None:
        residual_scale = arguments.scalar_tensor("residual_scale", residual_scale, current)
    checks.once(arguments.mean, current, levels, residual, residual_scale, scale)
    checks.no_gradient(current=current, residual=residual)
    checks.integer("turn", turn, 0, levels.shape[-1])
    checks.integer("low", low, 0, levels.shape[-1])
    repeat, line, reach = spacing or spacing_of(levels, repeat, True)
    if not inplace:
        return dispatch.call(
            "fire_rates", current, levels, scale, residual, residual_scale, repeat, turn, low, line, reach
        )
    dispatch.call("fire_rates_", current, levels, scale, residual, residual_scale, repeat, turn, low, line, reach)
    return current
