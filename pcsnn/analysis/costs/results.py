"""What the executions of a network cost: the result of pcsnn.analysis.count_operations."""

import dataclasses
import json
import os
import pathlib
from dataclasses import dataclass, field

from pcsnn.analysis.costs.coding import ways
from pcsnn.network.report import steps_in_words
from pcsnn.network.text_table import table
from pcsnn.tensors import checks

EXECUTIONS = ("serial", "packed", "collapsed", "float")
_STEPPED = ("serial", "packed")
_OLDER = {"parallel": "packed"}
MAC, ACCUMULATE = 4.6e-12, 0.9e-12  # joules at 45 nm, 32-bit floating point: multiplication 3.7 pJ, addition 0.9 pJ


def execution_of(name, integers):
    """The execution of that name in which spikes go as integers, or as bits."""
    return f"{name} integers" if integers else name


def _stepped(spike_levels):
    """The executions that are made of time-steps, at D."""
    return tuple(execution_of(name, integers) for name in _STEPPED for integers in ways(spike_levels))


def executions_of(spike_levels):
    """The executions of a network at D: where spikes have several levels they go as bits or as integers (22)."""
    return *_stepped(spike_levels), *(name for name in EXECUTIONS if name not in _STEPPED)


class ByExecution(dict):
    """{execution: value}, where ["parallel"], the older name, finds "packed"."""

    def __missing__(self, execution):
        if execution not in _OLDER:
            raise KeyError(execution)
        return self[_OLDER[execution]]


