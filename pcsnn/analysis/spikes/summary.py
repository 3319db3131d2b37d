"""What the layers of a network fire, in figures."""

from dataclasses import dataclass

from pcsnn.network.text_table import table


@dataclass
class LayerSpikes:
    """What one layer fired over all samples.

    Attributes:
        name: of the layer.
        samples: N.
        neurons: of one sample.
        spikes: of all neurons, samples and time-steps together.
        rate: spikes per neuron and time-step, the mean of k / T; 0..1.
        sparsity: share of zeros over samples, neurons and time-steps, 1 - rate.
        silent: neurons that fire in no sample.
        saturated: share of neurons and samples with a spike at every step, count T; 0..1.
    """

    name: str
    samples: int
    neurons: int
    spikes: int
    rate: float
    sparsity: float
    silent: int
    saturated: float


def summarise(name, counts, histogram):
    """The LayerSpikes of counts uint8 [N, ...] and their histogram int64 [T + 1]."""
    if not counts.numel():
        raise RuntimeError(f"layer: {name} ran on empty batches only, shape {tuple(counts.shape)}")
    often = histogram.tolist()
    timesteps = len(often) - 1
    spikes = sum(k * many for k, many in enumerate(often))
    places = timesteps * counts.numel()
    silent = int((counts.amax(0) == 0).sum())
    return LayerSpikes(
        name,
        len(counts),
        counts[0].numel(),
        spikes,
        spikes / places,
        (places - spikes) / places,
        silent,
        often[timesteps] / counts.numel(),
    )


def spike_table(rows, timesteps):
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
        rate = sum(row.spikes for row in rows) / (counts * timesteps)
        saturated = sum(row.saturated * row.samples * row.neurons for row in rows) / counts
        cells.append(
            (
                "all",
                f"{sum(row.neurons for row in rows):,}",
                f"{rate:.4f}",
                f"{100 * (1 - rate):6.2f} %",
                f"{sum(row.silent for row in rows):,}",
                f"{100 * saturated:6.2f} %",
            )
        )
    samples = ", ".join(map(str, dict.fromkeys(row.samples for row in rows))) or "0"
    footer = f"firing rate in spikes per neuron and time-step; T = {timesteps}, {samples} samples"
    return "\n".join([*table(cells), footer])
