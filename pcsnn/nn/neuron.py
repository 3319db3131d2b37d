"""Spiking neurons under time collapse: the protocol of every kind, and the neuron with spikes of one sign."""

from typing import Any

import torch
import torch.nn.functional as F

from pcsnn import functional
from pcsnn.levels import even
from pcsnn.levels.spacing import UNKNOWN, Spacing, find_spacing
from pcsnn.nn import staircase
from pcsnn.nn.precision import FullPrecisionBuffers
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import per_channel


class LevelBuffers(FullPrecisionBuffers):
    """A neuron's level table and what is known of it, buffers that follow from its state."""

    levels: torch.Tensor
    line: torch.Tensor | None
    scale: torch.Tensor

    def _register_levels(self):
        for name in ("levels", "line", "scale"):
            self.register_buffer(name, None, persistent=False)

    def _set_levels(self, table, repeat, like):
        """A table in which each level stands `repeat` times, on the device of `like` and of its dtype."""
        found = find_spacing(table)
        found = found if found.repeat == repeat or found.reach else UNKNOWN
        self.levels = table.to(like)
        self.line = None if found.line is None else found.line.to(like.device)
        self._repeat, self._reach = found.repeat, found.reach

    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)
        self._derive()

    @property
    def spacing(self) -> Spacing:
        """The `pcsnn.levels.spacing.Spacing` of the levels."""
        line = self.line
        if line is not None and line.dtype == torch.float64:  # of a network in double precision: the same values
            line = line.float()
        return Spacing(self._repeat, line, self._reach)


class ThresholdBuffers(LevelBuffers):
    """Threshold and amplitude are the state; levels and scale follow from them, after loading too."""

    threshold: torch.Tensor
    amplitude: torch.Tensor

    def _register(self, threshold, amplitude, device):
        theta = checks.threshold(threshold).to(device)
        full = theta if amplitude is None else torch.as_tensor(amplitude, dtype=torch.float64, device=device).detach()
        if full.dim() > 1 or full.isnan().any():
            raise ValueError(f"amplitude: expected a number or [C] without NaN, got shape {tuple(full.shape)}")
        self.register_buffer("threshold", theta.to(torch.float32))
        self.register_buffer("amplitude", torch.where(full == torch.inf, 0.0, full).to(torch.float32))
        self._register_levels()
        self._derive()


