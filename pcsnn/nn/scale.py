"""A factor for each channel."""

from typing import Any

import torch

from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import per_channel


class ChannelScale(torch.nn.Module):
    """x * scale: what other software puts before and behind its neurons. Linear, so exact on rates (12).

    Args:
        scale: a number, or a tensor [] or [C] (dimension 1 of [N, C, ...]).

    Shape: [N, ...] or [N, C, ...] to the same.
    """

    TENSORS = ("scale",)

    def __init__(self, scale: float | torch.Tensor):
        super().__init__()
        value = torch.as_tensor(scale).detach().clone()
        if value.dim() > 1 or not value.isfinite().all():
            raise ValueError(f"scale: expected finite values, a number or [C], got shape {tuple(value.shape)}")
        self.register_buffer("scale", value.float())

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale.dim() and not torch.compiler.is_compiling():
            checks.channels("scale", self.scale, x.shape)
        return x * per_channel(self.scale.to(x.dtype), x.dim())

    def extra_repr(self):
        return f"shape={tuple(self.scale.shape)}"
