"""A conversion computes in a context of its own: what the caller has switched on around it changes no result."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from pcsnn.tensors import checks

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def without_autocast(device):
    """Inside, operations on `device` and on the host compute in the precision of their arguments."""
    with contextlib.ExitStack() as stack:
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def own(device):
    """Inside: no inference mode, no gradients, no autocast; the random state of torch is as before afterwards."""
    accelerators = [] if device.type in ("cpu", "meta") else [device]
    kind = device.type if accelerators else "cuda"
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(device),
        torch.random.fork_rng(accelerators, device_type=kind),
    ):
        yield


def in_own_context(function: Function) -> Function:
    """A function whose first argument is a module, in a context of its own on the module's device."""

    @functools.wraps(function)
    def inside(model, *arguments, **named):
        tensors = (*model.parameters(), *model.buffers()) if isinstance(model, torch.nn.Module) else ()
        with own(checks.device_of(*tensors)):
            return function(model, *arguments, **named)

    return cast(Function, inside)
