"""Level tables of one threshold: evenly spaced (10), (23), staircases of QCFS, and bent ones (C3)."""

import torch

from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import divided
from pcsnn.tensors.host import on_host


@on_host
def levels(
    threshold: torch.Tensor | float,
    timesteps: int,
    *,
    quantization_levels: int | None = None,
    shift: float = 0.5,
    offset: torch.Tensor | float = 0.0,
    bend: torch.Tensor | None = None,
) -> torch.Tensor:
    """The T ascending levels on the mean current at which the next spike is won (10).

    tau_x = (x - shift) * threshold / T - offset; where `quantization_levels` L divides T, m = T / L, the staircase
    tau_x = (ceil(x / m) - shift) * threshold / L - offset, which is lossless against QCFS with L levels. Rounded as
    (23) says: tau_x = fma(ceil(x / m) - 1, step, first), first and step of float32.

    Args:
        threshold: firing threshold > 0, a number or a tensor [C]; +inf for a channel that never fires.
        timesteps: T, 1..255.
        quantization_levels: L of the source's QCFS activation, if it has one; ignored where it does not divide T.
        shift: in units of the threshold of one step; 0.5 is the paper's psi = theta / 2.
        offset: added to the mean current before it is compared, psi_DA of (15); a number or a tensor [C].
        bend: what the levels stray from even spacing (C3), in units of the threshold: a tensor [T0] or [C, T0] of
            values at the positions (k - 1/2) / T0, read between them where T0 is not T; None: evenly spaced. The levels
            ascend whatever it says: each is at least the one before it.

    Returns:
        float32 [T], or [C, T] where threshold, offset or bend is per channel, on the device of the first of these that
        is a tensor. Bent levels are computed in float64 and rounded once.

    Raises:
        ValueError, TypeError: threshold <= 0 or NaN, T outside 1..255, offset, bend or shift not finite.
    """
    device = checks.device_of(threshold, offset, bend)
    theta = checks.threshold(threshold)
    checks.timesteps(timesteps)
    checks.number("shift", shift)
    if quantization_levels is not None:
        checks.integer("quantization_levels", quantization_levels, 1, 2**16)
    offset = torch.as_tensor(offset, dtype=torch.float64, device="cpu").detach()
    if offset.dim() > 1 or not offset.isfinite().all():
        raise ValueError(f"offset: expected finite values, a number or [C], got {offset.tolist()}")
    if theta.dim() and offset.dim() and theta.shape != offset.shape:
        raise ValueError(f"offset: expected {theta.shape[0]} channels like threshold, got {offset.shape[0]}")
    if bend is not None:
        checks.tensor("bend", bend, (torch.float32, torch.float64), 1)
        bend = bend.detach().to("cpu", torch.float64)
        channels = next((value.shape for value in (theta, offset) if value.dim()), bend.shape[:-1])
        if (
            bend.dim() > 2
            or bend.shape[-1] == 0
            or not bend.isfinite().all()
            or bend.dim() == 2
            and bend.shape[:1] != channels
        ):
            raise ValueError(f"bend: expected finite values, [T] or [C, T], got shape {tuple(bend.shape)}")
    return table(theta, timesteps, quantization_levels, shift, offset, bend).to(device)


def repeat_of(timesteps, quantization_levels):
    """m = T / L: how often each level of QCFS with L levels stands in a table of T; 1 where L does not divide T."""
    if quantization_levels is None or timesteps % quantization_levels:
        return 1
    return timesteps // quantization_levels


def resample_bend(bend, timesteps):
    """A bend [..., T0], values of a curve at the positions (k - 1/2) / T0 -> at (k - 1/2) / T, linear between them."""
    known = bend.shape[-1]
    place = (torch.arange(timesteps, dtype=torch.float64, device=bend.device) + 0.5) * known / timesteps - 0.5
    place = place.clamp(0, known - 1)
    left = place.floor().long().clamp(max=max(known - 2, 0))
    right = (left + 1).clamp(max=known - 1)
    return bend[..., left] + (place - left) * (bend[..., right] - bend[..., left])


def fma(count, step, first):
    """count * step + first of float32 tensors and whole numbers 0..255, rounded once to float32 (23).

    The product is exact in float64; where the sum is not, it is rounded to odd, which leaves the rounding to float32
    right.
    """
    product, first = count.double() * step.double(), first.double()
    total = product + first
    part = total - product
    error = (product - (total - part)) + (first - part)  # exact: what the sum lost
    bits = total.view(torch.int64)
    toward = torch.where((error > 0) == (total > 0), 1, -1)
    odd = torch.where((error != 0) & error.isfinite() & (bits % 2 == 0), bits + toward, bits)
    return odd.view(torch.float64).to(torch.float32)


def line(threshold, steps, shift=0.5, offset=0.0):
    """float64 threshold [] or [C] -> (first, step), float32: where `steps` evenly spaced levels start, and how far
    apart they lie (23). A channel that never fires has (inf, 1)."""
    dead = threshold == torch.inf
    step = threshold / steps
    offset = torch.as_tensor(offset, dtype=torch.float64, device=threshold.device)
    first = torch.where(dead, torch.inf, (1 - shift) * step - offset)
    return first.to(torch.float32), torch.where(dead, 1.0, step).to(torch.float32).expand(first.shape)


def on_line(first, step, steps):
    """The float32 levels [..., steps] of a line [...]: level x is fma(x - 1, step, first) (23)."""
    count = torch.arange(steps, device=first.device)
    return fma(count, step.unsqueeze(-1), first.unsqueeze(-1))


def table(threshold, timesteps, quantization_levels=None, shift=0.5, offset=0.0, bend=None):
    """float64 threshold [] or [C] -> float32 levels [T] or [C, T] on the mean current: those of a line (10), (23), or
    bent ones (C3), computed in float64 and rounded once."""
    m = repeat_of(timesteps, quantization_levels)
    if bend is None:
        return on_line(*line(threshold, timesteps // m, shift, offset), timesteps // m).repeat_interleave(m, -1)
    steps = torch.arange(1, timesteps + 1, dtype=torch.float64, device=threshold.device)
    theta, offset = (
        threshold.unsqueeze(-1),
        torch.as_tensor(offset, dtype=torch.float64, device=threshold.device).unsqueeze(-1),
    )
    table = (torch.ceil(steps / m) - shift) * theta / (timesteps // m) - offset
    table = (table + resample_bend(bend, timesteps) * theta).cummax(-1).values
    return torch.where(theta == torch.inf, torch.inf, table).to(
        torch.float32
    )  # not (1 - shift) * inf, which may be NaN


def step_of(amplitude, timesteps, quantization_levels=None):
    """float64 amplitude -> the float32 worth of one distinct level, amplitude * m / T."""
    return divided(amplitude * repeat_of(timesteps, quantization_levels), timesteps).to(torch.float32)
