"""Training-free conversion of ReLU networks: this project's calibration methods beside others, on the same images.

    python benchmarks/calibration.py --cifar FOLDER --data FOLDER --json results/calibration.json

--cifar: calibration.npz, test.npz and resnet20.safetensors; --data: FashionMNIST's training images, to calibrate on.
What is left out and needs a folder, package or checkpoint is reported as not run. No calibration sees a label.

Rows: the methods of pcsnn.convert; SNNC's light and advanced pipeline on serial IF, with its shift in every step and
started at half a threshold instead; SpikingJelly's RateCodingRecipe, default and per channel with half thresholds (for
it, shortcuts by F.pad become fixed 1x1 convolutions that compute the same). "Same" counts test images that get the
float network's class. Seconds are those of one calibration at one T. SNNC and SpikingJelly take T passes over the
network, and their max pools take the maximum of the spikes of each step.

A run with --json that is stopped and started again with the same settings goes on where it was.
"""

import argparse
import pathlib
import time

import torch
from lib import calibration_report as report
from lib import checks, snnc, snnc_advanced, spikingjelly_rate, timing
from lib.calibration_networks import CASES, Missing
from lib.calibration_results import Results, Stale
from lib.competitors import Unavailable
from tqdm import tqdm

import pcsnn
from pcsnn.calibration import METHODS

DATA_METHODS = {name: method for name, method in METHODS.items() if method.needs_data}
SEEDED = [name for name, method in DATA_METHODS.items() if method.seeded]
SNNC = (*snnc.NEURONS, *snnc_advanced.NEURONS)
COMPETITORS = (*SNNC, *spikingjelly_rate.OPTIONS)
CHECKED = 8  # images on which a converted network must give the reference's bits


class Wrong(Exception):
    """A result that is not what it must be."""


def logits(network, images, batch, what):
    """Outputs [N, classes]; Wrong unless all are finite."""
    shown = tqdm(images.split(batch), desc=what, unit="batch", leave=False, disable=None)
    output = torch.cat([network(part) for part in shown])
    if not output.isfinite().all():
        raise Wrong("outputs are not finite")
    return output


class Comparison:
    """All methods on one network; rows go to `results`."""

    def __init__(self, case, args, results):
        self.case, self.args, self.results, self.spike_levels = case, args, results, 1
        self.methods = {}  # {name: Method with other options}
        self.commit = timing.circumstances()["commit"]
        self.own = logits(case.network, case.images, args.batch, f"{case.name}: float").argmax(1)
        self.accuracy = self._share(self.own, case.labels)
        known = results.find(case.name, "float")
        if known and known["accuracy"] != self.accuracy:
            raise Stale(
                f"{results.path}: {case.name} had accuracy {known['accuracy']}, not {self.accuracy}: its "
                "network or images have changed; delete the file or name another"
            )
        results.drop(case.name, "float")
        self._add("float", None, None, self.own, None)

    def _share(self, predictions, expected):
        return (predictions == expected).sum().item() / len(expected)

    def _add(self, method, timesteps, seed, predictions, seconds):
        accuracy = self._share(predictions, self.case.labels)
        self.results.add(
            {
                "network": self.case.name,
                "method": method,
                "timesteps": timesteps,
                "spike_levels": self.spike_levels,
                "seed": seed,
                "images": len(predictions),
                "calibration_images": len(self.case.calibration),
                "accuracy": accuracy,
                "drop": 100 * (self.accuracy - accuracy),
                "same": self._share(predictions, self.own),
                "seconds": seconds,
                "commit": self.commit,
            }
        )

    def _missing(self, method, seed=None):
        known = [
            self.results.find(self.case.name, method, steps, seed, self.spike_levels) for steps in self.args.timesteps
        ]
        return [steps for steps, row in zip(self.args.timesteps, known) if row is None]

    def _what(self, method, timesteps):
        return f"{self.case.name}: {report.label(method)}, T = {timesteps}"

    def method(self, name):
        """A method of pcsnn.convert."""
        case = self.case
        for seed in self.args.seeds if name in SEEDED else (None,):
            options = {"spike_levels": self.spike_levels} | ({} if seed is None else {"seed": seed})
            for timesteps in self._missing(name, seed):
                begun = time.perf_counter()
                method = self.methods.get(name, name)
                snn = pcsnn.convert(case.network, timesteps, calibration=case.calibration, method=method, **options)
                seconds = time.perf_counter() - begun
                output = logits(snn, case.images, self.args.batch, self._what(name, timesteps))
                verdict = checks.as_reference(snn, case.images[:CHECKED])
                if not verdict.right:
                    raise Wrong(verdict.words)
                self._add(name, timesteps, seed, output.argmax(1), seconds)

    def snnc(self, name):
        case = self.case
        for timesteps in self._missing(name):
            begun = time.perf_counter()
            pipeline, neuron = snnc_advanced.pipeline(name)
            network = pipeline(case.network, timesteps, case.calibration, self.args.correction_images, neuron)
            seconds = time.perf_counter() - begun
            output = logits(network, case.images, self.args.batch, self._what(name, timesteps))
            self._add(name, timesteps, None, output.argmax(1), seconds)

    def spikingjelly(self, name):
        case, missing = self.case, self._missing(name)
        if not missing:
            return
        begun = time.perf_counter()
        network = spikingjelly_rate.RateCoded(name, case.network, case.calibration)
        seconds = time.perf_counter() - begun
        found = {}

        def last(part):  # every T is a prefix of the longest run
            outputs = network.outputs(part, missing)
            for timesteps, output in outputs.items():
                found.setdefault(timesteps, []).append(output.argmax(1))
            return torch.cat(list(outputs.values()), 1)

        logits(last, case.images, self.args.batch, self._what(name, max(missing)))
        for timesteps in missing:
            self._add(name, timesteps, None, torch.cat(found[timesteps]), seconds)

    def measure(self, name):
        """The rows of one method or competitor that are missing."""
        if name in COMPETITORS:
            (self.snnc if name in SNNC else self.spikingjelly)(name)
        else:
            self.method(name)

    def run(self, name):
        """The rows of one method, or one that says why there is none; whether they are right."""
        self.results.drop(self.case.name, name)
        try:
            self.measure(name)
        except (Unavailable, Wrong) as error:
            self.results.add(not_run(self.case.name, name, str(error)))
            return isinstance(error, Unavailable)
        return True


