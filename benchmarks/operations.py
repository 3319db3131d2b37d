"""Operations, memory traffic and energy per image of the shipped QCFS networks, from the spikes fired on real images.

    python benchmarks/operations.py                                  two networks at T = 8, on FashionMNIST test images
    python benchmarks/operations.py --timesteps 1 2 4 8 16 32 --plot operations.png --layers
    python benchmarks/operations.py --full-count 24 --spike-levels 1 2 3 6 12 24      at equal T D, so equal accuracy

Batch norms are folded. Serial and packed: what an event-driven machine does, an addition for each target of each
spike. Spikes of several levels, D > 1, go as bits or as integers, each with rows of its own; an integer is multiplied.
docs/operations.md has the conventions. "energy" leaves memory out, as is usual. "SRAM" and "DRAM" are what the
traffic alone would cost: at 100 pJ for 64 bits from a cache of 1 MB, at 1.3 nJ, the lower end, from DRAM (Horowitz,
ISSCC 2014).
"""

import argparse
import json
import pathlib

import torch
from lib import data, networks

import pcsnn
from pcsnn.analysis import count_operations, plot_operations
from pcsnn.network.text_table import table

SRAM, DRAM = 100e-12 / 8, 1.3e-9 / 8  # joules a byte
HEADINGS = (
    "T",
    "D",
    "execution",
    "accumulates",
    "spike MACs",
    "MACs",
    "first layer MACs",
    "additions",
    "comparisons",
    "KiB",
    "energy uJ",
    "first layer uJ",
    "SRAM uJ",
    "DRAM uJ",
)


def rows(result):
    """Cells of one result: a row an execution."""
    energies = result.energy()
    for execution in result.executions:
        total, energy = result.total(execution), energies[execution]
        numbers = (
            total.accumulates,
            total.spike_macs,
            total.macs,
            total.input_macs,
            total.additions,
            total.comparisons,
            total.bytes / 1024,
        )
        joules = (energy.total, energy.first_layer, total.bytes * SRAM, total.bytes * DRAM)
        yield (
            str(result.timesteps),
            str(result.spike_levels),
            execution,
            *(f"{value:,.0f}" for value in numbers),
            *(f"{1e6 * value:.2f}" for value in joules),
        )


def steps_of(args):
    """Every (T, D) that is asked for."""
    if args.full_count is None:
        return [(timesteps, levels) for timesteps in args.timesteps for levels in args.spike_levels]
    return [(args.full_count // levels, levels) for levels in args.spike_levels]


def measure(name, args):
    network, metadata = networks.load(networks.checkpoint_path(name))
    images = data.normalise(data.fashion_mnist("t10k")[0][: args.images], data.FASHION_MNIST)
    results = []
    for timesteps, spike_levels in steps_of(args):
        snn = pcsnn.convert(network, timesteps, method="none", fold=True, spike_levels=spike_levels)
        results.append(count_operations(snn, images))
    print(f"{metadata['model']}, L = {metadata['levels']}, mean of {len(images)} images")
    print("\n".join(table([HEADINGS, *(row for result in results for row in rows(result))])), end="\n\n")
    if args.layers:
        print(results[-1], end="\n\n")
    return results


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=networks.QCFS, default=["vgg", "resnet20"])
    parser.add_argument("--timesteps", type=int, nargs="+", default=[8])
    parser.add_argument("--spike-levels", type=int, nargs="+", default=[1], metavar="D", help="each of them at each T")
    parser.add_argument("--full-count", type=int, metavar="T_D", help="instead of --timesteps: T is this over each D")
    parser.add_argument("--images", type=int, default=100, help="take the first so many test images")
    parser.add_argument("--layers", action="store_true", help="show each layer at the last T and D")
    parser.add_argument("--plot", type=pathlib.Path, help="write a picture of the last network against T, D or T D")
    parser.add_argument("--json", type=pathlib.Path, help="also write all results to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    for levels in args.spike_levels if args.full_count is not None else ():
        if levels < 1 or args.full_count < 1 or args.full_count % levels:
            parser.error(f"--spike-levels: expected divisors of --full-count {args.full_count}, got {levels}")
    torch.set_num_threads(args.threads)
    results = {name: measure(name, args) for name in args.networks}
    if args.plot:
        plot_operations(results[args.networks[-1]], args.plot)
    if args.json:
        found = {name: [result.as_dict() for result in some] for name, some in results.items()}
        args.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
