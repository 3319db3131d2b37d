"""Spiking neurons: the drop-in for a multi-step IF layer, and the one of collapsed networks."""

import torch

from pcsnn import functional
from pcsnn.levels import even
from pcsnn.levels.spacing import UNKNOWN, Spacing, find_spacing
from pcsnn.nn import staircase
from pcsnn.nn.precision import FullPrecisionBuffers
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import compute_dtype, per_channel

OUTPUTS = ("spikes", "counts", "rate")


class LevelBuffers(FullPrecisionBuffers):
    """A neuron's level table and what is known of it, buffers that follow from its state."""

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
    def spacing(self):
        """The `pcsnn.levels.spacing.Spacing` of the levels."""
        line = self.line
        if line is not None and line.dtype == torch.float64:  # of a network in double precision: the same values
            line = line.float()
        return Spacing(self._repeat, line, self._reach)


class _Neuron(LevelBuffers):
    """Threshold and amplitude are the state; levels and scale follow from them, after loading too."""

    def _register(self, threshold, amplitude, device):
        theta = checks.threshold(threshold).to(device)
        worth = theta if amplitude is None else torch.as_tensor(amplitude, dtype=torch.float64, device=device).detach()
        if worth.dim() > 1 or worth.isnan().any():
            raise ValueError(f"amplitude: expected a number or [C] without NaN, got shape {tuple(worth.shape)}")
        self.register_buffer("threshold", theta.to(torch.float32))
        self.register_buffer("amplitude", torch.where(worth == torch.inf, 0.0, worth).to(torch.float32))
        self._register_levels()
        self._derive()


class ParallelSpikingNeuron(_Neuron):
    """All T time-steps of a soft-reset IF layer at once, with sorted spikes (5)-(9); a drop-in for a multi-step IF layer.

    Equal to QCFS with L = T levels of the mean current for every input, uneven and negative ones too (8).
    Source: arXiv 2412.13610, Eq. 8.

    Args:
        threshold: theta > 0, a number or a tensor [C] (dimension 1 of [N, C, ...]); +inf never fires.
        timesteps: T, 1..255.
        shift: in units of the threshold; 0.5 is the paper's psi = theta / 2.
        amplitude: what a spike is worth, a number or [C]; None is the threshold. 1.0 gives plain 0/1 spikes. The layer
            is on the device of the first of threshold and amplitude that is a tensor.
        output: "spikes": [T, N, ...] times amplitude; "counts": uint8 [N, ...]; "rate": amplitude * k / T, [N, ...].

    Shape: currents [T, N, ...], float32, float16, bfloat16 or float64, to [T, N, ...] or [N, ...] of that dtype.

    Raises:
        ValueError, TypeError: arguments out of range, currents of another T, shape, dtype or device.
        RuntimeError: the current requires a gradient.
    """

    def __init__(self, threshold, timesteps, *, shift=0.5, amplitude=None, output="spikes"):
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {', '.join(OUTPUTS)}, got {output!r}")
        self.timesteps, self.shift, self.output = timesteps, shift, output
        self._register(threshold, amplitude, checks.device_of(threshold, amplitude))

    def _derive(self):
        self._set_levels(functional.levels(self.threshold, self.timesteps, shift=self.shift), 1, self.threshold)
        self.scale = even.step_of(self.amplitude.to(torch.float64), self.timesteps).to(self.threshold)

    def forward(self, current):
        """Currents [T, N, ...] -> what `output` says."""
        checks.tensor("current", current, checks.CURRENT_DTYPES, 2)
        if self.output == "spikes":
            return self._spikes(current, current.dtype, self.amplitude)
        counts = self._spikes(current, torch.uint8, None).sum(0, dtype=torch.uint8)
        if self.output == "counts":
            return counts
        precise = compute_dtype(current)
        return (counts.to(precise) * per_channel(self.scale.to(precise), counts.dim())).to(current.dtype)

    def _spikes(self, current, dtype, amplitude):
        return functional.fire_spikes(current, self.levels, dtype, amplitude, spacing=self.spacing)

    def extra_repr(self):
        return f"timesteps={self.timesteps}, shift={self.shift}, output={self.output!r}"


def joined(current, residual):
    """The two as the operators take them: of one shape and dtype, or already added."""
    if residual is None or (residual.shape == current.shape and residual.dtype == current.dtype):
        return current, residual
    return current + residual, None


