"""The unevenness error of serial integrate-and-fire, with spikes of several levels (I-LIF), beside the parallel neuron.

    python benchmarks/unevenness.py                          the shipped QCFS networks (L = 8), all pairs with T D = 8
    python benchmarks/unevenness.py --networks cifar-resnet20 --cifar FOLDER --pairs 16x1 8x2 4x4 2x8 1x16

A step sends 0..D (22), and pairs TxD of equal T D have equal rates in the parallel form: one row of the table is all of
theirs. Serial I-LIF (v += I; s = clip(floor(v / theta), 0, D); v -= theta s) fires otherwise where its current changes
from step to step. "Own" is what the neurons themselves do: each layer's count beside that of the parallel neuron given
the mean of the very currents that the serial one got. "Whole" compares the two networks, layer by layer, with what
earlier layers did to the current. Both are shares of the neurons whose count differs, and mean absolute differences of
rates in % of the largest rate. ReLU networks are calibrated by least squares with even levels, which serial neurons can
have too. Operations and energy are those of docs/operations.md, times medians of paired runs.
"""

import argparse
import json
import pathlib

import torch
from lib import calibration_networks, checks, data, networks, timing
from lib.calibration_networks import Case, Missing
from lib.serial_counts import Difference, compare

import pcsnn
from pcsnn import baselines
from pcsnn.calibration import METHODS
from pcsnn.network.text_table import table

EVEN = METHODS["quick"].with_options(bend_levels=False)
CHECKED = 8  # images on which what is timed must be right
HEADINGS = (
    "form",
    "T",
    "D",
    "accuracy, %",
    "same, %",
    "own: differ, %",
    "rate off, %",
    "whole: differ, %",
    "rate off, %",
    "accumulates",
    "or MACs",
    "comparisons",
    "energy, uJ",
    "or, uJ",
    "ms an image",
)


def _shipped(name):
    """A shipped QCFS network, converted without calibration; its levels L."""

    def case(args):
        network, metadata = networks.load(networks.checkpoint_path(name))
        images, labels = data.fashion_mnist("t10k")
        images = data.normalise(images[: args.images], data.FASHION_MNIST)
        label = f"FashionMNIST {name}, QCFS, L = {metadata['levels']}"
        return Case(name, label, network, None, images, labels[: args.images])

    return case


SHIPPED = {f"{name}-qcfs": _shipped(name) for name in networks.QCFS}
CASES = SHIPPED | calibration_networks.CASES


def converted(case, timesteps, spike_levels):
    """The network at T and D; QCFS without calibration, ReLU with even levels."""
    return pcsnn.convert(
        case.network,
        timesteps,
        calibration=case.calibration,
        method="none" if case.calibration is None else EVEN,
        fold=True,
        progress=False,
        spike_levels=spike_levels,
    )


def seconds(forms, rounds):
    """Median seconds of each form's call, in turns."""
    for call in forms.values():
        call()
    return {name: timing.median(found) for name, found in timing.interleaved(forms, rounds).items()}


def check(case, snn, packed, found):
    """RuntimeError where a form does not compute what it must."""
    few = case.images[:CHECKED]
    with pcsnn.use_backend("reference"):
        expected = snn(few)
    verdicts = {
        "collapsed": checks.same_bits(snn(few), expected, "the reference"),
        "packed": checks.packed_layer_by_layer(packed, snn, few),
        "serial, whose first layer has a constant current": checks.Verdict(
            found.first.other <= checks.TIES * found.first.neurons,
            f"{found.first.other} of {found.first.neurons} counts of that layer differ from the parallel neuron's",
        ),
    }
    for form, verdict in verdicts.items():
        if not verdict.right:
            raise RuntimeError(f"{case.name}, T = {snn.timesteps}, {form}: {verdict.words}")


