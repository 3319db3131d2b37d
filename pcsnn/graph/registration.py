"""pcsnn.register_activation: activations of one's own."""

import math
import types
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pcsnn.graph import taxonomy
from pcsnn.levels.activations import RISES, Activation, add
from pcsnn.levels.probe import TOLERANCE, check_formula, found_turns
from pcsnn.nn import DAQCFS, QCFS
from pcsnn.tensors import checks

_PLAIN = (nn.ReLU, nn.ReLU6, QCFS, DAQCFS)  # spike without a second sign
_LAYERS = (*taxonomy.modules_of(*taxonomy.Role), *taxonomy.DROPPED_MODULES, nn.Sequential)
_FUNCTIONS = {nn.functional.relu, nn.functional.relu6, torch.relu}


def register_activation(
    kind: str,
    formula: Callable[..., Tensor],
    *,
    module: type[nn.Module] | Sequence[type[nn.Module]] | None = None,
    function: Callable | Sequence[Callable] | None = None,
    parameter: str | None = None,
    default: float = 1.0,
    turn: float | None = None,
    range: tuple[float, float] = (-math.inf, math.inf),
) -> None:
    """Let `pcsnn.convert(..., signed=True)` know an activation: from then on it spikes, with spikes of two signs (S1)-(S4).

    Modules and calls of these classes and functions become `pcsnn.nn.SignedNeuron(kind, ...)`. A layer of such a class that
    computes something else than the formula is refused as what cannot spike, with the current at which they differ. It
    holds for this process, until it ends; a process of several registers in each. Network files name the kind, not the formula: register
    it, the same, before `pcsnn.load`.

    Args:
        kind: a new name, a Python identifier.
        formula: the activation of a floating tensor of any shape, float64 or float32, element by element, to the same
            shape and dtype; with `parameter`, of that and the parameter, a number or a tensor that broadcasts. It only
            rises, or falls and then rises, has finite values from -64 to 64, and autograd can follow it.
        module: a class of modules, or several, which are then called as a whole, not looked into.
        function: a function, or several, whose first argument is the current. A function of Python's is one step of the graph
            where a method of the network or a function that it calls names it: by its global name, as an attribute of its
            module (`ops.swish(x)`), from a closure, or as an attribute of a layer (`self.activation(x)`), static methods too. One kept in a
            list or dict, or within functools.partial, is looked into as any other function.
        parameter: the attribute of the module, and the argument of the function, that is the formula's second argument: a
            number, or a tensor [C], one for each channel (dimension 1). None: it has none.
        default: the parameter where a call of the function leaves it out and the function's signature has no default; the
            formula is tried with it.
        turn: where the formula goes from falling to rising. None, and always with a parameter: looked for.
        range: the least and the largest value of the formula, or what bounds them: it is refused where it leaves them.

    Raises:
        TypeError, ValueError: arguments of the wrong kind; a kind, class or function that pcsnn knows already; a formula that
            is none of what is asked for, or leaves the range. Nothing is changed then.

    Example:
        >>> pcsnn.register_activation("softplus", torch.nn.functional.softplus, module=torch.nn.Softplus)
    """
    if not isinstance(kind, str) or not kind.isidentifier():
        raise ValueError(f"kind: expected a name that is a Python identifier, got {kind!r}")
    if not callable(formula):
        raise TypeError(f"formula: expected a function of a tensor, got {type(formula).__name__}")
    modules, functions = _modules(module), _functions(function)
    if not modules and not functions:
        raise ValueError("module: expected a class, or a function in `function`, got neither")
    if parameter is not None and not (isinstance(parameter, str) and parameter.isidentifier()):
        raise ValueError(f"parameter: expected the name of an attribute and argument, or None, got {parameter!r}")
    checks.number("default", default)
    least, most = _range(range)
    row = Activation(
        kind,
        formula,
        dict.fromkeys(modules, parameter),
        functions,
        parameter=None if parameter is None else (parameter, default),
        turn=None,
        range=(least, most),
        own=True,
    )
    check_formula(row, default)
    add(row if turn is None else replace(row, turn=_turn(row, turn)))


def _several(given):
    if given is None:
        return ()
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _modules(given):
    for kind in _several(given):
        if not isinstance(kind, type) or not issubclass(kind, nn.Module) or kind is nn.Module:
            shown = kind.__name__ if isinstance(kind, type) else f"a {type(kind).__name__}"
            raise TypeError(f"module: expected a subclass of torch.nn.Module, or several, got {shown}")
        if kind in _PLAIN or issubclass(kind, _LAYERS):
            raise ValueError(f"module: expected a class of activations that pcsnn does not know, got {kind.__name__}")
    return _several(given)


def _functions(given):
    for known in _several(given):
        if not isinstance(known, (types.FunctionType, types.BuiltinFunctionType)):
            raise TypeError(f"function: expected a function of Python's or torch's, or several, got {known!r}")
        if known in _FUNCTIONS:
            raise ValueError(f"function: expected one that pcsnn does not know, got {known.__name__}")
    return _several(given)


def _range(given):
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"range: expected two numbers, the least and the largest value, got {given!r}")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise TypeError(f"range: expected two numbers, the least and the largest value, got {given!r}")
    if not given[0] < given[1]:
        raise ValueError(f"range: expected a least value below the largest, got {given!r}")
    return given


def _turn(row, given):
    checks.number("turn", given)
    if row.parameter is not None:
        raise ValueError(f"turn: expected None beside a parameter, on which it depends, got {given}")
    (found,) = found_turns(row, (1.0,))
    if found == RISES:
        raise ValueError(f"turn: expected None for a formula that only rises, got {given}")
    least, value = row(torch.tensor([found, given], dtype=torch.float64, device="cpu")).tolist()
    if value - least > TOLERANCE * (1 + abs(least)):
        raise ValueError(f"turn: expected where the formula is least, {found:.6g}, got {given}")
    return float(given)