class CollapsedNeuron(_Neuron):
    """A spiking layer under time collapse (11): mean current in, firing rate out, at a cost independent of T.

    k = #{x : mean >= levels_x}; rate = amplitude * k / T. The levels come from threshold, offset and, where it divides T,
    the source's level count L (10). Networks made by `pcsnn.convert` hold one at every activation.

    Args:
        threshold: theta > 0, a number or a tensor [C]; +inf never fires.
        timesteps: T, 1..255.
        quantization_levels: L of the QCFS activation this layer replaces, or None.
        offset: psi_DA of (15), added to the mean current; a number or [C].
        bend: what the levels stray from even spacing (C3), [T] or [C, T] in units of the threshold; None: evenly spaced.
        shift: potential that serial IF starts with, in units of the threshold; 0.5 is the paper's psi = theta / 2.
        amplitude: theta + phi of (15), a number or [C]; None is the threshold (0 for a channel that never fires). The
            layer is on the device of the first of threshold, amplitude, offset and bend that is a tensor.
        inplace: write the rates over the current.

    Shape: mean current [N, ...] (float32, float16, bfloat16, float64) to rates [N, ...]; `residual` is added to the
    current first, in the same pass where shape and dtype are the current's.

    Gradient: for the current and the residual, straight through: that of the curve through the levels (C4). Rates are
    the same with it and without; threshold, offset and amplitude have none (`pcsnn.exchange.to_qcfs` lets them learn).

    Raises:
        ValueError, TypeError: arguments out of range; a current whose shape or dtype does not fit.
    """

    exact = True  # its counts are those of what the converter made
    TENSORS = (
        "threshold",
        "offset",
        "amplitude",
        "bend",
    )  # arguments that are state; with `configuration` they make a copy

    def __init__(
        self,
        threshold,
        timesteps,
        *,
        quantization_levels=None,
        offset=0.0,
        amplitude=None,
        bend=None,
        shift=0.5,
        inplace=False,
    ):
        super().__init__()
        self.timesteps, self.quantization_levels, self.shift, self.inplace = (
            timesteps,
            quantization_levels,
            shift,
            inplace,
        )
        device = checks.device_of(threshold, amplitude, offset, bend)
        self.register_buffer("offset", torch.as_tensor(offset, dtype=torch.float32, device=device).detach())
        self.register_buffer("bend", None if bend is None else bend.detach().to(device, torch.float32))
        self._register(threshold, amplitude, device)

    def _derive(self):
        table = functional.levels(
            self.threshold,
            self.timesteps,
            quantization_levels=self.quantization_levels,
            shift=self.shift,
            offset=self.offset,
            bend=self.bend,
        )
        self._set_levels(table, even.repeat_of(self.timesteps, self.quantization_levels), self.threshold)
        worth = self.amplitude.to(torch.float64)
        self.scale = (
            even.step_of(worth, self.timesteps, self.quantization_levels)
            if self._repeat
            else even.step_of(worth, self.timesteps)
        ).to(self.threshold)

    def configuration(self):
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps,
            quantization_levels=self.quantization_levels,
            shift=self.shift,
            inplace=self.inplace,
        )

    def set_timesteps(self, timesteps):
        """The same layer at T = `timesteps`."""
        checks.timesteps(timesteps)
        self.timesteps = timesteps
        self._derive()

    def adjust(self, offset, amplitude):
        """The same threshold with another offset (psi_DA) and amplitude (theta + phi), numbers or [C]."""
        self.offset = torch.as_tensor(offset, dtype=self.threshold.dtype, device=self.threshold.device).detach()
        self.amplitude = torch.as_tensor(amplitude, dtype=self.threshold.dtype, device=self.threshold.device).detach()
        self._derive()

    def forward(self, current, residual=None):
        """Mean current [N, ...], and a second branch to add first -> rates [N, ...]."""
        if staircase.asked_for(current, residual):
            return staircase.straight_through(current, residual, self.levels[..., :: max(self._repeat, 1)], self.scale)
        current, residual = joined(current, residual)
        return functional.fire_rates(
            current, self.levels, self.scale, residual, inplace=self.inplace, spacing=self.spacing
        )

    @property
    def spike(self):
        """What one spike is worth, [] or [C]: the amplitude, as `scale` rounds it."""
        return self.scale * (self.timesteps / max(self._repeat, 1))

    def counts(self, current, residual=None):
        """Spike counts, uint8 [N, ...], of the same currents."""
        current, residual = joined(current, residual)
        return functional.fire_counts(current, self.levels, residual, spacing=self.spacing)

    def rates_of(self, counts, dtype=torch.float32):
        """Rates of given spike counts, bit-equal to what `forward` returns for them."""
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        distinct = (counts // max(self._repeat, 1)).to(precise)
        return (distinct * per_channel(self.scale.to(precise), counts.dim())).to(dtype)

    def extra_repr(self):
        channels = self.levels.shape[0] if self.levels.dim() == 2 else "shared"
        return f"timesteps={self.timesteps}, quantization_levels={self.quantization_levels}, channels={channels}"
