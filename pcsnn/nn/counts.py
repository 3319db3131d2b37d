"""Layers between synapses of optimised networks: pooling and conversion of counts."""

from typing import Any

import torch
import torch.nn.functional as F

from pcsnn import functional
from pcsnn.levels import even
from pcsnn.nn.precision import FullPrecisionBuffers
from pcsnn.operators import arguments
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import divided, per_channel

BYTE = 255  # the largest count that the layers hand on


def steps_of(full_count, quantization_levels, area=1):
    """The largest distinct count of `area` neurons together: T D of each, or L where QCFS levels repeat (10)."""
    return area * (full_count // even.repeat_of(full_count, quantization_levels))


def check_area(timesteps, spike_levels, quantization_levels, area):
    """ValueError where the counts of `area` neurons together do not fit a byte."""
    full = checks.full_count(timesteps, spike_levels)
    if steps_of(full, quantization_levels, area) > BYTE:
        raise ValueError(
            f"timesteps: expected at most {BYTE // area // spike_levels} where average pooling adds up the counts of "
            f"{area} neurons{f' whose spikes have {spike_levels} levels' if spike_levels > 1 else ''}, got "
            f"{timesteps}; optimise the converted network at that T"
        )


def check_numbers(counted=True, fixed_steps=None, **numbers):
    """What layers are told of the counts that come in: levels (or None) and areas, by name."""
    if not isinstance(counted, bool):
        raise TypeError(f"counted: expected True or False, got {counted!r}")
    if fixed_steps is not None:
        checks.integer("fixed_steps", fixed_steps, 1, BYTE)
    for name, value in numbers.items():
        if value is not None or not name.endswith("levels"):
            checks.integer(name, value, 1, 2**16 if name.endswith("levels") else BYTE)


class Rates(FullPrecisionBuffers):
    """Conversion of distinct counts, uint8 [N, C, ...], to float32 rates, worth * k / steps.

    Args:
        worth: amplitude of the neurons, [] or [C].
        timesteps, quantization_levels: T and L of the neurons.
        area: how many of them were added up (CountSumPool2d).
        spike_levels: D of the neurons.
    """

    TENSORS = ("worth",)
    worth: torch.Tensor

    def __init__(
        self,
        worth: float | torch.Tensor,
        timesteps: int,
        quantization_levels: int | None = None,
        area: int = 1,
        spike_levels: int = 1,
    ):
        super().__init__()
        check_numbers(quantization_levels=quantization_levels, area=area)
        self.quantization_levels, self.area, self.spike_levels = quantization_levels, area, spike_levels
        self.register_buffer("worth", torch.as_tensor(worth, dtype=torch.float32).detach())
        if self.worth.dim() > 1:
            raise ValueError(f"worth: expected a number or [C], got shape {tuple(self.worth.shape)}")
        self.set_timesteps(timesteps)

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return dict(
            timesteps=self.timesteps,
            quantization_levels=self.quantization_levels,
            area=self.area,
            spike_levels=self.spike_levels,
        )

    def check_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """ValueError where the counts would not fit a byte at T = `timesteps` and D."""
        spike_levels = self.spike_levels if spike_levels is None else spike_levels
        check_area(timesteps, spike_levels, self.quantization_levels, self.area)

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same neurons at another T and, where it is given, D."""
        spike_levels = self.spike_levels if spike_levels is None else spike_levels
        checks.full_count(timesteps, spike_levels)
        self.timesteps, self.spike_levels = timesteps, spike_levels

    def count_worth(self) -> torch.Tensor:
        """What a count of 1 is worth, [] or [C]."""
        scale = even.step_of(self.worth.double(), self.timesteps * self.spike_levels, self.quantization_levels)
        return divided(scale, self.area).to(self.worth.dtype)

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """uint8 [N, C, ...] -> rates of the same shape, for area 1 bit-equal to those of `CollapsedNeuron`."""
        scale = self.count_worth()
        return counts.to(scale.dtype) * per_channel(scale, counts.dim())

    def extra_repr(self):
        return f"timesteps={self.timesteps}, quantization_levels={self.quantization_levels}, area={self.area}"


class CountMaxPool2d(torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d of distinct counts, uint8 [N, C, H, W] (12)."""

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """uint8 [N, C, H, W] -> uint8 [N, C, H', W']."""
        return functional.max_pool2d(counts, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class CountSumPool2d(torch.nn.Module):
    """Average pooling of distinct counts, its division left to whoever reads them (12).

    Args:
        kernel_size, stride, padding: as of torch.nn.AvgPool2d that counts its padding.
        input_size: (H, W) that adaptive pooling was made for, or None; other sizes are refused.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        input_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.kernel_size = arguments.pair("kernel_size", kernel_size, 1)
        self.padding = arguments.pair("padding", padding, 0)
        self.stride = self.kernel_size if stride is None else arguments.pair("stride", stride, 1)
        self.input_size = None if input_size is None else arguments.pair("input_size", tuple(input_size), 1)

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """uint8 [N, C, H, W] -> uint8 [N, C, H', W'], the sum of each window."""
        if self.input_size is not None and tuple(counts.shape[2:]) != self.input_size:
            raise ValueError(
                f"counts: expected height and width {self.input_size}, for which adaptive pooling was optimised, "
                f"got {tuple(counts.shape[2:])}"
            )
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0):
            return counts
        return functional.sum_pool2d(counts, self.kernel_size, self.stride, self.padding)

    def extra_repr(self):
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{sizes}, input_size={self.input_size}"


class PixelCounts(FullPrecisionBuffers):
    """Quantisation of values of a known range to the nearest of 256 counts, for a first layer of integers.

    A count k of channel c stands for low_c + k * worth_c / 255. Padding with value 0 is part of it, since count 0 is
    low_c.

    Args:
        low, worth: [C], the least value of each channel, and the range above it, > 0. The layer is on the
            device of `low`.
        padding: of the convolution behind.
    """

    TENSORS = ("low", "worth")

    def __init__(self, low: torch.Tensor, worth: torch.Tensor, padding: int | tuple[int, int] = 0):
        super().__init__()
        self.padding = arguments.pair("padding", padding, 0)
        checks.tensor("low", low, checks.CURRENT_DTYPES, 1)
        checks.tensor("worth", worth, checks.CURRENT_DTYPES, 1)
        if low.dim() != 1 or worth.shape != low.shape:
            raise ValueError(f"worth: expected [C] like low, got shapes {tuple(worth.shape)} and {tuple(low.shape)}")
        self.register_buffer("low", low.detach().float())
        self.register_buffer("worth", worth.detach().to(low.device, torch.float32))

    def configuration(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return dict(padding=self.padding)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """float [N, C, H, W] -> uint8 [N, C, H + 2 padding, W + 2 padding]; values out of range count as its ends."""
        low, unit = (per_channel(value, 4) for value in (self.low, divided(self.worth, BYTE)))
        padded = F.pad(
            values, (self.padding[1], self.padding[1], self.padding[0], self.padding[0])
        )  # a copy in any case
        counts = padded.sub_(low).div_(unit).round_().clamp_(0, BYTE).to(torch.uint8)
        return counts.contiguous(memory_format=torch.channels_last)

    def extra_repr(self):
        return f"padding={self.padding}"
