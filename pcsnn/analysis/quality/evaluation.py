"""Accuracy and spikes of one spiking network."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset

from pcsnn.analysis.spikes.recording import record
from pcsnn.data.inputs import count, required_inputs
from pcsnn.data.labelled import Accuracy, Labelled
from pcsnn.distributed import collectives
from pcsnn.network.network import SpikingNetwork, check_converted
from pcsnn.network.report import steps_in_words
from pcsnn.tensors import checks


@dataclass
class Evaluation:
    """What a spiking network did on some data.

    Attributes:
        timesteps: T.
        images: inputs evaluated.
        right: labels hit; 0 without labels.
        decisions: labels that count; 0 without labels.
        accuracy: right / decisions, 0..1; None without labels.
        spikes: {layer name: spikes of all its neurons over all inputs} in execution order, if asked for; a spike of
            value s counts s (22).
        spike_levels: D.
    """

    timesteps: int
    images: int
    right: int
    decisions: int
    accuracy: float | None
    spikes: dict[str, int] = field(default_factory=dict)
    spike_levels: int = 1

    def __str__(self) -> str:
        accuracy = (
            "no labels"
            if self.accuracy is None
            else (f"accuracy {100 * self.accuracy:.2f} % ({self.right} of {self.decisions})")
        )
        spikes = f"; {sum(self.spikes.values()) / self.images:.1f} spikes an image" if self.spikes else ""
        return f"{self.images} images, {steps_in_words(self.timesteps, self.spike_levels)}: {accuracy}{spikes}"


@torch.no_grad()
def evaluate(
    snn: SpikingNetwork,
    data: Iterable | Dataset,
    *,
    spikes: bool = False,
    ignore: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a spiking network over data and count the labels it hits.

    With an initialised torch.distributed process group each process gives its own share of the data,
    `pcsnn.distributed.shard((images, labels))`; shares may differ in size, and be empty. Every process gets the result
    over all of them. The sums are of integers, so that it is exactly that of one process, as long as the network's own
    sums do not depend on the size of a batch.

    Args:
        snn: a SpikingNetwork, optimised or not; in several processes the same one, which is checked.
        data: as in `pcsnn.analysis.sweep`: a tensor [N, ...], or an iterable of inputs or of (input, label, ...).
        spikes: also count the spikes of every layer, which takes a second search of its levels.
        ignore: the label of what has no class, an integer, e.g. of void pixels.
        progress: show a progress bar on a terminal (process 0 does).

    Returns:
        Evaluation. A decision is the argmax over dimension 1 of the first tensor that the network returns. If that is
        one logit, [N] or [N, 1, ...], it is 1 where the logit is above 0, and labels are 0 and 1, of any dtype.

    Raises:
        TypeError, ValueError: arguments of the wrong kind; outputs without a class dimension, NaN or infinite; empty,
            NaN or infinite data; labels that are no integers (a regression's), of another shape, or in some batches
            only; a network or options that differ between processes.
    """
    check_converted(snn)
    if ignore is not None:
        checks.integer("ignore", ignore, -(2**63), 2**63 - 1)
    device = next(snn.neurons())[1].levels.device
    labelled = Labelled(data, required_inputs(snn.network), device, progress)
    collectives.agree("snn", snn, snn.timesteps, snn.spike_levels, spikes, ignore)
    seen, fired = Accuracy("snn", ignore), {name: 0 for name, _ in snn.neurons()} if spikes else {}
    for inputs, label in labelled.read(f"evaluating {snn.report.steps}"):
        if spikes:
            with record(snn) as recording:
                output = snn(*inputs)
            for name in recording.counts:
                fired[name] += int(recording.spike_counts(name).sum())
        else:
            output = snn(*inputs)
        seen.see(output, label, count(inputs))
    accuracy = seen.reduce()
    fired = dict(zip(fired, collectives.totals(*fired.values())))
    return Evaluation(snn.timesteps, seen.inputs, seen.right, seen.decisions, accuracy, fired, snn.spike_levels)
