"""The metrics of NeuroBench, of a converted network in its executions.

Source: "The neurobench framework for benchmarking neuromorphic computing algorithms and systems" (Nature Communications
16, 2025); definitions are those of the package neurobench 2.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from pcsnn.analysis.costs import fan_out
from pcsnn.baselines.packed_network import PackedNeuron, packed
from pcsnn.baselines.serial_network import SerialIF, serial
from pcsnn.data.batches import Batches, show
from pcsnn.data.inputs import count, required_inputs
from pcsnn.graph import taxonomy
from pcsnn.graph.places import argument
from pcsnn.graph.taxonomy import Role, role
from pcsnn.network.network import SpikingNetwork, check_unfused
from pcsnn.nn.neuron import Spiking

EXECUTIONS = ("serial", "packed", "collapsed")
_PASSING = taxonomy.MOVES | {Role.MAX_POOL, Role.MAXIMUM, Role.CAST, Role.ATTRIBUTE}
_NEURONS = (PackedNeuron, SerialIF, Spiking)


@dataclass(frozen=True)
class NeuroBenchMetrics:
    """What NeuroBench 2 reports of a network.

    Attributes:
        footprint: bytes of the SpikingNetwork's parameters and buffers, tables of levels among them.
        connection_sparsity: share of the weights of convolutions and linear layers that are 0.
        activation_sparsity: share of the neurons' outputs that are 0, over all steps, layers and images.
        effective_macs: synaptic operations an image whose operand is a number: neither it nor the weight is 0.
        effective_acs: those whose operand is a spike of value 1 or -1.
        dense: all synaptic operations an image, those with zeros too.
    """

    footprint: int
    connection_sparsity: float
    activation_sparsity: float
    effective_macs: float
    effective_acs: float
    dense: float

    def as_dict(self) -> dict[str, Any]:
        """The result of neurobench.benchmarks.Benchmark.run: its names, its rounding."""
        return {
            "Footprint": self.footprint,
            "ConnectionSparsity": round(self.connection_sparsity, 4),
            "ActivationSparsity": self.activation_sparsity,
            "SynapticOperations": {
                "Effective_MACs": self.effective_macs,
                "Effective_ACs": self.effective_acs,
                "Dense": self.dense,
            },
        }


def _pads_with_zeros(node, module):
    if module is None:
        return argument(node, 2, "mode", "constant") != "constant" or argument(node, 3, "value", 0) in (None, 0)
    return getattr(module, "value", 0) == 0


class _Reading(fx.Interpreter):
    """Passes over a network that tally what enters its synapses and leaves its neurons.

    Attributes:
        tally: operations by kind, and neurons' outputs.
        stepped: whether values are those of time-steps, so that what comes of one neuron layer is spikes.
    """

    def __init__(self, network, stepped):
        super().__init__(network)
        self.tally, self.stepped = Counter(), stepped
        self._modules, self._spikes = dict(network.named_modules()), {}

    def run_node(self, node):
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = self._modules[node.target] if node.op == "call_module" else None
        value = super().run_node(node)
        found = None if node.op in ("placeholder", "get_attr", "output") else role(node, self._modules)
        if isinstance(module, _NEURONS):
            self.tally["outputs"] += value.numel()
            self.tally["fired"] += int(value.count_nonzero())
        elif found is Role.SYNAPSE:
            self._synapse(node, module, args, kwargs)
        self._spikes[node] = self._of_spikes(node, module, found, value)
        return value

    def _of_spikes(self, node, module, found, value):
        """Whether a value is binary spikes of one train an element; None for what holds no tensor."""
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            return None
        if isinstance(module, _NEURONS):
            neuron = module.neuron if isinstance(module, PackedNeuron) else module
            return self.stepped and neuron.spike_levels == 1
        sources = [self._spikes.get(source) for source in node.all_input_nodes]
        known = [source for source in sources if source is not None]
        passing = found in _PASSING and (found is not Role.PAD or _pads_with_zeros(node, module))
        return passing and bool(known) and all(known)

    def _synapse(self, node, module, args, kwargs):
        x = args[0] if args else kwargs["input"]
        source = node.args[0] if node.args else node.kwargs["input"]
        weight = module.weight if module is not None else (args[1] if len(args) > 1 else kwargs["weight"])
        connected = weight.ne(0)

        def through(plane, connected):
            if module is not None:
                return fan_out.through_module(module, plane, connected)
            options = fan_out.options_of(node.target, args, kwargs)
            return fan_out.through_function(node.target, plane, weight, options, connected)

        spikes = self._spikes[source] or bool(((x == 0) | (x.abs() == 1)).all())
        every = None if bool(connected.all()) else connected.double()
        self.tally["acs" if spikes else "macs"] += round(through(x.ne(0).double(), every))
        self.tally["dense"] += round(through(torch.ones_like(x, dtype=torch.float64), None))


def _readings(snn, executions):
    """{execution: (its _Reading, how inputs run through it)}."""
    timesteps, found = snn.timesteps, {}

    def once(reading, inputs):
        reading.run(*inputs)

    def in_the_batch(reading, inputs):
        reading.run(*tree_map(lambda value: value.repeat(timesteps, *[1] * (value.dim() - 1)), inputs))

    def by_step(reading, inputs):
        stepwise.reset()
        for _ in range(timesteps):
            reading.run(*inputs)
        stepwise.reset()

    for execution in executions:
        if execution == "serial":
            stepwise = serial(snn)
            found[execution] = _Reading(stepwise.network, True), by_step
        elif execution == "packed":
            found[execution] = _Reading(packed(snn).network, True), in_the_batch
        else:
            found[execution] = _Reading(snn.network, False), once
    return found


def _weights(snn):
    """The weights of a network's synapses, each once."""
    modules, parameters = dict(snn.network.named_modules()), dict(snn.network.named_parameters())
    found = {}
    for node in snn.network.graph.nodes:
        if node.op == "call_module" and role(node, modules) is Role.SYNAPSE:
            found[node.target] = modules[node.target].weight
        elif node.op == "call_function" and role(node, modules) is Role.SYNAPSE:
            weight = argument(node, 1, "weight", None)
            if isinstance(weight, fx.Node) and weight.target in parameters:
                found[weight.target] = parameters[weight.target]
    return list(found.values())


