"""What the executions of a network cost: the result of pcsnn.analysis.count_operations."""

import dataclasses
import json
import os
import pathlib
from dataclasses import dataclass, field

from pcsnn.network.text_table import table
from pcsnn.tensors import checks

EXECUTIONS = ("serial", "packed", "collapsed", "float")
_OLDER = {"parallel": "packed"}
MAC, ACCUMULATE = 4.6e-12, 0.9e-12  # joules at 45 nm, 32-bit floating point: multiplication 3.7 pJ, addition 0.9 pJ
_STEPPED = ("serial", "packed")


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
        accumulates: the additions that are synaptic operations, a weight added for a spike.
        macs: multiply-accumulates of synapses (an addition and a multiplication each), those of the input apart.
        input_macs: those whose operand is the same at every step, as the image is: the first layer's.
        spikes: what neurons fired.
        bytes: least memory traffic, each operation reading its operands and writing its result.
    """

    additions: float = 0
    multiplications: float = 0
    comparisons: float = 0
    accumulates: float = 0
    macs: float = 0
    input_macs: float = 0
    spikes: float = 0
    bytes: float = 0

    def __add__(self, other):
        return Count(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def __mul__(self, factor):
        return Count(*(factor * value for value in dataclasses.astuple(self)))


@dataclass(frozen=True)
class Energy:
    """Joules per image.

    Attributes:
        first_layer: multiply-accumulates of the input.
        synapses: all other multiply-accumulates, and the accumulates of spikes.
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
    """

    timesteps: int
    images: int
    layers: list[LayerOperations] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def total(self, execution: str, *, repeat_input: bool = False) -> Count:
        """The Count per image of all layers in one of EXECUTIONS.

        Args:
            execution: "serial", "packed" ("parallel" is its older name), "collapsed" or "float".
            repeat_input: charge what runs once, the first layer, T times in the serial and the packed execution, as
                simulators that feed the image at every step do. False: once, as its result is the same (14).
        """
        execution = _OLDER.get(execution, execution)
        if execution not in EXECUTIONS:
            raise ValueError(f"execution: expected one of {', '.join(EXECUTIONS)}, got {execution!r}")
        times = self.timesteps if repeat_input and execution in _STEPPED else 1
        return sum((layer.counts[execution] * (times if layer.once else 1) for layer in self.layers), Count())

    def energy(
        self, mac: float = MAC, accumulate: float = ACCUMULATE, *, repeat_input: bool = False
    ) -> dict[str, Energy]:
        """{execution: Energy}, joules per image, by the convention of the literature.

        A multiply-accumulate costs 4.6 pJ and an accumulate 0.9 pJ: 32-bit floating point at 45 nm and 0.9 V, a
        multiplication 3.7 pJ, an addition 0.9 pJ. Source: M. Horowitz, "Computing's energy problem (and what we can do
        about it)", ISSCC 2014. Memory traffic, which costs more, is not in it: see docs/operations.md.

        Args:
            mac, accumulate: joules of each, numbers of at least 0, mac no less than accumulate.
            repeat_input: as in `total`.
        """
        for name, value in (("mac", mac), ("accumulate", accumulate)):
            checks.number(name, value)
            if value < 0:
                raise ValueError(f"{name}: expected joules, 0 or more, got {value}")
        if mac < accumulate:
            raise ValueError(f"mac: expected at least accumulate, {accumulate}, which it includes, got {mac}")
        result = ByExecution()
        for execution in EXECUTIONS:
            count = self.total(execution, repeat_input=repeat_input)
            macs = count.macs + count.input_macs
            additions = count.additions - macs - count.accumulates + count.comparisons
            multiplications = count.multiplications - macs
            result[execution] = Energy(
                mac * count.input_macs,
                mac * count.macs + accumulate * count.accumulates,
                accumulate * additions + (mac - accumulate) * multiplications,
            )
        return result

    def table(self) -> str:
        """Text: totals of the four executions with their energy, then each layer's synaptic operations and spikes."""
        energies = self.energy()
        cells = [("per image", *EXECUTIONS)]
        totals = [self.total(execution) for execution in EXECUTIONS]
        for name in (part.name for part in dataclasses.fields(Count)):
            cells.append((name.replace("_", " "), *(_figure(getattr(total, name)) for total in totals)))
        for name, words in (
            ("first_layer", "energy, first layer"),
            ("synapses", "energy, synapses"),
            ("total", "energy, total"),
            ("rest", "energy, the rest"),
        ):
            cells.append((words, *(f"{1e6 * getattr(energies[execution], name):.4g} uJ" for execution in EXECUTIONS)))
        lines = [
            *table(cells),
            "",
            *table(self._layer_cells()),
            f"T = {self.timesteps}, mean of {self.images} images; serial and packed: synaptic operations "
            "(accumulates and MACs), spikes",
        ]
        if self.uncounted:
            lines.append(f"not counted: {', '.join(self.uncounted)}")
        return "\n".join(lines)

    def _layer_cells(self):
        cells = [("layer", "kind", "", "serial", "packed", "MACs", "serial spikes", "packed spikes")]
        for layer in self.layers:
            synaptic = [
                _figure(count.accumulates + count.macs + count.input_macs)
                for count in (layer.counts[execution] for execution in ("serial", "packed", "float"))
            ]
            spikes = [_figure(layer.counts[execution].spikes) for execution in _STEPPED]
            cells.append((layer.name, layer.kind, layer.detail + (", once" if layer.once else ""), *synaptic, *spikes))
        return cells

    def __str__(self):
        return self.table()

    def as_dict(self) -> dict:
        """Plain numbers, lists and dicts: T, images, totals and energies of each execution, and the layers."""
        return {
            "timesteps": self.timesteps,
            "images": self.images,
            "uncounted": list(self.uncounted),
            "total": ByExecution((execution, dataclasses.asdict(self.total(execution))) for execution in EXECUTIONS),
            "energy": ByExecution(
                (execution, {**dataclasses.asdict(energy), "total": energy.total})
                for execution, energy in self.energy().items()
            ),
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write `as_dict()` to a JSON file."""
        pathlib.Path(path).write_text(json.dumps(self.as_dict(), indent=1) + "\n")


def _figure(value):
    return "-" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
