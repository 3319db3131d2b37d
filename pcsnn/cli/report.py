"""pcsnn report: everything about one conversion on one page."""

import pathlib

import pcsnn
from pcsnn import analysis
from pcsnn.cli import figures, files, html, options
from pcsnn.cli import sections as parts
from pcsnn.cli.errors import UsageError
from pcsnn.cli.loading import first_images, open_data, set_up
from pcsnn.cli.machine import machine, packages
from pcsnn.cli.results import read
from pcsnn.cli.rows import check_rows
from pcsnn.cli.sweep import add_measuring, analog_operations, describe
from pcsnn.cli.timing import time_forms

SUMMARY = "one HTML page about a conversion, with pictures inside"
DESCRIPTION = (
    "Converts a network at one T and writes one HTML file that opens without a network: conversion report, "
    "accuracy, error of each layer, firing rates, spike rasters, operations and energy, speed, and a sweep "
    "if there is one."
)
EXAMPLES = """\
  pcsnn report vgg_small --weights vgg.safetensors --data test.npz --mean 0.286 --std 0.353 --calibration train.npz \\
      --timesteps 8 --output report.html
  pcsnn report vgg_small --weights vgg.safetensors --data test.npz --mean 0.286 --std 0.353 --calibration train.npz \\
      --timesteps 8 --sweep sweep.jsonl --output report.html
      with the table and pictures of the same network's sweep"""


def add_options(parser):
    options.add_model(parser)
    options.add_data(parser, calibration=True)
    options.add_conversion(parser)
    options.add_timesteps(parser)
    parser.add_argument(
        "--sweep", type=pathlib.Path, metavar="FILE", help="what pcsnn sweep wrote for the same network and method"
    )
    add_measuring(parser)
    parser.add_argument(
        "--record-images",
        type=options.positive,
        default=64,
        help="record the spikes of so many images (default: %(default)s)",
    )
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="layers to show rasters of (default: first, middle, last)"
    )
    parser.add_argument(
        "--neurons", type=options.positive, default=64, help="neurons of a raster (default: %(default)s)"
    )
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", required=True, help="HTML file to write")
    options.add_machine(parser)


def run(args):
    figures.check_matplotlib()
    network = set_up(args)
    data, calibration, _ = open_data(args, network)
    swept = None if args.sweep is None else _read_sweep(args.sweep, describe(args, network))
    row, float_accuracy, snn = _convert(network, data, calibration, args)
    layers = _layers(snn, args)
    progress = not args.quiet
    with pcsnn.record(snn) as recording:
        snn(first_images(data, args.record_images, args.device))
    errors = analysis.layer_errors(network, snn, data, progress=progress)
    pages = [
        ("summary", "Summary", parts.summary(row, float_accuracy, len(data.dataset), args)),
        ("conversion", "Conversion report", parts.conversion(snn.report)),
        ("errors", "Error of each layer", parts.layer_errors(errors)),
        ("rates", "Firing rates", parts.rates(recording)),
        ("rasters", "Rasters", parts.rasters(recording, layers, args.neurons, args.seed)),
    ]
    analog = analog_operations(network)
    if analog:
        pages.append(("operations", "Operations, energy and speed", parts.not_measured(analog)))
    else:
        few = first_images(data, args.operation_images, args.device)
        counted = analysis.count_operations(snn, few, progress=progress)
        batch = first_images(data, args.time_batch, args.device)
        timed = time_forms(network, snn, batch, args.rounds, progress)
        pages += [
            ("operations", "Operations and energy", parts.operations(counted)),
            ("speed", "Speed", parts.speed(timed)),
        ]
    pages += [
        ("sweep", "Sweep over T", parts.sweep(swept, args)),
        ("machine", "Machine", parts.machine(machine(), packages())),
    ]
    files.write(args.output, html.page(f"{args.model}, {snn.report.steps}", pages))
    print(f"wrote {args.output}, {args.output.stat().st_size / 2**20:.2f} MiB")


def _read_sweep(path, network):
    """The rows of a sweep of the same network."""
    settings, rows, _ = read(path, "--sweep")
    check_rows(path, rows, "--sweep")
    different = [name for name in network if network[name] != settings.get(name)]
    if different:
        raise ValueError(f"--sweep: {path} is of another network or conversion: {', '.join(different)} differ")
    if not rows:
        raise ValueError(f"--sweep: {path} has no results yet")
    return rows


def _convert(network, data, calibration, args):
    """(row of a sweep at this T, accuracy of the float network, the spiking network)."""
    found = []
    result = analysis.sweep(
        network,
        data,
        [args.timesteps],
        args.method,
        calibration,
        not args.quiet,
        strict=args.strict,
        seed=args.seed,
        spike_levels=args.spike_levels,
        after_each=lambda _, snn: found.append(snn),
    )
    return result.rows[0], result.float_accuracy, found[0]


def _layers(snn, args):
    """The names of the layers whose rasters are shown."""
    names = [name for name, _ in snn.neurons()]
    unknown = [name for name in args.layers or () if name not in names]
    if unknown:
        raise UsageError(f"--layers: expected names among {', '.join(names)}, got {', '.join(unknown)}")
    return args.layers or list(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
