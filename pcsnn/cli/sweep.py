"""pcsnn sweep: accuracy, fidelity, time, operations, energy at several T, into a file that a stopped run goes on in."""

import contextlib
import dataclasses
import pathlib
import sys

from pcsnn import analysis
from pcsnn.analysis.costs.results import ACCUMULATE, MAC
from pcsnn.analysis.quality.errors import float_network
from pcsnn.cli import options
from pcsnn.cli.errors import UsageError
from pcsnn.cli.loading import first_images, open_data, set_up
from pcsnn.cli.machine import timed_on
from pcsnn.cli.models import fingerprint
from pcsnn.cli.results import Results
from pcsnn.cli.rows import check_rows
from pcsnn.cli.timing import FORMS, time_forms
from pcsnn.conversion.classify import classify
from pcsnn.network.text_table import table

SUMMARY = "accuracy, fidelity, time, operations and energy at several T"
DESCRIPTION = (
    "Converts a network at each T and measures it beside the float network: accuracy and fidelity over all "
    "data, time beside serial integrate-and-fire, operations and energy from the spikes really fired. Each T, "
    "and each D of --spike-levels, is a line of a JSON-lines file; started again with the same settings, a "
    "stopped run goes on behind the last one."
)
EXAMPLES = """\
  pcsnn sweep vgg_small --weights vgg.safetensors --data test.npz --mean 0.286 --std 0.353 --calibration train.npz \\
      --timesteps 4 8 16 32 --output sweep.jsonl
  pcsnn sweep resnet18 --weights resnet18.safetensors --data imagenet/val --resize 256 --crop 224 \\
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --images 5000 --calibration imagenet/train --timesteps 8 \\
      --skip time --output sweep.jsonl
  pcsnn sweep vgg_small --weights vgg.safetensors --data test.npz --mean 0.286 --std 0.353 --calibration train.npz \\
      --timesteps 1 2 4 --spike-levels 3 --output sweep.jsonl
      spikes of 0..3, two bits a step, into the same file: each T and D is a line of its own"""


def add_options(parser):
    options.add_model(parser)
    options.add_data(parser, calibration=True)
    options.add_conversion(parser)
    parser.add_argument(
        "--timesteps",
        type=options.timesteps,
        nargs="+",
        metavar="T",
        default=[4, 8, 16, 32],
        help="the T to try (default: 4 8 16 32)",
    )
    parser.add_argument("--skip", nargs="+", choices=("time", "operations"), default=[], help="what not to measure")
    add_measuring(parser)
    parser.add_argument(
        "--output", type=pathlib.Path, metavar="FILE", required=True, help="JSON-lines file to write, or to go on with"
    )
    options.add_machine(parser)


def add_measuring(parser):
    parser.add_argument(
        "--rounds", type=options.positive, default=5, help="how often each form is timed (default: %(default)s)"
    )
    parser.add_argument(
        "--time-batch", type=options.positive, default=8, help="images a timed batch (default: %(default)s)"
    )
    parser.add_argument(
        "--operation-images",
        type=options.positive,
        default=32,
        help="count the operations of so many images (default: %(default)s)",
    )


def run(args):
    network = set_up(args)
    data, calibration, settings = open_data(args, network)
    analog = analog_operations(network)
    if analog and not args.strict and {"time", "operations"} - set(args.skip):
        raise UsageError(
            f"--skip: expected time operations beside --no-strict: {analog[0].name} stays analog, and "
            "serial integrate-and-fire, which both compare with, has nothing for it"
        )
    timing = {"rounds": args.rounds, "batch": args.time_batch, **timed_on(args.device)}
    settings |= describe(args, network) | {
        "skip": sorted(set(args.skip)),
        "time": None if "time" in args.skip else timing,
        "operation_images": None if "operations" in args.skip else args.operation_images,
    }
    wanted = dict.fromkeys(args.timesteps)
    with contextlib.closing(Results(args.output, settings)) as results:
        check_rows(args.output, results.rows, "--output")
        missing = [value for value in wanted if value not in results.done(args.spike_levels)]
        _announce(results, wanted, missing, args)
        if missing:
            measure = _Measure(network, data, results, args)
            analysis.sweep(
                network,
                data,
                missing,
                args.method,
                calibration,
                not args.quiet,
                after_each=measure,
                strict=args.strict,
                seed=args.seed,
                spike_levels=args.spike_levels,
            )
        shown = [row for row in results.rows if row["spike_levels"] == args.spike_levels and row["timesteps"] in wanted]
        print(in_words(shown))


