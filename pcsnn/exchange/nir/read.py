"""NIR graphs as spiking networks."""

from __future__ import annotations

import keyword
import operator
import os
import re
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from pcsnn.conversion import convert
from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.classify import classify
from pcsnn.conversion.spikingjelly.scales import fold_scales
from pcsnn.conversion.tracing.trace import trace
from pcsnn.exchange.nir import fields, files, layers, structure
from pcsnn.network.imported import ImportedNetwork
from pcsnn.network.report import Report
from pcsnn.nn.integrate_fire import IntegrateFire
from pcsnn.tensors import checks

if TYPE_CHECKING:
    import nir

_GRAPH_MODULE = fx.GraphModule(nn.Module(), fx.Graph())


DEFAULT_TIMESTEPS = 64


def read_nir(
    path_or_graph: str | os.PathLike | nir.NIRGraph,
    timesteps: int | None = None,
    *,
    shift: float | None = None,
    dt: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> ImportedNetwork:
    """A graph of NIR as a spiking network under time collapse, thresholds kept, without data.

    It takes what the graph gets at each of T time-steps, averaged over them: an image that is shown all the time as it
    is. `pcsnn.set_timesteps` changes its T; `pcsnn.convert(network, T)` gives a copy at another. What `to_nir` wrote
    comes back with its potentials at first and its level counts, at its T.

    An IF node integrates r * I * dt, and loses its threshold with each spike, which for the neuron of NIR, whose time
    is continuous, is the same as being set to v_reset = 0. Its count is that of the mean current (6). Other software
    runs NIR in steps, and where a reset to zero forgets what is above the threshold, a network counts fewer spikes.

    Args:
        path_or_graph: a nir.NIRGraph, or the path of a file that nir.write made. Files are read without running
            anything in them or following links out of them.
        timesteps: T, 1..255; None: what the metadata of the graph says, as that of `to_nir` does, else 64.
        shift: the potential at first, in units of the threshold; None: as the metadata of an IF node says, else at
            rest, 0. At half a threshold, 0.5, rates are rounded to the nearest, where at rest they are rounded down.
        dt: the length of a time-step in the unit of the graph's time; SpikingJelly writes r = 1 / dt, 1e4 by default.
        dtype: of weights, float32 or float64.

    Returns:
        A SpikingNetwork of as many inputs [N, *shape] and outputs as the graph has Input and Output nodes, in their
        order. Its layers have the names of the nodes, with "_" for what is no letter or digit.
        `network.meta["timesteps"]` is the T that the graph was written for, None where it does not say. A graph
        without neurons is a network without spikes.

    Raises:
        ImportError: the package nir is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: no NIR graph; nodes or edges that are missing, form a cycle, or whose shapes do not fit;
            neurons that leak, reset elsewhere than at zero or are of a kind that is not known: the message names the
            node, and nothing has been computed.
    """
    if timesteps is not None:
        checks.timesteps(timesteps)
    if shift is not None:
        checks.number("shift", shift)
    checks.number("dt", dt)
    if dt <= 0:
        raise ValueError(f"dt: expected a number above zero, got {dt}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    graph = files.read(path_or_graph)
    written_for = _timesteps(graph.metadata)
    if timesteps is None:
        timesteps = DEFAULT_TIMESTEPS if written_for is None else written_for
        if timesteps not in range(1, checks.MAX_TIMESTEPS + 1):
            raise files.Refused(
                f"metadata: timesteps: expected 1..{checks.MAX_TIMESTEPS}, got {timesteps}; give another"
            )
    network = _network(graph, dt, shift)
    fold_scales(network)
    return _spiking(network.to(dtype).requires_grad_(False).eval(), timesteps, {"timesteps": written_for})


def _spiking(network, timesteps, meta):
    """The network with neurons in the places of IntegrateFire, if there are any."""
    if any(isinstance(module, IntegrateFire) for module in network.modules()):
        snn = convert(network, timesteps)
        network, report = snn.network, snn.report
    else:
        network = trace(network)
        canonicalise(network, signed=False)
        report = Report("none", timesteps, classify(network)[0])
    for row in report.rows:
        row.location = ""  # lines of code that torch.fx made up
    for node in network.graph.nodes:
        node.meta["location"] = ""
    return ImportedNetwork(network, report, meta)


def _timesteps(metadata):
    value = metadata.get("timesteps")
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        raise files.Refused(f"metadata: timesteps: expected an integer, got {value!r}") from None


def _network(nir_graph, dt, shift):
    root, graph, values, shapes = nn.Module(), fx.Graph(), {}, {}
    order = structure.ordered(nir_graph)
    for node in nir_graph.of_kind("Input"):
        shapes[node.name] = fields.extents(node, "shape")
        values[node.name] = graph.placeholder(_argument(_unused(root, node.name)))
    for node, sources in order:
        if node.kind == "Input":
            continue
        shape = shapes[sources[0]]
        for source in sources[1:]:
            if shapes[source] != shape:
                node.refuse(
                    f"adds up values of other shapes, {list(shape)} from {sources[0]} and "
                    f"{list(shapes[source])} from {source}"
                )
        value = values[sources[0]]
        for source in sources[1:]:
            value = graph.call_function(operator.add, (value, values[source]))
        if node.kind == "Output":
            fields.expect(node, shape, fields.extents(node, "shape"), "its type")
            values[node.name] = value
            continue
        layer = layers.layer(node, shape, dt, shift)
        name = _unused(root, node.name)
        root.add_module(name, layer.module)
        if layer.flat:
            value = graph.call_function(torch.flatten, (value, 1))
        value = graph.call_module(name, (value,))
        if layer.flat:
            value = graph.call_function(torch.unflatten, (value, 1, layer.shape))
        values[node.name], shapes[node.name] = value, layer.shape
    outputs = tuple(values[node.name] for node in nir_graph.of_kind("Output"))
    graph.output(outputs[0] if len(outputs) == 1 else outputs)
    return fx.GraphModule(root, graph, "NIRGraph")


def _argument(name):
    """The name of an input as one that an argument can have."""
    return f"input_{name}" if name == "self" or keyword.iskeyword(name) or not name.isidentifier() else name


def _unused(root, wanted):
    """The name of a node as one that a module can have; a name in a file must not become code of the network."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", wanted) or "_"
    plain, count = name, 0
    while hasattr(root, name) or hasattr(_GRAPH_MODULE, name):
        count += 1
        name = f"{plain}_{count}"
    return name
