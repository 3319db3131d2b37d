"""Pictures that only the command line has."""

from pcsnn.analysis import plots

_STYLES = {"float": (plots.FLOAT, "s"), "serial": (plots.WRONG, "v"), "spiking": (plots.RIGHT, "o")}


def check_matplotlib():
    """ImportError where no picture can be drawn: before anything is computed."""
    plots.new_figure(1, 1)


def draw_times(rows):
    """A matplotlib Figure of milliseconds an image of each form, and the speed-up, against T: of a sweep's rows of one
    D."""
    rows = sorted(rows, key=lambda row: row["timesteps"])
    steps = [row["timesteps"] for row in rows]
    figure = plots.new_figure(10.0, 4.0)
    times, ratio = figure.subplots(1, 2)
    for form, (colour, marker) in _STYLES.items():
        times.plot(steps, [row["time"]["milliseconds"][form] for row in rows], color=colour, marker=marker, label=form)
    ratio.plot(steps, [row["time"]["speed_up"] for row in rows], color=plots.RIGHT, marker="o")
    plots.finish(times, "Time", "milliseconds an image")
    plots.finish(ratio, "Speed-up over serial integrate-and-fire", "times")
    spike_levels = rows[0]["spike_levels"]
    label = "time-steps T" + (f" (D = {spike_levels})" if spike_levels > 1 else "")
    for axes in (times, ratio):
        plots.against_timesteps(axes, steps, label)
    return figure
