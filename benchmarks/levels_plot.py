"""A picture: accuracy against the number of levels T D, for every method and all networks that files have rows of.

    python benchmarks/levels_plot.py docs/levels.png results/calibration.json results/imagenet.json

Reads what calibration.py, imagenet.py and quantised.py write with --json; seeds are averaged. A network's published
rows are drawn hollow beside its measured ones. What loses more than 45 points is cut off.
"""

import argparse
import json
import pathlib
import statistics

import matplotlib
import matplotlib.pyplot as plt
from lib import calibration_report as report
from lib import published
from lib.uniform_activations import CHOICES
from matplotlib.ticker import NullLocator, ScalarFormatter

matplotlib.use("Agg")

MARKERS = {"quantised": "s", "SNNC": "v", "SpikingJelly": "^"}  # of methods of others, by how their labels start
COLUMNS = 3
SHOWN = 45  # points below the float network that a panel shows; what is worse is cut off
COLOURS = {  # of methods in each panel alike
    **report.COLOURS,
    **dict(zip(CHOICES, ("#c7a76c", "#8c6d31", "#f7b6d2", "#e377c2", "#bcbd22"))),
    **dict(zip(dict.fromkeys(row.method for row in published.ROWS), plt.get_cmap("tab20").colors)),
}


def read(paths):
    """{network: rows} of several files; ValueError where two have another accuracy of the float network."""
    found, own = {}, {}
    for path in paths:
        for row in json.loads(path.read_text())["rows"]:
            if "why" in row:
                continue
            if row["method"] == "float":
                known = own.setdefault(row["network"], (row["accuracy"], path))
                if known[0] != row["accuracy"]:
                    raise ValueError(
                        f"{path}: {row['network']} has accuracy {row['accuracy']}, and {known[0]} in {known[1]}: "
                        "other images, which are not comparable"
                    )
            found.setdefault(row["network"], []).append(row)
    return found


def curves(rows):
    """{method: [(levels T D, accuracy in %)]} of the rows of one network, seeds averaged."""
    points = {}
    for row in rows:
        if row["method"] != "float":
            levels = row["timesteps"] * row.get("spike_levels", 1)
            points.setdefault(row["method"], {}).setdefault(levels, []).append(100 * row["accuracy"])
    return {
        method: sorted((levels, statistics.fmean(values)) for levels, values in some.items())
        for method, some in points.items()
    }


def draw(network, rows, axes):
    """One network's curves."""
    source = next(row for row in rows if row["method"] == "float")
    axes.axhline(100 * source["accuracy"], color="black", linestyle="--", linewidth=1, label="float network")
    for method, points in curves(rows).items():
        label = report.label(method) if method not in CHOICES else CHOICES[method]
        marker = next((shape for start, shape in MARKERS.items() if label.startswith(start)), "o")
        colour, dashed = COLOURS.get(method), method in CHOICES
        axes.plot(
            *zip(*points), marker=marker, markersize=4, color=colour, linestyle=":" if dashed else "-", label=label
        )
    for method in dict.fromkeys(row.method for row in published.of(network) if row.levels is not None):
        some = [(row.levels, row.accuracy) for row in published.of(network) if row.method == method]
        style = {"marker": "o", "fillstyle": "none", "linestyle": "--", "linewidth": 0.8}
        axes.plot(*zip(*some), color=COLOURS[method], label=f"{method}, published", **style)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(max(axes.get_ylim()[0], 100 * source["accuracy"] - SHOWN), axes.get_ylim()[1])
    axes.set_title(f"{network}, {source['images']} images", fontsize=10)
    axes.set_xlabel("levels T D")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)


def plot(found, path):
    """Write the picture; its ending says the format."""
    rows = -(-len(found) // COLUMNS)
    columns = min(COLUMNS, len(found))
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 4.4 * rows + 1), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, (network, some) in zip(grid.flat, found.items()):
        draw(network, some, axes)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=pathlib.Path)
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="JSON")
    args = parser.parse_args(argv)
    try:
        found = read(args.files)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    if not found:
        raise SystemExit(f"no measured row in {', '.join(map(str, args.files))}")
    plot(found, args.picture)


if __name__ == "__main__":
    main()
