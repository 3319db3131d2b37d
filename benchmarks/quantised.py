"""A quantised network or a spiking one? The same network as both, at equal levels: accuracy, time, operations.

    python benchmarks/quantised.py --networks vgg mobilenet --data FOLDER --json results/quantised.json
    python benchmarks/quantised.py --networks cifar-resnet20 --cifar FOLDER --levels 3 4 8 15

S levels are activations of S + 1 values: a spiking network at T time-steps with spikes of 0..D has S = T D, a network
quantised to b bits S = 2^b - 1. Rows "quantised": post-training quantisation of the activations, thresholds by the
usual choices, in plain torch; the others are methods of pcsnn.convert. Weights stay float32 in both. Times are medians
of paired runs at the first S, on which they do not depend, all with batch norm folded and channels last. Operations are
those of docs/operations.md, after the first method of pcsnn.convert: a multiply-accumulate of the quantised network for
every product, or for those whose activation is not 0; an accumulate for every spike of T = S steps, or for every bit
that is 1 where the S levels are sent in one step. Energy is that of 8-bit weights, 0.3 pJ a multiply-accumulate and 0.1
pJ an accumulate, memory left out.
"""

import argparse
import pathlib
import time
from operator import mul

import torch
from calibration import CHECKED, DATA_METHODS, Comparison, Wrong, logits, within
from lib import calibration_report as report
from lib import checks, timing, uniform_activations
from lib.calibration_networks import CASES, Missing
from lib.calibration_results import Results, Stale
from lib.uniform_activations import CHOICES, quantised
from lib.workloads import in_layout
from torch.fx.experimental.optimization import fuse

import pcsnn
from pcsnn.network.text_table import table

SETTINGS = ("images", "calibration_images", "threads")
INT8 = 0.1e-12, 0.3e-12  # joules of an accumulate, of a MAC: 8-bit multiplication 0.2, 32-bit addition 0.1 (Horowitz)
report.LABELS.update(CHOICES)


class QuantisedComparison(Comparison):
    """Quantised and spiking forms of one network; `args.timesteps` are the levels S."""

    def measure(self, name):
        if name not in CHOICES:
            super().measure(name)
            return
        for levels in self._missing(name):
            begun = time.perf_counter()
            network = quantised(self.case.network, levels, self.case.calibration, name)
            seconds = time.perf_counter() - begun
            require(uniform_activations.as_neurons(network, self.case.images[:CHECKED]))
            output = logits(network, self.case.images, self.args.batch, f"{self.case.name}: {name}, S = {levels}")
            self._add(name, levels, None, output.argmax(1), seconds)


def require(verdict):
    """Wrong unless a checks.Verdict is right."""
    if not verdict.right:
        raise Wrong(verdict.words)


def times(case, args):
    """{form: median seconds an image}, forms that compute the right thing."""
    levels, images = args.timesteps[0], in_layout(case.images[: args.timed_images])
    snn = pcsnn.convert(case.network, levels, calibration=case.calibration, method="max", fold=True, progress=False)
    network = quantised(case.network, levels, case.calibration, "ptq-max", progress=False)
    snn, network = in_layout(snn), in_layout(network)
    int8 = pcsnn.optimize(snn, "int8", example_inputs=images)
    folded = in_layout(fuse(case.network))
    require(checks.close(folded(images), case.network(images), "the network before folding"))
    require(uniform_activations.as_neurons(network, images[:CHECKED]))
    for form in (snn, int8):
        require(checks.as_reference(form, images[:1]))
    forms = {
        "float network": folded,
        "quantised activations, torch, float32 weights": network,
        "pcsnn, collapsed, float32 weights": snn,
        "pcsnn.optimize, int8 weights": int8,
    }
    calls = {name: lambda form=form: form(images) for name, form in forms.items()}
    for call in calls.values():
        call()
    found = timing.interleaved(calls, args.rounds)
    return {name: timing.median(seconds) / len(images) for name, seconds in found.items()}


def operations(case, levels, args):
    """Cells of a row: what the quantised network computes, and what the spiking one at T = S does."""
    images = case.images[: args.counted_images]
    snn = pcsnn.convert(
        case.network, levels, calibration=case.calibration, method=args.methods[0], fold=True, progress=False
    )
    macs, spiking = synaptic(snn, images, "float", "packed")
    pcsnn.set_timesteps(snn, 1, spike_levels=levels)  # one integer: a MAC for each activation that is not 0
    nonzero, bits = synaptic(snn, images, "packed integers" if levels > 1 else "float", "packed")
    found = [macs, nonzero, spiking, bits]
    return str(levels), *map(in_words, found), *(f"{1e6 * sum(map(mul, amounts, INT8)):.2f}" for amounts in found)


