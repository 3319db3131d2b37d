"""The converted network."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from pcsnn.network.cuda_graphs import Graphs
from pcsnn.network.normalisation import Normalisation
from pcsnn.network.report import Report
from pcsnn.nn.neuron import Spiking
from pcsnn.tensors import checks

MOST_GRAPHS = 1024
_AUTOCAST = [kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind)]


class SpikingNetwork(torch.nn.Module):
    """A spiking network under time collapse: activations between layers are rates, one synaptic operation a layer (11).

    An ordinary module: state_dict, .to(), copy.deepcopy, torch.compile(fullgraph=True) and torch.export work. It stays
    in evaluation mode and its parameters require no gradient. Made by `pcsnn.convert` or `pcsnn.load`.

    Attributes:
        network: the torch.fx GraphModule; a `pcsnn.nn.CollapsedNeuron` (or SignedNeuron) stands at every
            activation.
        report: what became of each layer of the source.
        max_graphs: CUDA graphs that are kept at most, one for each kind of input, 0..1024; 0: calls run without.
            Setting it drops the present ones. See `pcsnn.optimize`.
        normalisation: how images are normalised before they come in, where that is known, a pair (mean, std) of numbers
            for each channel, or None. Nothing here applies it: `pcsnn.save` carries it, and the command line uses it.
        graph_bytes: memory of a GPU that the present graphs hold, inputs, outputs and results of layers.
    """

    _graphs = None
    _normalisation: Normalisation | None = None

    def __init__(self, network: torch.fx.GraphModule, report: Report) -> None:
        super().__init__()
        self.network, self.report = network, report
        self.train(False)

    @property
    def timesteps(self) -> int:
        """T."""
        return self.report.timesteps

    @property
    def spike_levels(self) -> int:
        """D: a time-step sends an integer of at most D (22); 1 are binary spikes."""
        return self.report.spike_levels

    def neurons(self) -> Iterator[tuple[str, Spiking]]:
        """(layer name, layer in which neurons fire, a `pcsnn.nn.neuron.Spiking`) in execution order."""
        for node in self.network.graph.nodes:
            if node.op == "call_module":
                module = self.network.get_submodule(node.target)
                if isinstance(module, Spiking):
                    yield node.target, module

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """The inputs of the source network to the average over time of its outputs. Autocast changes nothing in it."""
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):
                    return self(*inputs, **named_inputs)
        if torch.compiler.is_compiling():
            return self.network(*inputs, **named_inputs)
        try:
            if self._graphs is None:
                return self.network(*inputs, **named_inputs)
            return self._graphs.run(self.network, inputs, named_inputs)
        except RuntimeError as error:
            self._check_dtypes(inputs, named_inputs, error)
            raise

    def _check_dtypes(self, inputs, named_inputs, error):
        """TypeError for inputs whose dtype is not that of the parameters, which is what most likely made `error`."""
        expected = next((parameter.dtype for parameter in self.parameters() if parameter.is_floating_point()), None)
        got = {leaf.dtype for leaf in tree_leaves((inputs, named_inputs)) if isinstance(leaf, torch.Tensor)} - {
            expected
        }
        if expected is not None and got and not isinstance(error, torch.OutOfMemoryError):
            raise TypeError(
                f"inputs: expected {expected}, as the network's parameters are, got "
                f"{', '.join(sorted(map(str, got)))}: {error}"
            ) from error

    @property
    def max_graphs(self) -> int:
        return self._graphs.most if self._graphs else 0

    @max_graphs.setter
    def max_graphs(self, most: int) -> None:
        checks.integer("max_graphs", most, 0, MOST_GRAPHS)
        self._graphs = Graphs(most) if most else None

    @property
    def normalisation(self) -> Normalisation | None:
        return self._normalisation

    @normalisation.setter
    def normalisation(self, pair: tuple[Any, Any] | None) -> None:
        if pair is not None and (not isinstance(pair, (tuple, list)) or len(pair) != 2):
            raise TypeError(f"normalisation: expected (mean, std) or None, got {type(pair).__name__}")
        self._normalisation = None if pair is None else Normalisation.of(*pair)

    @property
    def graph_bytes(self) -> int:
        return self._graphs.bytes() if self._graphs else 0

    def drop_graphs(self) -> None:
        """Free all CUDA graphs; the next call captures anew.

        Needed where something changes that a network cannot notice: plain attributes of its modules, tensors written
        through `.data`, and torch's settings (TF32, deterministic algorithms). Other changes of tensors and modules,
        `set_timesteps`, `load_state_dict` and `.to()` are noticed.
        """
        if self._graphs:
            self._graphs.drop()

    def _apply(self, fn, recurse=True):
        self.drop_graphs()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "SpikingNetwork":
        """Nothing here trains: batch norm keeps its running statistics whatever `mode` says."""
        return super().train(False)


def check_converted(snn):
    """TypeError for anything but a SpikingNetwork."""
    if not isinstance(snn, SpikingNetwork):
        raise TypeError(f"snn: expected a SpikingNetwork, made by pcsnn.convert, got {type(snn).__name__}")


def check_unfused(snn):
    """TypeError or ValueError for anything but a SpikingNetwork with its neurons in layers of their own."""
    check_converted(snn)
    if any(layer.synapse is not None for _, layer in snn.neurons()):
        raise ValueError(
            "snn: is optimised, its neurons are one with their synapses; give the network that pcsnn.convert made"
        )


def _timed(module):
    """The layers of a module that know T; one that is made of others sees to them itself."""
    for child in module.children():
        if hasattr(child, "set_timesteps"):
            yield child
        else:
            yield from _timed(child)


def set_timesteps(snn: SpikingNetwork, timesteps: int, spike_levels: int | None = None) -> SpikingNetwork:
    """The same network at T = `timesteps`: thresholds, offsets and amplitudes stay, levels are made anew. In place: not
    while other threads run it, to whom it would be of two T.

    Warns where the calibration was made for another T D, so that a new `pcsnn.convert` would pay.

    Args:
        snn: a SpikingNetwork.
        timesteps: T, 1..255.
        spike_levels: D, T D <= 255: a time-step sends an integer of at most D (22); None: what it is.

    Returns:
        `snn` itself.

    Raises:
        TypeError, ValueError: not a SpikingNetwork, T or D out of range, or T D too large for average pooling of counts
            in an optimised network; nothing is changed then.
    """
    check_converted(snn)
    report = snn.report
    several = report.spike_levels if spike_levels is None else spike_levels
    full = checks.full_count(timesteps, several)
    layers = list(_timed(snn.network))
    for layer in layers:
        if hasattr(layer, "check_timesteps"):
            layer.check_timesteps(timesteps, several)
    if full != report.timesteps * report.spike_levels and report.calibrated_for not in (None, full):
        name = "T" if several == report.spike_levels == 1 else "T D"
        warnings.warn(
            f"this network was calibrated at {name} = {report.calibrated_for}; calibrate anew for {name} = {full} "
            f"(pcsnn.convert, method {report.method!r}) for its best accuracy",
            stacklevel=2,
        )
    for layer in layers:
        layer.set_timesteps(timesteps, several)
    snn.drop_graphs()
    report.timesteps, report.spike_levels = timesteps, several
    neurons = dict(snn.neurons())
    for row in snn.report.rows:
        if row.kind == "spiking":
            row.became = neurons[row.name].describe()
    return snn
