"""What the kernels share: memory layout, configurations, the launch, the channel of a neuron, the search."""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

THREADS = 128
WIDE_FROM = 2**19  # neurons; below, programs of 16 neurons a thread are too few to fill a large GPU
NARROW = 4         # neurons a thread: 128-bit loads of float32 all the same


# ---- memory layout ----------------------------------------------------------------------------------------------------
def _extent(tensor):
    return [(stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if size != 1]


def is_dense(tensor):
    """Whether the elements fill their memory once and without gaps, in whatever order of the dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(_extent(tensor)):
        if stride != expected:
            return False
        expected *= size
    return True


def in_layout_of(tensor, other):
    """`tensor`, or its copy where its elements do not lie in memory in the order of those of the dense `other`."""
    if _extent(tensor) == _extent(other):
        return tensor
    return torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def as_dense(tensor):
    """`tensor`, or its copy where it is not dense."""
    return tensor if is_dense(tensor) else torch.empty_like(tensor).copy_(tensor)


def steps_like(step, timesteps, dtype):
    """An empty [T, N, ...] whose every step is dense and in the layout of `step` [N, ...]."""
    layout = torch.empty_like(step, dtype=dtype)
    return torch.empty_strided((timesteps, *layout.shape), (max(layout.numel(), 1), *layout.stride()),
                               dtype=dtype, device=step.device)


def as_bytes(tensor):
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


# ---- launch -----------------------------------------------------------------------------------------------------------
class Launch(NamedTuple):
    """One launch of a kernel: what the launchers run, and what inspection and tests compile."""

    kernel: object
    programs: int
    arguments: dict  # by name: tensors, integers, None for a pointer that is not used
    constants: dict
    threads: int = THREADS
    stages: int | None = None  # loads in flight of a loop with a product; None: there is no such loop

    def options(self, warp_size):
        """How Triton is to compile and run it on a GPU of that warp size."""
        staged = {} if self.stages is None else dict(num_stages=self.stages)
        return dict(num_warps=self.threads // warp_size, enable_fp_fusion=False, **staged)  # a comparison must not flip

    def __call__(self):
        device = self.arguments["out_ptr"].device
        if device.type == "cpu":  # the interpreter
            self.kernel[(self.programs,)](**self.arguments, **self.constants)
            return
        with torch.cuda.device(device):
            self.kernel[(self.programs,)](**self.arguments, **self.constants, **self.options(warp_size(device.index)))


@functools.cache
def warp_size(device_index):
    return torch.cuda.get_device_properties(device_index).warp_size


def block(neurons, out, *inputs, stride=0):
    """Neurons a program, by size and alignment alone; `stride`: elements between rows of the inputs.

    Every thread stores 128 bits at once, or `NARROW` neurons; one neuron where rows do not start and end on 16 bytes and
    16 elements, so that neighbours in memory still are neighbours among threads.
    """
    addresses = [tensor.data_ptr() for tensor in (out, *inputs) if tensor is not None]
    if any(value % 16 for value in (neurons, stride, *addresses)):
        return THREADS
    wide = 16 // out.element_size()
    return THREADS * (wide if neurons >= WIDE_FROM else min(wide, NARROW))


def divisor(divisor):
    """(multiplier, shift) with x // divisor == x * multiplier >> shift for 0 <= x < 2^31."""
    shift = 31 + (divisor - 1).bit_length()
    return -(-(1 << shift) // divisor), shift


def row_constants(**tables):
    """NAME_ROWS, whether a table has one row a channel: name -> (tensor or None, its number of dimensions when it has)."""
    return {f"{name.upper()}_ROWS": table is not None and table.dim() == dims and table.shape[0] > 1
            for name, (table, dims) in tables.items()}


def channel_arguments(step, neurons_a_program, **tables):
    """Arguments that tell a kernel the channel of a neuron of the dense `step` [N, C, ...], and which tables have rows.

    `tables`: those of `row_constants`.
    """
    rows = row_constants(**tables)
    channels, stride = (step.shape[1], step.stride(1)) if any(rows.values()) else (1, 1)
    stride_multiplier, stride_shift = divisor(stride)
    channel_multiplier, channel_shift = divisor(channels)
    arguments = dict(stride=stride, stride_multiplier=stride_multiplier, stride_shift=stride_shift,
                     channels=channels, channel_multiplier=channel_multiplier, channel_shift=channel_shift)
    return arguments, rows | dict(LARGE=step.numel() + neurons_a_program > 2**31)


def search_arguments(levels, repeat):
    """Arguments of `search`: STEPS comparisons to bisect T levels, or none to guess one of T / repeat."""
    timesteps = levels.shape[-1]
    return (dict(timesteps=timesteps, repeat=max(repeat, 1)), dict(STEPS=0 if repeat else timesteps.bit_length()))


# Recompiling for an argument's value (1, multiples of 16) pays for row lengths only.
UNSPECIALISED = ("timesteps", "repeat", "stride", "stride_multiplier", "stride_shift", "channels", "channel_multiplier",
                 "channel_shift")


# ---- inside the kernels -----------------------------------------------------------------------------------------------
@triton.jit
def _divide(x, multiplier, shift):
    wide = x.to(tl.uint32).to(tl.uint64) * multiplier.to(tl.uint32).to(tl.uint64)
    return (wide >> shift.to(tl.uint64)).to(tl.int32)


@triton.jit
def channel_of(start, lane, stride, stride_multiplier, stride_shift, channels, channel_multiplier, channel_shift,
               LARGE: tl.constexpr):
    """Channel of the neurons start + lane [BLOCK]: (index // stride) % channels."""
    if LARGE:
        return ((start + lane) // stride) % channels
    else:
        plane = _divide(start.to(tl.int32) + lane, stride_multiplier, stride_shift)
        return plane - _divide(plane, channel_multiplier, channel_shift) * channels


@triton.jit
def _level(levels, x, timesteps, dtype: tl.constexpr, SUMMED: tl.constexpr):
    level = tl.load(levels + x).to(dtype)
    return level * timesteps.to(dtype) if SUMMED else level


@triton.jit
def search(value, levels, timesteps, repeat, STEPS: tl.constexpr, SUMMED: tl.constexpr):
    """k // repeat with k = #{x : value >= level_x} (10); SUMMED: value is a sum, compared with T * level rounded once.

    value [BLOCK] of any shape, float32, float64, or int32 with int32 levels; levels: pointer to the row of T levels, one or
    as many as broadcast against value. NaN gives 0.
    """
    dtype: tl.constexpr = value.dtype
    if STEPS:
        count = tl.zeros(value.shape, tl.int32)
        for step in tl.static_range(STEPS):
            probe = count + (1 << (STEPS - 1 - step))
            level = _level(levels, tl.minimum(probe, timesteps) - 1, timesteps, dtype, SUMMED)
            count = tl.where((probe <= timesteps) & (value >= level), probe, count)
        return count
    else:
        # Nearest of the evenly spaced levels: the guess may be off by half a step, so that rounding and the tolerance
        # of validate.level_spacing cannot matter, and one comparison tells on which side of that level the value lies.
        groups = timesteps // repeat
        first = _level(levels, 0, timesteps, dtype, SUMMED)
        last = _level(levels, timesteps - repeat, timesteps, dtype, SUMMED)
        if dtype == tl.int32:  # whose differences may leave it
            first, last, position, most = first.to(tl.float32), last.to(tl.float32), value.to(tl.float32), 2**31 - 1
        else:
            position, most = value, float("inf")
        per_step = (groups - 1).to(tl.float32) / (last - first).to(tl.float32)
        place = (position - first).to(tl.float32) * per_step + 0.5
        place = tl.where(value == most, groups.to(tl.float32), place)  # also where every level is that
        place = tl.where(place >= 0, place, 0.0)  # NaN too: one level, a row of infinities, a NaN current
        guess = tl.minimum(place, (groups - 1).to(tl.float32)).to(tl.int32)
        return guess + (value >= _level(levels, guess * repeat, timesteps, dtype, SUMMED)).to(tl.int32)


@triton.jit
def spike_values(amplitude, channel, dtype: tl.constexpr, ROWS: tl.constexpr):
    """What a spike and a silent step are worth, of `dtype`: 1 and 0, times amplitude (0 may become -0 or NaN)."""
    if amplitude is None:
        return tl.full((), 1, dtype), tl.full((), 0, dtype)
    else:
        worth = tl.load(amplitude + channel) if ROWS else tl.load(amplitude)
        wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
        spike = worth.to(wide).to(dtype)
        return spike, (spike.to(wide) * 0.0).to(dtype)


INTERPRETED = not isinstance(_divide, triton.runtime.jit.JITFunction)
