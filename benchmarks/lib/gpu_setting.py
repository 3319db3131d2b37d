"""Where gpu.py measures: a GPU in full size, or the CPU in small, which tries the script and measures nothing."""

import dataclasses

import torch

TIMESTEPS = 32


@dataclasses.dataclass(frozen=True)
class Setting:
    """dry: on the CPU, everything small."""

    dry: bool = False

    @property
    def device(self):
        """The device's name."""
        return "cpu" if self.dry else "cuda"

    def small(self, size, dry):
        """`size`, or `dry` in a dry run."""
        return dry if self.dry else size

    def generator(self):
        """A new generator of random numbers on the device, always in the same state."""
        return torch.Generator(self.device).manual_seed(0)

    def randn(self, *shape, dtype=torch.float32):
        """Normal random numbers on the device, the same at every call."""
        return torch.randn(shape, device=self.device, generator=self.generator()).to(dtype)

    def integers(self, low, high, *shape, dtype=torch.uint8):
        """Random whole numbers low..high - 1 on the device, the same at every call."""
        return torch.randint(low, high, shape, device=self.device, generator=self.generator(), dtype=dtype)
