"""What became of each layer of a converted network."""

from dataclasses import dataclass, field

from pcsnn.network.text_table import table

KINDS = ("spiking", "synapse", "exact", "analog")


@dataclass
class Row:
    """One layer: its name in the network, one of KINDS, what became of it, and file:line in the source."""

    name: str
    kind: str
    detail: str
    location: str = ""


@dataclass
class Report:
    """The conversion report: `rows` in execution order; str() is a table; the method and T it was made with."""

    method: str
    timesteps: int
    rows: list[Row] = field(default_factory=list)

    def __str__(self):
        cells = [("layer", "kind", "what became of it", "source")]
        cells += [(row.name, row.kind, row.detail, row.location) for row in self.rows]
        counted = ", ".join(f"{sum(row.kind == kind for row in self.rows)} {kind}" for kind in KINDS)
        return "\n".join([*table(cells), f"{counted}; method {self.method}, T = {self.timesteps}"])
