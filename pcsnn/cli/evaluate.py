"""pcsnn evaluate: the accuracy of a spiking network that was saved."""

import pathlib

import torch

import pcsnn
from pcsnn import analysis
from pcsnn.cli import files, options
from pcsnn.cli.loading import check_decisions, check_fits, load_data
from pcsnn.cli.normalisation import settle

SUMMARY = "accuracy and spikes of a converted network in a file"
DESCRIPTION = (
    "Runs a spiking network, which pcsnn convert or pcsnn.save wrote, over images, and prints how many labels it hits. "
    "Images are normalised as the file says, where it says it."
)
EXAMPLES = """\
  pcsnn evaluate snn.safetensors --data test.npz
  pcsnn evaluate snn.safetensors --data imagenet/val --resize 256 --crop 224 --images 5000"""


def add_options(parser):
    parser.add_argument("model", metavar="FILE", type=pathlib.Path, help="what pcsnn convert or pcsnn.save wrote")
    options.add_data(parser, calibration=False, evaluates=True)
    parser.add_argument(
        "--seed", type=options.natural, default=0, help="by which --images are drawn (default: %(default)s)"
    )
    options.add_machine(parser)


def run(args):
    if args.threads:
        torch.set_num_threads(args.threads)
    with files.reading(args.model, "FILE"):
        snn = pcsnn.load(args.model).to(args.device)
    args.normalisation = settle(args, snn.normalisation, args.model)
    data, _ = load_data(args, args.data, "--data", args.images)
    check_decisions(*check_fits(snn, data, "--data", args), data, "--data", args)
    print(analysis.evaluate(snn, data, spikes=True, progress=not args.quiet))
