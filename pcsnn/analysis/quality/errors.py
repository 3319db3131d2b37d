"""Where the error of a converted network comes from, layer after layer."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from pcsnn.analysis import plots
from pcsnn.analysis.quality.renamed import formerly
from pcsnn.analysis.watch import watch
from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.channels import has_channels
from pcsnn.conversion.classify import classify
from pcsnn.conversion.tracing.trace import trace
from pcsnn.data.batches import Batches, run_through
from pcsnn.data.inputs import required_inputs
from pcsnn.graph import taxonomy
from pcsnn.graph.fold import fold_batch_norms
from pcsnn.network.network import SpikingNetwork, check_unfused
from pcsnn.network.report import steps_in_words
from pcsnn.network.text_table import table
from pcsnn.tensors.arithmetic import add_residual, per_channel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class LayerError:
    """One layer: its name in the spiking network; relative errors; shares of its channels and outputs, 0..1."""

    name: str
    current: float
    rate: float
    clipping: float
    rounding: float
    propagated: float
    dead: float
    saturated: float


@dataclass
class LayerErrors:
    """The errors of a spiking network: `rows` in execution order; str() is a table; its method, T and D."""

    method: str
    timesteps: int
    rows: list[LayerError] = field(default_factory=list)
    spike_levels: int = 1

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [
            ("layer", "current", "rate", "clipping", "rounding", "propagated", "dead", "saturated")
        ]
        for row in self.rows:
            errors = (row.current, row.rate, row.clipping, row.rounding, row.propagated)
            cells.append(
                (
                    row.name,
                    *(f"{error:.4f}" for error in errors),
                    *(f"{100 * share:5.1f} %" for share in (row.dead, row.saturated)),
                )
            )
        steps = steps_in_words(self.timesteps, self.spike_levels)
        footer = f"relative errors (RMS) against the float network; method {self.method}, {steps}"
        return "\n".join([*table(cells), footer])

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """The table as a picture: a matplotlib Figure, written to `path` too if given. Needs the extra [plots]."""
        return plots.draw_layer_errors(self, path)


def float_network(model, signed=False):
    """(the canonical graph of a copy of a float network in evaluation mode, how many inputs it takes)."""
    if isinstance(model, SpikingNetwork) or not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected the float network, a torch.nn.Module, got {type(model).__name__}")
    network = trace(model)
    canonicalise(network, signed)
    return network, required_inputs(network)


def relative(squares, reference_squares):
    """sqrt(squares / reference_squares): 0 for 0 / 0, infinity where only the reference is 0."""
    if reference_squares == 0:
        return 0.0 if squares == 0 else math.inf
    return math.sqrt(squares / reference_squares)


def _batch_norms(network):
    return {
        node.target
        for node in network.graph.nodes
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), taxonomy.BATCH_NORMS)
    }


def _first_parameter(module):
    return next((tensor for tensor in module.parameters() if tensor.is_floating_point()), None)


class _Layer:
    """Running sums over one layer. The float network runs first, then the spiking one, batch by batch."""

    def __init__(self, name, activation, neuron, channels):
        self.name, self.activation, self.neuron, self.channels = name, activation, neuron, channels
        self.squares = dict.fromkeys(("z", "a", "current", "rate", "clipping", "rounding", "propagated"), 0.0)
        self.outputs = self.saturated = 0
        self.fired = None
        self.z = self.a = None

    def see_float(self, activation, arguments, output):
        self.z, self.a = arguments[0], output

    def see_spiking(self, neuron, arguments):
        """Runs before the neuron, which may write over its current."""
        current, residual = arguments if len(arguments) == 2 else (*arguments, None)
        student = add_residual(current, residual, None)
        if student.shape != self.z.shape:
            raise ValueError(
                f"model: expected the source of snn, whose {self.name} has currents {tuple(student.shape)}, "
                f"got {tuple(self.z.shape)}"
            )
        counts = neuron.counts(*arguments)
        rate = neuron.rates_of(counts, current.dtype).double()
        target = self.activation.forward(student).double()
        z, a = self.z.double(), self.a.double()
        self.z = self.a = None
        least, most = (per_channel(end, target.dim()) for end in neuron.range())
        outside = (target < least) | (target > most)
        own = rate - target
        parts = {
            "z": z,
            "a": a,
            "current": student.double() - z,
            "rate": rate - a,
            "propagated": target - a,
            "clipping": own.where(outside, 0),
            "rounding": own.where(~outside, 0),
        }
        for key, part in parts.items():
            self.squares[key] += part.square().sum().item()
        self.outputs += counts.numel()
        self.saturated += int((counts == neuron.levels.shape[-1]).sum())
        dimension = 0 if counts.dim() < 2 else 1 if self.channels else counts.dim() - 1
        fired = counts.movedim(dimension, 0).flatten(1).any(1) if counts.dim() > 1 else counts.any()[None]
        self.fired = fired if self.fired is None else self.fired | fired

    def row(self):
        for whose, key in (("model", "a"), ("model", "z"), ("snn", "current"), ("snn", "rate")):
            if not math.isfinite(self.squares[key]):
                raise ValueError(f"{whose}: {self.name} reaches NaN or infinity on the data")
        errors = {
            key: relative(self.squares[key], self.squares["a"])
            for key in ("rate", "clipping", "rounding", "propagated")
        }
        return LayerError(
            self.name,
            relative(self.squares["current"], self.squares["z"]),
            **errors,
            dead=1 - self.fired.double().mean().item(),
            saturated=self.saturated / self.outputs,
        )


def _layers(network, snn):
    """The layers of both, in execution order. Folds the batch norms of `network` where those of `snn` are folded."""
    if _batch_norms(network) != _batch_norms(snn.network):
        fold_batch_norms(network)
    classify(network)
    places = {node.target: node for node in network.graph.nodes if node.meta.get("activation")}
    neurons = dict(snn.neurons())
    if list(places) != list(neurons):
        raise ValueError(
            f"model: expected the source of snn, with activations at {', '.join(neurons)}, "
            f"got {', '.join(places) or 'none'}"
        )
    modules = dict(network.named_modules())
    return [
        _Layer(name, modules[name], neuron, has_channels(places[name].args[0], modules))
        for name, neuron in neurons.items()
    ]


@formerly(model="net")
@torch.no_grad()
def layer_errors(
    model: torch.nn.Module, snn: SpikingNetwork, data: Iterable | Dataset, *, progress: bool = True
) -> LayerErrors:
    """Errors of every spiking layer against the float network, split by their cause.

    Per neuron layer, with z the input current of the activation in the float network, z' that of the neuron in the
    spiking one (residual branches included, the neuron's own offset not), a the float activation (ReLU, clipped ReLU,
    QCFS), n the neuron and A its amplitude, the error of its rate is, element by element, the sum of three:

        n(z') - a(z) = propagated + clipping + rounding
        propagated   = a(z') - a(z)       what earlier layers did to the current
        clipping     = n(z') - a(z')      where a(z') lies outside [0, A], which no spike count can represent; else 0
        rounding     = n(z') - a(z')      where a(z') lies inside [0, A]; else 0

    A signed neuron represents what lies between its least and its largest rate instead of [0, A].

    So clipping^2 + rounding^2 is the square of what the neuron itself adds. All is reported as relative RMS over all
    elements of all batches: `current` is |z' - z| / |z|; `rate`, `propagated`, `clipping`, `rounding` are divided by
    |a(z)| (norms; 0 / 0 is 0, anything else / 0 infinite). Propagated errors may cancel the others or add to them: the
    square of `rate` differs from the sum of the three squares by 2 <propagated, clipping + rounding> / |a(z)|^2.

    `dead`: share of the channels of which no neuron fires once over the data. A channel is an index of dimension 1
    ([N, C, ...]), or of the last dimension where dimension 1 is none (a linear layer over tokens).
    `saturated`: share of all outputs whose spike count is T D.

    Args:
        model: the float network `snn` was converted from; it is not changed. It runs in evaluation mode, rewritten as
            `pcsnn.convert` does (max pools behind the activations, batch norms folded where those of `snn` are).
        snn: a SpikingNetwork; both run on its device.
        data: what `pcsnn.convert` takes as calibration: a tensor [N, ...], or an iterable of input tensors or of
            (input, label, ...). It is read once, batch by batch, into float64 sums; only a one-shot iterator is
            kept in memory.
        progress: show a progress bar on a terminal.

    Returns:
        LayerErrors: `rows` in execution order, str() a table, `plot(path)` a picture.

    Raises:
        TypeError, ValueError: arguments of the wrong kind; a `model` whose activations have other names, whose currents
            have other shapes or whose parameters have another dtype than those of `snn`; empty, NaN or infinite data; a
            network that reaches NaN or infinity.
    """
    check_unfused(snn)
    network, inputs = float_network(model, any(layer.neuron.spike_range[0] < 0 for _, layer in snn.neurons()))
    ours, theirs = _first_parameter(network), _first_parameter(snn)
    if ours is not None and theirs is not None and ours.dtype != theirs.dtype:
        raise ValueError(f"model: expected parameters of dtype {theirs.dtype} like those of snn, got {ours.dtype}")
    layers = _layers(network, snn)
    device = layers[0].neuron.levels.device
    network.to(device)

    def both(*batch):
        network(*batch)
        snn(*batch)

    for layer in layers:  # of a network of this call's own
        layer.activation.register_forward_hook(layer.see_float)
    with watch([(layer.neuron, layer.see_spiking) for layer in layers]):
        run_through(both, Batches(data, inputs, device, "data"), "comparing layers", progress)
    return LayerErrors(snn.report.method, snn.timesteps, [layer.row() for layer in layers], snn.spike_levels)
