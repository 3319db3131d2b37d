"""Operations and energy against T as a picture. matplotlib is loaded when it is drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcsnn.analysis import plots
from pcsnn.analysis.costs.results import Operations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# execution: colour, marker, line
_STYLES = {
    "serial": (plots.WRONG, "o", "-"),
    "serial integers": (plots.WRONG, "x", ":"),
    "packed": ("#ff7f0e", "^", "-"),
    "packed integers": ("#ff7f0e", "x", ":"),
    "collapsed": (plots.RIGHT, "o", "-"),
    "float": (plots.FLOAT, "s", "--"),
}


def plot_operations(results: Sequence[Operations], path: str | os.PathLike | None = None) -> Figure:
    """Synaptic operations, those of neurons and all else, energy, and memory traffic against T, a line an execution.

    Args:
        results: a list of Operations of one network at several T. Where they have several D (22) the axis is D if T D
            is the same, else T D.
        path: where to write the picture, if given.

    Returns:
        matplotlib.figure.Figure. Needs the extra [plots].

    Raises:
        TypeError, ValueError: no list of Operations; none; a T, D or T D on the axis that comes twice.
    """
    if not isinstance(results, (list, tuple)):
        raise TypeError(f"results: expected a list of Operations, got {type(results).__name__}")
    for result in results:
        if not isinstance(result, Operations):
            raise TypeError(f"results: expected Operations, made by count_operations, got {type(result).__name__}")
    if not results:
        raise ValueError("results: expected at least one, got none")
    results, steps, symbol, label = plots.abscissa(results)
    if len(set(steps)) < len(steps):
        raise ValueError(f"results: expected each {symbol} once, got {steps}")
    figure = plots.new_figure(15.5, 3.9)
    synaptic, others, energy, traffic = figure.subplots(1, 4)
    for execution, (colour, marker, line) in _STYLES.items():
        having = [(at, result) for at, result in zip(steps, results) if execution in result.executions]
        if not having:
            continue
        at = [step for step, _ in having]
        totals = [result.total(execution) for _, result in having]
        style = {"color": colour, "marker": marker, "linestyle": line, "label": execution}
        macs = [count.macs + count.input_macs + count.spike_macs for count in totals]
        rest = [
            count.additions + count.multiplications + count.comparisons - count.accumulates - 2 * mac
            for count, mac in zip(totals, macs)
        ]
        synaptic.plot(at, [(count.accumulates + mac) / 1e6 for count, mac in zip(totals, macs)], **style)
        others.plot(at, [value / 1e6 for value in rest], **style)
        energy.plot(at, [1e6 * result.energy()[execution].total for _, result in having], **style)
        traffic.plot(at, [count.bytes / 2**20 for count in totals], **style)
    for axes, title, unit in (
        (synaptic, "Synaptic operations (MACs, accumulates)", "millions an image"),
        (others, "Neurons, pools and sums", "million operations an image"),
        (energy, "Energy of synaptic operations, 45 nm", "microjoules an image"),
        (traffic, "Least memory traffic", "MiB an image"),
    ):
        plots.finish(axes, title, unit)
        plots.against_timesteps(axes, steps, label)
    return plots.save(figure, path)
