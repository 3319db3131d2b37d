"""Signed level tables (S1)-(S4): activations that go below zero, or fall before they rise, as spikes of both signs.

Source: this project; the level search is that of (10).
"""

import math

import torch

from pcsnn.levels.activations import row_of
from pcsnn.tensors import checks
from pcsnn.tensors.host import on_host

HALVINGS = 60  # of an interval, until float64 tells its ends apart no more
DOUBLINGS = 64  # of an interval, until a function that is to reach a level further up has reached it, or never will


def _solve(function, value, low, high, rising):
    """z in low..high where the monotone function reaches value, by bisection; tensors of one shape."""
    for _ in range(HALVINGS):
        middle = low + (high - low) / 2
        below = (function(middle) < value) == rising
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def _reaching(function, value, low, high):
    """`high`, further from `low` where the rising function is below the value there; +inf where it stays below."""
    for _ in range(DOUBLINGS):
        below = ~(function(high) >= value)
        if not below.any():
            return high
        high = torch.where(below, low + 2 * (high - low), high)
    return high.where(function(high) >= value, math.inf)


class _Plan:
    """The whole numbers of a table: where each channel starts and turns in quanta, [C, 1], and where the layer ends."""

    def __init__(self, kind, quantum, timesteps, lowest, slope):
        self._row = row_of(kind)
        checks.timesteps(timesteps)
        for name, value in (("quantum", quantum), ("lowest", lowest)):
            checks.number(name, value)
        if quantum <= 0:
            raise ValueError(f"quantum: expected a value above zero, got {quantum}")
        self._slopes = _slopes(self._row, slope)
        self.start = torch.full((len(self._slopes), 1), float(lowest), dtype=torch.float64)
        self.bottom = torch.maximum(self.start, self._row.turns(self._slopes))
        self.first, self.least = (
            torch.floor(self.function(z) / quantum + 0.5).long() for z in (self.start, self.bottom)
        )
        self.low = max(0, int(-self.least.min()))
        always = int(torch.where(self.first > self.least, self.least, 0).max())  # spikes that no current takes away
        if max(self.low, always) > timesteps:
            raise ValueError(
                f"quantum: {quantum:.4g} takes {max(self.low, always)} spikes for the least value of {kind}, more than "
                f"T = {timesteps}; expected a larger one"
            )
        self.first.clamp_(max=timesteps)
        self.falls = (self.first - self.least).clamp_min(0)
        self.turn = int(torch.where(self.falls > 0, self.low + self.first, 0).max())
        self.most = min(timesteps, checks.MAX_TIMESTEPS - self.turn - self.low)
        if self.most <= max(0, always) and self._row.range[1] > 0:
            raise ValueError(
                f"quantum: {quantum:.4g} leaves no level above zero at T = {timesteps}: {kind} takes "
                f"{self.turn + self.low} of {checks.MAX_TIMESTEPS} to reach it; expected a larger one"
            )

    def function(self, z):
        return self._row(z, self._slopes)


@on_host
def ends_of(kind, quantum, timesteps, lowest, slope=None):
    """(turn, low, most) of `signed_levels` with these arguments, without the levels: the spikes of the layer add up to
    -low..most. Same errors."""
    plan = _Plan(kind, quantum, timesteps, lowest, slope)
    return plan.turn, plan.low, plan.most


@on_host
def signed_levels(
    kind: str,
    quantum: torch.Tensor | float,
    timesteps: int,
    lowest: torch.Tensor | float,
    slope: torch.Tensor | float | None = None,
) -> tuple[torch.Tensor, int, int]:
    """The ascending levels on the mean current at which a signed neuron wins or loses a spike (S3).

    The neuron's value is quantum * (|k - turn| - low), k the number of levels reached: the activation rounded to the
    nearest multiple of the quantum, from the current `lowest` up to T quanta, which T spikes of one sign are. Beyond
    either end it keeps the value it has there. Levels above what a bounded activation reaches are +inf.

    Args:
        kind: one that docs/signed.md lists, or that `pcsnn.register_activation` made known.
        quantum: what one spike is worth on average over time, amplitude / T; > 0.
        timesteps: T, 1..255: how many spikes of either sign there are at most.
        lowest: the current at which the table starts, finite.
        slope: the parameter of kinds that have one (of "leaky_relu" the slope below zero, of "elu" alpha): a number, or
            a tensor [C]; else None.

    Returns:
        (float32 levels [K], or [C, K] for a slope by channel; turn; low), K = turn + low + T, or 255 where that is
        less, with -inf where a channel starts higher than others, computed in float64, rounded once, on the device of
        `slope`.

    Raises:
        TypeError, ValueError: arguments of the wrong kind or range; a quantum so small that T spikes are not enough for
            the function's least value (needs more time-steps), or that 255 levels end below zero.
    """
    plan = _Plan(kind, quantum, timesteps, lowest, slope)
    turn, low, falls = plan.turn, plan.low, plan.falls
    falling = falls > 0
    jump = torch.where(falling, 2 * (plan.least + low), 0)
    before = torch.where(falling, turn - low - plan.first, turn + low + plan.first)  # levels that are always reached
    used = before + falls + jump
    step = torch.arange(turn + low + plan.most, dtype=torch.float32).expand(len(plan.start), -1)  # [C, K]
    down = (plan.first - (step - before) - 0.5) * quantum
    up = (plan.least + (step - used) + 0.5) * quantum
    falling_part = _solve(plan.function, down, plan.start, plan.bottom, False)
    high = _reaching(plan.function, up, plan.bottom, torch.maximum(up.clamp_min(0) + 1, plan.bottom + 1))
    rising_part = _solve(plan.function, up, plan.bottom, high, True).where(high < math.inf, math.inf)
    table = torch.where(step < before, -math.inf, torch.where(step < before + falls, falling_part, plan.bottom))
    table = torch.where(step >= used, rising_part, table).to(checks.device_of(slope), torch.float32)
    return (table if isinstance(slope, torch.Tensor) and slope.dim() else table[0]), turn, low


def _slopes(row, slope):
    """[C, 1] or [1, 1], float64; ones where the kind has none."""
    if row.parameter is None:
        if slope is not None:
            raise ValueError(f"slope: expected None for {row.kind}, got {slope}")
        return torch.ones(1, 1, dtype=torch.float64)
    if isinstance(slope, torch.Tensor):
        checks.tensor("slope", slope, (torch.float32, torch.float64))
        if slope.dim() > 1 or slope.numel() == 0 or not slope.isfinite().all():
            raise ValueError(f"slope: expected finite values, a number or [C], got shape {tuple(slope.shape)}")
        return slope.detach().to("cpu", torch.float64).reshape(-1, 1)
    checks.number("slope", slope)
    return torch.full((1, 1), float(slope), dtype=torch.float64)


def balance(counts, turn, low):
    """k levels of a signed table reached -> spikes, those below zero counted negative: int32 |k - turn| - low (S1)."""
    return (counts.to(torch.int32) - turn).abs() - low
