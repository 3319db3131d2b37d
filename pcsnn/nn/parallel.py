"""The drop-in for a multi-step IF layer: T time-steps of currents in, T time-steps of spikes out."""

import torch

from pcsnn import functional
from pcsnn.levels import even
from pcsnn.nn.neuron import ThresholdBuffers
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import compute_dtype, per_channel

OUTPUTS = ("spikes", "counts", "rate")


class ParallelSpikingNeuron(ThresholdBuffers):
    """Drop-in for a multi-step soft-reset IF layer: all T time-steps at once, with sorted spikes (5)-(9).

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

    def __init__(
        self,
        threshold: float | torch.Tensor,
        timesteps: int,
        *,
        shift: float = 0.5,
        amplitude: float | torch.Tensor | None = None,
        output: str = "spikes",
    ):
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {', '.join(OUTPUTS)}, got {output!r}")
        self.timesteps, self.shift, self.output = timesteps, shift, output
        self._register(threshold, amplitude, checks.device_of(threshold, amplitude))

    def _derive(self):
        self._set_levels(functional.levels(self.threshold, self.timesteps, shift=self.shift), 1, self.threshold)
        self.scale = even.step_of(self.amplitude.to(torch.float64), self.timesteps).to(self.threshold)

    def forward(self, current: torch.Tensor) -> torch.Tensor:
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
