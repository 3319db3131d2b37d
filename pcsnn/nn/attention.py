"""Attention of spiking queries without softmax, and the average over time that it takes of keys and values."""

import torch

from pcsnn import functional
from pcsnn.nn.neuron import CollapsedNeuron, Spiking
from pcsnn.operators import arguments
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import compute_dtype
from pcsnn.tensors.attention import attend


class TimeAverage(torch.nn.Module):
    """Where a converted network takes the average over time of one factor of a product of activations (20).

    Under time collapse every value is an average over time already, so that this returns what it is given.
    `pcsnn.baselines.packed` puts an average over its T steps there.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def time_average(x):
    """[T, N, tokens, features] -> [N, tokens, features]; what is expanded over time is taken as it is, unrounded."""
    return x[0] if x.stride(0) == 0 else x.mean(0)


class SpikingAttention(Spiking):
    """Attention without softmax: spiking queries, keys and values averaged over time, in heads (20).

    Source: the rebuttal of arXiv 2412.13610 (ICML 2025).

    Two forms, by the shape of the query; the average over time of what the first returns is what the second returns.

    - Currents [T, N, M, H * D]: sorted spikes of Q at every step, with K and V averaged once: O(T) products and not
      O(T^2).
    - Mean currents [N, M, H * D]: collapsed, one attention on the rates of Q whatever T; one launch on a GPU.

    Without a mask the products run as Q (K^T V) where that takes fewer multiplications than (Q K^T) V.

    Args:
        heads: H; features of a head lie side by side.
        threshold: theta > 0 of the queries' neurons, a number or a tensor [H * D]; +inf never fires.
        timesteps: T, 1..255.
        quantization_levels, offset, amplitude, bend, spike_levels: of the queries' neurons, as in
            `pcsnn.nn.CollapsedNeuron`.
        scale: what the products are multiplied by.
        causal: token i sees tokens 0..i only.

    Shape: query [T, N, M, H * D] or [N, M, H * D]; key [N, S, H * D] and value [N, S, H * E], averages over time, or
        both with T in front, to be averaged. Returns [T, N, M, H * E] or [N, M, H * E]. float32, float16, bfloat16 or
        float64 (on a GPU not collapsed), one dtype for all.

    Raises:
        ValueError, TypeError: arguments out of range; shapes, dtypes or devices that do not fit.
        RuntimeError: an input requires a gradient.
    """

    def __init__(
        self,
        heads: int,
        threshold: float | torch.Tensor,
        timesteps: int,
        *,
        quantization_levels: int | None = None,
        offset: float | torch.Tensor = 0.0,
        amplitude: float | torch.Tensor | None = None,
        bend: torch.Tensor | None = None,
        scale: float = 1.0,
        causal: bool = False,
        spike_levels: int = 1,
    ):
        super().__init__()
        checks.integer("heads", heads, 1, 2**31 - 1)
        checks.number("scale", scale)
        self.heads, self.scale, self.causal = heads, float(scale), causal
        self.neuron = CollapsedNeuron(
            threshold,
            timesteps,
            quantization_levels=quantization_levels,
            offset=offset,
            amplitude=amplitude,
            bend=bend,
            spike_levels=spike_levels,
        )

    def _check(self, query, key, value):
        """The three without time: averaged keys and values, one step of the query."""
        checks.tensor("query", query, checks.CURRENT_DTYPES, 3)
        averages = []
        for name, x in (("key", key), ("value", value)):
            checks.tensor(name, x, (query.dtype,), 3)
            if x.dim() == 4 and len(x) != self.neuron.timesteps:
                raise ValueError(f"{name}: expected {self.neuron.timesteps} time-steps, got shape {tuple(x.shape)}")
            averages.append(time_average(x) if x.dim() == 4 else x)
        if query.dim() == 4 and len(query) != self.neuron.timesteps:
            raise ValueError(f"query: expected {self.neuron.timesteps} time-steps, got shape {tuple(query.shape)}")
        step = query[0] if query.dim() == 4 else query
        arguments.attention(step, *averages, self.heads, self.causal)
        if step.dim() != 3:
            raise ValueError(f"query: expected [N, M, H * D] or [T, N, M, H * D], got shape {tuple(query.shape)}")
        checks.same_device(query=query, key=key, value=value)
        checks.no_gradient(query=query, key=key, value=value)
        return averages

    def _spikes(self, query, dtype, amplitude):
        """Sorted spikes [T, N, M, H * D] times amplitude; the channels are the features."""
        steps = query.reshape(len(query), -1, query.shape[-1])
        neuron = self.neuron
        spikes = functional.fire_spikes(
            steps, neuron.levels, dtype, amplitude, spacing=neuron.spacing, spike_levels=neuron.spike_levels
        )
        return spikes.view(query.shape)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        key, value = self._check(query, key, value)
        if query.dim() == 3:
            return functional.spiking_attention(
                query,
                key,
                value,
                self.neuron.levels,
                scale=self.neuron.scale * self.scale,
                heads=self.heads,
                causal=self.causal,
                spacing=self.neuron.spacing,
            )
        precise = compute_dtype(query)
        spikes = self._spikes(query, precise, self.neuron.spike * self.scale)
        return attend(spikes, key.to(precise), value.to(precise), self.heads, self.causal).to(query.dtype)

    def counts(
        self, query: torch.Tensor, key: torch.Tensor | None = None, value: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Spike counts of Q, uint8 [N, M, H * D], under currents [T, N, M, H * D] or mean currents [N, M, H * D]."""
        if query.dim() == 4:
            return self._spikes(query, torch.uint8, None).sum(0, dtype=torch.uint8)
        return self.neuron.counts(query.reshape(-1, query.shape[-1])).view(query.shape)

    def rates_of(self, counts: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Rates of given spike counts of Q, whose channels are the last dimension."""
        return self.neuron.rates_of(counts.reshape(-1, counts.shape[-1]), dtype).view(counts.shape)

    def set_timesteps(self, timesteps: int, spike_levels: int | None = None) -> None:
        """The same attention at T = `timesteps` and, where it is given, D = `spike_levels`."""
        self.neuron.set_timesteps(timesteps, spike_levels)

    def extra_repr(self):
        return f"heads={self.heads}, scale={self.scale}, causal={self.causal}"
