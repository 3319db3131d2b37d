"""Converted networks as graphs of NIR, the Neuromorphic Intermediate Representation (package nir).

NIR's IF neuron is set to a fixed potential when it fires and starts there; ours lose the threshold and start at a
share of it. NIR has no field for either, so metadata of the IF nodes says it: `reset` is "subtract", `v_initial` the
potential before the first step, of the shape of v_threshold, and `fires` is ">=". The graph's metadata has
`timesteps`, T: the input is given at every step, and outputs are averaged over them.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcsnn.baselines.rebuild import with_neurons
from pcsnn.exchange.nir.files import package
from pcsnn.exchange.nir.nodes import Builder
from pcsnn.graph.fold import fold_batch_norms
from pcsnn.graph.nodes import shapes
from pcsnn.network.network import SpikingNetwork, check_unfused
from pcsnn.tensors import checks

if TYPE_CHECKING:
    import nir


def to_nir(snn: SpikingNetwork, sample: Tensor, *, uneven: str = "refuse") -> nir.NIRGraph:
    """A converted network as a nir.NIRGraph: serial IF neurons; batch norms and amplitudes folded into synapses.

    What `pcsnn.baselines.serial(snn)` computes, in NIR's terms: run for T steps with soft reset from the potential in
    the metadata (see the module's docstring), the graph gives that network's spikes, up to rounding of folded weights.
    Write it with nir.write(path, graph).

    Convolutions (1d, 2d), linear layers, average pools, flattening, sums of branches and products with numbers have a
    form in NIR; offsets of calibration are added to biases.

    Args:
        snn: a SpikingNetwork that `pcsnn.convert` made, of one input, on any device; it is not changed.
        sample: an input [N, ...], whose shape the graph is made for.
        uneven: what becomes of levels that calibration bent (C3), as "quick", "light" and "advanced" do at T <= 16:
            "refuse", or "parallel", T IF nodes side by side with a threshold for each level, whose spikes add up. Each
            starts at rest, and its v_reset lies so low that it fires once. Under a steady current they send as many
            spikes as levels are reached; T times the neurons are the price. `read_nir` makes one layer of them again.

    Returns:
        nir.NIRGraph, parameters of the dtype of the network.

    Raises:
        ImportError: the package nir is not installed.
        TypeError: not a SpikingNetwork; a sample that is not a tensor.
        ValueError: optimised; spikes of several levels, which are not binary; or it holds what NIR cannot (max pools,
            bent levels unless `uneven` says so, attention, ...): the message names the layer.
    """
    if uneven not in ("refuse", "parallel"):
        raise ValueError(f"uneven: expected 'refuse' or 'parallel', got {uneven!r}")
    checks.tensor("sample", sample, min_dim=2)
    check_unfused(snn)
    _check_binary(snn)
    network = with_neurons(snn, lambda neuron: neuron)
    package_nir = package("to_nir")
    network = copy.deepcopy(network).cpu()
    inputs = [node for node in network.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"snn: expected a network of one input, got {len(inputs)}")
    fold_batch_norms(network)
    found = shapes(network, sample.cpu()[:1])
    builder, values = Builder(package_nir, _dtype(snn), uneven == "parallel"), {}
    for node in network.graph.nodes:
        if node in found or node.op == "output":
            known = {source: values[source] for source in node.all_input_nodes if source in values}
            values[node] = builder.visit(node, network, known, found.get(node, ())[1:])
    return package_nir.NIRGraph(builder.nodes, builder.edges, metadata={"timesteps": snn.timesteps})


def _dtype(snn):
    """That of the neurons; of a network without any, as `read_nir` may give, that of the parameters."""
    known = (neuron.levels.dtype for _, neuron in snn.neurons())
    return next(known, next((parameter.dtype for parameter in snn.parameters()), torch.float32))


def _check_binary(snn):
    """ValueError where a time-step sends more than one spike of a neuron."""
    several = max((neuron.spike_levels for _, neuron in snn.neurons()), default=1)
    if several > 1:
        raise ValueError(
            f"snn: expected binary spikes, spike_levels = 1, as IF nodes of NIR send, got {several}; "
            f"pcsnn.set_timesteps(snn, {snn.timesteps * several}, 1) has the same rates by binary spikes"
        )
