"""The activation that calibration ends with, as one that is trained further."""

from typing import Any

import torch

from pcsnn.levels import even
from pcsnn.nn.own_neuron import OwnNeuron
from pcsnn.nn.staircase import staircase
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import compute_dtype


class _Rounded(torch.autograd.Function):
    """Levels as the neuron has them, with the gradient of the formula they round."""

    @staticmethod
    def forward(ctx, formula, levels):
        return levels.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class DAQCFS(OwnNeuron):
    """QCFS with a shift psi, an amplitude A and levels of its own, all of them learned (15), (C3).

    a(z) = A/L * #{x = 1..L : z >= tau_x}, tau_x = (x - shift) theta/L - psi + bend_x theta. It is what
    `pcsnn.exchange.to_qcfs` puts in the place of calibrated neurons, and decides by their levels and their operator, so
    that `pcsnn.convert` at T = L (or, with even levels, a multiple) is bit-exact on the same currents.

    Gradient: straight through, that of the curve through the levels (C4), for z and for the parameters. A channel that
    never fires stays silent.

    Args:
        levels: L, 1..255.
        threshold: theta > 0, a number or a tensor [C]; +inf never fires.
        offset: psi, added to z; a number or [C].
        amplitude: A >= 0, what full firing is worth, a number or [C]; None: the threshold. One that training drives
            below zero counts as zero.
        bend: what the levels stray from even spacing, [L] or [C, L] in units of the threshold; None: evenly spaced.
        shift: where even spacing starts, in units of theta/L. The parameters are on the device of the first of
            threshold, amplitude, offset and bend that is a tensor.

    Shape: [N, ...] or [N, C, ...] to the same, float32, float16, bfloat16 or float64.

    Raises:
        ValueError, TypeError: arguments out of range; a threshold that training has driven to zero, or values to NaN.
    """

    def __init__(
        self,
        levels: int,
        threshold: float | torch.Tensor,
        *,
        offset: float | torch.Tensor = 0.0,
        amplitude: float | torch.Tensor | None = None,
        bend: torch.Tensor | None = None,
        shift: float = 0.5,
    ):
        super().__init__()
        checks.timesteps(levels, "levels")
        checks.number("shift", shift)
        self.levels, self.shift = levels, float(shift)
        device = checks.device_of(threshold, amplitude, offset, bend)
        theta = checks.threshold(threshold).float().to(device)
        silent = theta == torch.inf
        worth = theta if amplitude is None else torch.as_tensor(amplitude).detach().to(theta)
        values = {
            "threshold": theta.masked_fill(silent, 1.0),
            "offset": torch.as_tensor(offset).detach().to(theta),
            "amplitude": worth.masked_fill(worth == torch.inf, 0.0),
            "bend": None if bend is None else bend.detach().to(theta),
        }
        self.silent: torch.Tensor
        self.register_buffer("silent", silent)
        for name, value in values.items():
            self.register_parameter(name, None if value is None else torch.nn.Parameter(value.clone()))
        if (self.amplitude < 0).any():
            raise ValueError(f"amplitude: expected values of at least zero, got {self.amplitude.min().item()}")
        self._check()

    def _check(self):
        checks.threshold(self.threshold)
        for name, most in (("amplitude", 1), ("offset", 1), ("bend", 2)):
            value = getattr(self, name)
            if value is None:
                continue
            if value.dim() > most or not value.isfinite().all():
                raise ValueError(
                    f"{name}: expected finite values, got shape {tuple(value.shape)}, {value.flatten()[:4].tolist()}"
                )
        channels = {len(value) for value in (self.threshold, self.offset, self.amplitude) if value.dim()}
        channels |= {len(self.bend)} if self.bend is not None and self.bend.dim() == 2 else set()
        if len(channels) > 1:
            raise ValueError(
                f"threshold, offset, amplitude, bend: expected one number of channels, got {sorted(channels)}"
            )

    def _table(self):
        """The levels [L] or [C, L] of the neuron, float32, those of a silent channel too, with their gradient."""
        theta, offset = (value.float().double() for value in (self.threshold, self.offset))
        bend = None if self.bend is None else self.bend.float().double()
        exact = even.table(
            theta.detach(), self.levels, None, self.shift, offset.detach(), None if bend is None else bend.detach()
        )
        steps = torch.arange(1, self.levels + 1, dtype=torch.float64, device=theta.device) - self.shift
        formula = steps * theta.unsqueeze(-1) / self.levels - offset.unsqueeze(-1)
        if bend is not None:
            formula = (formula + even.resample_bend(bend, self.levels) * theta.unsqueeze(-1)).cummax(-1).values
        return _Rounded.apply(formula.float().expand(exact.shape), exact)

    def _worth(self):
        """The amplitude as it counts, [] or [C], float32."""
        return self.amplitude.float().clamp_min(0).masked_fill(self.silent, 0.0)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Currents [N, ...] -> activations."""
        checks.tensor("z", z, checks.CURRENT_DTYPES, 1)
        self._check()
        amplitude = self._worth()
        table = self._table()
        shape = torch.broadcast_shapes(table.shape[:-1], amplitude.shape)
        table, amplitude = table.expand(*shape, -1), amplitude.expand(shape)
        return staircase(z.to(compute_dtype(z)), table, amplitude).to(z.dtype)

    def neuron(self) -> dict[str, Any]:
        """The state as arguments of `pcsnn.nn.CollapsedNeuron`."""
        self._check()
        return dict(
            threshold=self.threshold.detach().masked_fill(self.silent, torch.inf),
            offset=self.offset.detach(),
            amplitude=self._worth().detach(),
            shift=self.shift,
            bend=None if self.bend is None else self.bend.detach(),
        )

    def lossless(self, full_count: int) -> bool:
        """Whether its neuron has exactly its levels at T D = `full_count`: uneven ones at L alone."""
        return full_count == self.levels if self.bend is not None else super().lossless(full_count)

    def extra_repr(self):
        channels = f"{len(self.threshold)} channels" if self.threshold.dim() else "one threshold"
        return f"levels={self.levels}, {channels}{'' if self.bend is None else ', uneven levels'}"
