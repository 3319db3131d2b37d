"""What became of each layer of a converted network."""

from dataclasses import dataclass, field

from pcsnn.network.text_table import table

KINDS = ("spiking", "synapse", "exact", "analog")


@dataclass
class Row:
    """One layer of the source.

    Attributes:
        name: in the network.
        kind: one of KINDS.
        source: what it is, and why it is of this kind.
        location: file:line in the source.
        became: the neuron that stands there, in words; "" for all but spiking layers.
    """

    name: str
    kind: str
    source: str
    location: str = ""
    became: str = ""

    @property
    def detail(self) -> str:
        """What became of the layer, in one line."""
        return f"{self.source}: {self.became}" if self.became else self.source


def steps_in_words(timesteps, spike_levels):
    """T, and D where spikes have several levels."""
    return f"T = {timesteps}" + (f", D = {spike_levels}" if spike_levels > 1 else "")


@dataclass
class Report:
    """The conversion report; str() is a table.

    Attributes:
        method: of the calibration, its name.
        timesteps: T of the network as it is now.
        rows: in execution order.
        calibrated_for: the T D that thresholds were chosen for; None where they do not depend on it.
        spike_levels: D of the network as it is now (22).
    """

    method: str
    timesteps: int
    rows: list[Row] = field(default_factory=list)
    calibrated_for: int | None = None
    spike_levels: int = 1

    @property
    def steps(self) -> str:
        """T, and D where spikes have several levels, in words."""
        return steps_in_words(self.timesteps, self.spike_levels)

    def __str__(self) -> str:
        cells = [("layer", "kind", "what became of it", "source")]
        cells += [(row.name, row.kind, row.detail, row.location) for row in self.rows]
        counted = ", ".join(f"{sum(row.kind == kind for row in self.rows)} {kind}" for kind in KINDS)
        return "\n".join([*table(cells), f"{counted}; method {self.method}, {self.steps}"])
