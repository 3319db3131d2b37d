"""Segmentation networks on CamVid: trained with ReLU, converted without training, measured against serial IF.

    python benchmarks/segmentation.py --data FOLDER                   trains what --weights lacks, prints the tables
    python benchmarks/segmentation.py --data FOLDER --train           only trains; goes on from the last epoch
    python benchmarks/segmentation.py --data FOLDER --plot scenes.png

The folder is what benchmarks/camvid.py prepares. Converted networks are kept beside the weights and rows in --json, so
that a run that was stopped goes on where it was. Calibration takes training images without their labels.
"""

import argparse
import functools
import pathlib
import time

import camvid
import torch
from calibration import within
from lib import checks, data, timing
from lib import segmentation_report as report
from lib.calibration_results import Results, Stale
from lib.segmentation_metrics import evaluate, predict
from lib.segmentation_train import DEFAULTS, MODELS, load, train

import pcsnn
from pcsnn.calibration import METHODS

DATA_METHODS = [name for name, method in METHODS.items() if method.needs_data]
SCENES, SHOWN = 3, (4, 8, 16)  # images and T in the picture; the second T's rates are shown
LAYER = "backbone.layer2.1.relu2"  # the layer of these rates
CHECKED = 2  # images on which results are compared before they count


class Wrong(Exception):
    """A result that is not what it must be."""


class Subject:
    """A trained network, the images to calibrate and test it on, and its conversions."""

    def __init__(self, name, args):
        self.name, self.args = name, args
        path = args.weights / f"{name}.safetensors"
        self.network = load(path)[0].to(memory_format=torch.channels_last)
        self.written = path.stat().st_mtime
        images, _ = camvid.load("train", args.data)
        some = (
            torch.linspace(0, len(images) - 1, min(args.calibration_images, len(images))).round().long()
        )  # of all drives
        self.calibration = self._floats(images[some])
        self.images, self.labels = (part[: args.images] for part in camvid.load("val", args.data))

    @staticmethod
    def _floats(images):
        return data.normalise(images, camvid.STATISTICS).contiguous(memory_format=torch.channels_last)

    @functools.cached_property
    def own(self):
        """The float network's classes, uint8 [N, H, W]."""
        return self.predict(self.network, "float")

    def predict(self, network, what):
        return predict(network, self.images, self.args.batch, f"{self.name}: {what}")

    def some(self, count):
        """The first test images, normalised."""
        return self._floats(self.images[:count])

    def convert(self, method, timesteps):
        """(the spiking network, seconds of its calibration or None where it was read from its file)."""
        count, seed = len(self.calibration), self.args.seed
        path = self.args.weights / f"{self.name}-{method}-T{timesteps}-{count}-seed{seed}.safetensors"
        if path.exists() and path.stat().st_mtime > self.written:
            return pcsnn.load(path), None
        begun = time.perf_counter()
        snn = pcsnn.convert(self.network, timesteps, calibration=self.calibration, method=method, seed=seed)
        seconds = time.perf_counter() - begun
        pcsnn.save(snn, path)
        return snn, seconds

    def check(self, snn):
        """Raises Wrong where the network is not, bit for bit, what the plain torch form computes."""
        images = self.some(CHECKED)
        with pcsnn.use_backend("reference"):
            expected = snn(images)["out"]
        verdict = checks.same_bits(snn(images)["out"], expected, "the reference")
        if not verdict.right:
            raise Wrong(f"{self.name}: {verdict.words}")

    def row(self, method, timesteps, predicted, **others):
        found = evaluate(predicted, self.labels)
        return {
            "network": self.name,
            "method": method,
            "timesteps": timesteps,
            "seed": None,
            "pixel_accuracy": found.pixel_accuracy,
            "miou": found.miou,
            "images": len(predicted),
            "same": (predicted == self.own).double().mean().item(),
            **others,
        }


def measure_quality(subject, args, results):
    """Rows of the float network and of every method at every T that the file lacks."""
    found = evaluate(subject.own, subject.labels).intersections_over_unions
    source = subject.row(
        "float",
        None,
        subject.own,
        calibration_images=len(subject.calibration),
        classes=dict(zip(camvid.CLASSES, found.nan_to_num().tolist())),
    )
    known = results.find(subject.name, "float")
    if known is None:
        results.add(source)
    elif known["miou"] != source["miou"]:
        raise Stale(f"{args.json} has rows of another training of {subject.name}: delete it or name another file")
    for method in args.methods:
        for timesteps in args.timesteps:
            if results.find(subject.name, method, timesteps):
                continue
            snn, seconds = subject.convert(method, timesteps)
            subject.check(snn)
            row = subject.row(method, timesteps, subject.predict(snn, f"{method}, T = {timesteps}"))
            row |= {
                f"lost_{short}": source[key] - row[key]
                for short, key in (("accuracy", "pixel_accuracy"), ("miou", "miou"))
            }
            results.add(row | ({} if seconds is None else {"seconds": seconds}))


