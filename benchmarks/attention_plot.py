"""The picture of docs/attention.md: what conversion keeps of a transformer without softmax, and of one with it.

python benchmarks/accuracy.py --checkpoint benchmarks/checkpoints/transformer-fashion-mnist.safetensors --json a.json
python benchmarks/text.py --json t.json
python benchmarks/attention_plot.py --accuracy a.json --text t.json --output attention.png
"""

import argparse
import json
import pathlib

from pcsnn.analysis import plots

COLLAPSED, SERIAL, SOURCE = plots.RIGHT, plots.WRONG, plots.FLOAT


def series(rows, key, **chosen):
    """(T, 100 * key) of the rows that have these values, and a T."""
    picked = [
        row for row in rows if all(row.get(name) == value for name, value in chosen.items()) and row.get("timesteps")
    ]
    return [row["timesteps"] for row in picked], [100 * row[key] for row in picked]


def finish(axes, title, label):
    axes.set_title(title, fontsize=11)
    axes.set_ylabel(label)
    plots.against_timesteps(
        axes, sorted({int(value) for line in axes.get_lines() for value in line.get_xdata() if value > 1})
    )
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def draw(accuracy, text, path):
    figure = plots.new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    source = next(row for row in accuracy if row["form"] == "QCFS network")
    left.axhline(
        100 * source["accuracy"], color=SOURCE, linestyle="--", label=f"QCFS network, {source['images']:,} images"
    )
    collapsed, serial = ({"form": form, "method": "none"} for form in ("collapsed", "serial IF"))
    images = next(row["images"] for row in accuracy if row["form"] == "serial IF")
    left.plot(
        *series(accuracy, "accuracy", **collapsed), color=COLLAPSED, marker="o", label="collapsed, no calibration"
    )
    left.plot(*series(accuracy, "accuracy", **serial), color=SERIAL, marker="s", label=f"serial IF, first {images:,}")
    finish(left, "Vision transformer without softmax, L = 8, FashionMNIST", "accuracy, %")
    for method, colour, marker in (("quick", COLLAPSED, "o"), ("max", SERIAL, "s")):
        steps, values = series(text, "mean", method=method)
        right.plot(steps, [value / 100 for value in values], color=colour, marker=marker, label=f'method "{method}"')
    right.axhline(0.98, color=SOURCE, linestyle=":", linewidth=1)
    finish(right, "all-MiniLM-L6-v2, GELUs spiking", "cosine similarity of sentence embeddings")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--accuracy", "--text", "--output"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    args = parser.parse_args()
    draw(json.loads(args.accuracy.read_text())["rows"], json.loads(args.text.read_text()), args.output)


if __name__ == "__main__":
    main()
