"""What the layers of a network fire, in figures."""

from dataclasses import dataclass

from pcsnn.network.report import steps_in_words
from pcsnn.network.text_table import table


@dataclass
class LayerSpikes:
    """What one layer fired over all samples.

    Attributes:
        name: of the layer.
        samples: N.
        neurons: of one sample.
        spikes: of all neurons, samples and time-steps together; a spike of value s counts s (22).
        rate: share of full firing, the mean of k / (T D); with D = 1 spikes per neuron and time-step; 0..1.
        sparsity: share of zeros over samples, neurons and time-steps; with D = 1 it is 1 - rate.
        silent: neurons that fire in no sample.
        saturated: share of neurons and samples with the largest spike at every step, count T D; 0..1.
    """

    name: str
    samples: int
    neurons: int
    spikes: int
    rate: float
    sparsity: float
    silent: int
    saturated: float


def summarise(name, counts, histogram, events, timesteps):
    """The LayerSpikes of counts uint8 [N, ...], their histogram int64 [T D + 1], and how many spikes are not zero."""
    if not counts.numel():
        raise RuntimeError(f"layer: {name} ran on empty batches only, shape {tuple(counts.shape)}")
    often = histogram.tolist()
    full_count = len(often) - 1
    spikes = sum(k * many for k, many in enumerate(often))
    places = timesteps * counts.numel()
    silent = int((counts.amax(0) == 0).sum())
    return LayerSpikes(
        name,
        len(counts),
        counts[0].numel(),
        spikes,
        spikes / (full_count * counts.numel()),
        (places - events) / places,
        silent,
        often[full_count] / counts.numel(),
    )


def spike_table(rows, timesteps, spike_levels=1):
    """LayerSpikes as text, with a line for all layers together."""
    cells = [("layer", "neurons", "firing rate", "sparsity", "silent", "saturated")]
    for row in rows:
        cells.append(
            (
                row.name,
                f"{row.neurons:,}",
                f"{row.rate:.4f}",
                f"{100 * row.sparsity:6.2f} %",
                f"{row.silent:,}",
                f"{100 * row.saturated:6.2f} %",
            )
        )
    counts = sum(row.samples * row.neurons for row in rows)
    if rows:
        rate = sum(row.spikes for row in rows) / (counts * timesteps * spike_levels)
        zeros = sum(row.sparsity * row.samples * row.neurons for row in rows) / counts
        saturated = sum(row.saturated * row.samples * row.neurons for row in rows) / counts
        cells.append(
            (
                "all",
                f"{sum(row.neurons for row in rows):,}",
                f"{rate:.4f}",
                f"{100 * zeros:6.2f} %",
                f"{sum(row.silent for row in rows):,}",
                f"{100 * saturated:6.2f} %",
            )
        )
    samples = ", ".join(map(str, dict.fromkeys(row.samples for row in rows))) or "0"
    unit = "in spikes per neuron and time-step" if spike_levels == 1 else "as a share of full firing"
    footer = f"firing rate {unit}; {steps_in_words(timesteps, spike_levels)}, {samples} samples"
    return "\n".join([*table(cells), footer])
