"""Pictures of a Recording: spike rasters, histograms of counts, firing rates of layers and of feature maps."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from pcsnn.analysis.plots import PLAIN, RIGHT, WRONG, finish, new_figure, save, short
from pcsnn.analysis.spikes.recording import Recording
from pcsnn.analysis.spikes.trains import Order
from pcsnn.network.report import steps_in_words
from pcsnn.tensors import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _check_sample(recording, layer, sample):
    checks.integer("sample", sample, 0, len(recording.counts_of(layer)) - 1)


def _some(neurons, total):
    """The neurons to show: an index as it is; of a number so many, drawn with a fixed seed, in ascending order."""
    if isinstance(neurons, bool) or not isinstance(neurons, int):
        return neurons
    checks.integer("neurons", neurons, 1, 2**31 - 1)
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:neurons].sort().values


def plot_raster(
    recording: Recording,
    layer: str,
    path: str | os.PathLike[str],
    *,
    sample: int = 0,
    neurons: int | torch.Tensor | Sequence[int] | slice = 64,
    order: Order = None,
) -> "Figure":
    """The spikes of some neurons under one sample: sorted (7), and with `order` shuffled beside them (13).

    Neurons against time-steps; a spike of value s is s / D of a line high, negative ones of signed neurons are red.

    Args:
        recording: a Recording.
        layer: name of one of its layers.
        path: file to write, its kind by its ending; None writes none.
        sample: which one, 0..N-1.
        neurons: how many, drawn from all of the sample's with a fixed seed; or which, as in `Recording.spikes`.
        order: None, or as in `Recording.spikes`: a permutation of the steps, int64 [T], or {layer name: int64 [T]}.

    Returns:
        The matplotlib Figure.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: a layer that was not recorded or has not run; a sample, neurons
            or an order that do not fit. ImportError without matplotlib, the extra [plots].
    """
    _check_sample(recording, layer, sample)
    total = recording.counts_of(layer)[0].numel()
    chosen, samples = _some(neurons, total), slice(sample, sample + 1)
    trains = [
        recording.spikes(layer, places, chosen, samples)[:, 0].T.to("cpu", torch.int16)
        for places in ([None] if order is None else [None, order])
    ]
    figure = new_figure(5.0 * len(trains) + 0.6, 1.4 + min(6.0, 0.08 * len(trains[0]) + 1.0))
    all_axes = figure.subplots(1, len(trains), sharey=True, squeeze=False)[0]
    width = min(3.0, 100 / recording.timesteps)
    for axes, spikes, title in zip(all_axes, trains, ("sorted", "shuffled")):
        for fired, colour in ((spikes > 0, "black"), (spikes < 0, WRONG)):
            places, steps = fired.nonzero().T.numpy()
            height = 0.8 * spikes[fired].abs().numpy() / recording.spike_levels
            axes.vlines(steps + 1, places + 0.4 - height, places + 0.4, color=colour, linewidth=width)
        axes.set_xlim(0.5, recording.timesteps + 0.5)
        axes.set_ylim(len(spikes) - 0.5, -0.5)
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("time-step")
    all_axes[0].set_ylabel("neuron")
    figure.suptitle(f"{short(layer)}: {len(trains[0])} of {total:,} neurons, sample {sample}", fontsize=12, **PLAIN)
    return save(figure, path)


def plot_histograms(
    recording: Recording, path: str | os.PathLike[str], layers: Iterable[str] | None = None
) -> "Figure":
    """How often each spike count occurs in each layer, as a share of its neurons over all samples.

    Args:
        recording: a Recording.
        path: file to write; None writes none.
        layers: names; None: all that ran.

    Returns:
        The matplotlib Figure.

    Raises:
        KeyError, RuntimeError, ValueError: a layer that was not recorded or has not run; no layer. ImportError without
            matplotlib.
    """
    names = _ran(recording) if layers is None else list(layers)
    if not names:
        raise ValueError("layers: expected at least one, got none")
    shares = {name: recording.histogram(name).double().cpu() for name in names}
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(5.0, 3.2 * columns), 0.5 + 2.2 * rows)
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (name, often) in zip(all_axes, shares.items()):
        axes.bar(range(len(often)), (100 * often / often.sum().clamp(min=1)).tolist(), 0.9, color=RIGHT)
        finish(axes, short(name), "% of neurons")
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in all_axes[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("spike count", fontsize=10)
    figure.suptitle(f"Spike counts, {_steps(recording)}", fontsize=13)
    return save(figure, path)


def plot_rates(recording: Recording, path: str | os.PathLike[str]) -> "Figure":
    """Mean firing rate and sparsity, silent and saturated neurons, layer after layer.

    Args:
        recording: a Recording.
        path: file to write; None writes none.

    Returns:
        The matplotlib Figure.

    Raises:
        RuntimeError: nothing has run. ImportError without matplotlib.
    """
    _ran(recording)
    rows = recording.summary()
    places = range(len(rows))
    figure = new_figure(max(6.0, 2.5 + 0.32 * len(rows)), 8.0)
    rate, sparsity, ends = figure.subplots(3, 1, sharex=True)
    rate.bar(places, [row.rate for row in rows], 0.7, color=RIGHT)
    finish(rate, "Mean firing rate", _unit(recording))
    sparsity.bar(places, [100 * row.sparsity for row in rows], 0.7, color="#555555")
    finish(sparsity, "Sparsity: zeros among neurons and time-steps", "%")
    sparsity.set_ylim(0, 100)
    for shift, colour, label, values in (
        (-0.2, "#555555", "silent neurons", [100 * row.silent / row.neurons for row in rows]),
        (0.2, WRONG, "full counts", [100 * row.saturated for row in rows]),
    ):
        ends.bar([place + shift for place in places], values, 0.4, color=colour, label=label)
    finish(ends, "Neurons that fire in no sample, counts of full firing", "%")
    names = [short(row.name) for row in rows]
    ends.set_xticks(list(places), names, rotation=90 if len(rows) > 6 else 0, fontsize=8, **PLAIN)
    figure.suptitle(f"{_steps(recording)}, {rows[0].samples} samples", fontsize=13)
    return save(figure, path)


def plot_rate_maps(
    recording: Recording, layer: str, path: str | os.PathLike[str], *, sample: int = 0, channels: int = 16
) -> "Figure":
    """Firing rates k / (T D) of the first channels of a convolutional layer, [N, C, H, W], under one sample, as images.

    Args:
        recording: a Recording.
        layer: name of a layer with counts [N, C, H, W].
        path: file to write; None writes none.
        sample: which one, 0..N-1.
        channels: how many, at most those there are.

    Returns:
        The matplotlib Figure.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: a layer that was not recorded, has not run or is no [N, C, H, W];
            a sample or number of channels out of range. ImportError without matplotlib.
    """
    _check_sample(recording, layer, sample)
    counts = recording.counts_of(layer)
    if counts.dim() != 4:
        raise ValueError(
            f"layer: expected one with counts [N, C, H, W], got {layer} with counts of {counts.dim()} dimensions"
        )
    checks.integer("channels", channels, 1, 2**31 - 1)
    full = recording.timesteps * recording.spike_levels
    maps = recording.spike_counts(layer)[sample, :channels].cpu().double() / full
    columns = min(8, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = new_figure(max(4.0, 1.3 * columns + 0.8), 0.6 + 1.45 * rows)
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for channel, axes in enumerate(all_axes):
        axes.set_axis_off()
        if channel < len(maps):
            shown = axes.imshow(maps[channel].numpy(), vmin=0, vmax=1, cmap="magma", interpolation="nearest")
            axes.set_title(str(channel), fontsize=8)
    figure.colorbar(shown, ax=list(all_axes), shrink=0.8, label=_unit(recording))
    figure.suptitle(
        f"{short(layer)}: firing rates of {len(maps)} of {counts.shape[1]} channels, sample {sample}, "
        + _steps(recording),
        fontsize=11,
        **PLAIN,
    )
    return save(figure, path)


def _steps(recording):
    return steps_in_words(recording.timesteps, recording.spike_levels)


def _unit(recording):
    """What a firing rate of 1 is."""
    return "spikes per neuron and step" if recording.spike_levels == 1 else "share of full firing"


def _ran(recording):
    """Names of the layers that ran."""
    if not recording.counts:
        raise RuntimeError("recording: nothing has run yet")
    return list(recording.counts)
