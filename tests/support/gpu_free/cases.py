"""What kernels are tried on: awkward values, memory layouts, outputs between guard bytes, and a comparison of bits."""

import torch

from pcsnn.levels.spacing import UNKNOWN, Spacing, find_spacing

CURRENTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SPIKES = (torch.uint8, torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.float64)
TIMESTEPS = (1, 2, 3, 4, 7, 8, 13, 32, 100, 255)
LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced", "expanded", "offset")
_GUARD = 256  # bytes on either side of an output
_GUARD_VALUE = 0xA5


def name(value):
    return str(value).removeprefix("torch.")


def thresholds(channels, generator, dead=True):
    """[C] in 0.5..2, one of them of a channel that never fires."""
    theta = 0.5 + 1.5 * torch.rand(channels, generator=generator)
    if dead and channels > 1:
        theta[channels // 2] = torch.inf
    return theta


def searches(levels):
    """The Spacing of every way to search a table: the table alone, and its line, or one fitted, where it has one."""
    found = find_spacing(levels)
    ways = [UNKNOWN]
    if found.repeat > 1:
        ways.append(Spacing(found.repeat, None, 0))
    if found.line is not None:
        ways.append(found)
    return ways


def near_levels(levels, shape, dtype, generator, specials=True):
    """Currents [N, C, ...]: at levels, an ulp beside them, between, far beyond; NaN, infinities, denormals and -0."""
    table = levels.to(dtype).to(torch.float64)
    pick = torch.randint(table.shape[-1], shape, generator=generator)
    if table.dim() == 1:
        value = table[pick]
    else:
        channel = torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
        value = table[channel, pick]
    value = value.to(dtype)
    noise = torch.randn(shape, generator=generator).to(dtype)
    up, down = (torch.nextafter(value, torch.full_like(value, end)) for end in (torch.inf, -torch.inf))
    kind = torch.randint(8, shape, generator=generator)
    result = value
    for which, other in ((1, up), (2, down), (3, noise), (4, value + 2 * noise), (5, -value)):
        result = torch.where(kind == which, other, result)
    if specials:
        tiny = torch.finfo(dtype).smallest_normal / 4
        odd = torch.tensor(
            [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, tiny, -tiny, torch.finfo(dtype).max], dtype=dtype
        )
        place = torch.randint(64, shape, generator=generator)
        result = torch.where(place < len(odd), odd[place.clamp(max=len(odd) - 1)], result)
    return result


def trains(levels, timesteps, shape, dtype, generator):
    """Currents [T, N, C, ...], uneven over time, with sums at and beside the levels."""
    mean = near_levels(levels, shape, dtype, generator)
    steps = mean.unsqueeze(0).repeat(timesteps, *[1] * len(shape))
    for first in range(0, timesteps - 1, 2):  # what one step gains its neighbour loses
        shift = torch.randn(shape, generator=generator).mul(4).round().to(dtype) / 4
        steps[first] += shift
        steps[first + 1] -= shift
    return steps


def lay_out(values, layout):
    """A tensor of the shape of `values` [N, C, H, W] in that layout; of its values too, unless "expanded" over N."""
    if layout == "contiguous":
        return values.contiguous()
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "permuted":
        return values.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1)
    if layout == "sliced":
        wide = torch.zeros(*values.shape[:-1], 2 * values.shape[-1], dtype=values.dtype, device=values.device)
        return wide[..., ::2].copy_(values)
    if layout == "expanded":
        return values[:1].expand_as(values)
    flat = torch.empty(values.numel() + 1, dtype=values.dtype, device=values.device)[
        1:
    ]  # "offset": not 16-byte aligned
    return flat.view(values.shape).copy_(values)


def lay_out_steps(values, layout):
    """The same for every step of [T, N, C, H, W]; "expanded" over T."""
    if layout == "expanded":
        return values[:1].expand_as(values)
    if layout == "offset":
        return lay_out(values, layout)
    steps = [lay_out(step, layout) for step in values]
    size = 1 + max(sum((n - 1) * s for n, s in zip(step.shape, step.stride())) for step in steps)
    out = torch.zeros(len(steps) * size, dtype=steps[0].dtype)
    out = out.as_strided((len(steps), *steps[0].shape), (size, *steps[0].stride()))
    for place, step in zip(out, steps):
        place.copy_(step)
    return out


def in_chunks(function, *tensors):
    """A reference over slices of the last dimension that stay in a cache and on one thread: many times faster."""
    slices = zip(*(tensor.split(1024, -1) for tensor in tensors))
    return torch.cat([function(*parts) for parts in slices], -1)


class Guarded:
    """An output of `shape` and `stride` in memory full of a pattern, `misaligned` elements past a 64-byte boundary."""

    def __init__(self, shape, stride, dtype, misaligned=0):
        size = torch.empty(0, dtype=dtype).element_size()
        span = 1 + sum((n - 1) * s for n, s in zip(shape, stride))
        self._bytes = torch.full((2 * _GUARD + (span + misaligned) * size,), _GUARD_VALUE, dtype=torch.uint8)
        self._first, self._end = _GUARD + misaligned * size, _GUARD + (span + misaligned) * size
        self.tensor = self._bytes[self._first : self._end].view(dtype).as_strided(shape, stride)

    def check(self):
        assert (self._bytes[: self._first] == _GUARD_VALUE).all(), "written before the output"
        assert (self._bytes[self._end :] == _GUARD_VALUE).all(), "written past the output"


def assert_same(actual, expected):
    """Equal shape, dtype and bits; NaN equals NaN."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    if not actual.is_floating_point():
        assert torch.equal(actual, expected), f"{int((actual != expected).sum())} of {actual.numel()} differ"
        return
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    same = actual.contiguous().view(integers) == expected.contiguous().view(integers)
    same |= actual.isnan() & expected.isnan()
    assert same.all(), f"{int((~same).sum())} of {actual.numel()} differ"
