"""The drop-in for a multi-step IF layer: T time-steps of currents in, T time-steps of spikes out."""

import torch

from pcsnn import functional
from pcsnn.levels import even
from pcsnn.nn.neuron import ThresholdBuffers
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import compute_dtype, per_channel

OUTPUTS = ("spikes", "counts", "rate")


class ParallelSpikingNeuron(ThresholdBuffers):
    """Drop-in for a multi-step soft-reset IF layer: all T time-steps at once, with sorted spikes (5)-(9), (22).

    Equal to QCFS with L = T D levels of the mean current for every input, uneven and negative ones too (8). Source:
    arXiv 2412.13610, Eq. 8; integers 0..D instead of binary spikes as of I-LIF (TPAMI 2025).

    Args:
        threshold: theta > 0, a number or a tensor [C] (dimension 1 of [N, C, ...]); +inf never fires.
        timesteps: T, 1..255.
        shift: in units of theta / D; 0.5 is the paper's psi = theta / 2.
        amplitude: what a step is worth that sends D, a number or [C]; None is the threshold. D gives plain integers,
            1.0 plain 0/1 spikes where D = 1. The layer is on the device of the first of threshold and amplitude that is
            a tensor.
        output: "spikes": [T, N, ...], 0..D times amplitude / D; "counts": uint8 [N, ...], 0..T D; "rate":
            amplitude * k / (T D), [N, ...].
        quantization_levels: L of the QCFS activation it replaces, which it is then equal to wherever L divides T D;
            None: evenly spaced levels, as for any L that does not divide it.
        spike_levels: D; a time-step sends an integer 0..D. T D is at most 255.

    Attributes:
        levels: float32 [T D] or [C, T D] on the mean current, ascending.
        spike: what a spike of value 1 is worth, amplitude / D, float32 [] or [C].

    Shape: currents [T, N, ...], float32, float16, bfloat16 or float64, to [T, N, ...] or [N, ...] of that dtype.

    Raises:
        ValueError, TypeError: arguments out of range, currents of another T, shape, dtype or device.
        RuntimeError: the current requires a gradient.
    """

    spike: torch.Tensor

    def __init__(
        self,
        threshold: float | torch.Tensor,
        timesteps: int,
        *,
        shift: float = 0.5,
        amplitude: float | torch.Tensor | None = None,
        output: str = "spikes",
        quantization_levels: int | None = None,
        spike_levels: int = 1,
    ):
        super().__init__()
        checks.full_count(timesteps, spike_levels)
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {', '.join(OUTPUTS)}, got {output!r}")
        self.timesteps, self.shift, self.output = timesteps, shift, output
        self.quantization_levels, self.spike_levels = quantization_levels, spike_levels
        self.register_buffer("spike", None, persistent=False)
        self._register(threshold, amplitude, checks.device_of(threshold, amplitude))

    def _derive(self):
        full = self.timesteps * self.spike_levels
        table = functional.levels(self.threshold, full, quantization_levels=self.quantization_levels, shift=self.shift)
        self._set_levels(table, even.repeat_of(full, self.quantization_levels), self.threshold)
        amplitude, levels = self.amplitude.to(torch.float64), self.quantization_levels if self._repeat else None
        self.scale = even.step_of(amplitude, full, levels).to(self.threshold)
        self.spike = even.step_of(amplitude, self.spike_levels).to(self.threshold)

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        """Currents [T, N, ...] -> what `output` says."""
        checks.tensor("current", current, checks.CURRENT_DTYPES, 2)
        if self.output == "spikes":
            return self._spikes(current, current.dtype, self.spike)
        counts = self._spikes(current, torch.uint8, None).sum(0, dtype=torch.uint8)
        if self.output == "counts":
            return counts
        precise = compute_dtype(current)
        distinct = (counts // max(self._repeat, 1)).to(precise)
        return (distinct * per_channel(self.scale.to(precise), counts.dim())).to(current.dtype)

    def _spikes(self, current, dtype, amplitude):
        return functional.fire_spikes(
            current, self.levels, dtype, amplitude, spacing=self.spacing, spike_levels=self.spike_levels
        )

    def extra_repr(self):
        several = f", spike_levels={self.spike_levels}" if self.spike_levels > 1 else ""
        return f"timesteps={self.timesteps}{several}, shift={self.shift}, output={self.output!r}"
