"""Pictures with the boxes of the float detector and of spiking ones."""

import itertools

PICTURES = 4
COLOURS = ("tab:orange", "tab:cyan", "tab:pink", "yellow")


def plot(pictures, wanted, found, path):
    """Write an image file: a row of the first pictures for each detector.

    Args:
        pictures: {name: uint8 [H, W, 3]}. wanted: {name: Faces} of the float detector, drawn in green.
        found: {(T, D): {name: Faces}} of spiking ones.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    names = list(pictures)[:PICTURES]
    figure = Figure(figsize=(3 * len(names), 3.1 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(found), len(names), squeeze=False)
    for (steps, theirs), colour, row in zip(found.items(), itertools.cycle(COLOURS), panels):
        for name, panel in zip(names, row):
            panel.imshow(pictures[name].numpy())
            for faces, edge, style in ((wanted[name], "lime", "-"), (theirs[name], colour, "--")):
                for left, top, right, bottom in faces.boxes.tolist():
                    size = (right - left, bottom - top)
                    panel.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=edge, linestyle=style, lw=1.6))
            for face in theirs[name].landmarks.tolist():
                panel.scatter(*zip(*face), s=4, color=colour)
            panel.set_axis_off()
        timesteps, spike_levels = steps
        words = f"T = {timesteps}" + (f", D = {spike_levels}" if spike_levels > 1 else "")
        row[0].set_title(f"{words}: dashed; float: green", loc="left", fontsize=9)
    figure.savefig(path, dpi=90)
