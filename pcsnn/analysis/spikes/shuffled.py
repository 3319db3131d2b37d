"""The paper's shuffled trains: the order of the spikes must not matter to the layers behind (13)."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from pcsnn.analysis.quality.errors import relative
from pcsnn.analysis.spikes.recording import record
from pcsnn.analysis.spikes.trains import random_order
from pcsnn.baselines.packed_network import PackedNetwork
from pcsnn.data.batches import Batches, run_through
from pcsnn.data.inputs import required_inputs
from pcsnn.network.network import SpikingNetwork, check_unfused
from pcsnn.network.text_table import table
from pcsnn.tensors.arithmetic import per_channel

DTYPES = (torch.float64, torch.float32)
ROUNDING = 1024  # how many units in the last place the outputs may be apart, relative to their norm


@dataclass
class ShuffledLayer:
    """One layer, fed shuffled trains, over all samples.

    Attributes:
        name: of the layer.
        counted: how many counts were compared.
        different: how many of them are not those of the collapsed network.
        largest: the largest difference of a count.
    """

    name: str
    counted: int
    different: int
    largest: int


@dataclass
class ShuffleCheck:
    """What `check_shuffle` found: `rows` in execution order; str() is a table.

    Attributes:
        orders: {layer name: int64 [T]} that the trains were in.
        output_error: norm of the difference of the outputs over the norm of the collapsed network's.
        tolerance: the output error up to which outputs count as the same; sums round in another order.
        dtype: what was computed in.
    """

    orders: dict[str, torch.Tensor]
    output_error: float
    tolerance: float
    dtype: torch.dtype
    rows: list[ShuffledLayer] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether no count differs in any layer, and the outputs are the same up to rounding."""
        return not any(row.different for row in self.rows) and self.output_error <= self.tolerance

    def __str__(self):
        cells = [("layer", "counts compared", "different", "by at most", "order of the steps")]
        for row in self.rows:
            order = self.orders[row.name].tolist()
            shown = " ".join(map(str, order[:8])) + (" ..." if len(order) > 8 else "")
            cells.append((row.name, f"{row.counted:,}", f"{row.different:,}", str(row.largest), shown))
        verdict, dtype = "same" if self.same else "NOT the same", str(self.dtype).removeprefix("torch.")
        footer = (
            f"{verdict} under shuffled trains, {dtype}; relative error of the output {self.output_error:.1e} "
            f"(rounding: up to {self.tolerance:.1e})"
        )
        return "\n".join([*table(cells), footer])


class _Shuffled(torch.nn.Module):
    """Currents [T * N, ...] -> trains [T * N, ...] of the collapsed counts in a random order, times amplitude.

    What the currents make it fire is compared with `expected`, uint8 [N, ...], set before each pass.
    """

    def __init__(self, name, neuron, order):
        super().__init__()
        self.name, self.neuron, self.order = name, neuron, order
        self.expected = None
        self.counted = self.different = self.largest = 0

    def forward(self, current, residual=None):
        neuron = self.neuron
        if residual is not None:
            current = current + residual
        counts = neuron.counts_over_time(current.unflatten(0, (neuron.timesteps, -1)))
        apart = (counts.to(torch.int16) - self.expected.to(torch.int16)).abs()
        self.counted += apart.numel()
        self.different += int(apart.count_nonzero())
        self.largest = max(self.largest, int(apart.max()))
        shuffled = neuron.expand(self.expected, self.order)
        return (shuffled * per_channel(neuron.spike.to(current.dtype), self.expected.dim())).flatten(0, 1)

    def row(self):
        return ShuffledLayer(self.name, self.counted, self.different, self.largest)


def _squares(outputs, expected):
    """(of the difference, of what was expected) summed over all tensors of an output."""
    difference = total = 0.0
    for one, two in zip(tree_leaves(outputs), tree_leaves(expected), strict=True):
        if isinstance(two, torch.Tensor):
            difference += (one.double() - two.double()).square().sum().item()
            total += two.double().square().sum().item()
    return difference, total


@torch.no_grad()
def check_shuffle(
    snn: SpikingNetwork,
    data: Iterable[Any] | Dataset[Any],
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float64,
    progress: bool = True,
) -> ShuffleCheck:
    """Whether counts and outputs of a network stay what they are when every layer fires in a random order (13).

    The network runs collapsed, for its counts. Then every layer's counts become trains, permuted over time by an order
    of the layer's own, and the layers behind compute T synaptic operations, one for each step, sum their T currents and
    fire. Each layer gets the trains of the collapsed network's counts, so that a difference shows where it arises.

    What is guaranteed: counts are whole numbers and are compared for equality. Sums over time and synapses round in
    another order than the collapsed ones, so that a neuron whose current lies within rounding of a level may differ
    without being wrong: by accident only in float64, one neuron in millions in float32. Weights, amplitudes and inputs
    of few bits make all sums exact; then nothing may differ in either, and the output error is 0. Else outputs are the
    same up to rounding: `tolerance` is 1024 units of the dtype's precision.

    Args:
        snn: a SpikingNetwork without analog operations, not optimised; it is not changed: a copy in `dtype` runs.
        data: a tensor [N, ...] (taken in batches of 32), or an iterable of input tensors or of (input, label, ...).
            T times a batch is in memory at once.
        seed: of the orders.
        dtype: torch.float64 or torch.float32.
        progress: show a progress bar on a terminal.

    Returns:
        ShuffleCheck: `same`, and for each layer how many counts differ and by how much; str() a table.

    Raises:
        TypeError, ValueError: arguments of the wrong kind; an optimised network or one with analog operations; data
            that is empty, NaN or infinite.
    """
    check_unfused(snn)
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected {' or '.join(map(str, DTYPES))}, got {dtype}")
    orders: Any = random_order(snn.timesteps, seed, [name for name, _ in snn.neurons()])
    collapsed = copy.deepcopy(snn).to(dtype)
    layers = {}
    for name, neuron in collapsed.neurons():
        device = neuron.neuron.levels.device
        layers[neuron] = _Shuffled(name, neuron, orders[name].to(device))
    shuffled = PackedNetwork(collapsed, layers.__getitem__)
    sums = [0.0, 0.0]

    def both(*batch):
        batch = tree_map(lambda part: part.to(dtype) if part.is_floating_point() else part, batch)
        with record(collapsed) as recording:
            expected = collapsed(*batch)
        for layer in layers.values():
            layer.expected = recording.counts[layer.name]
        sums[:] = map(sum, zip(sums, _squares(shuffled(*batch), expected)))

    run_through(both, Batches(data, required_inputs(collapsed.network), device, "data"), "shuffling", progress)
    return ShuffleCheck(
        orders, relative(*sums), ROUNDING * torch.finfo(dtype).eps, dtype, [layer.row() for layer in layers.values()]
    )
