"""What the GPU reaches at best: a copy, a bfloat16 product, an int8 product."""

import functools

import torch

from lib import checks, gpu_clock, timing
from lib.gpu_rows import OURS, Prepared, Row, copy_of

BYTES, SIZE = 2**30, 8192


@functools.cache
def _operands(setting, dtype):
    size = setting.small(SIZE, 64)
    if dtype == torch.int8:
        values = setting.integers(-127, 128, size, size, dtype=torch.int8)
        return values, values.t()
    values = setting.randn(size, size, dtype=dtype)
    return values, values.t()


def product(setting, dtype):
    """(call, operations) of a product of two large matrices, bfloat16 or int8."""
    left, right = _operands(setting, dtype)
    call = (lambda: torch._int_mm(left, right)) if dtype == torch.int8 else (lambda: left @ right)
    return call, 2 * len(left) ** 3


def _copy(setting):
    moved = setting.small(BYTES, 2**12)
    source = setting.integers(0, 256, moved // 2)
    call = functools.partial(torch.empty_like(source).copy_, source)
    return Prepared(
        checks.same_bits(call(), source, "its source"),
        {OURS: call},
        lambda seconds: moved / timing.median(seconds[OURS]) / 1e9,
    )


def _product(setting, dtype):
    call, operations = product(setting, dtype)
    left, right = _operands(setting, dtype)
    few, expected = call()[:8].double(), left[:8].double() @ right.double()
    verdict = (
        checks.same_bits(few, expected, "float64")
        if dtype == torch.int8
        else checks.Verdict(
            checks.difference(few, expected) < 2**-8, f"{checks.difference(few, expected):.0e} from float64"
        )
    )
    return Prepared(verdict, {OURS: call}, lambda seconds: operations / timing.median(seconds[OURS]) / 1e12)


def rows(setting, models):
    """The three limits."""
    return [
        Row("copy", "GB/s", _copy),
        Row("bfloat16 product", "TFLOP/s", lambda s: _product(s, torch.bfloat16)),
        Row("int8 product", "TOP/s", lambda s: _product(s, torch.int8)),
    ]


@functools.cache
def _rates(setting, dtype):
    """Measured once: (bytes a second, operations a second)."""
    moved = setting.small(BYTES, 2**12)
    call, operations = product(setting, dtype)
    seconds = gpu_clock.alternate({"copy": copy_of(moved, setting), "product": call}, setting, 0.1)
    return moved / timing.median(seconds["copy"]), operations / timing.median(seconds["product"])


def beside(moved, operations, dtype, setting):
    """What bounds work that moves bytes and multiplies numbers of `dtype`: (call, that work over the call's, in words).

    The call does a known part of the least time: a copy of the same bytes, or a product of many more operations.
    """
    bandwidth, speed = _rates(setting, dtype)
    if moved / bandwidth >= operations / speed:
        return copy_of(moved, setting), 1.0, "bytes"
    call, done = product(setting, dtype)
    return call, operations / done, f"{str(dtype).removeprefix('torch.')} operations"
