"""What `launches()` of a kernels file returns: launches on meta tensors, with the names of what they differ in."""

from typing import NamedTuple

import torch

from pcsnn.kernels.launch import Launch

CURRENTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TIMESTEPS = 255  # the most comparisons
LAYOUTS = ("flat", "last", "planes")  # one threshold for all; by channel with channels last, with pixels side by side
FORMS = ("line", "near a line", "scanned", "bisected")
_CHANNELS = 64
_SHAPES = {  # [N, C, pixels]
    "wide": (4, _CHANNELS, 2**15),
    "narrow": (1, _CHANNELS, 64),
    "odd": (4, _CHANNELS - 1, 2**15 + 1),
    "large": (2, _CHANNELS, 2**26),
}


class Variant(NamedTuple):
    """A launch that the launchers may pick."""

    operation: str
    inputs: torch.dtype
    output: torch.dtype
    size: str  # of neurons one of `_SHAPES`: narrow and odd (rows not aligned) have other tiles, large has more than
    # 2^32 neurons; of products and attention the tile
    form: str  # how levels are searched, and what else there is; "wide line": whole numbers of 64 bits
    launch: Launch

    def __str__(self):
        inputs, output = (str(dtype).removeprefix("torch.") for dtype in (self.inputs, self.output))
        return f"{self.operation} {inputs}->{output} {self.size} {self.form}"


def empty(dtype, *shape):
    return torch.empty(shape, dtype=dtype, device="meta")


def neurons(dtype, size, layout, *before):
    """Neurons [*before, N, C, pixels] of a size, in a layout."""
    batch, channels, pixels = _SHAPES[size]
    if layout == "last":
        return empty(dtype, *before, batch, pixels, channels).transpose(-1, -2)
    return empty(dtype, *before, batch, channels, pixels)


def tables(size, layout, form):
    """levels, a value for each spike, line and reach."""
    rows = () if layout == "flat" else (_SHAPES[size][1],)
    levels = empty(torch.float32, *rows, 16 if form == "scanned" else TIMESTEPS)
    line = empty(torch.float32, 3, *rows) if "line" in form else None
    return levels, empty(torch.float32, *rows), line, 2 if form == "near a line" else 0