@dataclass(frozen=True)
class Count:
    """Operations and traffic per image.

    Attributes:
        additions, multiplications, comparisons: all of them.
        accumulates: the additions that are synaptic operations, a weight added for a binary spike, or for a bit that
            is 1 of a spike of several levels.
        macs: multiply-accumulates of synapses (an addition and a multiplication each), those of the input and of
            integer spikes apart.
        input_macs: those whose operand is the same at every step, as the image is: the first layer's.
        spikes: what neurons fired: binary spikes; of several levels, the bits that are 1, or the integers that are not
            0, as the execution sends them; collapsed, the sum of their values.
        bytes: least memory traffic, each operation reading its operands and writing its result.
        spike_macs: those whose operand is an integer spike (22).
    """

    additions: float = 0
    multiplications: float = 0
    comparisons: float = 0
    accumulates: float = 0
    macs: float = 0
    input_macs: float = 0
    spikes: float = 0
    bytes: float = 0
    spike_macs: float = 0

    def __add__(self, other):
        return Count(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def __mul__(self, factor):
        return Count(*(factor * value for value in dataclasses.astuple(self)))


@dataclass(frozen=True)
class Energy:
    """Joules per image.

    Attributes:
        first_layer: multiply-accumulates of the input.
        synapses: all other multiply-accumulates, those of integer spikes among them, and the accumulates of spikes.
        rest: neurons, pools and sums; an addition or a comparison as an accumulate, a multiplication as a MAC less one.
    """

    first_layer: float
    synapses: float
    rest: float

    @property
    def total(self) -> float:
        """What the literature adds up: first layer and synapses."""
        return self.first_layer + self.synapses


@dataclass
class LayerOperations:
    """One operation of the network.

    Attributes:
        name: of the layer or graph node.
        kind: "synapse", "neuron", "pool", "sum", "scale", "product", "average", "interpolation".
        detail: the layer's type or the function's name.
        once: its operands are the same at every step, as the image is, so that it runs once (14).
        counts: {execution: Count per image}.
    """

    name: str
    kind: str
    detail: str
    once: bool
    counts: ByExecution


@dataclass
class Operations:
    """The result of `count_operations`: figures per image, a mean over `images`. str() is `table()`.

    Attributes:
        timesteps: T.
        images: how many were counted.
        layers: LayerOperations in execution order.
        uncounted: names of operations whose cost is not known and not in the figures.
        spike_levels: D.
    """

    timesteps: int
    images: int
    layers: list[LayerOperations] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    spike_levels: int = 1

    @property
    def executions(self) -> tuple[str, ...]:
        """EXECUTIONS; at D > 1 "serial" and "packed" send spikes as bits, and "serial integers" and "packed integers",
        each behind its like, as integers."""
        return executions_of(self.spike_levels)

    def total(self, execution: str, *, repeat_input: bool = False) -> Count:
        """The Count per image of all layers in one of `executions`.

        Args:
            execution: "serial", "packed" ("parallel" is its older name), "collapsed" or "float"; at D > 1 also "serial
                integers" and "packed integers".
            repeat_input: charge what runs once, the first layer, T times in the serial and the packed execution, as
                simulators that feed the image at every step do. False: once, as its result is the same (14).
        """
        execution = _OLDER.get(execution, execution)
        if execution not in self.executions:
            raise ValueError(f"execution: expected one of {', '.join(self.executions)}, got {execution!r}")
        times = self.timesteps if repeat_input and execution in _stepped(self.spike_levels) else 1
        return sum((layer.counts[execution] * (times if layer.once else 1) for layer in self.layers), Count())

    def energy(
        self,
        mac: float = MAC,
        accumulate: float = ACCUMULATE,
        *,
        repeat_input: bool = False,
        spike_mac: float | None = None,
    ) -> dict[str, Energy]:
        """{execution: Energy}, joules per image, by the convention of the literature.

        A multiply-accumulate costs 4.6 pJ and an accumulate 0.9 pJ: 32-bit floating point at 45 nm and 0.9 V, a
        multiplication 3.7 pJ, an addition 0.9 pJ. Source: M. Horowitz, "Computing's energy problem (and what we can do
        about it)", ISSCC 2014. Memory traffic, which costs more, is not in it: see docs/operations.md.

        Args:
            mac, accumulate: joules of each, numbers of at least 0, mac no less than accumulate.
            repeat_input: as in `total`.
            spike_mac: joules of a multiply-accumulate of an integer spike, which has D.bit_length() bits, no less than
                accumulate; None: mac, as of any number.
        """
        spike_mac = mac if spike_mac is None else spike_mac
        for name, value in (("mac", mac), ("accumulate", accumulate), ("spike_mac", spike_mac)):
            checks.number(name, value)
            if value < 0:
                raise ValueError(f"{name}: expected joules, 0 or more, got {value}")
        for name, value in (("mac", mac), ("spike_mac", spike_mac)):
            if value < accumulate:
                raise ValueError(f"{name}: expected at least accumulate, {accumulate}, which it includes, got {value}")
        result = ByExecution()
        for execution in self.executions:
            count = self.total(execution, repeat_input=repeat_input)
            macs = count.macs + count.input_macs + count.spike_macs
            additions = count.additions - macs - count.accumulates + count.comparisons
            multiplications = count.multiplications - macs
            result[execution] = Energy(
                mac * count.input_macs,
                mac * count.macs + spike_mac * count.spike_macs + accumulate * count.accumulates,
                accumulate * additions + (mac - accumulate) * multiplications,
            )
        return result

    def table(self) -> str:
        """Text: totals of the executions with their energy, then each layer's synaptic operations and spikes."""
        energies = self.energy()
        several = self.spike_levels > 1
        cells: list[tuple[str, ...]] = [("per image", *self.executions)]
        totals = [self.total(execution) for execution in self.executions]
        names = [part.name for part in dataclasses.fields(Count) if part.name != "spike_macs"]
        if several:
            names.insert(names.index("input_macs"), "spike_macs")
        for name in names:
            cells.append((name.replace("_", " "), *(_figure(getattr(total, name)) for total in totals)))
        for name, words in (
            ("first_layer", "energy, first layer"),
            ("synapses", "energy, synapses"),
            ("total", "energy, total"),
            ("rest", "energy, the rest"),
        ):
            cells.append(
                (words, *(f"{1e6 * getattr(energies[execution], name):.4g} uJ" for execution in self.executions))
            )
        lines = [
            *table(cells),
            "",
            *table(self._layer_cells()),
            f"{steps_in_words(self.timesteps, self.spike_levels)}, mean of {self.images} images; serial and packed: "
            "synaptic operations (accumulates and MACs), spikes",
        ]
        if several:
            lines.append(
                f"serial, packed: a spike is sent as {self.spike_levels.bit_length()} bits, an accumulate for each 1; "
                "integers: as one number, a MAC for each but 0"
            )
        if self.uncounted:
            lines.append(f"not counted: {', '.join(self.uncounted)}")
        return "\n".join(lines)

    def _layer_cells(self):
        stepped = _stepped(self.spike_levels)
        cells = [("layer", "kind", "", *stepped, "MACs", *(f"{execution} spikes" for execution in stepped))]
        for layer in self.layers:
            synaptic = [
                _figure(count.accumulates + count.macs + count.input_macs + count.spike_macs)
                for count in (layer.counts[execution] for execution in (*stepped, "float"))
            ]
            spikes = [_figure(layer.counts[execution].spikes) for execution in stepped]
            cells.append((layer.name, layer.kind, layer.detail + (", once" if layer.once else ""), *synaptic, *spikes))
        return cells

    def __str__(self):
        return self.table()

    def as_dict(self) -> dict:
        """Plain numbers, lists and dicts: T, D, images, totals and energies of each execution, and the layers."""
        return {
            "timesteps": self.timesteps,
            "spike_levels": self.spike_levels,
            "images": self.images,
            "uncounted": list(self.uncounted),
            "total": ByExecution(
                (execution, dataclasses.asdict(self.total(execution))) for execution in self.executions
            ),
            "energy": ByExecution(
                (execution, {**dataclasses.asdict(energy), "total": energy.total})
                for execution, energy in self.energy().items()
            ),
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, content: dict) -> "Operations":
        """The result that `as_dict` or a file of `save` was made of; those of earlier versions have binary spikes.

        Raises:
            ValueError: a dict that `as_dict` does not make.
        """
        try:
            spike_levels = content.get("spike_levels", 1)
            names = executions_of(spike_levels)
            layers = [
                LayerOperations(
                    **layer | {"counts": ByExecution((name, Count(**layer["counts"][name])) for name in names)}
                )
                for layer in content["layers"]
            ]
            return cls(content["timesteps"], content["images"], layers, content["uncounted"], spike_levels)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"content: expected a dict made by Operations.as_dict, got one with {error!r}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write `as_dict()` to a JSON file."""
        pathlib.Path(path).write_text(json.dumps(self.as_dict(), indent=1) + "\n")


def _figure(value):
    return "-" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
