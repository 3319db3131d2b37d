"""The tables and the picture of segmentation.py."""

import camvid
import numpy

from lib.calibration_report import block, by_method

BLOCKS = {  # key of a row: title, factor, format
    "pixel_accuracy": ("Pixel accuracy, %", 100, "{:.2f}"),
    "miou": ("mIoU, %", 100, "{:.2f}"),
    "lost_accuracy": ("Pixel accuracy lost, points", 100, "{:.2f}"),
    "lost_miou": ("mIoU lost, points", 100, "{:.2f}"),
    "same": ("Same class as the float network, % of pixels", 100, "{:.2f}"),
    "seconds": ("Calibration, seconds", 1, "{:.0f}"),
}
TIMES = {
    "float": ("Float network", 1000),
    "pcsnn": ("pcsnn", 1000),
    "serial": ("Serial IF", 1000),
    "speedup": ("Serial IF / pcsnn", 1),
}  # key of a row: title, factor
PAPER = (
    "The paper loses 1.7 to 1.8 points of pixel accuracy and 4.1 to 5.2 of mIoU at T = 8, "
    "0.2 to 0.3 and 0.6 to 0.7 at T = 32."
)
TIMED = "time"  # the method of a row that has times


def lines(name, rows, timesteps):
    """The report on one network, as lines of text."""
    source = next(row for row in rows if row["method"] == "float")
    found = [
        f"{name}: float network, pixel accuracy {100 * source['pixel_accuracy']:.2f} %, mIoU "
        f"{100 * source['miou']:.2f} % on {source['images']} images; "
        f"{source['calibration_images']} images to calibrate",
        "  ".join(f"{kind} {100 * share:.0f}" for kind, share in source["classes"].items()),
    ]
    quality = by_method([row for row in rows if row["method"] != TIMED])
    for key, how in BLOCKS.items():
        found += ["", *block(quality, key, how, timesteps)] if quality else []
    timed = by_method([row for row in rows if row["method"] == TIMED])
    if timed:
        shown = {
            title: {steps: [{"value": row[key] * factor} for row in some] for steps, some in timed[TIMED].items()}
            for key, (title, factor) in TIMES.items()
        }
        found += ["", *block(shown, "value", ("Time per image, ms (medians)", 1, "{:.1f}"), timesteps)]
        found += [f"T = {steps}: {row['checked']}" for steps, some in timed[TIMED].items() for row in some]
    return [*found, "", PAPER]


def colours(classes):
    """Classes [H, W] -> the dataset's colours, uint8 [H, W, 3]."""
    return numpy.array(camvid.COLOURS, numpy.uint8)[classes.numpy()]


def plot(title, images, predictions, maps, path):
    """Scenes in rows: the image, then what `predictions` holds; below them firing-rate maps of one layer.

    Args:
        images: uint8 [N, 3, H, W], or None to leave them out. predictions: {heading: classes [N, H, W]}. maps:
            (heading, spikes / T [channels, h, w]) of the first image; as many channels as there are columns. path: of
            the picture; its ending says the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    first = 0 if images is None else 1
    columns, scenes = first + len(predictions), len(next(iter(predictions.values())))
    figure, grid = plt.subplots(
        scenes + 1, columns, figsize=(2.6 * columns, 1.85 * (scenes + 1) + 1), layout="constrained", squeeze=False
    )
    for axes in grid.flat:
        axes.set_axis_off()
    if images is not None:
        grid[0, 0].set_title("image", fontsize=10)
        for row, image in zip(grid, images):
            row[0].imshow(image.permute(1, 2, 0).numpy())
    for column, (heading, classes) in zip(grid[:, first:].T, predictions.items()):
        column[0].set_title(heading, fontsize=10)
        for axes, shown in zip(column, classes):
            axes.imshow(colours(shown), interpolation="nearest")
    heading, rates = maps
    for axes, rate in zip(grid[-1], rates):
        drawn = axes.imshow(rate.numpy(), cmap="magma", vmin=0, vmax=1)
    grid[-1, 0].set_title(heading, fontsize=9, loc="left")
    figure.colorbar(drawn, ax=grid[-1].tolist(), shrink=0.8, label="spikes / T")
    legend = [
        Patch(color=[part / 255 for part in colour], label=kind)
        for kind, colour in zip((*camvid.CLASSES, "void"), camvid.COLOURS)
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend) // 2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
