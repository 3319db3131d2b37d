"""NIR graphs as spiking networks."""

from __future__ import annotations

import keyword
import operator
import os
import re
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import fx, nn

from pcsnn.conversion import convert
from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.classify import classify
from pcsnn.conversion.spikingjelly.scales import fold_scales
from pcsnn.conversion.tracing.trace import trace
from pcsnn.exchange.nir import fields, files, layers, structure, uneven
from pcsnn.exchange.nir.neurons import RESETS
from pcsnn.exchange.nir.stepwise import SerialGraph, serial_graph
from pcsnn.network.imported import ImportedNetwork
from pcsnn.network.report import Report
from pcsnn.nn.integrate_fire import IntegrateFire
from pcsnn.tensors import checks

if TYPE_CHECKING:
    import nir

_GRAPH_MODULE = fx.GraphModule(nn.Module(), fx.Graph())


DEFAULT_TIMESTEPS = 64


@overload
def read_nir(
    path_or_graph: str | os.PathLike | nir.NIRGraph,
    timesteps: int | None = None,
    *,
    serial: Literal[False] = False,
    shift: float | None = None,
    dt: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> ImportedNetwork: ...


@overload
def read_nir(
    path_or_graph: str | os.PathLike | nir.NIRGraph,
    timesteps: int | None = None,
    *,
    serial: bool,
    shift: float | None = None,
    dt: float | None = None,
    dtype: torch.dtype = torch.float32,
    reset: str | None = None,
) -> ImportedNetwork | SerialGraph: ...


def read_nir(
    path_or_graph: str | os.PathLike | nir.NIRGraph,
    timesteps: int | None = None,
    *,
    serial: bool = False,
    shift: float | None = None,
    dt: float | None = None,
    dtype: torch.dtype = torch.float32,
    reset: str | None = None,
) -> ImportedNetwork | SerialGraph:
    """A graph of NIR as a spiking network under time collapse, thresholds kept, without data.

    It takes what the graph gets at each of T time-steps, averaged over them: an image that is shown all the time as it
    is. `pcsnn.set_timesteps` changes its T; `pcsnn.convert(network, T)` gives a copy at another. What `to_nir` wrote
    comes back with its potentials at first and its level counts, at its T.

    An IF node integrates r * I * dt, and loses its threshold with each spike, which for the neuron of NIR, whose time
    is continuous, is the same as being set to v_reset = 0. Its count is that of the mean current (6). Other software
    runs NIR in steps, and where a reset to zero forgets what is above the threshold, a network counts fewer spikes.

    Neurons whose count does not follow from the mean current are refused; `serial=True` runs them step by step.

    Args:
        path_or_graph: a nir.NIRGraph, or the path of a file that nir.write made. Files are read without running
            anything in them or following links out of them.
        timesteps: T, 1..255; None: what the metadata of the graph says, as that of `to_nir` does, else 64.
        serial: give a `SerialGraph`, T passes over the graph, which knows leaks, resets to a potential, loops of one
            layer of neurons, delays of whole steps, and nodes that give potentials too; its docstring says what a step
            is.
        shift: the potential at first of IF nodes, in units of the threshold; None: as their metadata say, else at
            rest, 0. At half a threshold, 0.5, rates are rounded to the nearest, where at rest they are rounded down.
        dt: the length of a time-step in the unit of the graph's time; SpikingJelly writes r = 1 / dt, 1e4 by default.
            None: 1; 1e-4, as the NIR paper, snnTorch and Norse take, where nodes have time constants.
        dtype: of weights, float32 or float64.
        reset: with `serial`, what a spike does to neurons whose metadata do not say: "subtract" takes the threshold
            away, "zero" sets them to v_reset; None: subtract for IF of v_reset = 0, else to v_reset.

    Returns:
        A SpikingNetwork of as many inputs [N, *shape] and outputs as the graph has Input and Output nodes, in their
        order. Its layers have the names of the nodes, with "_" for what is no letter or digit.
        `network.meta["timesteps"]` is the T that the graph was written for, None where it does not say. A graph
        without neurons is a network without spikes. With `serial` a SerialGraph.

    Raises:
        ImportError: the package nir is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: no NIR graph; nodes or edges that are missing, form a cycle, or whose shapes do not fit;
            neurons that leak, reset elsewhere than at zero or are of a kind that is not known; with `serial`, a step
            longer than a time constant, a delay that is no whole number of steps, loops of several layers of neurons:
            the message names the node, and nothing has been computed.
    """
    _check(timesteps, serial, shift, dt, dtype, reset)
    graph = files.read(path_or_graph)
    written_for = _timesteps(graph.metadata)
    if timesteps is None:
        timesteps = DEFAULT_TIMESTEPS if written_for is None else written_for
        if timesteps not in range(1, checks.MAX_TIMESTEPS + 1):
            raise files.Refused(
                f"metadata: timesteps: expected 1..{checks.MAX_TIMESTEPS}, got {timesteps}; give another"
            )
    if serial:
        return serial_graph(graph, timesteps, dt, shift, reset, dtype)
    network = _network(uneven.gathered(graph), 1.0 if dt is None else dt, shift)
    fold_scales(network)
    return _spiking(network.to(dtype).requires_grad_(False).eval(), timesteps, {"timesteps": written_for})


def _check(timesteps, serial, shift, dt, dtype, reset):
    if timesteps is not None:
        checks.timesteps(timesteps)
    if not isinstance(serial, bool):
        raise TypeError(f"serial: expected a bool, got {type(serial).__name__}")
    if shift is not None:
        checks.number("shift", shift)
    if dt is not None:
        checks.number("dt", dt)
        if dt <= 0:
            raise ValueError(f"dt: expected a number above zero, got {dt}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    if reset not in (None, *RESETS):
        raise ValueError(f"reset: expected None, {' or '.join(map(repr, RESETS))}, got {reset!r}")
    if reset is not None and not serial:
        raise ValueError("reset: goes with serial=True; under time collapse a spike takes the threshold away")


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
        shape = fields.incoming(node, sources, shapes)
        value = values[sources[0]]
        for source in sources[1:]:
            value = graph.call_function(operator.add, (value, values[source]))
        if node.kind == "Output":
            fields.expect_output(node, shape)
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
