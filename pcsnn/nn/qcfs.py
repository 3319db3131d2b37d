"""The trainable quantization clip-floor-shift activation."""

import torch
from torch.autograd.function import once_differentiable

from pcsnn.levels import even
from pcsnn.levels.spacing import pack
from pcsnn.nn.own_neuron import OwnNeuron
from pcsnn.operators import dispatch
from pcsnn.tensors import checks

TINY = 1e-25  # thresholds whose levels lie too close for a guess from their line


class _StraightThrough(torch.autograd.Function):
    """QCFS with the neuron's own decision forward, and floor's gradient taken as 1 backward."""

    @staticmethod
    def forward(ctx, z, threshold, levels, tiny):
        theta = threshold.detach().to(torch.float32).to(torch.float64)  # in a float64 network too, like the neuron's
        first, step = even.line(theta, levels)
        table, scale = even.on_line(first, step, levels), even.step_of(theta, levels)
        line = None if tiny else pack(first, step)
        out = dispatch.call("fire_rates", z, table, scale, None, None, 1, 0, 0, line)
        ctx.save_for_backward(z, threshold, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        z, threshold, out = ctx.saved_tensors
        inside = (z >= 0) & (z <= threshold)
        grad_threshold = (grad * (out - torch.where(inside, z, 0))).sum() / threshold
        return grad * inside, grad_threshold, None, None


class QCFS(OwnNeuron):
    """a(z) = (theta / L) * clip(floor(z * L / theta + 1/2), 0, L) (1), with a learnable threshold theta.

    Decides by the same levels and the same operator as the spiking neuron, so that conversion at T = L (or a multiple)
    is bit-exact on the same currents. Gradient: straight through the floor; 0 outside 0..theta for z.

    Source: "Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks" (ICLR 2022).

    Args:
        levels: L, the quantization levels, 1..255.
        threshold: initial theta > 0, a number or a tensor [], on whose device the parameter is.

    Shape: [N, ...] to [N, ...], float32, float16, bfloat16 or float64.

    Raises:
        ValueError, TypeError: levels outside 1..255; threshold <= 0 or NaN, also when training has driven it there.
    """

    def __init__(self, levels: int, threshold: float | torch.Tensor = 8.0):
        super().__init__()
        checks.timesteps(levels, "levels")
        self.levels = levels
        device = checks.device_of(threshold)
        self.threshold = torch.nn.Parameter(checks.threshold(threshold).to(device, torch.float32))
        if self.threshold.dim():
            raise ValueError(f"threshold: expected a number, got shape {tuple(self.threshold.shape)}")

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        checks.tensor("z", z, checks.CURRENT_DTYPES, 1)
        tiny = False
        if not torch.compiler.is_compiling():  # values are unknown while tracing
            tiny = checks.threshold(self.threshold).item() < TINY
        return _StraightThrough.apply(z, self.threshold, self.levels, tiny)

    def extra_repr(self):
        return f"levels={self.levels}"
