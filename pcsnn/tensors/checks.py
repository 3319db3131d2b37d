"""Checks of arguments before anything is computed, each naming the argument, what was expected and what came."""

import math

import torch
from torch import Tensor

MAX_TIMESTEPS = 255  # a spike count fits in one byte
NEVER = 2**31 - 1  # a level in whole numbers that no sum reaches

CURRENT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SPIKE_DTYPES = (torch.uint8, torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.float64)


_REMEMBERED = 4096  # kinds of arguments, after which they are checked anew
_passed = set()


def once(check, *arguments):
    """check(*arguments), which looks at dtypes, shapes and devices alone, once for each kind of arguments."""
    if torch.compiler.is_compiling():
        return check(*arguments)
    key = (
        check,
        *[
            (value.dtype, value.shape, value.device) if isinstance(value, Tensor) else (type(value), value)
            for value in arguments
        ],
    )
    try:
        if key in _passed:
            return None
    except TypeError:  # something that cannot be hashed, and the check will name
        return check(*arguments)
    check(*arguments)
    if len(_passed) >= _REMEMBERED:
        _passed.clear()
    _passed.add(key)
    return None


def tensor(name, value, dtypes=None, min_dim=0):
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if dtypes is not None and value.dtype not in dtypes:
        raise TypeError(f"{name}: expected dtype {' or '.join(map(str, dtypes))}, got {value.dtype}")
    if value.dim() < min_dim:
        raise ValueError(f"{name}: expected at least {min_dim} dimensions, got shape {tuple(value.shape)}")


def integer(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__} ({value!r})")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a value in {low}..{high}, got {value}")


def timesteps(value, name="timesteps"):
    if name == "timesteps" and isinstance(value, int) and value > MAX_TIMESTEPS:
        raise ValueError(
            f"timesteps: expected a value in 1..{MAX_TIMESTEPS}, got {value}: a spike count takes one byte. T = 255 "
            "gives rates in steps of 1/255 of what a neuron can reach, half of which, 0.2 %, is the most that rounding "
            "costs a layer; what is left of an error comes from thresholds: calibrate at T = 255"
        )
    integer(name, value, 1, MAX_TIMESTEPS)


def full_count(timesteps_, spike_levels):
    """T D, the count of full firing, of T time-steps that send an integer 0..D each (22)."""
    timesteps(timesteps_)
    integer("spike_levels", spike_levels, 1, MAX_TIMESTEPS)
    full = timesteps_ * spike_levels
    if full > MAX_TIMESTEPS:
        raise ValueError(
            f"spike_levels: expected at most {MAX_TIMESTEPS // timesteps_} at T = {timesteps_}, got {spike_levels}: a "
            f"count takes one byte, so that T D is at most {MAX_TIMESTEPS}"
        )
    return full


def number(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")


def threshold(value, name="threshold"):
    """A firing threshold as a float64 tensor on the host, [] or [C]; +inf stands for a channel that never fires."""
    if isinstance(value, torch.Tensor):
        tensor(name, value, CURRENT_DTYPES)
        if value.dim() > 1:
            raise ValueError(f"{name}: expected a number or a tensor [C], got shape {tuple(value.shape)}")
        result = value.detach().to("cpu", torch.float64)
    else:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a number or a tensor [C], got {type(value).__name__}")
        result = torch.tensor(float(value), dtype=torch.float64, device="cpu")
    if result.numel() == 0:
        raise ValueError(f"{name}: expected at least one channel, got an empty tensor")
    bad = ~(result > 0)
    if bad.any():
        raise ValueError(
            f"{name}: expected values above zero, got {result[bad].flatten()[0].item()}"
            + (f" in channel {int(bad.nonzero()[0])}" if result.dim() else "")
        )
    return result


def same_device(**tensors):
    present = {name: value.device for name, value in tensors.items() if value is not None}
    if len(set(present.values())) > 1:
        raise ValueError(
            "expected all tensors on one device, got "
            + ", ".join(f"{name} on {device}" for name, device in present.items())
        )


def device_of(*values):
    """Where the first tensor among the values is; the CPU where there is none."""
    return next((value.device for value in values if isinstance(value, torch.Tensor)), torch.device("cpu"))


def no_gradient(**tensors):
    if torch.is_grad_enabled():
        for name, value in tensors.items():
            if value is not None and value.requires_grad:
                raise RuntimeError(
                    f"{name} requires a gradient, and spiking operations have none: "
                    "call them under torch.no_grad(); networks learn as pcsnn.convert makes them, "
                    "before pcsnn.optimize, or with pcsnn.nn.QCFS"
                )


def channels(name, table, shape):
    """`table` [C, ...] must fit dimension 1 of a current whose shape without time is `shape`."""
    if len(shape) < 2 or table.shape[0] != shape[1]:
        raise ValueError(
            f"{name}: expected one row for each channel (dimension 1) of {tuple(shape)}, got shape {tuple(table.shape)}"
        )


def level_table(levels, shape, dtype):
    """Shape and dtype of a level table against a current; its values are checked by `level_spacing`."""
    allowed = {torch.float64: (torch.float32, torch.float64), torch.int32: (torch.int32,)}.get(dtype, (torch.float32,))
    tensor("levels", levels, allowed, 1)
    if levels.dim() > 2:
        raise ValueError(f"levels: expected [T] or [C, T], got shape {tuple(levels.shape)}")
    if not 1 <= levels.shape[-1] <= MAX_TIMESTEPS:
        raise ValueError(f"levels: expected 1..{MAX_TIMESTEPS} levels, got shape {tuple(levels.shape)}")
    if levels.dim() == 2:
        channels("levels", levels, shape)


def repeat(value, levels):
    """How levels [T] or [C, T] are said to be spaced; `level_spacing` finds it from their values."""
    integer("repeat", value, 0, levels.shape[-1])
    if value and levels.shape[-1] % value:
        raise ValueError(f"repeat: expected 0 or a divisor of {levels.shape[-1]} levels, got {value}")


def per_layer_or_channel(name, value, shape, dtypes):
    tensor(name, value, dtypes)
    if value.dim() > 1:
        raise ValueError(f"{name}: expected a scalar tensor or [C], got shape {tuple(value.shape)}")
    if value.dim() == 1:
        channels(name, value, shape)
