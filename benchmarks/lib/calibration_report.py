"""The tables and the picture of calibration.py."""

import statistics

LABELS = {  # of methods that are not called by their name
    "float": "float network",
    "snnc": "SNNC, light pipeline",
    "snnc-half": "SNNC, from theta / 2",
    "snnc-ap": "SNNC, advanced pipeline",
    "snnc-ap-half": "SNNC, advanced, theta / 2",
    "spikingjelly": "SpikingJelly, default",
    "spikingjelly-half": "SpikingJelly, channels, half",
}
BLOCKS = {  # key of a row: title, factor, format
    "accuracy": ("Accuracy, %", 100, "{:.2f}"),
    "drop": ("Drop against the float network, points", 1, "{:.2f}"),
    "same": ("Same class as the float network, %", 100, "{:.2f}"),
    "seconds": ("Calibration, seconds", 1, "{:.1f}"),
}
COLOURS = {  # other methods take what matplotlib gives them
    "max": "#999999",
    "paper": "#8c6d31",
    "quick": "#6fa8dc",
    "light": "#1f4fb4",
    "advanced": "#0b1f5c",
    "snnc": "#d62728",
    "snnc-half": "#ff9896",
    "snnc-ap": "#8c1a1a",
    "snnc-ap-half": "#e377c2",
    "spikingjelly": "#98df8a",
    "spikingjelly-half": "#2ca02c",
}


def label(method):
    return LABELS.get(method, method)


def by_method(rows):
    """{method: {T: rows of every seed}}, of the rows that were measured, in their order."""
    found = {}
    for row in rows:
        if "why" not in row and row["method"] != "float":
            found.setdefault(row["method"], {}).setdefault(row["timesteps"], []).append(row)
    return found


def _aligned(cells):
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    ]


def block(measured, key, how, timesteps, symbol="T"):
    """A table of one key of the rows, as lines: methods down, T across. `how`: title, factor and format."""
    title, factor, form = how
    cells = [[title, *(f"{symbol} = {steps}" for steps in timesteps)]]
    for method, columns in measured.items():
        values = [[row[key] * factor for row in columns.get(steps, []) if key in row] for steps in timesteps]
        cells.append([label(method), *(form.format(statistics.fmean(some)) if some else "" for some in values)])
    return _aligned(cells)


def _seeds(measured, timesteps):
    """One line for each method and T with several seeds."""
    lines = []
    for method, columns in measured.items():
        for steps in timesteps:
            rows = columns.get(steps, [])
            if len(rows) > 1:
                accuracies = ", ".join(f"{100 * row['accuracy']:.2f}" for row in rows)
                same = ", ".join(f"{100 * row['same']:.2f}" for row in rows)
                seeds = ", ".join(str(row["seed"]) for row in rows)
                lines.append(f"{label(method)}, T = {steps}, seeds {seeds}: accuracy {accuracies}; same {same}")
    return lines


def lines(name, rows, timesteps):
    """The report on one network, as lines of text. `name`: its label."""
    source = next((row for row in rows if row["method"] == "float" and "why" not in row), None)
    found = [name]
    if source:
        found[0] += (
            f": float network {100 * source['accuracy']:.2f} % on {source['images']} test images, "
            f"{source['calibration_images']} images to calibrate"
        )
    measured = by_method(rows)
    if measured:
        for key, how in BLOCKS.items():
            found += ["", *block(measured, key, how, timesteps)]
        each = _seeds(measured, timesteps)
        found += ["", *each] if each else []
    refused = [f"{label(row['method'])}: not run: {row['why']}" for row in rows if "why" in row]
    return found + (["", *refused] if refused else [])


def plot(cases, rows, path):
    """Accuracy and agreement with the float network against T, a column for each network that was measured.

    Args:
        cases: {network: label}. rows: of all networks. path: of the picture; its ending says the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = {name: by_method([row for row in rows if row["network"] == name]) for name in cases}
    measured = {name: methods for name, methods in measured.items() if methods}
    if not measured:
        raise ValueError("plot: no row was measured")
    figure, grid = plt.subplots(2, len(measured), figsize=(5.2 * len(measured), 8), squeeze=False, layout="constrained")
    for column, (name, methods) in zip(grid.T, measured.items()):
        source = next(row for row in rows if row["network"] == name and row["method"] == "float")
        column[0].axhline(100 * source["accuracy"], color="black", linestyle="--", linewidth=1, label=label("float"))
        column[0].set_title(cases[name], fontsize=10)
        for axes, key in zip(column, ("accuracy", "same")):
            for method, columns in methods.items():
                points = sorted(
                    (steps, 100 * statistics.fmean(row[key] for row in some)) for steps, some in columns.items()
                )
                axes.plot(*zip(*points), marker="o", markersize=4, color=COLOURS.get(method), label=label(method))
            ticks = sorted({steps for columns in methods.values() for steps in columns})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set_xlabel("time-steps T")
            axes.set_ylabel(BLOCKS[key][0])
            axes.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
