"""The pictures of the analyses. matplotlib is loaded when one is drawn."""

from typing import Any, NamedTuple

from pcsnn.network.report import steps_in_words

WRONG, RIGHT, FLOAT = "#d62728", "#1f4fb4", "#555555"
# field of a LayerError: colour, marker
WHOLE = {"current": (FLOAT, "s"), "rate": (RIGHT, "o")}
CAUSES = {"propagated": (FLOAT, "s"), "rounding": ("#ff7f0e", "^"), "clipping": (WRONG, "v")}
PLAIN = {"parse_math": False}  # of text with names in it, whose $ are no mathematics


def short(name):
    """A layer's name, its end where it is long: a picture has little room for it."""
    return name if len(name) <= 40 else f"...{name[-37:]}"


def new_figure(width, height):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib, the extra [plots]: pip install 'pcsnn[plots]'") from error
    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def finish(axes, title, label):
    axes.set_title(title, fontsize=11, **PLAIN)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9)


class Abscissa(NamedTuple):
    """What results are drawn against: their values, in ascending order, the symbol and a label of these."""

    results: list[Any]
    values: list[int]
    symbol: str
    label: str


def abscissa(results):
    """Results of several T and D in the order that a picture takes: against T where they have one D, against D where
    they have one T D, else against T D."""
    steps = [result.timesteps for result in results]
    levels = [result.spike_levels for result in results]
    full_counts = [result.timesteps * result.spike_levels for result in results]
    if len(set(levels)) == 1:
        symbol, values, label = "T", steps, "time-steps T" + (f" (D = {levels[0]})" if levels[0] > 1 else "")
    elif len(set(full_counts)) == 1:
        symbol, values, label = "D", levels, f"spike levels D (T D = {full_counts[0]})"
    else:
        symbol, values, label = "T D", full_counts, "levels T D"
    order = sorted(range(len(results)), key=values.__getitem__)
    return Abscissa([results[place] for place in order], [values[place] for place in order], symbol, label)


def against_timesteps(axes, steps, label="time-steps T"):
    """A horizontal axis of T, marked at `steps`."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel(label)


def _lines(axes, rows, styles):
    for field, (colour, marker) in styles.items():
        axes.plot([getattr(row, field) for row in rows], color=colour, marker=marker, markersize=5, label=field)


def save(figure, path):
    if path is not None:
        figure.savefig(path)
    return figure


def draw_layer_errors(errors, path=None):
    """Errors, their causes, and the dead and saturated shares, layer after layer, of a LayerErrors."""
    rows = errors.rows
    places = range(len(rows))
    figure = new_figure(max(6.0, 2.5 + 0.32 * len(rows)), 9.0)
    whole, causes, shares = figure.subplots(3, 1, sharex=True)
    _lines(whole, rows, WHOLE)
    finish(whole, "Error of each layer", "relative RMS")
    _lines(causes, rows, CAUSES)
    finish(causes, "Where the error of the rates comes from", "relative RMS")
    for field, colour, shift in (("dead", FLOAT, -0.2), ("saturated", WRONG, 0.2)):
        label = "dead channels" if field == "dead" else "saturated outputs"
        shares.bar(
            [place + shift for place in places],
            [100 * getattr(row, field) for row in rows],
            0.4,
            color=colour,
            label=label,
        )
    full = "T" if errors.spike_levels == 1 else "T D"
    finish(shares, f"Channels that never fire, outputs at count {full}", "%")
    shares.set_xticks(
        list(places), [short(row.name) for row in rows], rotation=90 if len(rows) > 6 else 0, fontsize=8, **PLAIN
    )
    figure.suptitle(f"{errors.method}, {steps_in_words(errors.timesteps, errors.spike_levels)}", fontsize=13)
    return save(figure, path)


def draw_sweep(result, path=None):
    """Accuracy and fidelity, logit error, and spikes, against T, of a Sweep."""
    rows, steps, _, label = abscissa(result.rows)
    figure = new_figure(14.0, 4.4)
    share, error, spikes = figure.subplots(1, 3)
    if result.float_accuracy is not None:
        share.axhline(100 * result.float_accuracy, color=FLOAT, linestyle="--", label="float accuracy")
        share.plot(
            steps, [100 * row.accuracy for row in rows], color=RIGHT, marker="o", linewidth=2.6, label="accuracy"
        )
    share.plot(steps, [100 * row.fidelity for row in rows], color="#2ca02c", marker="v", label="fidelity")
    error.plot(steps, [row.logit_error for row in rows], color=WRONG, marker="o")
    spikes.plot(steps, [row.spikes_per_neuron for row in rows], color=RIGHT, marker="o")
    finish(share, "Accuracy, and agreement with the float network", "%")
    finish(error, "Error of the logits", "relative RMS")
    finish(spikes, "Spikes per neuron", "mean count")
    for axes in (share, error, spikes):
        against_timesteps(axes, steps, label)
    figure.suptitle(f"method {result.method}", fontsize=13)
    return save(figure, path)
