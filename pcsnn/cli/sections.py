"""The sections of a report, as HTML."""

import dataclasses

from pcsnn.analysis import (
    Operations,
    Sweep,
    SweepRow,
    plot_histograms,
    plot_operations,
    plot_raster,
    plot_rates,
    random_order,
)
from pcsnn.analysis.costs.results import ACCUMULATE, MAC
from pcsnn.cli import html
from pcsnn.cli.convert import relative_report
from pcsnn.cli.figures import draw_times
from pcsnn.cli.sweep import cells_of, footer_of, percent
from pcsnn.cli.timing import FORMS


def summary(row, float_accuracy, images, args):
    facts = [
        ("", ""),
        ("network", args.model),
        ("QCFS levels L", str(args.levels or "as the network has them")),
        ("weights", str(args.weights or "of the function itself")),
        ("data", f"{args.data}, {images:,} images"),
        ("calibration", str(args.calibration or "the same data, or none needed")),
        ("time-steps T", str(row.timesteps)),
        ("spike levels D", f"{row.spike_levels}{'' if row.spike_levels > 1 else ', binary'}"),
        ("method", row.method),
        ("accuracy", percent(row.accuracy)),
        ("accuracy of the float network", percent(float_accuracy)),
        ("same decision as the float network", percent(row.fidelity)),
        ("relative error of the logits", f"{row.logit_error:.4f}"),
        ("spikes per neuron", f"{row.spikes_per_neuron:.3f} in {row.timesteps} steps{_of_values(row.spike_levels)}"),
    ]
    return html.table(facts)


def _of_values(spike_levels):
    return f" of 0..{spike_levels} each" if spike_levels > 1 else ""


def conversion(report):
    report = relative_report(report)
    cells = [("layer", "kind", "what became of it", "source")]
    cells += [(row.name, row.kind, row.detail, row.location) for row in report.rows]
    return html.table(cells)


def layer_errors(errors):
    return (
        html.picture(errors.plot(), "errors of each layer")
        + html.note(
            "Relative RMS against the float network. Propagated: what earlier layers did; clipping: "
            "beyond the largest rate; rounding: between two rates."
        )
        + html.text(str(errors), "pre")
    )


def rates(recording):
    return (
        html.picture(plot_rates(recording, None), "firing rates")
        + html.text(recording.table(), "pre")
        + html.picture(plot_histograms(recording, None), "histograms of spike counts")
    )


def rasters(recording, layers, neurons, seed):
    order = random_order(recording.timesteps, seed)
    pictures = [
        html.picture(plot_raster(recording, layer, None, neurons=neurons, order=order), f"spikes of {layer}")
        for layer in layers
    ]
    return html.note(
        "The parallel neuron fires in its last steps (sorted); any order of the steps gives the next "
        "layer the same sum (shuffled)."
    ) + "".join(pictures)


def operations(counted):
    return html.note(
        f"Per image. Energy by the convention of the literature: 45 nm, {1e12 * MAC:.1f} pJ a "
        f"multiply-accumulate, {1e12 * ACCUMULATE:.1f} pJ an "
        "accumulate."
    ) + html.text(counted.table(), "pre")


def not_measured(analog):
    return html.note(
        f"Not measured: {', '.join(row.name for row in analog)} stays analog, and serial "
        "integrate-and-fire, which time and operations are compared with, has nothing for it."
    )


def speed(timed):
    cells = [("form", "milliseconds an image"), *((form, f"{timed['milliseconds'][form]:.3f}") for form in FORMS)]
    return (
        html.table(cells)
        + html.text(f"{timed['speed_up']:.1f} times faster than serial integrate-and-fire.")
        + html.note(
            f"Medians of {timed['rounds']} rounds in turns, batches of {timed['batch']}. Float: the "
            "network that was converted, batch norms folded. Spiking: the collapsed form, one synaptic "
            "operation a layer for all T steps."
        )
    )


def sweep(rows, args):
    if rows is None:
        return html.note(
            f"None given. pcsnn sweep {args.model} ... --output sweep.jsonl makes one, and --sweep "
            "sweep.jsonl shows it here."
        )
    results = [SweepRow(**{field.name: row[field.name] for field in dataclasses.fields(SweepRow)}) for row in rows]
    body = html.table(cells_of(rows)) + "".join(map(html.note, footer_of(rows)))
    body += html.picture(Sweep(args.method, rows[0]["float_accuracy"], results).plot(), "accuracy against T")
    for spike_levels in sorted({row["spike_levels"] for row in rows}):  # a step of one D is none of another
        alike = [row for row in rows if row["spike_levels"] == spike_levels]
        said = f", D = {spike_levels}" if spike_levels > 1 else ""
        timed = [row for row in alike if row["time"]]
        if timed:
            body += html.picture(draw_times(timed), f"time against T{said}")
        counted = [Operations.from_dict(row["operations"]) for row in alike if row["operations"]]
        if counted:
            body += html.picture(plot_operations(counted), f"operations and energy against T{said}")
    return body


def machine(found, versions):
    facts = {**found, "gpus": ", ".join(found["gpus"]) or "none"}
    cells = [("", ""), *((name, str(value)) for name, value in facts.items())]
    cells += [(name, version or "not installed") for name, version in versions.items()]
    return html.table(cells)
