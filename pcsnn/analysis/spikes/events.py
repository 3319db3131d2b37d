"""Spikes as lists of events, for what is driven by events, and as data of NIR."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pcsnn.tensors import checks

if TYPE_CHECKING:
    from pcsnn.analysis.spikes.recording import Recording


def event_rows(steps: Iterable[torch.Tensor], samples: torch.Tensor, valued: bool) -> torch.Tensor:
    """The events of a layer, int64 [events, columns], by step, sample, and place.

    Args:
        steps: T tensors [N, ...], what each step sends.
        samples: int64 [N], the number of each sample.
        valued: add what is sent as the last column.
    """
    rows = []
    for step, spikes in enumerate(steps):
        places = spikes.nonzero()
        parts = [places.new_full((len(places), 1), step), samples[places[:, :1]], places[:, 1:]]
        if valued:
            parts.append(spikes[places.unbind(1)].to(torch.int64).unsqueeze(1))
        rows.append(torch.cat(parts, 1))
    return torch.cat(rows)


def nir_data(recording: Recording, layers: Iterable[str], order: Any, dt: float) -> Any:
    """A nir.NIRGraphData of a recording; see `Recording.nir_data`."""
    checks.number("dt", dt)
    if dt <= 0:
        raise ValueError(f"dt: expected a number above zero, got {dt}")
    nir = _package()
    nodes: dict[str, Any] = {}
    for layer in layers:
        name = layer.replace(".", "_")
        if name in nodes:
            raise ValueError(f"layers: {layer} and another layer are both the node {name} of NIR")
        nodes[name] = nir.NIRNodeData({"spikes": _observed(nir, recording, layer, order, dt)})
    return nir.NIRGraphData(nodes)


def _package():
    try:
        import nir
    except ImportError as error:
        raise ImportError("nir_data needs the package nir: pip install nir") from error
    if not hasattr(nir, "NIRGraphData"):
        raise ImportError("nir_data needs a nir that has NIRData: pip install --upgrade nir")
    return nir


def _observed(nir, recording, layer, order, dt):
    """The events of a layer as nir.EventData, or ValuedEventData: [N, most events of a sample], idx -1 behind them."""
    rows = recording.events(layer, order).cpu().numpy()
    counts = recording.counts_of(layer)
    shape = tuple(counts.shape[1:])
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    step, sample, place = rows[:, 0], rows[:, 1], rows[:, 2 : 2 + len(shape)]
    many = np.bincount(sample, minlength=len(counts))
    column = np.arange(len(rows)) - np.repeat(many.cumsum() - many, many)
    size = len(counts), int(many.max(initial=0))
    idx, time = np.full(size, -1), np.full(size, np.inf)
    idx[sample, column] = np.ravel_multi_index(tuple(place.T), shape) if shape else 0
    time[sample, column] = step * dt
    known = dict(idx=idx, time=time, n_neurons=int(np.prod(shape)), t_max=recording.timesteps * dt)
    if rows.shape[1] == 2 + len(shape):
        return nir.EventData(**known)
    value = np.zeros(size)
    value[sample, column] = rows[:, -1]
    return nir.ValuedEventData(value=value, **known)
