"""The picture of a throughput run: speed-up over serial IF, time per image and peak memory, against T."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = {  # form: colour, marker, line
    "relu": ("#555555", "s", "--"),
    "relu-compiled": ("#9a9a9a", "s", ":"),
    "qcfs": ("#8c6d31", "D", "--"),
    "serial": ("#d62728", "o", "-"),
    "packed": ("#ff7f0e", "^", "-"),
    "pcsnn": ("#1f4fb4", "o", "-"),
    "pcsnn-compiled": ("#6fa8dc", "o", ":"),
    "spikingjelly": ("#2ca02c", "v", "-"),
    "spikingjelly-multi": ("#98df8a", "v", "-"),
}
MEBI = 2**20


def _lines(axes, rows, value):
    """One line a form, of the rows in which it was measured; whether there was any."""
    drawn = False
    for form, (colour, marker, line) in STYLES.items():
        points = sorted((row["timesteps"], row[value]) for row in rows if row["form"] == form and row.get(value))
        if points:
            strong = form == "pcsnn"
            axes.plot(
                *zip(*points),
                color=colour,
                marker=marker,
                linestyle=line,
                linewidth=2.6 if strong else 1.6,
                markersize=6 if strong else 4.5,
                zorder=3 if strong else 2,
                label=next(row["label"] for row in rows if row["form"] == form),
            )
            drawn = True
    return drawn


def _finish(axes, title, label, ticks):
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("time-steps T")
    axes.set_ylabel(label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def draw(rows, memory, title, note, path):
    """Write a PNG.

    Args:
        rows: dicts with form, label, batch, timesteps, milliseconds (an image) and speedup (over serial IF, or
            None).
        memory: dicts with form, label, batch, timesteps, bytes; may be empty.
    """
    batches = sorted({row["batch"] for row in rows})
    memory = [{**row, "mebibytes": row["bytes"] / MEBI} for row in memory]
    columns = 3 if memory else 2
    figure, grid = plt.subplots(
        len(batches), columns, figsize=(4.9 * columns, 3.9 * len(batches) + 1.4), squeeze=False, layout="constrained"
    )
    for line, batch in zip(grid, batches):
        some = [row for row in rows if row["batch"] == batch]
        ticks = sorted({row["timesteps"] for row in some})
        images = f"batch {batch}"
        if _lines(line[0], some, "speedup"):
            _finish(line[0], f"Speed-up over serial IF, {images}", "times faster", ticks)
        else:
            line[0].set_axis_off()
        _lines(line[1], some, "milliseconds")
        _finish(line[1], f"Time per image, {images}", "ms", ticks)
        if not memory:
            continue
        there = [row for row in memory if row["batch"] == batch]
        if _lines(line[2], there, "mebibytes"):
            ticks = sorted({row["timesteps"] for row in there})
            _finish(line[2], f"Peak memory of a forward pass, {images}", "MiB", ticks)
        else:
            line[2].set_axis_off()
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=9
    )
    figure.suptitle(f"{title}\n", fontsize=13)
    figure.text(0.5, 0.955 if len(batches) > 1 else 0.935, note, ha="center", fontsize=8.5, color="#444444")
    figure.savefig(path, dpi=130)
    plt.close(figure)
