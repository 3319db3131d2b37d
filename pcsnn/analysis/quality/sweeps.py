"""Accuracy, fidelity, error and spikes of a network's conversions at several T."""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from pcsnn.analysis import plots
from pcsnn.analysis.quality.errors import float_network, relative
from pcsnn.analysis.quality.renamed import formerly
from pcsnn.analysis.spikes.recording import record
from pcsnn.conversion.converter import Method, check_method, convert, serves_every_timesteps
from pcsnn.data.batches import Batches
from pcsnn.data.inputs import count
from pcsnn.data.labelled import Accuracy, Labelled, choices_of, hits, labels_for, logits_of
from pcsnn.distributed import collectives
from pcsnn.network.network import SpikingNetwork, set_timesteps
from pcsnn.network.text_table import table
from pcsnn.tensors import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class SweepRow:
    """One T: shares 0..1 (accuracy None without labels), the relative logit error, mean spike count of all neurons (a
    spike of value s counts s), D."""

    timesteps: int
    accuracy: float | None
    fidelity: float
    logit_error: float
    spikes_per_neuron: float
    method: str
    spike_levels: int = 1


@dataclass
class Sweep:
    """The results of `sweep`: `rows` in the order asked for; str() is a table.

    Attributes:
        method: as asked for; a row has the method that "auto" took.
        float_accuracy: of the float network on the same data, 0..1; None without labels.
    """

    method: str
    float_accuracy: float | None
    rows: list[SweepRow] = field(default_factory=list)

    def __str__(self) -> str:
        several = any(row.spike_levels > 1 for row in self.rows)
        cells = [
            ("T", *(["D"] if several else []), "accuracy", "fidelity", "logit error", "spikes per neuron", "method")
        ]
        for row in self.rows:
            cells.append(
                (
                    str(row.timesteps),
                    *([str(row.spike_levels)] if several else []),
                    _percent(row.accuracy),
                    _percent(row.fidelity),
                    f"{row.logit_error:.4f}",
                    f"{row.spikes_per_neuron:.3f}",
                    row.method,
                )
            )
        footer = f"float accuracy {_percent(self.float_accuracy).strip()}; method {self.method}"
        return "\n".join([*table(cells), footer])

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """The table as a picture: a matplotlib Figure, written to `path` too if given. Needs the extra [plots]."""
        return plots.draw_sweep(self, path)


def _percent(share):
    return "-" if share is None else f"{100 * share:6.2f} %"


def _float_accuracy(network, data, ignore):
    """Accuracy of the float network, None without labels. Checks all data, labels and outputs on its way."""
    seen = Accuracy("model", ignore)
    for inputs, label in data.read("float network"):
        seen.see(network(*inputs), label, count(inputs))
    return seen.reduce()


def _evaluate(network, snn, data, ignore):
    """The row of one spiking network."""
    right = same = decisions = labelled = spikes = neurons = 0
    difference = norm = 0.0
    for batch, (inputs, label) in enumerate(data.read(f"evaluating {snn.report.steps}")):
        expected = logits_of(network(*inputs), "model", count(inputs))
        with record(snn) as recording:
            logits = logits_of(snn(*inputs), "model", count(inputs))
        choice = choices_of(logits)
        same += int((choice == choices_of(expected)).sum())
        decisions += choice.numel()
        if label is not None:
            hit, counting = hits(choice, labels_for(logits, label, ignore, batch), ignore)
            right, labelled = right + hit, labelled + counting
        difference += (logits.double() - expected.double()).square().sum().item()
        norm += expected.double().square().sum().item()
        for name in recording.counts:
            fired = recording.spike_counts(name)
            spikes, neurons = spikes + int(fired.sum()), neurons + fired.numel()
    right, same, decisions, labelled, spikes, neurons = collectives.totals(
        right, same, decisions, labelled, spikes, neurons
    )
    difference, norm = collectives.totals(difference, norm)
    return SweepRow(
        snn.timesteps,
        right / labelled if labelled else None,
        same / decisions,
        relative(difference, norm),
        spikes / neurons,
        snn.report.method,
        snn.spike_levels,
    )


