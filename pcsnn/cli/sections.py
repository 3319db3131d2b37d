"""The sections of a report, as HTML."""

import dataclasses

from pcsnn.analysis import Operations, random_order
from pcsnn.analysis.costs.results import ACCUMULATE, MAC, Count
from pcsnn.analysis.plots import abscissa
from pcsnn.cli import charts, html
from pcsnn.cli.content import trains
from pcsnn.cli.sweep import cells_of, footer_of, percent
from pcsnn.cli.timing import FORMS
from pcsnn.network.report import steps_in_words

MOST_TRAINS = 400_000  # values 0..D of all rasters of a page


def facts(row, float_accuracy, images, args):
    """What was converted, and what came of it: (name, value)."""
    normalisation = args.normalisation
    known = normalisation.mean is not None or normalisation.std is not None
    return [
        ("network", args.model),
        ("QCFS levels L", str(args.levels or "as the network has them")),
        ("weights", str(args.weights or "of the function itself")),
        ("data", f"{args.data}, {images:,} images"),
        ("images normalised", str(normalisation) if known else "no: values 0..1"),
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


def _of_values(spike_levels):
    return f" of 0..{spike_levels} each" if spike_levels > 1 else ""


def summary(content):
    row, time = content["row"], content["time"]
    shown = [
        ("accuracy", percent(row["accuracy"]), f"float network {percent(content['float_accuracy'])}"),
        ("same decision", percent(row["fidelity"]), "as the float network"),
        ("spikes per neuron", f"{row['spikes_per_neuron']:.3f}", steps_in_words(row["timesteps"], row["spike_levels"])),
    ]
    if time:
        milliseconds = time["milliseconds"]["spiking"]
        shown.append(("speed-up", f"{time['speed_up']:.1f}x", f"{milliseconds:.2f} ms, over serial spiking"))
    if content["operations"]:
        energy = {name: f"{1e6 * part['total']:.1f} uJ" for name, part in content["operations"]["energy"].items()}
        shown.append(("energy an image", energy["packed"], f"of spikes; float network {energy['float']}"))
    return html.cards(shown) + html.table([("", ""), *map(tuple, content["facts"])], sortable=False)


def conversion(content, links):
    cells = [("layer", "kind", "what became of it", "source"), *content["conversion"]]
    return html.note("A spiking layer leads to its histogram and raster.") + html.table(cells, links)


def error_charts(rows):
    """Of LayerErrors as dicts."""
    names = [row["name"] for row in rows]

    def series(colours):
        return {name: ([row[name] for row in rows], colour) for name, colour in colours.items()}

    whole = series({"current": charts.GREY, "rate": charts.BLUE})
    causes = series({"propagated": charts.GREY, "rounding": charts.ORANGE, "clipping": charts.RED})
    shares = {
        "dead channels": ([100 * row["dead"] for row in rows], charts.GREY),
        "saturated outputs": ([100 * row["saturated"] for row in rows], charts.RED),
    }
    return html.side_by_side(
        html.chart(charts.by_layer("Error of each layer", "relative RMS", names, whole), "errors of each layer"),
        html.chart(charts.by_layer("Where it comes from", "relative RMS", names, causes), "causes of the errors"),
        html.chart(
            charts.bars("Channels that never fire, outputs at full count", "%", names, shares), "dead, saturated"
        ),
    )


def layer_errors(content, links):
    columns = ("current", "rate", "clipping", "rounding", "propagated")
    cells = [("layer", *columns, "dead", "saturated")]
    for row in content["errors"]:
        figures = ["inf" if row[name] is None else f"{row[name]:.4f}" for name in columns]
        cells.append((row["name"], *figures, *(f"{100 * row[name]:.1f} %" for name in ("dead", "saturated"))))
    return (
        error_charts(content["errors"])
        + html.note(
            "Relative RMS against the float network. Propagated: what earlier layers did; clipping: "
            "beyond the largest rate; rounding: between two rates."
        )
        + html.table(cells, links)
    )


def rate_charts(rows):
    """Of LayerSpikes as dicts."""
    names = [row["name"] for row in rows]
    rate = {"firing rate": ([row["rate"] for row in rows], charts.BLUE)}
    sparsity = {"sparsity": ([100 * row["sparsity"] for row in rows], charts.GREY)}
    ends = {
        "silent neurons": ([100 * row["silent"] / row["neurons"] for row in rows], charts.GREY),
        "full counts": ([100 * row["saturated"] for row in rows], charts.RED),
    }
    return html.side_by_side(
        html.chart(charts.bars("Mean firing rate", "of full firing", names, rate), "firing rates"),
        html.chart(charts.bars("Zeros among neurons and time-steps", "%", names, sparsity), "sparsity"),
        html.chart(charts.bars("Neurons that never fire, counts of full firing", "%", names, ends), "silent, full"),
    )


def rates(content, links):
    cells = [("layer", "neurons", "firing rate", "sparsity", "silent", "saturated")]
    for row in content["spikes"]:
        shares = (f"{100 * row['sparsity']:.2f} %", f"{row['silent']:,}", f"{100 * row['saturated']:.2f} %")
        cells.append((row["name"], f"{row['neurons']:,}", f"{row['rate']:.4f}", *shares))
    samples = ", ".join(dict.fromkeys(str(row["samples"]) for row in content["spikes"]))
    return (
        rate_charts(content["spikes"])
        + html.table(cells, links)
        + html.note(f"Firing rate: spikes, of all that T steps of D could be; {samples} images.")
    )


def layers(recording, names, opened, links, neurons, seed):
    """A part for each layer, with its histogram and rasters; `opened` are open from the beginning."""
    order = random_order(recording.timesteps, seed)
    fits = MOST_TRAINS // (2 * recording.timesteps * len(names))
    shown, summaries = max(1, min(neurons, fits)), {row.name: row for row in recording.summary()}
    parts = []
    for name in names:
        total = recording.counts_of(name)[0].numel()
        few = f"{min(shown, total)} of {total:,} neurons, first image"
        drawn = [html.chart(charts.histogram("Spike counts", recording.histogram(name).tolist()), f"counts of {name}")]
        for title, places in (("sorted", None), ("shuffled", order)):
            figure = charts.raster(
                f"Spikes {title}: {few}",
                *trains(recording, name, shown, places),
                recording.timesteps,
                recording.spike_levels,
            )
            drawn.append(html.chart(figure, f"spikes of {name}, {title}", 380))
        row = summaries[name]
        heading = f"{name}: firing rate {row.rate:.4f}, {row.silent:,} of {row.neurons:,} neurons silent"
        parts.append(html.fold(links[name], heading, html.side_by_side(*drawn), name in opened))
    return html.note(
        "The parallel neuron fires in its last steps (sorted); any order of the steps gives the next "
        "layer the same sum (shuffled). Drag to zoom, double-click for the whole."
    ) + "".join(parts)


def operations(counted):
    """Of the dict of an Operations."""
    result = Operations.from_dict(counted)
    energies, totals = result.energy(), {name: result.total(name) for name in result.executions}
    cells = [("per image", *result.executions)]
    for name in (field.name for field in dataclasses.fields(Count)):
        values = [getattr(total, name) for total in totals.values()]
        if any(values):
            cells.append((name.replace("_", " "), *map(_figure, values)))
    for name, words in (("first_layer", "first layer"), ("synapses", "synapses"), ("total", "total"), ("rest", "rest")):
        spent = [f"{1e6 * getattr(energies[execution], name):.4g}" for execution in result.executions]
        cells.append((f"energy in uJ, {words}", *spent))
    stepped = [name for name in result.executions if name.partition(" ")[0] in ("serial", "packed")]
    by_layer = [("layer", "kind", "", *stepped, "MACs", *(f"{name} spikes" for name in stepped))]
    for layer in result.layers:
        synaptic = [_figure(_synaptic(layer.counts[name])) for name in (*stepped, "float")]
        fired = [_figure(layer.counts[name].spikes) for name in stepped]
        by_layer.append((layer.name, layer.kind, layer.detail + (", once" if layer.once else ""), *synaptic, *fired))
    spent = {
        name: ([1e6 * getattr(energies[execution], field) for execution in result.executions], colour)
        for name, field, colour in (
            ("first layer", "first_layer", charts.GREY),
            ("synapses", "synapses", charts.BLUE),
            ("neurons, pools, sums", "rest", charts.ORANGE),
        )
    }
    weighing = [layer for layer in result.layers if layer.kind == "synapse"]
    work = {
        name: ([_synaptic(layer.counts[name]) / 1e6 for layer in weighing], charts.EXECUTIONS[name][0])
        for name in ("packed", "float")
    }
    left = f" Not counted: {', '.join(result.uncounted)}." if result.uncounted else ""
    return (
        html.side_by_side(
            html.chart(charts.bars("Energy an image", "uJ", list(result.executions), spent), "energy"),
            html.chart(
                charts.bars("Synaptic operations an image", "millions", [layer.name for layer in weighing], work),
                "synaptic operations of each layer",
            ),
        )
        + html.note(
            f"Per image, a mean of {result.images}. Energy by the convention of the literature: 45 nm, "
            f"{1e12 * MAC:.1f} pJ a multiply-accumulate, {1e12 * ACCUMULATE:.1f} pJ an accumulate.{left}"
        )
        + html.table(cells)
        + html.note("Synaptic operations (accumulates and MACs) and spikes of each layer.")
        + html.table(by_layer)
    )


def _synaptic(count):
    return count.accumulates + count.macs + count.input_macs + count.spike_macs


def _figure(value):
    return "-" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def not_measured(analog):
    return html.note(
        f"Not measured: {', '.join(analog)} stays analog, and serial "
        "integrate-and-fire, which time and operations are compared with, has nothing for it."
    )


def speed(timed):
    milliseconds = timed["milliseconds"]
    cells = [("form", "milliseconds an image"), *((form, f"{milliseconds[form]:.3f}") for form in FORMS)]
    values = {"time": ([milliseconds[form] for form in FORMS], charts.BLUE)}
    return html.side_by_side(
        html.table(cells) + html.text(f"{timed['speed_up']:.1f} times faster than serial integrate-and-fire."),
        html.chart(charts.bars("Time an image", "ms", list(FORMS), values), "time of each form", 260),
    ) + html.note(
        f"Medians of {timed['rounds']} rounds in turns, batches of {timed['batch']}. Float: the "
        "network that was converted, batch norms folded. Spiking: the collapsed form, one synaptic "
        "operation a layer for all T steps."
    )


def sweep(rows, args):
    if rows is None:
        return html.note(
            f"None given. pcsnn sweep {args.model} ... --output sweep.jsonl makes one, and --sweep "
            "sweep.jsonl shows it here."
        )
    body = "".join(map(html.note, footer_of(rows)))
    return html.side_by_side(*_sweep_charts(rows)) + html.table(cells_of(rows)) + body


class _Result:
    """A row of results as pcsnn.analysis.plots.abscissa takes it."""

    def __init__(self, row):
        self.row, self.timesteps, self.spike_levels = row, row["timesteps"], row["spike_levels"]


def _sweep_charts(rows):
    results, at, _, label = abscissa([_Result(row) for row in rows])
    ordered = [result.row for result in results]

    def against(title, unit, **series):
        found = {name: (at, values, colour, "solid") for name, (values, colour) in series.items()}
        return html.chart(charts.against(title, unit, label, found), title)

    def column(name, factor=1):
        return [None if row[name] is None else factor * row[name] for row in ordered]

    shares = {"accuracy": (column("accuracy", 100), charts.BLUE), "fidelity": (column("fidelity", 100), charts.GREEN)}
    if ordered[0]["float_accuracy"] is not None:
        shares["float"] = (column("float_accuracy", 100), charts.GREY)
    else:
        del shares["accuracy"]
    drawn = [
        against("Accuracy, and agreement with the float network", "%", **shares),
        against("Error of the logits", "relative RMS", error=(column("logit_error"), charts.RED)),
        against("Spikes per neuron", "mean count", spikes=(column("spikes_per_neuron"), charts.BLUE)),
    ]
    for spike_levels in sorted({row["spike_levels"] for row in rows}):  # a step of one D is none of another
        alike = sorted((row for row in rows if row["spike_levels"] == spike_levels), key=lambda row: row["timesteps"])
        drawn += _cost_charts(alike, "time-steps T" + (f" (D = {spike_levels})" if spike_levels > 1 else ""))
    return drawn


def _cost_charts(rows, label):
    """Time, speed-up and energy against T, of rows of one D that have them."""
    drawn = []
    timed = [row for row in rows if row["time"]]
    at = [row["timesteps"] for row in timed]
    if timed:
        times = {
            form: (at, [row["time"]["milliseconds"][form] for row in timed], colour, "solid")
            for form, colour in charts.FORMS.items()
        }
        ratio = {"speed-up": (at, [row["time"]["speed_up"] for row in timed], charts.BLUE, "solid")}
        drawn += [
            html.chart(charts.against("Time", "ms an image", label, times), "time against T"),
            html.chart(charts.against("Speed-up over serial spiking", "times", label, ratio), "speed-up against T"),
        ]
    counted = [row for row in rows if row["operations"]]
    if counted:
        at = [row["timesteps"] for row in counted]
        energies = [row["operations"]["energy"] for row in counted]
        spent = {
            name: (at, [1e6 * energy[name]["total"] for energy in energies], *style)
            for name, style in charts.EXECUTIONS.items()
            if name in energies[0]
        }
        drawn.append(html.chart(charts.against("Energy of synapses", "uJ an image", label, spent), "energy against T"))
    return drawn


def machine(found, versions):
    """(name, value) of the machine and its software."""
    shown = {**found, "gpus": ", ".join(found["gpus"]) or "none"}
    rows = [(name, str(value)) for name, value in shown.items()]
    return rows + [(name, version or "not installed") for name, version in versions.items()]
