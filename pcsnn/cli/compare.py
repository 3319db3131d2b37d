"""Two reports on one page."""

from pcsnn.cli import charts, content, html
from pcsnn.cli.sweep import percent
from pcsnn.cli.timing import FORMS

_A, _B = charts.GREY, charts.BLUE


def page(*paths):
    """The HTML of what differs between the reports at two paths. ValueError where one is no report."""
    both = [content.read(path, "--compare") for path in paths]
    for path, one in zip(paths, both):
        one["where"] = str(path)
    sections = [
        ("summary", "Summary", _summary(both)),
        ("layers", "Layers", _layers(both)),
        ("operations", "Energy and speed", _costs(both)),
        ("conversion", "What became of each layer", _conversion(both)),
        ("facts", "What was converted, and where", _facts(both)),
    ]
    return html.page(f"{both[0]['title']} and {both[1]['title']}", sections)


def _summary(both):
    rows = [one["row"] for one in both]
    figures = [
        ("accuracy", *(_percent(row["accuracy"]) for row in rows)),
        ("accuracy of the float network", *(_percent(one["float_accuracy"]) for one in both)),
        ("same decision as the float network", *(_percent(row["fidelity"]) for row in rows)),
        ("relative error of the logits", *((row["logit_error"], "{:.4f}") for row in rows)),
        ("spikes per neuron", *((row["spikes_per_neuron"], "{:.3f}") for row in rows)),
        ("time-steps T", *((row["timesteps"], "{}") for row in rows)),
        ("spike levels D", *((row["spike_levels"], "{}") for row in rows)),
        ("milliseconds an image", *((_milliseconds(one, "spiking"), "{:.3f}") for one in both)),
        ("uJ an image, spikes packed", *((_energy(one, "packed"), "{:.2f}") for one in both)),
    ]
    cells = [("", "A", "B", "B - A"), *((name, *_difference(a, b)) for name, a, b in figures)]
    titles = [
        ("", ""),
        ("A", f"{both[0]['title']}: {both[0]['where']}"),
        ("B", f"{both[1]['title']}: {both[1]['where']}"),
    ]
    shown = []
    for name, a, b in figures[:5]:
        left, right, change = _difference(a, b)
        shown.append((name, right, f"A: {left}" + (f" ({change})" if change not in ("", "0") else "")))
    return html.table(titles, sortable=False) + html.cards(shown) + html.table(cells, sortable=False)


def _percent(share):
    return (None if share is None else 100 * share), "{:.2f} %"


def _difference(a, b):
    """Both figures and their difference, as text."""
    (left, words), (right, _) = a, b
    shown = ["-" if value is None else words.format(value) for value in (left, right)]
    if left is None or right is None:
        return (*shown, "")
    sign = "+" if right > left else ""
    return (*shown, "0" if left == right else sign + words.format(right - left))


def _milliseconds(one, form):
    return one["time"]["milliseconds"][form] if one["time"] else None


def _energy(one, execution):
    return 1e6 * one["operations"]["energy"][execution]["total"] if one["operations"] else None


def _layers(both):
    """The layers that both have, by name."""
    errors = [{row["name"]: row for row in one["errors"]} for one in both]
    spikes = [{row["name"]: row for row in one["spikes"]} for one in both]
    names = [name for name in errors[0] if name in errors[1] and all(name in part for part in spikes)]
    others = [[name for name in errors[side] if name not in names] for side in (0, 1)]
    alone = "".join(html.note(f"Only in {'AB'[side]}: {', '.join(others[side])}.") for side in (0, 1) if others[side])
    if not names:
        return html.note("The two have no layer of one name.") + alone

    def drawn(draw, title, unit, parts, field, factor=1):
        series = {
            label: ([None if (found := part[name][field]) is None else factor * found for name in names], colour)
            for label, part, colour in zip("AB", parts, (_A, _B))
        }
        return html.chart(draw(title, unit, names, series), title)

    cells = [("layer", "error A", "error B", "B - A", "rate A", "rate B", "B - A", "sparsity A", "sparsity B")]
    for name in names:
        error = [(part[name]["rate"], "{:.4f}") for part in errors]
        rate = [(part[name]["rate"], "{:.4f}") for part in spikes]
        sparsity = [percent(part[name]["sparsity"]) for part in spikes]
        cells.append((name, *_difference(*error), *_difference(*rate), *sparsity))
    return (
        html.side_by_side(
            drawn(charts.by_layer, "Error of the rates", "relative RMS", errors, "rate"),
            drawn(charts.bars, "Mean firing rate", "of full firing", spikes, "rate"),
            drawn(charts.bars, "Zeros among neurons and time-steps", "%", spikes, "sparsity", 100),
        )
        + alone
        + html.table(cells)
    )


def _costs(both):
    cells, bars = [("", "A", "B", "B - A")], []
    timed = [one for one in both if one["time"]]
    counted = [one for one in both if one["operations"]]
    for form in FORMS if timed else ():
        cells.append((f"{form}, ms an image", *_difference(*((_milliseconds(one, form), "{:.3f}") for one in both))))
    executions = [name for name in charts.EXECUTIONS if any(name in one["operations"]["energy"] for one in counted)]
    for name in executions:
        spent = [
            (_energy(one, name) if one["operations"] and name in one["operations"]["energy"] else None) for one in both
        ]
        cells.append((f"{name}, uJ an image", *_difference(*((value, "{:.2f}") for value in spent))))
        bars.append(spent)
    if len(cells) == 1:
        return html.note("Neither was measured: operations stay analog.")
    drawn = []
    if timed:
        series = {
            label: ([_milliseconds(one, form) for form in FORMS], colour)
            for label, one, colour in zip("AB", both, (_A, _B))
        }
        drawn.append(html.chart(charts.bars("Time an image", "ms", list(FORMS), series), "time of each form"))
    if counted:
        series = {
            label: ([spent[side] for spent in bars], colour) for side, (label, colour) in enumerate(zip("AB", (_A, _B)))
        }
        drawn.append(html.chart(charts.bars("Energy of synapses an image", "uJ", executions, series), "energy"))
    return (
        html.side_by_side(*drawn)
        + html.table(cells)
        + html.note("Times of two runs compare only where the machine was the same, and as busy.")
    )


def _conversion(both):
    left, right = ({row[0]: row[1:3] for row in one["conversion"]} for one in both)
    cells = [("layer", "A", "B")]
    for name in dict.fromkeys([*left, *right]):
        parts = [": ".join(part[name]) if name in part else "-" for part in (left, right)]
        if parts[0] != parts[1]:
            cells.append((name, *parts))
    return html.table(cells) if len(cells) > 1 else html.note("The same in both.")


def _facts(both):
    cells = [("", "A", "B")]
    for part in ("facts", "machine"):
        left, right = (dict(one[part]) for one in both)
        cells += [(name, left.get(name, "-"), right.get(name, "-")) for name in dict.fromkeys([*left, *right])]
    return html.table(cells, sortable=False)