def describe(args, network):
    """What tells this network and its conversion from others: a dict for JSON."""
    return {
        "model": args.model,
        "model_args": args.model_args,
        "levels": args.levels,
        "state": fingerprint(network),
        "method": args.method,
        "strict": args.strict,
        "seed": args.seed,
    }


def analog_operations(network):
    """The report rows of the operations of a float network that can neither spike nor be exact on rates."""
    return classify(float_network(network)[0])[1]


def _announce(results, wanted, missing, args):
    if results.cut:
        print(f"{args.output}: its last line was cut short, that T is measured again", file=sys.stderr)
    if len(missing) < len(wanted):
        had = ", ".join(str(value) for value in wanted if value not in missing)
        said = f" with D = {args.spike_levels}" if args.spike_levels > 1 else ""
        print(f"{args.output}: goes on; there already: T = {had}{said}", file=sys.stderr)
    if args.calibration is None and args.method != "none":
        print(
            "pcsnn: note: no --calibration, so what needs it is calibrated on --data: figures of data seen",
            file=sys.stderr,
        )


class _Measure:
    """Measures the rest of one T, and writes its line."""

    def __init__(self, network, data, results, args):
        self._network, self._data, self._results, self._args = network, data, results, args

    def __call__(self, result, snn):
        args, progress = self._args, not self._args.quiet
        row = dataclasses.asdict(result.rows[-1])
        row |= {"float_accuracy": result.float_accuracy, "time": None, "operations": None}
        if "operations" not in args.skip:
            images = first_images(self._data, args.operation_images, args.device)
            row["operations"] = analysis.count_operations(snn, images, progress=progress).as_dict()
        if "time" not in args.skip:
            images = first_images(self._data, args.time_batch, args.device)
            row["time"] = time_forms(self._network, snn, images, args.rounds, progress)
        self._results.append(row)


def cells_of(rows):
    """The table of rows of results, as cells of text: the heading first."""
    rows = sorted(rows, key=lambda row: (row["timesteps"], row["spike_levels"]))
    several = any(row["spike_levels"] > 1 for row in rows)
    cells = [
        (
            *(("T", "D") if several else "T"),
            "accuracy",
            "fidelity",
            "logit error",
            "spikes per neuron",
            "method",
            *(f"{form}, ms" for form in FORMS),
            "speed-up",
            *(f"{name}, uJ" for name in analysis.EXECUTIONS),
        )
    ]
    for row in rows:
        times, energy = ["-"] * (len(FORMS) + 1), ["-"] * len(analysis.EXECUTIONS)
        if row["time"]:
            times = [f"{row['time']['milliseconds'][form]:.3f}" for form in FORMS] + [f"{row['time']['speed_up']:.1f}"]
        if row["operations"]:
            spent = row["operations"]["energy"]
            energy = [f"{1e6 * spent[name]['total']:.2f}" for name in analysis.EXECUTIONS]
        cells.append(
            (
                str(row["timesteps"]),
                *([str(row["spike_levels"])] if several else []),
                percent(row["accuracy"]),
                percent(row["fidelity"]),
                f"{row['logit_error']:.4f}",
                f"{row['spikes_per_neuron']:.3f}",
                row["method"],
                *times,
                *energy,
            )
        )
    return cells


def percent(share):
    return "-" if share is None else f"{100 * share:.2f} %"


def footer_of(rows):
    """What the columns of the table are."""
    lines = [f"float accuracy {percent(rows[0]['float_accuracy'])}; times and energies per image"]
    timed = next((row["time"] for row in rows if row["time"]), None)
    if timed:
        lines.append(
            f"ms: medians of {timed['rounds']} rounds in turns, batches of {timed['batch']}; spiking is the "
            "collapsed form, one synaptic operation a layer for all T; speed-up over serial "
            "integrate-and-fire"
        )
    if any(row["operations"] for row in rows):
        lines.append(
            f"uJ, energy: 45 nm, {1e12 * MAC:.1f} pJ a multiply-accumulate, {1e12 * ACCUMULATE:.1f} pJ an "
            "accumulate, first layer and synapses"
        )
    if any(row["spike_levels"] > 1 for row in rows):
        lines.append("D: a step sends 0..D; spikes per neuron are the sum of these; energies are those of bits")
    return lines


def in_words(rows):
    return "\n".join([*table(cells_of(rows)), *footer_of(rows)])
