"""Uneven levels (C3) as parallel IF nodes of NIR, one for each level, and back.

The node of level x starts at rest and fires once in T steps: at the threshold T tau_x, where it is set to a potential
from which it never comes back. A steady current that reaches level x brings it there within T steps, so that together
they send as many spikes as levels are reached (10). Metadata say which nodes are one layer, for those who read them:
`level_of`, a name, and `level`, 1..T.
"""

import numpy as np
import torch

from pcsnn.exchange.nir.files import Graph, Node
from pcsnn.exchange.nir.neurons import FIRES, reset_values, said, thresholds
from pcsnn.exchange.nir.values import full
from pcsnn.nn.integrate_fire import IntegrateFire

NEVER = -1e37  # a potential far below all that currents bring
KIND = "Levels"
CURVES = 16  # thresholds that are tried for a table of levels


def lift(neuron, dtype):
    """What to add to the current, [] or [C] of that dtype, so that all levels of a neuron are above zero."""
    levels = neuron.levels.double()
    lowest = levels.amin(-1)
    spacing = (neuron.threshold.double() / neuron.timesteps).nan_to_num(posinf=1.0)
    return torch.where(lowest > 0, 0.0, spacing - lowest).to(dtype)


def level_nodes(nir, neuron, lifted, shape, name):
    """[(name, nir.IF)] of the levels of a neuron [*shape] whose current was lifted by `lifted`."""
    steps = neuron.timesteps
    at = (neuron.levels.double() + lifted.double().unsqueeze(-1)) * steps
    at = at.clamp(max=torch.finfo(torch.float32).max)  # infinite: never fires
    plain = torch.ones((), dtype=neuron.levels.dtype)
    made = []
    for level in range(steps):
        metadata = {"reset": "zero", "fires": FIRES[0], "level_of": name.replace(".", "_"), "level": level + 1}
        node = nir.IF(
            r=full(plain, shape),
            v_threshold=full(at[..., level], shape),
            v_reset=full(plain * NEVER, shape),
            metadata=metadata,
        )
        made.append((f"{name}.level{level + 1}", node))
    return made


def gathered(graph):
    """A files.Graph in which the nodes of levels are one node of KIND for each layer; ValueError where they do not fit.

    Graphs within it likewise.
    """
    groups = {}
    nodes = {name: gathered(node) if isinstance(node, Graph) else node for name, node in graph.nodes.items()}
    for name, node in nodes.items():
        if isinstance(node, Node) and node.kind == "IF" and "level_of" in node.metadata:
            word = node.metadata["level_of"]
            groups.setdefault(word.decode() if isinstance(word, bytes) else str(word), []).append(name)
    edges = list(graph.edges)
    for layer, names in groups.items():
        nodes, edges = _as_one(layer, names, nodes, edges)
    return Graph(nodes, edges, graph.metadata)


def _as_one(layer, names, nodes, edges):
    """Nodes and edges with the node `layer` in the place of the nodes of that name."""
    numbered = {}
    for name in names:
        number = nodes[name].metadata.get("level")
        if isinstance(number, (bool, str, bytes)) or number is None or np.size(number) != 1:
            nodes[name].refuse(f"metadata: level: expected an integer, got {number!r}")
        numbered[float(np.asarray(number).item())] = name
    first = nodes[names[0]]
    if sorted(numbered) != list(range(1, len(names) + 1)):
        first.refuse(f"metadata: level: expected 1..{len(names)}, each once, of the {len(names)} nodes of {layer}")
    ends = [
        ({source for source, target in edges if target == name}, {target for source, target in edges if source == name})
        for name in names
    ]
    if any(pair != ends[0] for pair in ends) or any(name in names for side in ends[0] for name in side):
        first.refuse(f"metadata: level_of: expected the nodes of {layer} to have the same edges")
    if layer in nodes:
        first.refuse(f"metadata: level_of: expected a name that no node has, got {layer}")
    together = [nodes[numbered[number]] for number in sorted(numbered)]
    made = {}
    for name, node in nodes.items():
        if name == names[0]:
            made[layer] = Node(layer, KIND, {"levels": together})
        if name not in names:
            made[name] = node
    into, out = ends[0]
    edges = [edge for edge in edges if not set(edge) & set(names)]
    return made, edges + [(source, layer) for source in sorted(into)] + [(layer, target) for target in sorted(out)]


def levels_place(node, shape, dt):
    """The IntegrateFire of a node that `gathered` made: the levels of [*shape], one for each channel or for all."""
    parts = node.fields["levels"]
    found = []
    for part in parts:
        _, of_current, _ = thresholds(part, shape, dt)
        said(part, "fires", FIRES[:1])
        if not (reset_values(part, shape) <= NEVER / 10).all():
            part.refuse(f"v_reset: expected at most {NEVER / 10:g} of a level, which is reached once")
        flat = of_current.reshape(shape[0], -1)
        if (flat != flat[:, :1]).any():
            part.refuse("v_threshold: expected one level for each channel")
        found.append(flat[:, 0] / len(parts))
    table = torch.from_numpy(np.stack(found, -1))
    if (table.diff(dim=-1) < 0).any():
        node.refuse("v_threshold: expected levels that ascend")
    if (table == table[:1]).all():
        table = table[0]
    theta, bend = curve(table)
    return IntegrateFire(theta, 0.5, bend=bend)


def curve(table):
    """(threshold, bend) whose bent levels are a table [T] or [C, T] of float64 above zero, bit for bit in float32.

    The evenly spaced part is chosen below the levels, so that what a float32 bend rounds is at most half a unit in the
    last place of the level. Where half a unit, a tie, decides, another threshold near it is taken.
    """
    places = (torch.arange(1, table.shape[-1] + 1, dtype=torch.float64) - 0.5) / table.shape[-1]
    silent = table[..., 0] == torch.inf
    most = torch.where(silent, 1.0, (table / places).amin(-1)).log2().floor().exp2()
    table = table.masked_fill(silent.unsqueeze(-1), 1.0)
    theta, bend = torch.zeros_like(most), torch.zeros_like(table, dtype=torch.float32)
    missed = torch.ones_like(silent)
    for attempt in range(CURVES):
        near = most * (1 - attempt / 1024)
        even = places * near.unsqueeze(-1)
        bent = ((table - even) / near.unsqueeze(-1)).to(torch.float32)
        theta, bend = torch.where(missed, near, theta), torch.where(missed.unsqueeze(-1), bent, bend)
        missed &= ((even + bent.double() * near.unsqueeze(-1)).float() != table.float()).any(-1)
    return torch.where(silent, torch.inf, theta), bend.masked_fill(silent.unsqueeze(-1), 0.0)
