"""What a calibration method is: a record with its function, its options and what it needs, in one registry."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from pcsnn.data.batches import Batches
from pcsnn.tensors import checks

METHODS = {}  # {name: Method}


@dataclass(frozen=True)
class Task:
    """What a method works on.

    Attributes:
        network: the traced float network; a method may change its weights, in place.
        places: all its activation places, in execution order.
        batches: the calibration data; None where there is none.
        timesteps: the levels of a neuron, T D: at D > 1 what is calibrated is the network of as many binary steps (22).
        progress: whether to show progress bars on a terminal.
        seed: of what is drawn at random.
        kept: {place name: settings} of places that keep what they have, which are not the method's to choose.
    """

    network: torch.fx.GraphModule
    places: list
    batches: Batches | None
    timesteps: int
    progress: bool
    seed: int
    kept: dict = field(default_factory=dict)

    @property
    def open(self):
        """The places whose settings the method chooses."""
        return [place for place in self.places if place.name not in self.kept]


@dataclass(frozen=True)
class Method:
    """How thresholds, shifts and amplitudes are chosen.

    Attributes:
        name: what `pcsnn.convert(method=...)` calls it, and the report of a network.
        fit: fit(task), or fit(task, options) where there are options: {place name: settings} of all `task.open`.
        effort: how much it computes beside others; methods are listed in this order.
        options: a frozen dataclass of its hyperparameters, or None.
        needs_data: whether it looks at calibration data.
        depends_on_timesteps: whether its settings are those of one T.
        seeded: whether it draws at random.
        takes_signed: whether it is defined for activations that go below zero.
        keeps_lossless: whether activations that are exact at T keep what they have; serial IF neurons always do.
    """

    name: str
    fit: Callable = field(repr=False)  # processes compare methods by what they look like
    effort: float
    options: object = None
    needs_data: bool = True
    depends_on_timesteps: bool = True
    seeded: bool = False
    takes_signed: bool = True
    keeps_lossless: bool = True

    def with_options(self, **changes):
        """The same method with other options. TypeError, ValueError: an option that it has not, or out of range."""
        if self.options is None:
            raise TypeError(f"options: expected none for method {self.name!r}, got {', '.join(changes)}")
        return replace(self, options=replace(self.options, **changes))

    def settings(self, task):
        """{place name: settings} of all places of a task. ValueError where the method is not defined for one."""
        below = [place.name for place in task.places if place.signed]
        if below and not self.takes_signed:
            *others, last = [other.name for other in METHODS.values() if other.takes_signed and other.needs_data]
            raise ValueError(
                f"method: {self.name!r} is defined for activations that do not go below zero, got signed ones at "
                f"{', '.join(below)}; use {', '.join(others)} or {last}"
            )
        kept = {
            place.name: place.own()
            for place in task.places
            if place.serial or (self.keeps_lossless and place.lossless(task.timesteps))
        }
        task = replace(task, kept=kept)
        return kept | (self.fit(task) if self.options is None else self.fit(task, self.options))


def check_counts(options, least, *names):
    """TypeError, ValueError for options that are no integers from `least` up."""
    for name in names:
        checks.integer(name, getattr(options, name), least, sys.maxsize)


def check_between(options, low, high, *names):
    """TypeError, ValueError for options that are no numbers from `low` to `high`."""
    for name in names:
        value = getattr(options, name)
        checks.number(name, value)
        if not low <= value <= high:
            raise ValueError(f"{name}: expected a value in {low:g}..{high:g}, got {value}")


def register(method):
    """Make a method known by its name. ValueError for a name that is taken."""
    if method.name in ("auto", *METHODS):
        raise ValueError(f"method: expected a name of its own, got {method.name!r}")
    ordered = sorted([*METHODS.values(), method], key=lambda one: one.effort)
    METHODS.clear()
    METHODS.update({one.name: one for one in ordered})
    return method
