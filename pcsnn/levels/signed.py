"""Signed level tables (S1)-(S4): activations that go below zero, or fall before they rise, as spikes of both signs.

Source: this project; the level search is that of (10).
"""

import itertools
import math
from typing import NamedTuple

import torch

from pcsnn.levels.activations import row_of
from pcsnn.tensors import checks
from pcsnn.tensors.host import on_host

HALVINGS = 60  # of an interval, until float64 tells its ends apart no more
BEYOND = 1.5  # how far the least value of a function may lie below what T spikes reach, as a share of that
REACHED = 0.9  # the share of T quanta that 255 levels must reach; else they are of more spikes each
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
        given = _column("quantum", quantum), _column("lowest", lowest), _slopes(self._row, slope)
        if not (given[0] > 0).all():
            raise ValueError(f"quantum: expected values above zero, got {given[0].min().item()}")
        if len({len(column) for column in given} - {1}) > 1:
            raise ValueError(
                "quantum: expected quantum, lowest and slope of as many channels, got "
                f"{', '.join(str(len(column)) for column in given)}"
            )
        self.quantum, self.start, self._slopes = torch.broadcast_tensors(*given)
        self.bottom = torch.maximum(self.start, self._row.turns(self._slopes))
        self.first, self.least = (
            torch.floor(self.function(z) / self.quantum + 0.5).long() for z in (self.start, self.bottom)
        )
        always = torch.where(self.first > self.least, self.least, 0)  # spikes that no current takes away
        needed = max(int(-self.least.min()), int(always.max()))
        if needed > BEYOND * timesteps:
            raise ValueError(
                f"quantum: {self.quantum.min().item():.4g} takes {needed} spikes for the least value of {kind}, more "
                f"than T = {timesteps}; expected a larger one"
            )
        self.least.clamp_(-timesteps, timesteps)
        self.first.clamp_(-timesteps, timesteps)
        self.low = max(0, int(-self.least.min()))
        self.falls = (self.first - self.least).clamp_min(0)
        self.turn = int(torch.where(self.falls > 0, self.low + self.first, 0).max())
        self.most = min(timesteps, checks.MAX_TIMESTEPS - self.turn - self.low)

    def function(self, z):
        return self._row(z, self._slopes)

    def levels(self):
        """The ascending levels, float32 [C, K]."""
        falling = self.falls > 0
        jump = torch.where(falling, 2 * (self.least + self.low), 0)
        always = torch.where(falling, self.turn - self.low - self.first, self.turn + self.low + self.first)
        used = always + self.falls + jump
        step = torch.arange(self.turn + self.low + self.most, dtype=torch.float64).expand(len(self.start), -1)  # [C, K]
        down = (self.first - (step - always) - 0.5) * self.quantum
        up = (self.least + (step - used) + 0.5) * self.quantum
        falling_part = _solve(self.function, down, self.start, self.bottom, False)
        high = _reaching(self.function, up, self.bottom, torch.maximum(up.clamp_min(0) + 1, self.bottom + 1))
        rising_part = _solve(self.function, up, self.bottom, high, True).where(high < math.inf, math.inf)
        table = torch.where(
            step < always, -math.inf, torch.where(step < always + self.falls, falling_part, self.bottom)
        )
        return torch.where(step >= used, rising_part, table).to(torch.float32)


class Table(NamedTuple):
    """A signed table: float32 levels [K] or [C, K] on the host, turn and low (S1), and how many spikes a level is."""

    levels: torch.Tensor
    turn: int
    low: int
    multiple: int


def _multiple(kind, quantum, timesteps, lowest, slope):
    """(least m at which 255 levels, m quanta from one to the next, reach from f(lowest) to `REACHED` of T quanta; their
    _Plan)."""
    for multiple in itertools.count(1):
        plan = _Plan(kind, quantum * multiple, timesteps // multiple, lowest, slope)
        if plan.most >= REACHED * (timesteps // multiple):
            return multiple, plan


@on_host
def multiple_of(kind, quantum, timesteps, lowest, slope=None):
    """The `multiple` of `signed_table` with these arguments, without the levels; same errors."""
    return _multiple(kind, quantum, timesteps, lowest, slope)[0]


@on_host
def signed_table(kind, quantum, timesteps, lowest, slope=None):
    """The Table of neurons whose values reach T quanta (S3), or `REACHED` of them where that takes 255 levels: T spikes
    of one sign, in steps of `multiple` of them.

    Arguments are those of `signed_levels`. ValueError where the function's least value is below -1.5 T quanta.
    """
    multiple, plan = _multiple(kind, quantum, timesteps, lowest, slope)
    return Table(_shaped(plan.levels(), quantum, lowest, slope), plan.turn, plan.low, multiple)


def _shaped(levels, *given):
    """[C, K] -> [K] where no argument is of channels."""
    return levels if any(isinstance(value, torch.Tensor) and value.dim() for value in given) else levels[0]


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
        quantum: what one spike is worth on average over time, amplitude / T, > 0: a number, or a tensor [] or [C].
        timesteps: T, 1..255: how many spikes of either sign there are at most.
        lowest: the current at which the table starts, finite: a number, or a tensor [] or [C].
        slope: the parameter of kinds that have one (of "leaky_relu" the slope below zero, of "elu" alpha): a number, or
            a tensor [] or [C]; else None.

    Returns:
        (float32 levels [K], or [C, K] where an argument is [C]; turn; low), K = turn + low + T, or 255 where that is
        less, with -inf where a channel starts higher than others, computed in float64, rounded once, on the device of
        the first tensor among quantum, lowest and slope.

    Raises:
        TypeError, ValueError: arguments of the wrong kind or range; a quantum so small that the function's least value
            is below -1.5 T quanta (it ends at -T quanta), or that 255 levels end below zero.
    """
    plan = _Plan(kind, quantum, timesteps, lowest, slope)
    if plan.most <= 0 and row_of(kind).range[1] > 0:
        raise ValueError(
            f"quantum: leaves no level above zero at T = {timesteps}: {kind} takes {plan.turn + plan.low} of "
            f"{checks.MAX_TIMESTEPS} to reach it; expected a larger one"
        )
    levels = _shaped(plan.levels(), quantum, lowest, slope)
    return levels.to(checks.device_of(quantum, lowest, slope)), plan.turn, plan.low


def _column(name, value):
    """A finite number or tensor [] or [C] -> float64 [1, 1] or [C, 1] on the host."""
    if isinstance(value, torch.Tensor):
        checks.tensor(name, value, (torch.float32, torch.float64))
        if value.dim() > 1 or value.numel() == 0 or not value.isfinite().all():
            raise ValueError(f"{name}: expected finite values, a number or [C], got shape {tuple(value.shape)}")
        return value.detach().to("cpu", torch.float64).reshape(-1, 1)
    checks.number(name, value)
    return torch.full((1, 1), float(value), dtype=torch.float64)


def _slopes(row, slope):
    """[C, 1] or [1, 1], float64; ones where the kind has none."""
    if row.parameter is None:
        if slope is not None:
            raise ValueError(f"slope: expected None for {row.kind}, got {slope}")
        return torch.ones(1, 1, dtype=torch.float64)
    return _column("slope", slope)


def balance(counts, turn, low):
    """k levels of a signed table reached -> spikes, those below zero counted negative: int32 |k - turn| - low (S1)."""
    return (counts.to(torch.int32) - turn).abs() - low