def _check(timesteps, method, options):
    if isinstance(timesteps, (str, bytes)) or not isinstance(timesteps, Iterable):
        raise TypeError(f"timesteps: expected a sequence of integers, got {type(timesteps).__name__}")
    timesteps = list(timesteps)
    if not timesteps:
        raise ValueError("timesteps: expected at least one, got none")
    for value in timesteps:
        checks.full_count(value, options.get("spike_levels", 1))
    check_method(method)
    known = set(inspect.signature(convert).parameters) - {"model", "timesteps", "calibration", "method", "progress"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"options: expected those of pcsnn.convert ({', '.join(sorted(known))}), got {', '.join(unknown)}"
        )
    return timesteps


@formerly(model="net")
@torch.no_grad()
def sweep(
    model: torch.nn.Module,
    data: Iterable | Dataset,
    timesteps: Iterable[int] = (2, 4, 8, 16, 32),
    method: str | Method = "auto",
    calibration: Iterable | Dataset | None = None,
    progress: bool = True,
    ignore: int | None = None,
    after_each: Callable[[Sweep, SpikingNetwork], object] | None = None,
    **options: Any,
) -> Sweep:
    """Convert a network at several T and measure each result against the float network on the same data.

    Methods whose settings depend on T, and "auto", which chooses by T, convert anew for each; "none" too, as folding of
    batch norms depends on T. Others convert once, and `pcsnn.set_timesteps` does the rest. Several processes of
    torch.distributed each give their own shares of data and calibration (`pcsnn.distributed.shard`), and all get the
    result over all of them.

    Args:
        model: the float network; it is not changed, and runs in evaluation mode.
        data: a tensor [N, ...] (taken in batches of 32), or an iterable of input tensors or of (input, label, ...), for
            a network with several inputs (input 1, input 2, ...). Labels are integers [N, ...], the shape of the
            output without its classes; every one but `ignore` counts. It is read once and then once for each T; a
            one-shot iterator is kept in memory.
        timesteps: the T to try, each 1..255; with `spike_levels` D among the options, T D at most 255.
        method: as in `pcsnn.convert`.
        calibration: as in `pcsnn.convert`; None: the inputs of `data`, so that the figures are those of data seen.
        progress: show progress bars on a terminal.
        ignore: the label of what has no class, an integer, e.g. of void pixels.
        after_each: called as after_each(result, snn) when a T is measured, with the Sweep so far and the network of its
            last row, which it must not change, e.g. to write the row down or to measure more.
        options: further arguments of `pcsnn.convert`, such as `spike_levels`, the same D at each T.

    Returns:
        Sweep. Each row has, over all data: `accuracy`, the share of labels hit (None without labels); `fidelity`, the
        share of decisions equal to the float network's; `logit_error`, the norm of the difference to the float
        network's output divided by the norm of that output; `spikes_per_neuron`, the mean spike count of all neurons,
        0..T D. The output is the first tensor that the network returns, [N, classes, ...]; a decision is its argmax
        over dimension 1. Of one logit, [N] or [N, 1, ...], it is 1 where the logit is above 0, and labels are 0 and 1,
        of any dtype. Of a regression, whose data have no labels here, only `logit_error` and `spikes_per_neuron` mean
        something.

    Raises:
        TypeError, ValueError: arguments of the wrong kind or range; outputs without a class dimension, NaN or infinite;
            empty, NaN or infinite data; labels that are no integers (a regression's), of another shape, or in some
            batches only; and whatever `pcsnn.convert` refuses.
    """
    timesteps = _check(timesteps, method, options)
    if ignore is not None:
        checks.integer("ignore", ignore, -(2**63), 2**63 - 1)
    network, inputs = float_network(model)
    device = checks.device_of(*network.parameters(), *network.buffers())
    if calibration is not None:
        understood = Batches(calibration, inputs, device)
        if isinstance(calibration, Iterator):  # it must serve several conversions
            calibration = understood.source
    labelled = Labelled(data, inputs, device, progress)
    collectives.agree("model", model, timesteps, method, calibration is None, ignore, sorted(options.items()))
    result = Sweep(method if isinstance(method, str) else method.name, _float_accuracy(network, labelled, ignore))
    snn = None
    for value in timesteps:
        if snn is None or not serves_every_timesteps(method):
            snn = convert(
                model,
                value,
                calibration=labelled.source if calibration is None else calibration,
                method=method,
                progress=progress,
                **options,
            )
        else:
            set_timesteps(snn, value)
        result.rows.append(_evaluate(network, snn, labelled, ignore))
        if after_each is not None:
            after_each(result, snn)
    return result