def not_run(network, method, why):
    return {"network": network, "method": method, "timesteps": None, "seed": None, "why": why}


@torch.no_grad()
def compare(args, results):
    """Measure what the file lacks. Returns ({network: label}, whether all results were right)."""
    labels, right = {}, True
    for name in args.networks or CASES:
        try:
            case = CASES[name](args)
        except Missing as error:
            if args.networks:
                raise SystemExit(f"{name}: {error}") from None
            labels[name] = name
            results.add(not_run(name, "float", str(error)))
            continue
        labels[name] = case.label
        comparison = Comparison(case, args, results)
        for method in (*args.methods, *args.competitors):
            right = comparison.run(method) and right
    return labels, right


def chosen(rows, args):
    """The rows of the methods, timesteps and seeds that were asked for, in that order: the file may hold others."""
    order = {method: place for place, method in enumerate(("float", *args.methods, *args.competitors))}
    kept = [
        row
        for row in rows
        if row["method"] in order and row["timesteps"] in (None, *args.timesteps) and row["seed"] in (None, *args.seeds)
    ]
    return sorted(kept, key=lambda row: (order[row["method"]], row["timesteps"] or 0, row["seed"] or 0))


def within(low, high=None):
    """The type of an option: a whole number in a range."""

    def whole_number(text):
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {f'{low}..{high}' if high else f'at least {low}'}, got {value}")
        return value

    return whole_number


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, help="default: all that can run here")
    parser.add_argument("--cifar", type=pathlib.Path, help="folder with {calibration,test}.npz, resnet20.safetensors")
    parser.add_argument("--data", type=pathlib.Path, help="folder with FashionMNIST's training images")
    parser.add_argument("--methods", nargs="*", default=list(DATA_METHODS), help="of pcsnn.convert")
    parser.add_argument("--competitors", nargs="*", choices=COMPETITORS, default=list(COMPETITORS))
    parser.add_argument("--timesteps", type=within(1, 255), nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help=f"of {' and '.join(SEEDED)}")
    parser.add_argument("--images", type=within(1), default=2000, help="test images, the first of each set")
    parser.add_argument("--calibration-images", type=within(1), default=1024, help="the first of each set")
    parser.add_argument("--correction-images", type=within(1), default=128, help="of these, for SNNC's biases")
    parser.add_argument("--batch", type=within(1), default=100, help="test images at a time")
    parser.add_argument("--threads", type=within(1), default=torch.get_num_threads())
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows, written after each and read at the start")
    parser.add_argument("--plot", type=pathlib.Path, help="file of the picture")
    args = parser.parse_args(argv)
    args.timesteps = sorted(set(args.timesteps))
    return args


def main(argv=None):
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("images", "calibration_images", "correction_images", "threads")}
    try:
        results = Results(args.json, settings)
        if results.rows:
            print(f"{args.json} has {len(results.rows)} rows, which are not measured again")
        labels, right = compare(args, results)
    except (FileNotFoundError, Stale, ValueError) as error:
        raise SystemExit(str(error)) from None
    for name, title in labels.items():
        rows = chosen([row for row in results.rows if row["network"] == name], args)
        print("\n".join(report.lines(title, rows, args.timesteps)), end="\n\n")
    if args.plot:
        report.plot(labels, chosen(results.rows, args), args.plot)
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
