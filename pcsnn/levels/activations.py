"""Activations that go below zero, or fall before they rise: one row each, all that pcsnn has to know of one.

The rows are read by the converter (which modules and functions are such places), by the tables of levels (S1)-(S4), by the
advice for what cannot spike, by messages that list kinds, and by the test that holds docs/signed.md.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.levels.probe import found_turns

RISES = -math.inf  # the turn of what only rises


def _falls_below_zero(slope):
    """Where slope * z below zero, or slope * expm1(z), turns into z."""
    return torch.full_like(slope, RISES).where(slope >= 0, 0.0)


@dataclass(frozen=True, eq=False)
class Activation:
    """One row.

    kind: its name. formula: of a floating tensor, and of the parameter where it has one, a number or a tensor that
    broadcasts. modules: {class: its attribute that is the parameter, or None}. functions: what a graph may call; the second
    argument is the parameter. parameter: (name, default) in a call. settings: {name: (value, default)} of the module, and of
    the second argument, that make it this kind. turn: where it goes from falling to rising, RISES, or a function of the
    parameters [C, 1]; None: looked for. range: its least and largest value, or what bounds them. own: whether a user
    registered it.
    """

    kind: str
    formula: Callable
    modules: dict
    functions: tuple = ()
    parameter: tuple | None = None
    settings: dict = field(default_factory=dict)
    turn: float | Callable | None = RISES
    range: tuple = (-math.inf, math.inf)
    own: bool = False

    def __call__(self, z, parameter=None):
        """The activation of z, in its dtype; a formula of a user's own computes in float32 or float64."""
        wide = z.float() if self.own and z.dtype in (torch.float16, torch.bfloat16) else z
        return (self.formula(wide) if self.parameter is None else self.formula(wide, parameter)).to(z.dtype)

    def turns(self, parameters):
        """Where it goes from falling to rising for parameters [C, 1] float64, of their shape; RISES where it only rises."""
        if callable(self.turn):
            return self.turn(parameters)
        if self.turn is not None:
            return torch.full_like(parameters, self.turn)
        return parameters.new_tensor(found_turns(self, tuple(parameters.flatten().tolist()))).reshape(parameters.shape)


_ROWS = (
    Activation(
        "leaky_relu",
        lambda z, slope: torch.where(z < 0, slope * z, z),
        {nn.LeakyReLU: "negative_slope", nn.PReLU: "weight"},
        (F.leaky_relu,),
        parameter=("negative_slope", 0.01),
        turn=_falls_below_zero,
    ),
    Activation(
        "gelu",
        F.gelu,
        {nn.GELU: None},
        (F.gelu,),
        settings={"approximate": ("none", "none")},
        turn=-0.7517915246935645,
        range=(-0.17, math.inf),
    ),
    Activation(
        "gelu_tanh",
        lambda z: F.gelu(z, approximate="tanh"),
        {nn.GELU: None},
        (F.gelu,),
        settings={"approximate": ("tanh", "none")},
        turn=-0.7524614220710163,
        range=(-0.171, math.inf),
    ),
    Activation("silu", F.silu, {nn.SiLU: None}, (F.silu,), turn=-1.278464542761074, range=(-0.279, math.inf)),
    Activation("hardswish", F.hardswish, {nn.Hardswish: None}, (F.hardswish,), turn=-1.5, range=(-0.375, math.inf)),
    Activation("mish", F.mish, {nn.Mish: None}, (F.mish,), turn=-1.1924312145154952, range=(-0.309, math.inf)),
    Activation(
        "elu",
        lambda z, alpha: torch.where(z < 0, alpha * torch.expm1(z), z),
        {nn.ELU: "alpha"},
        (F.elu,),
        parameter=("alpha", 1.0),
        turn=_falls_below_zero,
    ),
)
_table = {row.kind: row for row in _ROWS}  # replaced whole, so that readers see a complete one
_lock = threading.Lock()


def rows():
    """All activations known, pcsnn's own and those that were registered."""
    return tuple(_table.values())


def kinds():
    """Their names."""
    return tuple(_table)


def row_of(kind):
    """The Activation of a kind; ValueError for a name that nothing has."""
    if kind not in kinds():
        raise ValueError(
            f"kind: expected one of {', '.join(kinds())}, or what pcsnn.register_activation made known, got {kind!r}"
        )
    return _table[kind]


def activation(kind, z, parameter=None):
    """The function of that kind, of z; parameter: a number or a tensor that broadcasts, for kinds that have one."""
    return row_of(kind)(z, parameter)


def add(row):
    """Make a row known; ValueError where its name, or one of its modules and functions, is known already."""
    global _table
    with _lock:
        if row.kind in _table:
            raise ValueError(f"kind: expected a new name, got {row.kind!r}, which is known already")
        for argument, given in (("module", row.modules), ("function", row.functions)):
            for other in rows():
                for known in set(given) & set(getattr(other, f"{argument}s")):
                    raise ValueError(
                        f"{argument}: expected one that no kind has yet, got {known.__name__}, which is {other.kind!r}"
                    )
        _table = {**_table, row.kind: row}
