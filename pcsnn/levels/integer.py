"""Levels of int8 weights: whole numbers that the exact sum of a synapse is compared with (11)."""

import torch

from pcsnn.levels.spacing import spacing
from pcsnn.tensors import checks


def whole_levels(levels: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Levels for int8 weights: those of a current turned into those of the exact sum over the weights.

    With current = weight_scale * sum + bias, current >= level is sum >= (level - bias) / weight_scale, rounded up.

    Args:
        levels: [T] or [O, T], ascending, on the current.
        weight_scale: [O], what 1 in the int8 weights of an output channel is worth (times what a spike is worth); > 0.
        bias: [O], or None.

    Returns:
        int32 [O, T], computed in float64; a level that no sum reaches is 2^31 - 1.

    Raises:
        TypeError, ValueError: a dtype or shape that does not fit, weight_scale <= 0, NaN, levels that do not ascend.
    """
    floats = (torch.float32, torch.float64)
    checks.tensor("weight_scale", weight_scale, floats)
    if weight_scale.dim() != 1 or not (weight_scale > 0).all():
        raise ValueError(f"weight_scale: expected positive values [O], got shape {tuple(weight_scale.shape)}")
    checks.level_table(levels, (1, len(weight_scale)), torch.float64)
    spacing(levels)
    if bias is not None:
        checks.tensor("bias", bias, floats)
        if bias.shape != weight_scale.shape or bias.isnan().any():
            raise ValueError(f"bias: expected [{len(weight_scale)}] without NaN, got shape {tuple(bias.shape)}")
    checks.same_device(levels=levels, weight_scale=weight_scale, bias=bias)
    return table(levels, weight_scale, bias)


def table(levels, weight_scale, bias=None):
    """Levels [T] or [O, T] on a current of which the sum over int8 weights counts multiples of weight_scale [O] ->
    int32 [O, T] on that sum: the least whole number at which a level and the bias are reached, computed in float64."""
    unit = weight_scale.double().unsqueeze(-1)
    start = 0.0 if bias is None else bias.double().unsqueeze(-1)
    table = torch.ceil((levels.double() - start) / unit)
    return table.clamp(-(2**31), 2**31 - 1).to(torch.int32)
