"""Functions in Python that a graph calls as a whole: while a network is traced, their names lead to a call of the graph."""

import functools
import inspect
import types
from contextlib import contextmanager

from torch import fx
from torch.utils._pytree import tree_map_only


@contextmanager
def one_step(functions, parts):
    """Inside, a call of one of `functions` with a traced value is one node, where the modules `parts` reach it by name.

    Reached: names that their methods, and functions which these call, look up in globals, in modules and in closures, and
    attributes of the modules and of their classes. Other callers get what they get outside, in other threads too.
    """
    steps = {function: _step(function) for function in functions}
    undo = []
    try:
        for put, value in _places(steps, parts) if steps else ():
            undo.append((put, value))
            put(steps[value])
        yield
    finally:
        for put, value in undo:
            put(value)


def _step(function):
    @functools.wraps(function)
    def step(*args, **kwargs):
        proxies = []
        tree_map_only(fx.Proxy, proxies.append, (args, kwargs))
        if not proxies:
            return function(*args, **kwargs)
        if not args:
            first = next(iter(inspect.signature(function).parameters))
            args = (kwargs.pop(first),)
        return proxies[0].tracer.create_proxy("call_function", function, args, kwargs)

    return step


def _places(steps, parts):
    """(how to put another function there, the function that stands there), for each place that leads to one of `steps`."""
    found, seen, waiting = [], set(), []

    def meet(value, put):
        """A value that a name leads to."""
        if _is_one(value, steps):
            found.append((put, value))
        elif isinstance(value, types.FunctionType) and value not in seen and not _is_torch(value):
            seen.add(value)
            waiting.append(value)

    for part in parts:
        for name, value in list(vars(part).items()):
            meet(value, functools.partial(vars(part).__setitem__, name))
        for kind in type(part).__mro__:
            if kind in seen or _is_torch(kind) or kind is object:
                continue
            seen.add(kind)
            for name, value in list(vars(kind).items()):
                function = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(value, staticmethod) or not _is_one(
                    function, steps
                ):  # others get self before the current
                    meet(function, functools.partial(_set_static, kind, name))
    while waiting:
        function = waiting.pop()
        for cell in function.__closure__ or ():
            meet(_content(cell), functools.partial(setattr, cell, "cell_contents"))
        for code in _codes(function.__code__):
            for name in code.co_names:
                _look_up(name, function.__globals__, code.co_names, meet)
    return found


def _is_one(value, steps):
    return isinstance(value, types.FunctionType) and value in steps


def _look_up(name, names, others, meet):
    """What a global name leads to, and, if a module, what the code's other names lead to there."""
    value = names.get(name)
    if isinstance(value, types.ModuleType):
        for other in others:
            meet(vars(value).get(other), functools.partial(setattr, value, other))
    elif value is not None:
        meet(value, functools.partial(names.__setitem__, name))


def _codes(code):
    """A function's code, and that of functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _set_static(kind, name, function):
    setattr(kind, name, staticmethod(function))


def _is_torch(value):
    return (value.__module__ or "").partition(".")[0] == "torch"
