"""Spike counts, trains and rates of every layer, while a network runs."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from pcsnn.analysis.spikes.events import event_rows, nir_data
from pcsnn.analysis.spikes.summary import LayerSpikes, spike_table, summarise
from pcsnn.analysis.spikes.trains import Order, bit_planes, order_of, pack_spikes, pick
from pcsnn.analysis.watch import watch
from pcsnn.network.network import SpikingNetwork, check_converted
from pcsnn.network.report import steps_in_words

if TYPE_CHECKING:
    import nir

SAMPLES = 32  # so many are packed at once: an index takes 4 bytes a neuron


class Recording:
    """What the layers of a network fired. Only counts are kept, a byte a neuron whatever T; trains are made when asked.

    Every method that makes trains takes `order`, None for sorted trains (7), or a permutation of the steps (13): int64
    [T] for all layers, or {layer name: int64 [T]}. Step x shows place order[x] of the sorted train.

    Trains are bool; where a time-step sends an integer 0..D (22), uint8, or planes of bits where they are asked for.
    Those of a `pcsnn.nn.SignedNeuron`, whose spikes have two signs, are int8 in -D..D (S2) (int16 where D > 127); its
    counts are the levels reached, and `spike_counts` says how many spikes that is.

    A layer that was not recorded is a KeyError, one that has not run yet a RuntimeError, as are the trains of signed
    neurons and rates when the network has another T or D by now.

    Attributes:
        counts: {layer name: uint8 [N, ...]} in execution order; several forward passes are joined along the batch.
        timesteps: T.
        spike_levels: D.
    """

    def __init__(
        self, snn: SpikingNetwork, layers: Iterable[str] | None = None, device: torch.device | None = None
    ) -> None:
        self.timesteps, self.spike_levels = snn.timesteps, snn.spike_levels
        neurons = dict(snn.neurons())
        self._layers = neurons if layers is None else {name: neurons[name] for name in neurons if name in layers}
        self._device = device
        self._parts = {name: [] for name in self._layers}

    @property
    def counts(self) -> dict[str, torch.Tensor]:
        return {name: self.counts_of(name) for name, parts in self._parts.items() if parts}

    def counts_of(self, layer: str) -> torch.Tensor:
        """uint8 [N, ...] of one layer; a ValueError where the passes were of samples of different shapes."""
        if layer not in self._parts:
            raise KeyError(f"layer: expected one of {', '.join(self._parts)}, got {layer!r}")
        parts = self._parts[layer]
        if not parts:
            raise RuntimeError(f"layer: {layer} has not run yet")
        if len(parts) > 1:
            if len({part.shape[1:] for part in parts}) > 1:
                shapes = ", ".join(dict.fromkeys(str(list(part.shape[1:])) for part in parts))
                raise ValueError(
                    f"layer: {layer} fired in samples of different shapes, {shapes}, which cannot be "
                    "joined; record them apart"
                )
            parts[:] = [torch.cat(parts)]
        return parts[0]

    def spike_counts(self, layer: str) -> torch.Tensor:
        """How many spikes each neuron of a layer fired, of either sign, uint8 [N, ...]: a spike of value s counts s."""
        counts = self.counts_of(layer)
        if not self._signed(layer):
            return counts
        return self._values(layer)[counts.to(torch.int32)]

    def spikes(
        self,
        layer: str,
        order: Order = None,
        neurons: torch.Tensor | Sequence[int] | slice | None = None,
        samples: slice = slice(None),
        bits: bool = False,
    ) -> torch.Tensor:
        """The spike trains of a layer: sorted, or permuted by `order`.

        Args:
            layer: its name.
            order: see Recording.
            neurons: the neurons to expand, of the flattened ones of a sample: int64 [len], a list, a range or a slice.
            samples: a slice of the samples to expand.
            bits: the n binary spikes that stand for each integer 0..D, 2^n > D: planes of weights 1, 2, 4, ... (22).

        Returns:
            bool [T, N, ...], or [T, N, len] of the `neurons` asked for; uint8 where D > 1, int8 of signed neurons. With
            `bits`, bool [T, n, N, ...] or [T, n, N, len].

        Raises:
            KeyError, RuntimeError: see Recording.
            TypeError, ValueError: an order or indices that do not fit; bits of signed neurons.
        """
        _check_samples(samples)
        counts = self.counts_of(layer)[samples]
        if bits:
            self._check_unsigned(layer)
        trains = self._expand(layer, counts if neurons is None else pick(counts, neurons), order)
        return bit_planes(trains, self.spike_levels) if bits else trains

    def packed(self, layer: str, order: Order = None) -> torch.Tensor:
        """The spike trains of a layer as bits, uint8 [ceil(T/8), N, ...]: bit b of byte j is time-step 8 j + b.

        With D > 1, uint8 [ceil(T n / 8), N, ...]: bit b of byte j is plane (8 j + b) % n of step (8 j + b) // n. Bits
        beyond the last step are 0. The bytes are looked up by the counts, without the trains in memory;
        `pcsnn.analysis.unpack_spikes` is the inverse. A ValueError for signed neurons.
        """
        counts = self.counts_of(layer)
        self._check_unsigned(layer)
        bytes_of = pack_spikes(self._trains(layer, order), self.spike_levels)
        packed = torch.empty(len(bytes_of), *counts.shape, dtype=torch.uint8, device=counts.device)
        for some, fired in zip(packed.split(SAMPLES, 1), counts.split(SAMPLES)):
            some.copy_(bytes_of[:, fired.to(torch.int32)])
        return packed

    def steps(self, layers: Iterable[str] | None = None, order: Order = None) -> Iterator[dict[str, torch.Tensor]]:
        """The spikes step by step, for what is driven by events: T times {layer name: [N, ...]}, dtypes as of `spikes`.

        Each step is made when it is asked for, so that memory holds the counts and one step. Arguments are checked
        at once.

        Args:
            layers: names; None: all that ran.
            order: see Recording.
        """
        names = list(self.counts if layers is None else layers)
        at = {name: self._stepper(name, order) for name in names}
        return ({name: spikes(step) for name, spikes in at.items()} for step in range(self.timesteps))

    def events(self, layer: str, order: Order = None, samples: slice = slice(None)) -> torch.Tensor:
        """The spikes of a layer as a list of events, a row for each: (t, n, c, y, x) for images.

        Returns (layer, order and samples are as in `spikes`):
            int64 [events, 2 + dimensions of a neuron's place], sorted by the columns from the left: the step t, 0..T-1;
            the sample n of the recording; and the place of the neuron in the layer's [N, ...], one column for each
            dimension behind N: c of a linear layer, c and x, c, y and x or c, z, y and x of convolutions, token and
            feature of tokens. Where a step sends more than one bit, D > 1 or spikes of two signs, a last column has the
            value sent, 1..D or -D..D without 0. `dense[tuple(events.T)] = 1` makes trains [T, N, ...] of it.

        Raises KeyError, RuntimeError, TypeError, ValueError: see `spikes`.
        """
        _check_samples(samples)
        at, counts = self._stepper(layer, order, samples), self.counts_of(layer)
        numbers = torch.arange(len(counts), device=counts.device)[samples]
        valued = self._signed(layer) or self.spike_levels > 1
        return event_rows(map(at, range(self.timesteps)), numbers, valued)

    def nir_data(self, layers: Iterable[str] | None = None, order: Order = None, dt: float = 1.0) -> "nir.NIRGraphData":
        """The spikes as data of NIR, for nir.write_data: an observable "spikes" for each layer.

        Nodes are named as `pcsnn.exchange.to_nir` names them, the layer with "_" for ".". Neurons are those of a
        sample, flattened; step t is at the time t `dt`. nir.ValuedEventData where D > 1 or spikes have two signs, else
        nir.EventData. `layers`: names; None: all that ran. `order`: see Recording.

        Raises:
            ImportError: the package nir is not installed, or is one without data.
            KeyError, RuntimeError, TypeError, ValueError: see `events`; a dt that is no number above zero.
        """
        return nir_data(self, self.counts if layers is None else layers, order, dt)

    def rates(self) -> dict[str, torch.Tensor]:
        """{layer name: firing rates amplitude * k / (T D), float32 [N, ...]}."""
        rates = {}
        for name, counts in self.counts.items():
            layer = self._layers[name]
            self._check_timesteps(name)
            rates[name] = layer.rates_of(counts.to(layer.neuron.levels.device)).to(counts.device)
        return rates

    def histogram(self, layer: str) -> torch.Tensor:
        """How many neurons, over all samples, have spike count k: int64 [T D + 1], k = 0..T D."""
        return torch.bincount(self.spike_counts(layer).reshape(-1), minlength=self._full_count + 1)

    def summary(self) -> list[LayerSpikes]:
        """A `pcsnn.analysis.LayerSpikes` for each layer that ran: neurons, firing rate, sparsity, and so on."""
        return [
            summarise(name, self.spike_counts(name), self.histogram(name), self._events(name), self.timesteps)
            for name in self.counts
        ]

    def table(self) -> str:
        """The summary as text, with a line for the whole network."""
        return spike_table(self.summary(), self.timesteps, self.spike_levels)

    @property
    def _full_count(self):
        return self.timesteps * self.spike_levels

    def _most(self, layer):
        """How many levels a count has at most: T D, more where spikes have two signs."""
        return self._layers[layer].neuron.levels.shape[-1] if self._signed(layer) else self._full_count

    def _trains(self, layer, order):
        """The trains of k = 0..K levels reached, [T, K + 1]."""
        every = torch.arange(self._most(layer) + 1, dtype=torch.uint8, device=self.counts_of(layer).device)
        return self._expand(layer, every, order)

    def _values(self, layer):
        """How many spikes k = 0..K levels reached are, uint8 [K + 1]."""
        return self._trains(layer, None).abs().sum(0, dtype=torch.uint8)

    def _events(self, layer):
        """At how many neurons, samples and time-steps together a layer sends another value than 0."""
        often = torch.bincount(self.counts_of(layer).reshape(-1), minlength=self._most(layer) + 1)
        return int((often * self._trains(layer, None).ne(0).sum(0)).sum())

    def _signed(self, layer):
        """Whether a layer's spikes have two signs, so that counts do not say how many there are."""
        return self._layers[layer].neuron.spike_range[0] < 0

    def _check_unsigned(self, layer):
        if self._signed(layer):
            raise ValueError(f"layer: {layer} has spikes of two signs, which do not fit into bits")

    def _expand(self, layer, counts, order):
        order = order_of(layer, order, counts.device)
        if self._signed(layer):
            self._check_timesteps(layer)
        return self._layers[layer].neuron.expand(counts, order, self.timesteps, self.spike_levels)

    def _stepper(self, layer, order, samples=slice(None)):
        """A function of x that gives the spikes of step x."""
        counts, trains = self.counts_of(layer)[samples], self._trains(layer, order)
        if trains.dtype != torch.bool:
            return lambda step: trains[step][counts.to(torch.int32)]
        least = (~trains).sum(1).tolist()  # counts above T - order[x] fire at step x: the least is how many do not
        return lambda step: counts >= least[step]

    def _check_timesteps(self, name):
        neuron = self._layers[name].neuron
        now = neuron.timesteps, neuron.spike_levels
        if now != (self.timesteps, self.spike_levels):
            before = steps_in_words(self.timesteps, self.spike_levels)
            raise RuntimeError(
                f"layer: {name} was recorded at {before}, and has {steps_in_words(*now)} by now; record each T apart"
            )

    def _watch(self, name):
        def hook(layer, arguments):
            self._check_timesteps(name)
            fired = layer.counts(*arguments)
            self._parts[name].append(fired if self._device is None else fired.to(self._device))

        return hook


def _check_samples(samples):
    if not isinstance(samples, slice):
        raise TypeError(f"samples: expected a slice, got {type(samples).__name__}")


def _check_layers(snn, layers):
    names = [name for name, _ in snn.neurons()]
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(f"layers: expected a sequence of layer names, got {type(layers).__name__} ({layers!r})")
    layers = list(layers)
    unknown = [name for name in layers if name not in names]
    if unknown or not layers:
        raise ValueError(
            f"layers: expected names among {', '.join(names)}, got {', '.join(map(repr, unknown)) or 'none'}"
        )
    return layers


@contextlib.contextmanager
def record(
    snn: SpikingNetwork, layers: Iterable[str] | None = None, *, device: torch.device | str | None = None
) -> Iterator[Recording]:
    """Record what every layer fires while the network runs inside: `with pcsnn.record(snn) as rec: snn(images)`.

    Plain and optimised networks alike; the layers of an optimised one run twice, once to be counted. Recorded is what
    this context runs, a thread or an asyncio task: several threads may run and record one network at the same time, and
    what a thread started inside runs is not in it (`contextvars.copy_context().run` takes the recording along).

    Args:
        snn: a SpikingNetwork (not one wrapped by torch.compile, which does not call hooks).
        layers: names of the layers to record; None: all.
        device: where the counts are kept; None: where they were fired. "cpu" leaves the memory of a GPU to the network.

    Yields:
        Recording.

    Raises:
        TypeError, ValueError: not a SpikingNetwork; names that it does not have.
        RuntimeError: inside, when T is changed while the network is recorded.
    """
    check_converted(snn)
    if layers is not None:
        layers = _check_layers(snn, layers)
    recording = Recording(snn, layers, None if device is None else torch.device(device))
    with watch([(layer, recording._watch(name)) for name, layer in recording._layers.items()]):
        yield recording
