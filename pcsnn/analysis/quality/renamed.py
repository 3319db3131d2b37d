"""Keyword arguments that have had another name."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def formerly(**older: str) -> Callable[[Function], Function]:
    """A decorator with which a function takes keyword arguments by their older names too: name=older name."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def renamed(*arguments, **named):
            for name, old in older.items():
                if name in named and old in named:
                    raise TypeError(f"{old}: is the older name of {name}; expected one of them, got both")
                if old in named:
                    named[name] = named.pop(old)
            return function(*arguments, **named)

        return cast(Function, renamed)

    return decorate