def measure(case, timesteps, spike_levels, args):
    """A row for serial I-LIF at one T and D, and one for the parallel neuron."""
    snn = converted(case, timesteps, spike_levels)
    serial = baselines.serial(snn)
    levels = timesteps * spike_levels
    found = compare(snn, serial, case.images, levels, args.batch)
    packed = baselines.packed(snn)
    check(case, snn, packed, found)
    operations = pcsnn.analysis.count_operations(snn, case.images[: args.counted_images], progress=False)
    energies = operations.energy()
    images = case.images[: args.timed_images]
    forms = {"serial": serial, "packed": packed, "collapsed": snn}
    times = seconds({name: lambda form=form: form(images) for name, form in forms.items()}, args.rounds)

    nothing = Difference(1)

    def row(form, classes, own, whole, timed):
        execution = {"serial": "serial", "parallel": "packed"}[form]
        total = operations.total(execution)
        integers = operations.total(f"{execution} integers") if spike_levels > 1 else None
        return {
            "network": case.name,
            "form": form,
            "timesteps": timesteps,
            "spike_levels": spike_levels,
            "images": len(classes),
            "accuracy": (classes == case.labels).double().mean().item(),
            "same": (classes == found.expected).double().mean().item(),
            "own_share": own.share,
            "own_rate": own.rate,
            "whole_share": whole.share,
            "whole_rate": whole.rate,
            "spikes": total.spikes,
            "accumulates": total.accumulates,
            "spike_macs": integers and integers.spike_macs,
            "comparisons": total.comparisons,
            "energy": energies[execution].total,
            "integer_energy": integers and energies[f"{execution} integers"].total,
            "seconds": {name: times[name] / len(images) for name in timed},
        }

    return [
        row("serial", found.classes, found.own, found.whole, ["serial"]),
        row("parallel", found.expected, nothing, nothing, ["packed", "collapsed"]),
    ]


def cells(row):
    """A row of the table."""
    return (
        "serial I-LIF" if row["form"] == "serial" else "parallel",
        str(row["timesteps"]),
        str(row["spike_levels"]),
        f"{100 * row['accuracy']:.2f}",
        f"{100 * row['same']:.2f}",
        *(f"{row[key]:.3f}" for key in ("own_share", "own_rate", "whole_share", "whole_rate")),
        f"{row['accumulates'] / 1e6:.2f}",
        "" if row["spike_macs"] is None else f"{row['spike_macs'] / 1e6:.2f}",
        f"{row['comparisons'] / 1e6:.2f}",
        f"{1e6 * row['energy']:.2f}",
        "" if row["integer_energy"] is None else f"{1e6 * row['integer_energy']:.2f}",
        ", ".join(f"{1e3 * value:.2f}" for value in row["seconds"].values()),
    )


def show(case, rows, accuracy):
    """Print the table of one network."""
    print(f"{case.label}: {100 * accuracy:.2f} % itself, {len(case.images)} images; operations in millions an image")
    print("\n".join(table([HEADINGS, *map(cells, rows)])))
    print("operations: a spike of several levels is sent as bits, an accumulate each, or as an integer, a MAC")
    print("ms of the parallel neuron: T steps in the batch (packed), time collapsed\n", flush=True)


def pair(text):
    """The type of an option: "TxD"."""
    try:
        timesteps, spike_levels = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected TxD, as 4x2, got {text}") from None
    if timesteps < 1 or spike_levels < 1 or timesteps * spike_levels > 255:
        raise argparse.ArgumentTypeError(f"expected T and D of at least 1 with T D of at most 255, got {text}")
    return timesteps, spike_levels


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(SHIPPED)[:2])
    parser.add_argument("--pairs", type=pair, nargs="+", default=[(8, 1), (4, 2), (2, 4), (1, 8)], help="TxD")
    parser.add_argument("--cifar", type=pathlib.Path, help="as of calibration.py")
    parser.add_argument("--data", type=pathlib.Path, help="as of calibration.py")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--calibration-images", type=int, default=1024)
    parser.add_argument("--counted-images", type=int, default=16, help="for the operations")
    parser.add_argument("--timed-images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9, help="of the timing")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows")
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv=None):
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    rows = []
    try:
        for name in args.networks:
            case = CASES[name](args)
            own = torch.cat([case.network(part).argmax(1) for part in case.images.split(args.batch)])
            found = [row for timesteps, levels in args.pairs for row in measure(case, timesteps, levels, args)]
            rows += found
            show(case, found, (own == case.labels).double().mean().item())
    except (FileNotFoundError, Missing) as error:
        raise SystemExit(str(error)) from None
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**timing.circumstances(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
