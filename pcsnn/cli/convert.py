"""pcsnn convert: a trained network to a spiking one in a file."""

import copy
import dataclasses
import os
import pathlib

import pcsnn
from pcsnn.cli import files, options
from pcsnn.cli.loading import check_fits, first_images, load_data, set_up

SUMMARY = "convert a trained network and write it to a file"
DESCRIPTION = (
    "Converts a trained network into a spiking one for T time-steps, prints what became of each layer, and "
    "writes the network to a file that pcsnn.load reads without the network's class."
)
EXAMPLES = """\
  pcsnn convert cifar_resnet20 --levels 8 --weights resnet20.safetensors --timesteps 8 --output snn.safetensors
      QCFS activations with L = T: lossless, needs no data; --timesteps 4 --spike-levels 2 is too, as T D = L
  pcsnn convert resnet18 --weights resnet18.safetensors --timesteps 16 --data imagenet/train --resize 256 --crop 224 \\
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --output snn.safetensors
      a ReLU network, calibrated on 1,024 images drawn from a folder; labels are not used
  pcsnn convert mypackage.nets:make --model-args '{"width": 64}' --timesteps 8 --data images.npz \\
      --optimize int8 --output snn.safetensors
      a network of your own; fused layers with int8 weights"""


def add_options(parser):
    options.add_model(parser)
    options.add_data(parser, calibration=False)
    options.add_conversion(parser)
    options.add_timesteps(parser)
    parser.add_argument(
        "--optimize",
        choices=options.OPTIMIZE,
        default="none",
        help="fuse each synapse with its neurons, with these weights, see pcsnn.optimize (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=pathlib.Path, metavar="FILE", help="safetensors file to write (default: only the report)"
    )
    options.add_machine(parser)


def run(args):
    network = set_up(args)
    loader = None
    if args.data is not None:
        loader, _ = load_data(args, args.data, "--data", args.images)
        check_fits(network, loader, "--data", args)
    snn = convert(network, args.timesteps, loader, args)
    if args.optimize != "none":
        examples = None if loader is None else first_images(loader, 1, args.device)
        snn = pcsnn.optimize(snn, args.optimize, example_inputs=examples)
    snn.normalisation = args.normalisation.whole()
    print(relative_report(snn.report))
    if args.output is not None:
        with files.writing(args.output):
            pcsnn.save(snn, args.output)
        print(f"wrote {args.output}, {args.output.stat().st_size / 2**20:.2f} MiB")


def convert(network, timesteps, calibration, args):
    """pcsnn.convert with the options of a command line."""
    return pcsnn.convert(
        network,
        timesteps,
        calibration=calibration,
        method=args.method,
        strict=args.strict,
        progress=not args.quiet,
        seed=args.seed,
        spike_levels=args.spike_levels,
    )


def relative_report(report):
    """The report with source files as seen from here, where they lie below."""
    here = os.getcwd() + os.sep
    result = copy.copy(report)
    result.rows = [dataclasses.replace(row, location=row.location.removeprefix(here)) for row in report.rows]
    return result