class Spiking(torch.nn.Module):
    """A layer of a network under time collapse in which neurons fire: neurons alone, or with a synapse before them.

    Attributes:
        neuron: the `Neuron` that fires; a layer of neurons alone is its own.
        synapse: the kind of synapse that is one operation with the neurons (`pcsnn.nn.synapses`), or None.
    """

    neuron: "Neuron"
    synapse = None

    def counts(self, *inputs):
        """Spike counts, uint8 [N, ...], of the inputs of `forward`."""
        raise NotImplementedError

    def rates_of(self, counts: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Rates of given spike counts, of that dtype."""
        return self.neuron.rates_of(counts, dtype)

    def describe(self) -> str:
        """The neurons in the words of a report."""
        return self.neuron.describe()


class Neuron(LevelBuffers, Spiking):
    """A spiking neuron under time collapse: mean current in, firing rate out; what all code asks of any kind of neuron.

    Subclasses say how counts become rates (`rates_of`) and trains (`expand`, `fire`), and what rates there are
    (`range`, `spike`). A count is the number of levels reached, 0..len(levels).

    Attributes:
        timesteps: T.
        spike_levels: D; a time-step sends an integer of at most D (22).
        levels: float32 [K] or [C, K], ascending, on the mean current; K is T D, more where spikes have two signs.
    """

    timesteps: int
    spike_levels: int = 1

    @property
    def spike_range(self) -> tuple[int, int]:
        """The least and the largest value of a time-step's spike, in units of `spike`: (0, D), of two signs (-D, D)."""
        return 0, self.spike_levels

    @property
    def full_count(self) -> int:
        """The count of full firing, T D."""
        return self.timesteps * self.spike_levels

    @property
    def neuron(self) -> "Neuron":  # type: ignore[override]
        return self

    def counts(self, current: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        """Levels reached, uint8 [N, ...], by mean currents [N, ...] and a second branch to add first."""
        current, residual = joined(current, residual)
        return functional.fire_counts(current, self.levels, residual, spacing=self.spacing)

    def counts_over_time(self, current: torch.Tensor) -> torch.Tensor:
        """Levels reached, uint8 [N, ...], by T currents [T, N, ...], summed in time order (5)."""
        levels: torch.Tensor = self.levels
        spacing: Spacing | None = self.spacing
        if levels.shape[-1] != self.full_count:  # more levels than spikes of one sign: as many at a time
            levels, spacing = F.pad(levels, (0, -levels.shape[-1] % self.full_count), value=torch.inf), None
        counts = [
            functional.fire_spikes(current, part.contiguous(), spacing=spacing, spike_levels=self.spike_levels).sum(
                0, dtype=torch.uint8
            )
            for part in levels.split(self.full_count, -1)
        ]
        return torch.stack(counts).sum(0, dtype=torch.uint8) if len(counts) > 1 else counts[0]

    def rates_of(self, counts: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Rates of given counts, bit-equal to what `forward` returns for them."""
        raise NotImplementedError

    @property
    def spike(self) -> torch.Tensor:
        """What a spike of value 1 is worth, [] or [C]: amplitude / D, as `scale` rounds it."""
        raise NotImplementedError

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the largest rate, float64 [] or [C]."""
        raise NotImplementedError

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same layer at T = `timesteps` and, where it is given, D = `spike_levels`."""
        raise NotImplementedError

    def expand(
        self,
        counts: torch.Tensor,
        order: torch.Tensor | None = None,
        timesteps: int | None = None,
        spike_levels: int | None = None,
    ) -> torch.Tensor:
        """Spike trains [T, N, ...] of given counts, values in `spike_range` (bool where binary), sorted or in an order.

        order: int64 [T], a permutation of the steps (13), or None. timesteps, spike_levels: T and D of the counts;
            None: those of the neuron.
        """
        raise NotImplementedError

    def fire(self, current: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
        """Currents [T, N, ...] -> sorted spikes [T, N, ...] of that dtype, times amplitude, the worth of 1."""
        raise NotImplementedError

    def stepwise(self) -> dict[str, Any]:
        """The same neuron step by step: arguments of serial IF (2); ValueError where it has no such form."""
        raise NotImplementedError


def joined(current, residual):
    """The two as the operators take them: of one shape and dtype, or already added."""
    if residual is None or (residual.shape == current.shape and residual.dtype == current.dtype):
        return current, residual
    return current + residual, None


class CollapsedNeuron(ThresholdBuffers, Neuron):
    """A spiking layer under time collapse (11): mean current in, firing rate out, at a cost independent of T.

    k = #{x : mean >= levels_x}; rate = amplitude * k / (T D). The levels come from threshold, offset and, where it
    divides T D, the source's level count L (10). Networks made by `pcsnn.convert` hold one at every activation.

    Args:
        threshold: theta > 0, a number or a tensor [C]; +inf never fires.
        timesteps: T, 1..255.
        quantization_levels: L of the QCFS activation this layer replaces, or None.
        offset: psi_DA of (15), added to the mean current; a number or [C].
        bend: what the levels stray from even spacing (C3), [T D] or [C, T D] in units of the threshold; None: evenly
            spaced.
        shift: potential that serial IF starts with, in units of theta / D; 0.5 is the paper's psi = theta / 2.
        amplitude: theta + phi of (15), a number or [C]; None is the threshold (0 for a channel that never fires). The
            layer is on the device of the first of threshold, amplitude, offset and bend that is a tensor.
        inplace: write the rates over the current.
        spike_levels: D, T D <= 255; a time-step sends an integer 0..D (22): 1 is a binary spike, 2^n - 1 stands for n
            of them of weights 1, 2, 4, ... The rate is that of T D time-steps with D = 1; only the train is shorter.

    Shape: mean current [N, ...] (float32, float16, bfloat16, float64) to rates [N, ...]; `residual` is added to the
    current first, in the same pass where shape and dtype are the current's.

    Gradient: for the current and the residual, straight through: that of the curve through the levels (C4). Rates are
    the same with it and without; threshold, offset and amplitude have none (`pcsnn.exchange.to_qcfs` lets them learn).

    Raises:
        ValueError, TypeError: arguments out of range; a current whose shape or dtype does not fit.
    """

    # arguments that are state; with `configuration` they make a copy
    TENSORS = ("threshold", "offset", "amplitude", "bend")

    def __init__(
        self,
        threshold: float | torch.Tensor,
        timesteps: int,
        *,
        quantization_levels: int | None = None,
        offset: float | torch.Tensor = 0.0,
        amplitude: float | torch.Tensor | None = None,
        bend: torch.Tensor | None = None,
        shift: float = 0.5,
        inplace: bool = False,
        spike_levels: int = 1,
    ):
        super().__init__()
        checks.full_count(timesteps, spike_levels)
        self.timesteps, self.spike_levels, self.quantization_levels = timesteps, spike_levels, quantization_levels
        self.shift, self.inplace = shift, inplace
        device = checks.device_of(threshold, amplitude, offset, bend)
        self.register_buffer("offset", torch.as_tensor(offset, dtype=torch.float32, device=device).detach())
        self.register_buffer("bend", None if bend is None else bend.detach().to(device, torch.float32))
        self._register(threshold, amplitude, device)

    def _derive(self):
        table = functional.levels(
            self.threshold,
            self.full_count,
            quantization_levels=self.quantization_levels,
            shift=self.shift,
            offset=self.offset,
            bend=self.bend,
        )
        self._set_levels(table, even.repeat_of(self.full_count, self.quantization_levels), self.threshold)
        levels = self.quantization_levels if self._repeat else None
        self.scale = even.step_of(self.amplitude.to(torch.float64), self.full_count, levels).to(self.threshold)

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps,
            quantization_levels=self.quantization_levels,
            shift=self.shift,
            inplace=self.inplace,
            spike_levels=self.spike_levels,
        )

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same layer at T = `timesteps` and, where it is given, D = `spike_levels`."""
        spike_levels = self.spike_levels if spike_levels is None else spike_levels
        checks.full_count(timesteps, spike_levels)
        self.timesteps, self.spike_levels = timesteps, spike_levels
        self._derive()

    def adjust(self, offset: torch.Tensor | float, amplitude: torch.Tensor | float) -> None:
        """The same threshold with another offset (psi_DA) and amplitude (theta + phi), numbers or [C]."""
        self.offset = torch.as_tensor(offset, dtype=self.threshold.dtype, device=self.threshold.device).detach()
        self.amplitude = torch.as_tensor(amplitude, dtype=self.threshold.dtype, device=self.threshold.device).detach()
        self._derive()

    def forward(self, current: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Mean current [N, ...], and a second branch to add first -> rates [N, ...]."""
        if staircase.asked_for(current, residual):
            return staircase.straight_through(current, residual, self.levels[..., :: max(self._repeat, 1)], self.scale)
        current, residual = joined(current, residual)
        return functional.fire_rates(
            current, self.levels, self.scale, residual, inplace=self.inplace, spacing=self.spacing
        )

    def rates_of(self, counts: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Rates of given spike counts, bit-equal to what `forward` returns for them."""
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        distinct = (counts // max(self._repeat, 1)).to(precise)
        return (distinct * per_channel(self.scale.to(precise), counts.dim())).to(dtype)

    @property
    def spike(self) -> torch.Tensor:
        """What a spike of value 1 is worth, [] or [C]: amplitude / D, as `scale` rounds it."""
        return self.scale * (self.timesteps / max(self._repeat, 1))

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the largest rate, float64 [] or [C]: no spike, and the largest at every step."""
        full = self.spike.double() * self.spike_levels
        return full.clamp(max=0), full.clamp(min=0)

    def expand(
        self,
        counts: torch.Tensor,
        order: torch.Tensor | None = None,
        timesteps: int | None = None,
        spike_levels: int | None = None,
    ) -> torch.Tensor:
        """Spike trains [T, N, ...] of given counts, bool where D = 1, else uint8."""
        timesteps = self.timesteps if timesteps is None else timesteps
        spike_levels = self.spike_levels if spike_levels is None else spike_levels
        dtype = torch.bool if spike_levels == 1 else torch.uint8
        return functional.expand_spikes(counts, timesteps, order, dtype, spike_levels=spike_levels)

    def fire(self, current: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
        """Currents [T, N, ...] -> sorted spikes [T, N, ...] times amplitude, what a spike of value 1 is worth."""
        return functional.fire_spikes(
            current, self.levels, current.dtype, amplitude, spacing=self.spacing, spike_levels=self.spike_levels
        )

    def stepwise(self) -> dict[str, Any]:
        """The arguments of serial IF (2), (22) with the same threshold, offset, amplitude and D."""
        return dict(
            threshold=self.threshold,
            offset=self.offset,
            amplitude=self.spike,
            shift=self.shift,
            spike_levels=self.spike_levels,
        )

    def describe(self, exact: bool = True) -> str:
        """Threshold, levels and what calibration made of them, in the words of a report.

        exact: whether its counts are those of what the converter made; weights that were rounded change them.
        """
        theta, levels = self.threshold, self.quantization_levels
        silent = theta == torch.inf
        text = f"threshold {_span(theta[~silent].flatten()) or 'infinite'}"
        if theta.dim():
            text += f", per channel ({len(theta)}{f', {int(silent.sum())} silent' if silent.any() else ''})"
        if self.shift != 0.5:
            text += f", starting at {self.shift:g} of it" if self.shift else ", starting at rest"
        if levels is not None:
            text += f", QCFS L = {levels}"
        other = not torch.allclose(self.amplitude, theta.where(~silent, 0), rtol=1e-6, atol=0)
        if self.bend is not None or self.offset.any() or other and self.offset.dim():
            return text + ", calibrated"
        if other:
            return text + f", a spike worth {_span(self.amplitude.flatten())}"
        if levels is not None and exact:
            text += ": lossless" if self.full_count % levels == 0 else ": half shift, not lossless"
        return text

    def extra_repr(self):
        channels = self.levels.shape[0] if self.levels.dim() == 2 else "shared"
        several = f", spike_levels={self.spike_levels}" if self.spike_levels > 1 else ""
        return (
            f"timesteps={self.timesteps}{several}, quantization_levels={self.quantization_levels}, channels={channels}"
        )


def _span(values):
    """The least and the largest of values [C] in words, or the one there is; "" of none."""
    if len(values) > 1:
        return f"{values.min():.4g}..{values.max():.4g}"
    return "".join(f"{value:.4g}" for value in values)
