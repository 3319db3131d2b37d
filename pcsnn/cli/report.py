"""pcsnn report: everything about one conversion on one page."""

import pathlib

import pcsnn
from pcsnn import analysis
from pcsnn.cli import compare, files, html, options
from pcsnn.cli import sections as parts
from pcsnn.cli.content import of_conversion
from pcsnn.cli.errors import UsageError
from pcsnn.cli.loading import first_images, open_data, set_up
from pcsnn.cli.machine import machine, packages
from pcsnn.cli.results import read
from pcsnn.cli.rows import check_rows
from pcsnn.cli.sweep import add_measuring, analog_operations, describe
from pcsnn.cli.timing import time_forms

SUMMARY = "one HTML page about a conversion, with charts inside; or about two"
DESCRIPTION = (
    "Converts a network at one T and writes one HTML file that opens without a network: conversion report, "
    "accuracy, error of each layer, firing rates, spike rasters, operations and energy, speed, and a sweep "
    "if there is one. With --compare, what differs between two such files."
)
EXAMPLES = """\
  pcsnn report vgg_small --weights vgg.safetensors --data test.npz --mean 0.286 --std 0.353 --calibration train.npz \\
      --timesteps 8 --output report.html
  pcsnn report vgg_small --weights vgg.safetensors --data test.npz --mean 0.286 --std 0.353 --calibration train.npz \\
      --timesteps 8 --sweep sweep.jsonl --output report.html
      with the table and charts of the same network's sweep
  pcsnn report --compare before.html after.html --output compared.html"""


def add_options(parser):
    parser.add_argument(
        "--compare",
        type=pathlib.Path,
        nargs=2,
        metavar=("A", "B"),
        help="two reports, whose figures are put side by side; nothing is converted, and MODEL, --data and --timesteps "
        "are left out",
    )
    options.add_model(parser, required=False)
    options.add_data(parser, calibration=True, required=False)
    options.add_conversion(parser)
    options.add_timesteps(parser, required=False)
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
        "--layers", nargs="+", metavar="LAYER", help="layers to show histograms and rasters of (default: all)"
    )
    parser.add_argument(
        "--neurons", type=options.positive, default=64, help="neurons of a raster (default: %(default)s)"
    )
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", required=True, help="HTML file to write")
    options.add_machine(parser)


def run(args):
    if args.compare is not None:
        _refuse_beside_compare(args)
        files.write(args.output, compare.page(*args.compare))
        print(f"wrote {args.output}, {args.output.stat().st_size / 2**20:.2f} MiB")
        return
    _check_given(args)
    network = set_up(args)
    data, calibration, _ = open_data(args, network)
    swept = None if args.sweep is None else _read_sweep(args.sweep, describe(args, network))
    row, float_accuracy, snn = _convert(network, data, calibration, args)
    names = _layers(snn, args)
    progress = not args.quiet
    with pcsnn.record(snn) as recording:
        snn(first_images(data, args.record_images, args.device))
    errors = analysis.layer_errors(network, snn, data, progress=progress)
    content = of_conversion(snn, row, float_accuracy, errors, recording)
    content |= {
        "title": f"{args.model}, {snn.report.steps}",
        "facts": parts.facts(row, float_accuracy, len(data.dataset), args),
        "machine": parts.machine(machine(), packages()),
        "operations": None,
        "time": None,
    }
    analog = [part.name for part in analog_operations(network)]
    if not analog:
        few = first_images(data, args.operation_images, args.device)
        content["operations"] = analysis.count_operations(snn, few, progress=progress).as_dict()
        batch = first_images(data, args.time_batch, args.device)
        content["time"] = time_forms(network, snn, batch, args.rounds, progress)
    files.write(args.output, _page(content, recording, names, analog, swept, args))
    print(f"wrote {args.output}, {args.output.stat().st_size / 2**20:.2f} MiB")


def _page(content, recording, names, analog, swept, args):
    links = {name: f"layer-{place}" for place, name in enumerate(names)}
    opened = args.layers or (names[0], names[len(names) // 2], names[-1])
    pages = [
        ("summary", "Summary", parts.summary(content)),
        ("conversion", "Conversion report", parts.conversion(content, links)),
        ("errors", "Error of each layer", parts.layer_errors(content, links)),
        ("rates", "Firing rates", parts.rates(content, links)),
        ("rasters", "Layers", parts.layers(recording, names, opened, links, args.neurons, args.seed)),
    ]
    if analog:
        pages.append(("operations", "Operations, energy and speed", parts.not_measured(analog)))
    else:
        pages += [
            ("operations", "Operations and energy", parts.operations(content["operations"])),
            ("speed", "Speed", parts.speed(content["time"])),
        ]
    pages += [
        ("sweep", "Sweep over T", parts.sweep(swept, args)),
        ("machine", "Machine", html.table([("", ""), *content["machine"]], sortable=False)),
    ]
    return html.page(content["title"], pages, content)


def _check_given(args):
    needed = {"MODEL": args.model, "--data": args.data, "--timesteps": args.timesteps}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)} (or --compare A B)")


def _refuse_beside_compare(args):
    beside = {"MODEL": args.model, "--data": args.data, "--timesteps": args.timesteps, "--sweep": args.sweep}
    given = [name for name, value in beside.items() if value is not None]
    if given:
        raise UsageError(f"--compare: expected two reports and --output alone, got {', '.join(given)} too")


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
    """The names of the layers whose histograms and rasters are in the page."""
    names = [name for name, _ in snn.neurons()]
    unknown = [name for name in args.layers or () if name not in names]
    if unknown:
        raise UsageError(f"--layers: expected names among {', '.join(names)}, got {', '.join(unknown)}")
    return list(dict.fromkeys(args.layers or names))
