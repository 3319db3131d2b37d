"""Spiking neurons whose spikes have two signs, in collapsed networks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pcsnn import functional
from pcsnn.levels import even, probe
from pcsnn.levels.activations import activation, row_of
from pcsnn.levels.signed import balance, multiple_of, signed_table
from pcsnn.nn import staircase
from pcsnn.nn.neuron import Neuron, joined
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import add_residual, per_channel


class _StraightThrough(torch.autograd.Function):
    """A signed neuron with the gradient of its activation between its lowest current and its last level, where T D
    spikes are enough for it."""

    @staticmethod
    def forward(ctx, mean, neuron):
        ctx.neuron = neuron
        ctx.save_for_backward(mean)
        return functional.fire_rates(
            mean, neuron.levels, neuron.scale, turn=neuron.turn, low=neuron.low, spacing=neuron.spacing
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        neuron, (mean,) = ctx.neuron, ctx.saved_tensors
        slope = neuron.slope if neuron.slope is None else per_channel(neuron.slope.to(mean.dtype), mean.dim())
        with torch.enable_grad():
            z = mean.detach().requires_grad_()
            smooth = activation(neuron.kind, z, slope)
            (through,) = torch.autograd.grad(smooth, z, grad)
        last = per_channel(neuron.levels[..., -1].to(mean.dtype), mean.dim())
        lowest, most = (per_channel(value.to(mean.dtype), mean.dim()) for value in (neuron.lowest, neuron.amplitude))
        return torch.where((mean >= lowest) & (mean <= last) & (smooth.abs() <= most), through, 0), None


class SignedNeuron(Neuron):
    """Signed activation under time collapse: mean current in, rate out, at a cost independent of T (S1).

    k = #{x : mean >= levels_x}; rate = amplitude * n / (T D), n = |k - turn| - low: the activation rounded to a
    multiple of amplitude / (T D) and kept within -amplitude..amplitude. Over time, each of the T steps gives a spike of
    an integer -D..D, worth amplitude / D times that (S2), (22); at D = 1 a spike worth the amplitude, one worth minus
    that, or none.

    Args:
        kind: one that docs/signed.md lists, or that `pcsnn.register_activation` made known.
        timesteps: T, 1..255.
        amplitude: what a spike is worth, a number > 0 or a tensor [] or [C]; the values reach from the activation at
            `lowest` over its least value up to the amplitude, in steps of amplitude / (T D).
        lowest: the current at which the levels start; below it the rate stays what it is there. A number, or a tensor
            [] or [C].
        slope: the parameter of kinds that have one (of "leaky_relu" the slope below zero, of "elu" alpha), a number or
            a tensor [] or [C]; else None. The layer is on the device of the first of amplitude, lowest and slope that
            is a tensor.
        inplace: write the rates over the current.
        sample: of network files: values of a registered kind's formula where the file was written; None: not compared.
        spike_levels: D, T D <= 255.

    Attributes:
        levels [K] or [C, K], scale [] or [C]: of `pcsnn.functional.fire_rates`. turn, low: integers, likewise. K =
            turn + low + T D (`pcsnn.functional.signed_levels`), or 255 where that is less and the values reach 0.9 of
            the amplitude. multiple: 1, or how many spikes a level is where they would not.

    Shape: mean current [N, ...] or [N, C, ...] (float32, float16, bfloat16, float64) to rates of its shape and dtype.

    Gradient: for the current, straight through: that of the activation from `lowest` to the last level, 0 beyond.

    Raises:
        ValueError, TypeError: arguments out of range; an amplitude that the activation's least value is far below.
    """

    TENSORS = ("amplitude", "lowest", "slope")

    @property
    def spike_range(self) -> tuple[int, int]:
        """The least and the largest value of one time-step's spike, in units of `spike`."""
        return -self.spike_levels, self.spike_levels

    def __init__(
        self,
        kind: str,
        timesteps: int,
        *,
        amplitude: float | torch.Tensor,
        lowest: float | torch.Tensor,
        slope: float | torch.Tensor | None = None,
        inplace: bool = False,
        sample: list[float] | None = None,
        spike_levels: int = 1,
    ):
        super().__init__()
        checks.full_count(timesteps, spike_levels)
        self.kind, self.timesteps, self.spike_levels, self.inplace = kind, timesteps, spike_levels, inplace
        device = checks.device_of(amplitude, lowest, slope)
        worth = checks.threshold(amplitude, "amplitude")
        if worth.isinf().any():
            raise ValueError(f"amplitude: expected finite values, got {worth.max()}")
        self.register_buffer("amplitude", worth.to(device, torch.float32))
        lowest = torch.as_tensor(lowest, dtype=torch.float32, device=device).detach()
        self.register_buffer("lowest", lowest)
        slope = None if slope is None else torch.as_tensor(slope, dtype=torch.float32, device=device).detach()
        self.register_buffer("slope", slope)
        shapes = [list(value.shape) for value in (worth, lowest, slope) if value is not None]
        if len({shape[0] for shape in shapes if shape} - {1}) > 1:
            raise ValueError(
                f"amplitude: expected as many channels as of lowest and slope, got {', '.join(map(str, shapes))}"
            )
        self._register_levels()
        self._derive()
        if sample is not None:
            self._check_sample(sample)

    def _derive(self):
        full = self.full_count
        levels, self.turn, self.low, self.multiple = signed_table(*self._table_at(full))
        self._set_levels(levels, 0, self.amplitude)  # a signed table counts every level once, whatever repeats
        self.scale = even.step_of(self.amplitude.to(torch.float64) * self.multiple, full).to(self.amplitude)

    def _table_at(self, full_count):
        """The arguments of the table at that T D."""
        return self.kind, self.amplitude.double() / full_count, full_count, self.lowest.double(), self.slope

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        known = dict(kind=self.kind, timesteps=self.timesteps, inplace=self.inplace, spike_levels=self.spike_levels)
        return known | {"sample": self._sample()} if row_of(self.kind).own else known

    def _sample(self):
        return probe.sample(row_of(self.kind), self.slope)

    def _check_sample(self, sample):
        here = self._sample()
        alike = [abs(one - other) <= 1e-5 * (1 + abs(other)) for one, other in zip(sample, here, strict=False)]
        if len(sample) != len(here) or not all(alike):
            raise ValueError(
                f"kind: expected {self.kind!r} to be registered with the formula that the file was written with, which "
                f"has other values: {', '.join(f'{value:.5g}' for value in sample)} there, "
                f"{', '.join(f'{value:.5g}' for value in here)} here"
            )

    def check_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """ValueError where T = `timesteps` and D, or the amplitude, are out of range."""
        full = checks.full_count(timesteps, self.spike_levels if spike_levels is None else spike_levels)
        multiple_of(*self._table_at(full))

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same layer at T = `timesteps` and, where it is given, D = `spike_levels`."""
        self.check_timesteps(timesteps, spike_levels)
        self.timesteps = timesteps
        self.spike_levels = self.spike_levels if spike_levels is None else spike_levels
        self._derive()

    @property
    def spike(self) -> torch.Tensor:
        """What a spike of value 1 is worth, [] or [C]: amplitude / D, as `scale` rounds it."""
        return self.scale * self.timesteps / self.multiple

    def forward(self, current: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Mean current [N, ...], and a second branch to add first -> rates [N, ...]."""
        if staircase.asked_for(current, residual):
            mean = add_residual(current, residual, None)
            return _StraightThrough.apply(mean, self).to(current.dtype)
        current, residual = joined(current, residual)
        return functional.fire_rates(
            current,
            self.levels,
            self.scale,
            residual,
            inplace=self.inplace,
            turn=self.turn,
            low=self.low,
            spacing=self.spacing,
        )

    def balance(self, counts: torch.Tensor) -> torch.Tensor:
        """Positive less negative spikes, int32 [N, ...], of given k."""
        return self.multiple * balance(counts, self.turn, self.low)

    def rates_of(self, counts: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Rates of given k, bit-equal to what `forward` returns for them."""
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        values = balance(counts, self.turn, self.low).to(precise)
        return (values * per_channel(self.scale.to(precise), counts.dim())).to(dtype)

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the largest rate, float64 [], or [C] where channels have amplitudes of their own."""
        ends = F.pad(self.levels, (1, 1), value=torch.inf)
        ends[..., 0] = -torch.inf
        reached = ends[..., :-1] < ends[..., 1:]  # by some current, [K + 1] or [C, K + 1]
        every = torch.arange(reached.shape[-1], dtype=torch.uint8, device=ends.device)
        values = balance(every, self.turn, self.low).double()
        least, most = values.where(reached, torch.inf).amin(-1), values.where(reached, -torch.inf).amax(-1)
        scale = self.scale.double()
        return (least * scale, most * scale) if scale.dim() else (least.min() * scale, most.max() * scale)

    def expand(
        self,
        counts: torch.Tensor,
        order: torch.Tensor | None = None,
        timesteps: int | None = None,
        spike_levels: int | None = None,
    ) -> torch.Tensor:
        """Spike trains of given k (S2): [T, N, ...] in -D..D, int8, or int16 where D > 127."""
        timesteps = self.timesteps if timesteps is None else timesteps
        spike_levels = self.spike_levels if spike_levels is None else spike_levels
        full = checks.full_count(timesteps, spike_levels)
        if full != self.full_count:
            _, turn, low, multiple = signed_table(*self._table_at(full))
        else:
            turn, low, multiple = self.turn, self.low, self.multiple
        total = multiple * balance(counts, turn, low)
        trains = functional.expand_spikes(total.abs().to(torch.uint8), timesteps, order, spike_levels=spike_levels)
        dtype = torch.int8 if spike_levels <= torch.iinfo(torch.int8).max else torch.int16
        return trains.to(dtype) * total.sign().to(dtype)

    def fire(self, current: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
        """Currents [T, N, ...] -> sorted spikes of two signs (S2), times amplitude, the worth of one of value 1."""
        trains = self.expand(self.counts_over_time(current))
        return trains * per_channel(amplitude.to(current.dtype), current.dim() - 1)

    def stepwise(self) -> dict[str, Any]:
        """ValueError: serial IF neurons have spikes of one sign."""
        raise ValueError(
            f"snn: a neuron in place of {self.kind} has spikes of two signs, which serial IF neurons have not; "
            "pcsnn.baselines.packed runs it step by step"
        )

    def describe(self) -> str:
        """Range and step of the rates, in the words of a report."""
        least, most = (end.item() for end in (self.range()[0].min(), self.range()[1].max()))
        steps = " to ".join(f"{step:.4g}" for step in dict.fromkeys((self.scale.min().item(), self.scale.max().item())))
        return f"signed, {least:.4g}..{most:.4g} in steps of {steps}"

    def extra_repr(self):
        several = f", spike_levels={self.spike_levels}" if self.spike_levels > 1 else ""
        return f"{self.kind}, timesteps={self.timesteps}{several}, turn={self.turn}, low={self.low}"
