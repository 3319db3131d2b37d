"""Signed level tables (S1)-(S4): activations that go below zero, or fall before they rise, as spikes of both signs.

Source: this project; the level search is that of (10).
"""

import math

import torch
import torch.nn.functional as F

from pcsnn import validate

# kind -> where the function turns from falling to rising; None: it only rises (leaky_relu: it depends on the slope)
TURNS = {
    "leaky_relu": None,
    "gelu": -0.7517915246935645,
    "gelu_tanh": -0.7524614220710163,
    "silu": -1.278464542761074,
    "hardswish": -1.5,
    "mish": -1.1924312145154952,
    "elu": None,
}
HALVINGS = 60  # of an interval, until float64 tells its ends apart no more


def activation(kind, z, slope=None):
    """The function of that kind, of float64 z; slope of z < 0, a number or a tensor that broadcasts (leaky_relu, and alpha of elu)."""
    if kind == "leaky_relu":
        return torch.where(z < 0, slope * z, z)
    if kind == "elu":
        return torch.where(z < 0, slope * torch.expm1(z), z)
    return {"gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"), "silu": F.silu, "hardswish": F.hardswish,
            "mish": F.mish}[kind](z)


def _solve(function, value, low, high, rising):
    """z in low..high where the monotone function reaches value, by bisection; tensors of one shape."""
    for _ in range(HALVINGS):
        middle = low + (high - low) / 2
        below = (function(middle) < value) == rising
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def signed_levels(kind, quantum, timesteps, lowest, slope=None):
    """The T ascending levels on the mean current at which a signed neuron wins or loses a spike (S3).

    The neuron's value is quantum * (|k - turn| - low), k the number of levels reached: the activation rounded to the
    nearest multiple of the quantum, from the current `lowest` up until the T levels are used up. Beyond either end it keeps
    the value it has there.

    Args:
        kind: "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "hardswish" or "mish".
        quantum: what one spike is worth on average over time, amplitude / T; > 0.
        timesteps: T, 1..255.
        lowest: the current at which the table starts, finite.
        slope: for "leaky_relu" the slope below zero, for "elu" its alpha: a number, or a tensor [C]; else None.

    Returns:
        (float32 levels [T], or [C, T] for a slope by channel; turn; low), with -inf where a channel starts higher than
        others, computed in float64, rounded once.

    Raises:
        TypeError, ValueError: arguments of the wrong kind or range; a quantum so small that the levels end before the
            function rises above zero (needs more time-steps).
    """
    if kind not in TURNS:
        raise ValueError(f"kind: expected one of {', '.join(TURNS)}, got {kind!r}")
    validate.timesteps(timesteps)
    for name, value in (("quantum", quantum), ("lowest", lowest)):
        validate.number(name, value)
    if quantum <= 0:
        raise ValueError(f"quantum: expected a value above zero, got {quantum}")
    slopes = _slopes(kind, slope)
    start = torch.full((len(slopes), 1), float(lowest), dtype=torch.float64)

    def function(z):
        return activation(kind, z, slopes)

    turning = torch.full_like(slopes, -math.inf if TURNS[kind] is None else TURNS[kind])
    if kind in ("leaky_relu", "elu"):
        turning = turning.where(slopes >= 0, 0.0)
    bottom = torch.maximum(start, turning)
    first, least = (torch.floor(function(z) / quantum + 0.5).long() for z in (start, bottom))
    low = max(0, int(-least.min()))
    falls = first - least
    falling = falls > 0
    turn = int(torch.where(falling, low + first, 0).max())
    jump = torch.where(falling, 2 * (least + low), 0)
    before = torch.where(falling, turn - low - first, turn + low + first)  # levels that are always reached
    used = before + falls + jump
    if turn + low >= timesteps:
        raise ValueError(f"quantum: {quantum:.4g} leaves no level above zero at T = {timesteps}: the function takes "
                         f"{turn + low} to reach it; expected a larger one")
    step = torch.arange(timesteps).expand(len(slopes), -1)  # [C, T]
    down = (first - (step - before) - 0.5) * quantum
    up = (least + (step - used) + 0.5) * quantum
    table = torch.where(step < before, -math.inf,
                        torch.where(step < before + falls, _solve(function, down, start, bottom, False), bottom))
    table = torch.where(step >= used, _solve(function, up, bottom, torch.maximum(up.clamp_min(0) + 1, bottom + 1), True), table)
    table = table.to(torch.float32)
    return (table if isinstance(slope, torch.Tensor) and slope.dim() else table[0]), turn, low


def _slopes(kind, slope):
    """[C, 1] or [1, 1], float64; ones where the kind has none."""
    if kind not in ("leaky_relu", "elu"):
        if slope is not None:
            raise ValueError(f"slope: expected None for {kind}, got {slope}")
        return torch.ones(1, 1, dtype=torch.float64)
    if isinstance(slope, torch.Tensor):
        validate.tensor("slope", slope, (torch.float32, torch.float64))
        if slope.dim() > 1 or slope.numel() == 0 or not slope.isfinite().all():
            raise ValueError(f"slope: expected finite values, a number or [C], got shape {tuple(slope.shape)}")
        return slope.detach().to("cpu", torch.float64).reshape(-1, 1)
    validate.number("slope", slope)
    return torch.full((1, 1), float(slope), dtype=torch.float64)
