"""Operations, memory traffic and energy of a network in its executions, from the spikes really fired."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from pcsnn.analysis.costs.coding import Coding, ways
from pcsnn.analysis.costs.results import ByExecution, Count, LayerOperations, Operations, executions_of
from pcsnn.analysis.costs.walks import PackedWalk, RateWalk, SerialWalk
from pcsnn.baselines.serial_network import serial
from pcsnn.data.batches import Batches, show
from pcsnn.data.inputs import count, required_inputs
from pcsnn.network.network import SpikingNetwork, check_unfused


class _Totals:
    """Sums over all passes."""

    def __init__(self, network, executions):
        self._executions = executions
        self._layers = {node.name: None for node in network.graph.nodes}
        self._uncounted = {}

    def add(self, walk, inputs, first=True):
        """Run a pass; what runs once is counted in the first of several."""
        walk.run(*inputs)
        self._uncounted.update(dict.fromkeys(walk.uncounted))
        for key, (name, kind, detail, once, spent) in walk.spent.items():
            if self._layers[key] is None:
                self._layers[key] = LayerOperations(
                    name, kind, detail, once, {execution: Counter() for execution in self._executions}
                )
            for execution, counter in spent.items():
                if first or not once:
                    counts = self._layers[key].counts[execution]
                    counts.update(counter)
                    counts["bits"] += count(inputs) * counts.pop("parameters", 0)  # read anew for each image

    def result(self, timesteps, spike_levels, images):
        def count(counter):
            per_image = {name: amount / images for name, amount in counter.items()}
            return Count(bytes=per_image.pop("bits", 0) / 8, **per_image)

        layers = [
            dataclasses.replace(layer, counts=ByExecution((name, count(spent)) for name, spent in layer.counts.items()))
            for layer in self._layers.values()
            if layer is not None
        ]
        return Operations(timesteps, images, layers, list(self._uncounted), spike_levels)


@torch.no_grad()
def count_operations(snn: SpikingNetwork, data: Tensor | Iterable, *, progress: bool = True) -> Operations:
    """Additions, multiplications, comparisons and memory traffic of each layer, per image, in its executions:

    - "serial": integrate-and-fire step by step (2): T synaptic passes, 2 T additions and T comparisons a neuron.
    - "packed": the paper's form (3)-(9), all T steps in one batch through [T, N] neurons: T synaptic passes, T
      additions and ceil(log2(T D + 1)) comparisons a neuron. "parallel" is the older name, which results still find.
    - "collapsed": one synaptic pass on rates (11), ceil(log2(T D + 1)) comparisons and one multiplication a neuron.
      That is the search in any table of levels; where levels are evenly spaced the kernels guess and compare once (9).
    - "float": the network that was converted, in the form of `snn` (batch norms folded or not): multiply-accumulates,
      one comparison an activation.

    In the serial and the packed execution a synapse works on the spikes really fired, those of serial
    integrate-and-fire and the parallel neuron's: an addition for each target of each spike, none beyond the borders.
    What reads numbers (the image, sums of windows, sums with a current) multiplies and adds at every step; what depends
    on the image alone runs once, and is apart (`LayerOperations.once`, `Count.input_macs`).

    Spikes of several levels, D > 1 (22), are sent in two ways, so that there are two executions more. "serial" and
    "packed" send n = D.bit_length() binary planes a step: an addition for each target of each bit that is 1. "serial
    integers" (I-LIF) and "packed integers" send one integer a step: a multiply-accumulate for each target of each that
    is not 0 (`Count.spike_macs`). A serial neuron takes n comparisons a step. See docs/operations.md for every
    convention.

    Args:
        snn: a SpikingNetwork, not optimised, without analog operations; it runs on its device and is not changed.
        data: what `pcsnn.convert` takes as calibration: a tensor [N, ...], or an iterable of input tensors or of
            (input, label, ...). It is read once. The serial network makes T passes over each batch, where D > 1 twice.
        progress: show a progress bar on a terminal.

    Returns:
        Operations: `executions`, `layers`, `total(execution)`, `energy()`, `table()`, `as_dict()`, `save(path)`.

    Raises:
        TypeError, ValueError: not a SpikingNetwork, an optimised one, one with analog operations; empty, NaN or
            infinite data.
    """
    check_unfused(snn)
    stepwise = serial(snn)
    device = next(neuron.levels.device for _, neuron in snn.neurons())
    timesteps, levels = snn.timesteps, snn.spike_levels
    totals, images = _Totals(snn.network, executions_of(levels)), 0
    batches = Batches(data, required_inputs(snn.network), device, "data")
    for inputs in show(batches, "counting operations", progress):
        totals.add(RateWalk(snn.network, Coding()), inputs)
        for integers in ways(levels):
            totals.add(PackedWalk(snn.network, Coding(timesteps, levels, integers)), inputs)
            stepwise.reset()
            for step in range(timesteps):
                totals.add(SerialWalk(stepwise.network, Coding(1, levels, integers)), inputs, step == 0)
        images += count(inputs)
    return totals.result(timesteps, levels, images)
