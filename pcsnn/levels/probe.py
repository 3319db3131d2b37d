"""What a formula is, by trying it: finite, elementwise, and falling only before it rises."""

import functools
import math

import torch

from pcsnn.tensors.host import on_host

CORE = 64.0  # currents up to here must have finite values
FAR = 1e6  # up to here it is looked at where its values are finite
TOLERANCE = 1e-9
SHRINKS = 120  # of an interval to two thirds: beyond what float64 tells apart


@on_host
def currents():
    """Ascending float64 currents [G] on both sides of zero, close together near it."""
    far = torch.logspace(math.log10(CORE), math.log10(FAR), 300, dtype=torch.float64)[1:]
    near = torch.logspace(-6, -2, 60, dtype=torch.float64)
    half = torch.cat([near, torch.linspace(1 / 64, CORE, 4096, dtype=torch.float64), far])
    return torch.cat([-half.flip(0), torch.zeros(1, dtype=torch.float64), half])


def _usable(z, values):
    """The finite stretch of values [G] around zero, as a slice."""
    bad = (~values.isfinite()).nonzero().flatten()
    middle = len(z) // 2
    below, above = bad[bad < middle], bad[bad > middle]
    return slice(int(below[-1]) + 1 if len(below) else 0, int(above[0]) if len(above) else len(z))


@functools.lru_cache(maxsize=256)
@on_host
@torch.no_grad()
def found_turns(row, parameters):
    """Where the activation of a row turns from falling to rising, for each of a tuple of parameters; -inf: it only rises.

    Raises:
        ValueError: values that are not finite, or that rise before they fall, only fall, or do neither.
    """
    return tuple(_found_turn(row, parameter) for parameter in parameters)


def _found_turn(row, parameter):
    def function(z):
        return row(z, None if row.parameter is None else z.new_tensor(parameter))

    z = currents()
    values = function(z)
    with_parameter = "" if row.parameter is None else f" with {row.parameter[0]} = {parameter:.6g}"
    core = z.abs() <= CORE
    if not values[core].isfinite().all():
        at = z[core & ~values.isfinite()][0].item()
        raise ValueError(
            f"formula: expected finite values at currents from -{CORE:g} to {CORE:g}, got "
            f"{function(z.new_tensor([at])).item()} of {row.kind!r} at {at:.6g}{with_parameter}"
        )
    part = _usable(z, values)
    z, values = z[part], values[part]
    least = int(values.argmin())
    slack = TOLERANCE * (1 + values.abs())
    change = values.diff()
    wrong = (change > slack[1:]) & (torch.arange(len(change)) < least)
    wrong |= (change < -slack[1:]) & (torch.arange(len(change)) >= least)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        how = "rises and falls again" if at < least else "falls again after it rose"
        raise ValueError(
            f"formula: expected a function that only rises, or falls and then rises, got {row.kind!r}, which {how} "
            f"between {z[at].item():.6g} and {z[at + 1].item():.6g}{with_parameter}"
        )
    if values[-1] - values[least] <= slack[least]:
        raise ValueError(
            f"formula: expected a function that rises, got {row.kind!r}, which "
            f"{'only falls' if values[0] > values[least] + slack[least] else 'is the same everywhere'}{with_parameter}"
        )
    if values[0] - values[least] <= slack[least]:
        return -math.inf
    low, high = z[max(least - 1, 0)].item(), z[min(least + 1, len(z) - 1)].item()
    for _ in range(SHRINKS):
        third = (high - low) / 3
        left, right = function(z.new_tensor([low + third, high - third])).tolist()
        low, high = (low, high - third) if left <= right else (low + third, high)
    return low


@on_host
def check_formula(row, default):
    """Errors for a formula that cannot stand for an activation, before anything uses it; `default`: of its parameter."""
    with torch.inference_mode(False), torch.enable_grad():
        for dtype in (torch.float64, torch.float32):
            _check_call(row, default, dtype)
    found_turns(row, (1.0 if default is None else float(default),))


def _check_call(row, default, dtype):
    z = currents().to(dtype)
    z = z[z.abs() <= CORE].requires_grad_()

    def call(z):
        return row.formula(z) if row.parameter is None else row.formula(z, default)

    before = z.detach().clone()
    try:
        values = call(z)
    except Exception as error:
        raise ValueError(
            f"formula: expected a function of a {dtype} tensor that requires a gradient"
            f"{'' if row.parameter is None else f' and of {row.parameter[0]}'}, it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(values, torch.Tensor):
        raise TypeError(f"formula: expected a tensor as its result, got {type(values).__name__}")
    if values.shape != z.shape or values.dtype != dtype:
        raise ValueError(
            f"formula: expected a result of the shape and dtype of its argument, {tuple(z.shape)} {dtype}, got "
            f"{tuple(values.shape)} {values.dtype}"
        )
    if not torch.equal(z.detach(), before):
        raise ValueError("formula: expected a function that leaves its argument as it is, it writes over it")
    if not values.isfinite().all():
        at = int((~values.isfinite()).nonzero()[0])
        raise ValueError(
            f"formula: expected finite values at currents from -{CORE:g} to {CORE:g}, got {values[at].item()} at "
            f"{z[at].item():.6g} in {dtype}"
        )
    for name, part in (("the whole", slice(None)), ("a part", slice(3, None, 7))):
        again = call(z.detach()[part].reshape(-1, 1)).flatten()
        if not torch.allclose(again, values.detach()[part], rtol=1e-5, atol=1e-6):
            raise ValueError(
                f"formula: expected a function of each element by itself, it gives other values for {name} of a tensor "
                "in another shape"
            )
    _check_gradient(z, values)
    least, most = row.range
    outside = (values < least) | (values > most)
    if outside.any():
        at = int(outside.nonzero()[0])
        raise ValueError(
            f"range: expected values of the formula within {least:g}..{most:g}, got {values[at].item():.6g} at "
            f"{z[at].item():.6g}"
        )


def _check_gradient(z, values):
    """Calibration and training follow the gradient of the formula."""
    if not values.requires_grad:
        raise ValueError(
            "formula: expected a function that autograd can follow, its result does not require a gradient"
        )
    (slope,) = torch.autograd.grad(values.sum(), z)
    if not slope.isfinite().all():
        at = z[int((~slope.isfinite()).nonzero()[0])].item()
        raise ValueError(
            f"formula: expected a finite gradient, got none at {at:.6g} in {z.dtype}: torch.where hands on the NaN of "
            "the branch that it does not choose, so clamp what that branch reads"
        )


@on_host
@torch.no_grad()
def sample(row, parameter):
    """A few values of an activation, numbers, by which a network file knows the formula again."""
    value = parameter.flatten()[0].double() if isinstance(parameter, torch.Tensor) else parameter
    return tuple(row(torch.tensor([-4.0, -1.5, -0.5, 0.25, 1.0, 3.0], dtype=torch.float64), value).tolist())