def synaptic(snn, images, *executions):
    """(accumulates, MACs) an image of each execution, those of the first layer left out."""
    counted = pcsnn.analysis.count_operations(snn, images, progress=False)
    totals = [counted.total(execution) for execution in executions]
    return [(total.accumulates, total.macs + total.spike_macs) for total in totals]


def in_words(amounts):
    """Millions of accumulates and of MACs, what there is of either."""
    accumulates, macs = (f"{value / 1e6:.2f}" for value in amounts)
    return " + ".join(words for words, value in ((accumulates, accumulates), (f"{macs} MACs", macs)) if value != "0.00")


def show(case, rows, args):
    """Print the tables of one network."""
    own = next(row for row in rows if row["method"] == "float")
    print(f"{case.label}: float {100 * own['accuracy']:.2f} %, {own['images']} test images")
    order = {name: place for place, name in enumerate((*args.choices, *args.methods))}
    rows = [row for row in rows if row["method"] in order and row["timesteps"] in (None, *args.timesteps)]
    measured = report.by_method(sorted(rows, key=lambda row: order[row["method"]]))
    for key in ("drop", "same", "seconds"):
        print("\n".join(["", *report.block(measured, key, report.BLOCKS[key], args.timesteps, "S")]))
    for row in rows:
        if "why" in row:
            print(f"{report.label(row['method'])}: not run: {row['why']}")


def show_costs(case, args):
    """Measure and print times and operations of one network."""
    found = times(case, args)
    base = found["float network"]
    cells = [(name, f"{1e3 * seconds:.3f}", f"{seconds / base:.2f}") for name, seconds in found.items()]
    print("\n" + "\n".join(table([("time", "ms an image", "of the float network's"), *cells])))
    headings = (
        "S",
        "quantised",
        "of no zero",
        "spiking, T = S",
        "bits, T = 1",
        "uJ: quantised",
        "of no zero",
        "spiking, T = S",
        "bits, T = 1",
    )
    rows = [operations(case, levels, args) for levels in args.timesteps]
    print("\naccumulates in millions an image, or MACs, the first layer left out")
    print("\n".join(table([headings, *rows])), end="\n\n", flush=True)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=["vgg", "mobilenet"])
    parser.add_argument("--cifar", type=pathlib.Path, help="as of calibration.py")
    parser.add_argument("--data", type=pathlib.Path, help="as of calibration.py")
    parser.add_argument("--levels", dest="timesteps", type=within(1, 255), nargs="+", default=[3, 4, 8, 15], help="S")
    parser.add_argument("--choices", nargs="*", choices=CHOICES, default=list(CHOICES), help="of thresholds, quantised")
    parser.add_argument("--methods", nargs="+", choices=list(DATA_METHODS), default=["quick", "light"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the methods that draw at random")
    parser.add_argument("--images", type=within(1), default=2000, help="test images")
    parser.add_argument("--calibration-images", type=within(1), default=1024)
    parser.add_argument("--counted-images", type=within(1), default=16, help="for the operations")
    parser.add_argument("--timed-images", type=within(1), default=32)
    parser.add_argument("--rounds", type=within(1), default=9, help="of the timing")
    parser.add_argument("--no-costs", action="store_true", help="accuracy alone")
    parser.add_argument("--batch", type=within(1), default=100)
    parser.add_argument("--threads", type=within(1), default=torch.get_num_threads())
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows, written after each and read at the start")
    args = parser.parse_args(argv)
    args.timesteps = sorted(set(args.timesteps))
    return args


@torch.no_grad()
def main(argv=None):
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    right = True
    try:
        results = Results(args.json, {name: getattr(args, name) for name in SETTINGS})
        for name in args.networks:
            case = CASES[name](args)
            comparison = QuantisedComparison(case, args, results)
            for method in (*args.choices, *args.methods):
                right = comparison.run(method) and right
            show(case, [row for row in results.rows if row["network"] == name], args)
            if not args.no_costs:
                show_costs(case, args)
    except (FileNotFoundError, Missing, Stale, Wrong) as error:
        raise SystemExit(str(error)) from None
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
