"""Spike counts and firing rates of neurons under a mean current. The names are those of `pcsnn.functional`."""

import torch
from torch import Tensor

from pcsnn.levels.spacing import Spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks


def _check_mean(current, levels, residual, residual_scale, scale=None):
    """The tensors of `fire_counts`, and with a scale of `fire_rates`."""
    checks.tensor("current", current, checks.CURRENT_DTYPES, 1)
    checks.level_table(levels, current.shape, current.dtype)
    arguments.branch(
        residual, residual_scale, current.dtype, current.shape, "current", current.shape, arguments.VALUE_DTYPES
    )
    checks.same_device(current=current, levels=levels, residual=residual, residual_scale=residual_scale, scale=scale)
    if scale is not None:
        checks.per_layer_or_channel("scale", scale, current.shape, arguments.VALUE_DTYPES)


def _check_counts(current, levels, residual, residual_scale, repeat, line=None, reach=0):
    _check_mean(current, levels, residual, residual_scale)
    arguments.spaced(levels, repeat, line, reach)


dispatch.define(
    "fire_counts(Tensor current, Tensor levels, Tensor? residual, Tensor? residual_scale, int repeat, "
    "Tensor? line=None, int reach=0) -> Tensor",
    _check_counts,
    out=lambda current, *_: torch.empty_like(current, dtype=torch.uint8),
)


def fire_counts(
    current: Tensor,
    levels: Tensor,
    residual: Tensor | None = None,
    residual_scale: Tensor | float | None = None,
    *,
    repeat: int | None = None,
    spacing: Spacing | None = None,
) -> Tensor:
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
    checks.once(_check_mean, current, levels, residual, residual_scale, None)
    checks.no_gradient(current=current, residual=residual)
    repeat, line, reach = spacing or spacing_of(levels, repeat, False)
    return dispatch.call("fire_counts", current, levels, residual, residual_scale, repeat, line, reach)


def _check_rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0, line=None, reach=0):
    checks.tensor("scale", scale)
    _check_mean(current, levels, residual, residual_scale, scale)
    arguments.spaced(levels, repeat, line, reach)
    checks.integer("turn", turn, 0, levels.shape[-1])
    checks.integer("low", low, 0, levels.shape[-1])


def _check_apart(name, tensor):
    """ValueError where elements of what is written over may lie in one place."""
    if tensor.is_contiguous() or 0 in tensor.shape:
        return
    reach = 0
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if size != 1):
        if stride <= reach:
            raise ValueError(
                f"{name}: expected elements that do not overlap, got shape {tuple(tensor.shape)} with "
                f"strides {tensor.stride()}"
            )
        reach += (size - 1) * stride


def _check_rates_in_place(current, *others):
    _check_rates(current, *others)
    _check_apart("current", current)


dispatch.define(
    "fire_rates(Tensor current, Tensor levels, Tensor scale, Tensor? residual, Tensor? residual_scale, int repeat, "
    "int turn=0, int low=0, Tensor? line=None, int reach=0) -> Tensor",
    _check_rates,
    out=lambda current, *_: torch.empty_like(current),
)
dispatch.define(
    "fire_rates_(Tensor(a!) current, Tensor levels, Tensor scale, Tensor? residual, Tensor? residual_scale, "
    "int repeat, int turn=0, int low=0, Tensor? line=None, int reach=0) -> ()",
    _check_rates_in_place,
)


def fire_rates(
    current: Tensor,
    levels: Tensor,
    scale: Tensor | float,
    residual: Tensor | None = None,
    residual_scale: Tensor | float | None = None,
    *,
    repeat: int | None = None,
    inplace: bool = False,
    turn: int = 0,
    low: int = 0,
    spacing: Spacing | None = None,
) -> Tensor:
    """Firing rates of neurons under a mean current, in one pass: scale * (|k // m - turn| - low), k as in
    `fire_counts`.

    m is `repeat`, the number of times each level stands in a staircase of `levels`: with T = m L and the scale
    amplitude / L the rate is bit-equal to QCFS with L levels.

    Args:
        current, levels, residual, residual_scale: as in `fire_counts`.
        scale: the worth of one distinct level, amplitude * m / T: a number, or a tensor [] or [C], float32.
        repeat: m; 0 is 1 and bisects the table whatever it is like; None: m is 1.
        turn, low: of a signed table (S1), as `signed_levels` gives them, 0..T: k levels reached are |k - turn| - low
            spikes.
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
    checks.once(_check_mean, current, levels, residual, residual_scale, scale)
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