@torch.no_grad()
def neurobench_metrics(
    snn: SpikingNetwork, data: Tensor | Iterable, *, executions: Sequence[str] = EXECUTIONS, progress: bool = True
) -> dict[str, NeuroBenchMetrics]:
    """NeuroBench's metrics of a converted network: what its package reports where it can read the execution.

    NeuroBench looks at the tensors that enter layers at each time-step. Here, as there, the image enters at every step;
    a layer all of whose inputs are 0, 1 or -1 accumulates (ACs), others multiply (MACs), for each input and weight that
    are not 0. A spike is 1 whatever it is worth, since that goes into the weight behind; sums of trains, averages, and
    spikes of several levels are numbers. Batch norms that are not folded count nowhere, as there: fold them
    (`pcsnn.convert(..., fold=True)`). `count_operations` differs: see docs/operations.md.

    Args:
        snn: a SpikingNetwork, not optimised; for "serial" and "packed" without analog operations, for "serial" without
            signed neurons. It is not changed.
        data: what `pcsnn.convert` takes as calibration. It is read once.
        executions: some of "serial" (integrate-and-fire step by step), "packed" (the parallel neurons' spikes of all
            steps) and "collapsed" (rates, one pass).
        progress: show a progress bar on a terminal.

    Returns:
        {execution: NeuroBenchMetrics}; `as_dict()` has NeuroBench's names.

    Raises:
        TypeError, ValueError: not a SpikingNetwork, an optimised one, an execution that is not there; empty, NaN or
            infinite data.
    """
    check_unfused(snn)
    executions = [executions] if isinstance(executions, str) else list(executions)
    if not executions or set(executions) - set(EXECUTIONS):
        raise ValueError(f"executions: expected some of {', '.join(EXECUTIONS)}, got {executions!r}")
    readings, images = _readings(snn, executions), 0
    device = next(neuron.levels.device for _, neuron in snn.neurons())
    batches = Batches(data, required_inputs(snn.network), device, "data")
    for inputs in show(batches, "reading for NeuroBench", progress):
        for reading, run in readings.values():
            run(reading, inputs)
        images += count(inputs)
    footprint = sum(part.numel() * part.element_size() for part in (*snn.parameters(), *snn.buffers()))
    weights = _weights(snn)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    sparsity = zeros / sum(weight.numel() for weight in weights) if weights else 0.0
    return {
        execution: NeuroBenchMetrics(
            footprint,
            sparsity,
            1 - reading.tally["fired"] / reading.tally["outputs"] if reading.tally["outputs"] else 0.0,
            reading.tally["macs"] / images,
            reading.tally["acs"] / images,
            reading.tally["dense"] / images,
        )
        for execution, (reading, _) in readings.items()
    }
