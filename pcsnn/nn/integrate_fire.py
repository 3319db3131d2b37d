"""Where serial IF neurons stood in a network that other software made, and the scales around them."""

import torch

from pcsnn import functional
from pcsnn.nn.own_neuron import OwnNeuron
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import per_channel


class IntegrateFire(OwnNeuron):
    """The place of a layer of soft-reset IF neurons: `pcsnn.convert` puts a collapsed neuron there, thresholds kept.

    Under a steady current I that neuron gives the count of serial IF (2), clip(floor((T I + shift theta) / theta), 0,
    T).
    Called by itself, as calibration does, it is what the rate tends to as T grows: amplitude * clip(z / theta, 0, 1),
    or its own staircase.

    Args:
        threshold: theta > 0, a number or a tensor [C].
        shift: the potential at first, in units of the threshold: 0 at rest, 0.5 half the threshold.
        amplitude: what a spike is worth, a number or [C]. The place is on the device of the first of threshold and
            amplitude that is a tensor.
        levels: L, where the neuron has L distinct levels at every T that L divides, as one that came from QCFS (10);
            None: one for each time-step.
        bend: what the levels stray from even spacing (C3), [T0] or [C, T0] in units of the threshold; None: nothing.

    Shape: [N, ...] or [N, C, ...] to the same.
    """

    serial = True

    def __init__(
        self,
        threshold: float | torch.Tensor,
        shift: float = 0.0,
        amplitude: float | torch.Tensor = 1.0,
        levels: int | None = None,
        bend: torch.Tensor | None = None,
    ):
        super().__init__()
        checks.number("shift", shift)
        if levels is not None:
            checks.timesteps(levels, "levels")
        self.shift, self.levels = float(shift), levels
        device = checks.device_of(threshold, amplitude, bend)
        self.threshold: torch.Tensor
        self.register_buffer("threshold", checks.threshold(threshold).to(device))
        self.register_buffer("amplitude", torch.as_tensor(amplitude, dtype=torch.float64, device=device))
        self.bend: torch.Tensor | None
        self.register_buffer("bend", None if bend is None else bend.to(device))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        levels = self.levels if self.bend is None else self.bend.shape[-1]
        if levels is not None:
            table = functional.levels(self.threshold, levels, shift=self.shift, bend=self.bend)
            return functional.fire_rates(z, table, (self.amplitude / levels).to(torch.float32), repeat=0)
        theta, amplitude = (per_channel(value.to(z.dtype), z.dim()) for value in (self.threshold, self.amplitude))
        return (z / theta).clamp(0, 1) * amplitude

    def neuron(self):
        return dict(threshold=self.threshold, amplitude=self.amplitude, shift=self.shift, bend=self.bend)

    def lossless(self, full_count):
        return True

    def extra_repr(self):
        return f"shift={self.shift}"
