"""Small tables are computed on the host, whatever torch's default device is."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def on_host(function: Function) -> Function:
    """A function whose new tensors are on the host, as if torch.set_default_device had not been called."""

    @functools.wraps(function)
    def inside(*arguments, **named):
        with torch.device("cpu"):
            return function(*arguments, **named)

    return cast(Function, inside)
