"""The picture of README: serial IF beside the parallel neuron, for one neuron, and what that does to a network's time.

python benchmarks/neuron_plot.py docs/neuron.svg

The spikes are computed, by `pcsnn.functional`; the times are those of README's table, given here by hand.
"""

import argparse
import pathlib

import matplotlib
import torch

from pcsnn import functional
from pcsnn.analysis import plots

T, THRESHOLD = 8, 1.0
CURRENTS = (1.4, 1.2, 0.9, 1.1, 0.3, -0.4, -0.3, 0.0)  # uneven: the neuron cannot take back what it fired early
TIMES = (  # ms an image: ResNet-34, 224x224, T = 32, float32, batch 8, 2 threads of an AMD EPYC, commit 877ccf2
    ("serial IF, T passes", 1819.0, plots.WRONG),
    ("T steps packed in the batch", 2028.0, "#ff7f0e"),
    ("pcsnn, collapsed", 50.8, plots.RIGHT),
    ("ReLU network", 50.1, plots.FLOAT),
)
GREY, PALE = "#8a8f98", "#c3d0ec"
STEPS = range(1, T + 1)


def serial(currents):
    """Membrane potential after each input, before its spike, and the spikes (2)."""
    v, potentials, spikes = THRESHOLD / 2, [], []
    for current in currents:
        v += current
        potentials.append(v)
        spikes.append(v >= THRESHOLD)
        v -= THRESHOLD * spikes[-1]
    return potentials, spikes


def start(axes, title):
    """The currents as bars, and room for a train above them."""
    axes.bar(STEPS, CURRENTS, 0.5, color=PALE, zorder=0)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xticks(list(STEPS))
    axes.set(ylim=(-0.6, 2.75), yticks=[0, 1, 2])


def train(axes, spikes, colour, words):
    """A row of T boxes, those with a spike filled, and what to say of them."""
    for step, spike in zip(STEPS, spikes):
        place = (step - 0.25, 2.42)
        face = colour if spike else "white"
        shape = "round,pad=0,rounding_size=0.08"
        axes.add_patch(
            matplotlib.patches.FancyBboxPatch(place, 0.5, 0.22, shape, facecolor=face, edgecolor=colour, linewidth=1.2)
        )
    axes.set_xlabel(words, fontsize=9.5, color=colour)


def potential(axes):
    potentials, spikes = serial(CURRENTS)
    start(axes, "Serial IF: T steps, one after the other")
    axes.axhline(THRESHOLD, color=GREY, linestyle="--", linewidth=1)
    axes.text(T + 0.55, THRESHOLD + 0.05, "threshold", color=GREY, ha="right", va="bottom", fontsize=8)
    axes.plot(STEPS, potentials, color=plots.WRONG, linewidth=1.6, marker="o", markersize=4.5)
    axes.text(5.15, 1.55, "membrane\npotential", color=plots.WRONG, fontsize=8.5, va="center", linespacing=1)
    axes.text(2.5, -0.1, "input currents", color="#6f8bc9", fontsize=8.5, va="top", ha="center")
    train(axes, spikes, plots.WRONG, f"{sum(spikes)} spikes: one too many, fired before the input fell")
    axes.set_xlim(0.4, T + 0.6)


def search(axes):
    levels = functional.levels(THRESHOLD, T)
    currents = torch.tensor(CURRENTS).view(T, 1)
    mean, spikes = currents.mean().item(), functional.fire_spikes(currents, levels).flatten().tolist()
    reached = sum(spikes)
    start(axes, "pcsnn: one mean, one search among T levels")
    for position, level in enumerate(levels.tolist(), 1):
        colour, width = (plots.RIGHT, 2) if position <= reached else (GREY, 1.1)
        axes.plot([T + 1, T + 2.6], [level, level], color=colour, linewidth=width, solid_capstyle="butt")
    axes.text(T + 1.8, levels[-1] + 0.1, "T levels", fontsize=8.5, color=GREY, ha="center")
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (T + 2.75, mean), (0.5, mean), arrowprops=arrow, zorder=5)
    axes.text(T + 0.75, mean + 0.06, "mean current", fontsize=8.5, va="bottom", ha="right")
    train(axes, spikes, plots.RIGHT, f"{reached} levels reached: {reached} spikes, sorted; the activation of the mean")
    axes.set_xlim(0.4, T + 3)


def times(axes):
    names, values, colours = zip(*reversed(TIMES))
    axes.barh([name.replace(" packed", "\npacked") for name in names], values, 0.62, color=colours)
    for position, value in enumerate(values):
        axes.text(
            value + 30, position, f"{value:,.0f} ms" if value > 100 else f"{value:.1f} ms", va="center", fontsize=9
        )
    axes.set_title("ResNet-34, T = 32: time of an image", fontsize=10.5, loc="left")
    axes.set(xlim=(0, 2800), xticks=[])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def draw(path):
    matplotlib.rcParams.update({"svg.hashsalt": "pcsnn", "axes.spines.top": False, "axes.spines.right": False})
    figure = plots.new_figure(12.6, 3.3)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.15, 0.75))
    potential(left)
    search(middle)
    times(right)
    figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="an .svg or .png")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
