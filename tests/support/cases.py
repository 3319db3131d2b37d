"""Cases shared by the tests of all backends: level tables, currents where rounding decides, memory layouts."""

import dataclasses
import math

import torch
from gpu_free.cases import searches

from pcsnn import functional
from pcsnn.levels import even
from pcsnn.levels.spacing import UNKNOWN, Spacing
from pcsnn.operators import dispatch
from pcsnn.tensors import checks

TIMESTEPS = (1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 32, 64, 100, 127, 128, 200, 255)
SIZES = (1, 15, 16, 17, 31, 33, 127, 509)
DTYPES = checks.CURRENT_DTYPES


def compute_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclasses.dataclass(frozen=True)
class Table:
    name: str
    levels: torch.Tensor
    spacings: tuple  # every Spacing that describes the table: the search must not depend on which is given


def _table(name, levels):
    return Table(name, levels, tuple(searches(levels)))


def tables(timesteps, channels=None, seed=0):
    """Level tables [T], or [channels, T]: even, staircase, uneven, nearly even, with offset, dead, out of reach."""
    generator = torch.Generator().manual_seed(seed)
    theta = 1.0 if channels is None else torch.rand(channels, generator=generator, dtype=torch.float64) * 3 + 0.01
    rows = () if channels is None else (channels,)
    uneven = torch.randn(*rows, timesteps, generator=generator).sort(-1).values
    bend = torch.linspace(0, 0.02, timesteps, dtype=torch.float64).square()
    first, step = even.line(torch.as_tensor(theta, dtype=torch.float64), timesteps)
    # Where the product of a place and the step lies midway between two float32, such a first level decides.
    tied = even.on_line(torch.full_like(first, -1e-20), 1 + step.mul(2**23).round() / 2**23, timesteps)
    found = [
        _table("even", functional.levels(theta, timesteps)),
        _table("offset", functional.levels(theta, timesteps, shift=0.3, offset=0.7)),
        _table("uneven", uneven),
        _table("flat", torch.full((*rows, timesteps), 0.25)),
        _table("nearly even", functional.levels(theta, timesteps, bend=bend)),
        _table("ties", tied),
        _table("out of reach", functional.levels(theta, timesteps) + 1e30),
    ]
    for count in sorted({1, timesteps // 2, math.gcd(timesteps, 4)} - {0, timesteps}):
        if timesteps % count == 0:
            staircase = functional.levels(theta, timesteps, quantization_levels=count)
            found.append(_table(f"staircase of {count}", staircase))
            stairs = uneven[..., :count].repeat_interleave(timesteps // count, -1)
            found.append(Table(f"uneven staircase of {count}", stairs, (UNKNOWN, Spacing(timesteps // count, None, 0))))
    if channels is not None:
        dead = torch.as_tensor(theta).clone()
        dead[::2] = torch.inf
        found.append(_table("dead channels", functional.levels(dead, timesteps)))
        half_dead = uneven.clone()
        half_dead[..., timesteps // 2 :] = torch.inf
        found.append(_table("upper levels out of reach", half_dead))
    else:
        found.append(_table("dead layer", torch.full((timesteps,), torch.inf)))
    return found


def edges(levels, dtype):
    """Levels [T] or [C, T] and the values of `dtype` next to them, [3 T] or [C, 3 T]; finite ones for infinity."""
    at = levels.to(dtype).clamp(max=torch.finfo(dtype).max)
    return torch.cat([at, *(torch.nextafter(at, torch.full_like(at, end)) for end in (torch.inf, -torch.inf))], -1)


SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1e-39, 3e38, -3e38, 65504.0, 1e-7, 0.5, -0.5)


def currents(shape, levels, dtype, seed=0, scale=1.0):
    """Currents [N, ...] of `dtype`: at a level of its channel, one unit in the last place beside it, near it, special
    values, and random over the range of the levels."""
    generator = torch.Generator().manual_seed(seed)
    compute = compute_dtype(dtype)
    rows = levels.to(compute) * scale
    if rows.dim() == 1:
        rows = rows.unsqueeze(0)
    total = math.prod(shape)
    channel = torch.zeros(total, dtype=torch.int64)
    if rows.shape[0] > 1:
        channel = torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape).reshape(-1)
    at = rows[channel, torch.randint(rows.shape[1], (total,), generator=generator)]
    finite = torch.where(at.isfinite(), at, torch.ones_like(at))
    up, down = torch.nextafter(finite, torch.tensor(torch.inf)), torch.nextafter(finite, torch.tensor(-torch.inf))
    spread = torch.randn(total, generator=generator, dtype=compute) * (finite.abs() + 0.5)
    special = torch.tensor(SPECIAL, dtype=compute)[torch.randint(len(SPECIAL), (total,), generator=generator)]
    kinds = torch.stack([at, up, down, finite + spread / 8, spread, spread * 3, special])
    chosen = kinds.gather(0, torch.randint(len(kinds), (1, total), generator=generator))[0]
    return chosen.to(dtype).reshape(shape)


def layouts(tensor, first=0):
    """The values of `tensor` in several memory layouts; dimensions before `first` (time) keep their place."""
    yield "contiguous", tensor.contiguous()
    dims = tensor.dim()
    if dims - first >= 2:
        order = [*range(first), *reversed(range(first, dims))]
        inverse = sorted(range(dims), key=order.__getitem__)
        yield "transposed", tensor.permute(order).contiguous().permute(inverse)
    if dims - first >= 3:
        yield "channels last", tensor.movedim(first + 1, -1).contiguous().movedim(-1, first + 1)
    poison = torch.nan if tensor.is_floating_point() else 77
    padded = torch.full([size + 3 for size in tensor.shape], poison, dtype=tensor.dtype)
    middle = padded[tuple(slice(1, size + 1) for size in tensor.shape)]
    middle.copy_(tensor)
    yield "sliced", middle
    strided = torch.empty(*tensor.shape[:-1], tensor.shape[-1] * 2, dtype=tensor.dtype)[..., ::2]
    yield "every other", strided.copy_(tensor)
    if first:
        yield "time last", tensor.movedim(0, -1).contiguous().movedim(-1, 0)


def assert_same(got, expected, what=""):
    """Equal in dtype, shape, strides and bits; NaN equals NaN."""
    assert got.dtype == expected.dtype, what
    assert got.shape == expected.shape, what
    if got.numel():
        assert got.stride() == expected.stride(), what
    assert_same_values(got, expected, what)


def assert_same_values(got, expected, what=""):
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    same = got.contiguous().view(bits) == expected.contiguous().view(bits)
    if got.is_floating_point():
        same |= got.isnan() & expected.isnan()
    if not same.all():
        where = (~same).nonzero()[0].tolist()
        raise AssertionError(
            f"{what}: {int((~same).sum())} of {same.numel()} differ, first at {where}: "
            f"{got[tuple(where)]} instead of {expected[tuple(where)]}"
        )


def described(name, arguments, spacing, behind=()):
    """The arguments of an operator whose levels are said to be spaced so; `behind`: those after them."""
    repeat, line, reach = spacing
    unsigned = (0, 0) if name.startswith("fire_rates") else ()
    return (*arguments, repeat, *unsigned, line, reach, *behind)


def compare(backend, name, *arguments, spacings=None, behind=(), what=""):
    """Run an operator on `backend` and on the reference: same result, arguments unchanged. Returns the result.

    `spacings`: descriptions of its levels, the arguments before those `behind`, tried one after the other.
    """
    before = [value.clone() if isinstance(value, torch.Tensor) else value for value in arguments]
    calls = [(*arguments, *behind)]
    if spacings is not None:
        calls = [described(name, arguments, spacing, behind) for spacing in spacings]
    expected = {}  # by repeat, on which rates depend
    for call, spacing in zip(calls, spacings or (UNKNOWN,)):
        if spacing.repeat not in expected:
            with dispatch.use_backend("reference"):
                expected[spacing.repeat] = dispatch.call(name, *call)
        with dispatch.use_backend(backend):
            got = dispatch.call(name, *call)
        assert_same(got, expected[spacing.repeat], f"{name} {what}, {spacing}")
    for value, old in zip(arguments, before):
        if isinstance(value, torch.Tensor):
            assert_same_values(value, old, f"{name} {what}: changed an argument")
    return got