def measure_times(subject, args, results):
    """A row of times per image for each T, once both forms have been compared with what they must compute."""
    images = subject.some(args.timed_batch)
    for timesteps in args.timesteps:
        if results.find(subject.name, report.TIMED, timesteps):
            continue
        snn, _ = subject.convert("max", timesteps)
        subject.check(snn)
        serial = pcsnn.baselines.serial(snn)
        verdict = checks.serial_first_layer(serial, snn, images)
        if not verdict.right:
            raise Wrong(f"{subject.name}, serial IF at T = {timesteps}: {verdict.words}")
        calls = {"float": subject.network, "pcsnn": snn, "serial": serial}
        calls = {name: functools.partial(call, images) for name, call in calls.items()}
        for call in calls.values():
            call()
        seconds = timing.interleaved(calls, args.repeats, slow=("serial",), slow_rounds=args.slow_repeats)
        results.add(
            {
                "network": subject.name,
                "method": report.TIMED,
                "timesteps": timesteps,
                "seed": None,
                **{name: timing.median(each) / len(images) for name, each in seconds.items()},
                "speedup": timing.ratio(seconds["serial"], seconds["pcsnn"]),
                "checked": f"serial IF: {verdict.words}",
            }
        )


def draw(subject, args, results):
    """The picture of one network: scenes, predictions, and rates of a layer, by the last of the methods."""
    method = args.methods[-1]
    some = torch.linspace(0, len(subject.images) - 1, min(SCENES, len(subject.images))).round().long()
    source = results.find(subject.name, "float")
    predictions = {} if args.predictions_only else {"truth": subject.labels[some]}
    predictions |= {f"float, mIoU {100 * source['miou']:.1f}": subject.own[some]}
    for timesteps in SHOWN:
        snn, _ = subject.convert(method, timesteps)
        classes = subject.predict(snn, f"{method}, T = {timesteps}")
        predictions[f"T = {timesteps}, mIoU {100 * evaluate(classes, subject.labels).miou:.1f}"] = classes[some]
        if timesteps == SHOWN[1]:
            with pcsnn.record(snn) as recorded:
                snn(subject.some(1))
    rates = recorded.counts[LAYER][0].float() / recorded.timesteps
    busiest = rates.flatten(1).std(1).topk(min(len(predictions) + (not args.predictions_only), len(rates))).indices
    heading = f"rates of {LAYER} at T = {recorded.timesteps}, channels {', '.join(map(str, busiest.tolist()))}"
    report.plot(
        f"{subject.name}, method {method}",
        None if args.predictions_only else subject.images[some],
        predictions,
        (heading, rates[busiest]),
        args.plot,
    )


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with CamVid, as camvid.py prepares it")
    parser.add_argument(
        "--weights",
        type=pathlib.Path,
        default=pathlib.Path("results/segmentation"),
        help="folder of the trained and the converted networks",
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--train", action="store_true", help="only train")
    parser.add_argument("--epochs", type=within(1), default=DEFAULTS["epochs"])
    parser.add_argument(
        "--crop",
        type=within(16),
        nargs=2,
        default=DEFAULTS["crop"],
        metavar=("H", "W"),
        help="size of the images in training",
    )
    parser.add_argument("--methods", nargs="+", choices=DATA_METHODS, default=list(DATA_METHODS))
    parser.add_argument("--timesteps", type=within(1, 255), nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--images", type=within(1), help="the first so many val images; default: all")
    parser.add_argument(
        "--calibration-images", type=within(1), default=1024, help="at most; spread over the training images"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the methods that draw at random, and of a training")
    parser.add_argument("--batch", type=within(1), default=8, help="images at a time")
    parser.add_argument("--timed-batch", type=within(1), default=4, help="images in a timed call")
    parser.add_argument("--repeats", type=within(0), default=9, help="rounds of timing; 0 leaves it out")
    parser.add_argument("--slow-repeats", type=within(1), default=3, help="of these, for serial IF")
    parser.add_argument("--threads", type=within(1), default=torch.get_num_threads())
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows, written after each and read at the start")
    parser.add_argument("--plot", type=pathlib.Path, help="file of the picture, of the network with the higher mIoU")
    parser.add_argument(
        "--predictions-only",
        action="store_true",
        help="leave the data's own images and labels out of the picture, to pass it on",
    )
    parser.add_argument("--progress-interval", type=float, default=0.1, help="seconds between progress bar updates")
    args = parser.parse_args(argv)
    args.timesteps = sorted(set(args.timesteps))
    return args


@torch.no_grad()
def compare(args, results):
    """Measure what the file lacks; prints a report on each network."""
    subjects = [Subject(name, args) for name in args.models]
    for subject in subjects:
        measure_quality(subject, args, results)
        if args.repeats:
            measure_times(subject, args, results)
        rows = [
            row
            for row in results.rows
            if row["network"] == subject.name
            and row["timesteps"] in (None, *args.timesteps)
            and row["method"] in ("float", report.TIMED, *args.methods)
        ]
        print("\n".join(report.lines(subject.name, rows, args.timesteps)), end="\n\n")
    if args.plot:
        draw(max(subjects, key=lambda subject: results.find(subject.name, "float")["miou"]), args, results)


def main(argv=None):
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    settings = DEFAULTS | {"epochs": args.epochs, "seed": args.seed, "crop": tuple(args.crop)}
    try:
        for name in args.models:
            path = args.weights / f"{name}.safetensors"
            if not path.exists():
                train(name, args.data, path, settings, args.progress_interval)
        if not args.train:
            shared = {name: getattr(args, name) for name in ("images", "calibration_images", "seed", "threads")}
            compare(args, Results(args.json, shared))
    except (FileNotFoundError, Stale, ValueError, Wrong) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
