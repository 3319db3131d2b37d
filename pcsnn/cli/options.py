"""Options that several commands share."""

import argparse
import json
import math
import pathlib
import re

import torch

from pcsnn.calibration import METHODS
from pcsnn.cli.errors import UsageError
from pcsnn.tensors import checks

MOST_SIDE = 16384  # pixels of --resize and --crop
_SIDE = re.compile("[0-9]{1,5}")
OPTIMIZE = ("none", "float32", "bfloat16", "int8")


def timesteps(text):
    """T, 1..255; D and L are likewise."""
    return _integer(text, 1, checks.MAX_TIMESTEPS)


def positive(text):
    return _integer(text, 1, 2**31 - 1)


def natural(text):
    return _integer(text, 0, 2**63 - 1)


def threads(text):
    return _integer(text, 1, 1024)  # OpenMP ends the process where it cannot start as many as it is told to


def finite(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def _integer(text, low, high):
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"expected a whole number in {low}..{high}, got {text!r}")
    return value


def size(text):
    """ "224" -> 224, the shorter side; "200x300" -> (200, 300), height and width."""
    numbers = text.lower().split("x")
    fits = all(_SIDE.fullmatch(number) and 0 < int(number) <= MOST_SIDE for number in numbers)
    if len(numbers) > 2 or not fits:
        raise argparse.ArgumentTypeError(
            f"expected pixels, as 224 or 200x300 (height x width), each side at most {MOST_SIDE}, got {text!r}"
        )
    return int(numbers[0]) if len(numbers) == 1 else tuple(map(int, numbers))


def json_object(text):
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a JSON object like '{{\"num_classes\": 10}}', got {text!r} ({error})"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object like '{{\"num_classes\": 10}}', got {text!r}")
    return value


def device(text):
    """A torch.device that is there."""
    try:
        value = torch.device(text)
        torch.empty(1, device=value).item()  # of the meta device nothing can be read
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device
        reason = str(error).strip().splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"expected a device like cpu or cuda:0 that is there, got {text!r} ({reason})"
        ) from None
    return value


def add_model(parser, required=True):
    group = parser.add_argument_group("the network")
    group.add_argument(
        "model",
        metavar="MODEL",
        nargs=None if required else "?",
        help="a constructor of pcsnn.models, e.g. cifar_resnet20, or module:function, importable from "
        "here, that returns the trained network, or a float network in a file NAME.onnx (pip install pcsnn[onnx])",
    )
    group.add_argument(
        "--model-args",
        type=json_object,
        default={},
        metavar="JSON",
        help="arguments of that function, e.g. '{\"num_classes\": 10}'",
    )
    group.add_argument(
        "--weights",
        type=pathlib.Path,
        metavar="FILE",
        help="its state dict, safetensors or of torch.save; where it says mean and std of the images, these are used",
    )
    group.add_argument(
        "--levels",
        type=timesteps,
        metavar="L",
        help="QCFS activations with L levels in a network of pcsnn.models (default: the network's own, ReLU or ReLU6)",
    )


def add_data(parser, calibration, evaluates=None, required=True):
    """`calibration`: whether data for calibration is an option of its own, beside the data to evaluate. `evaluates`:
    whether there is data to evaluate; None: only beside the former. `required`: whether that must be given."""
    evaluates = calibration if evaluates is None else evaluates
    group = parser.add_argument_group("the data")
    group.add_argument(
        "--data",
        type=pathlib.Path,
        metavar="PATH",
        required=evaluates and required,
        help=(
            "a folder of images, CLASS/IMAGE.png or without classes, or a .npz or .safetensors file with the arrays "
            "images and labels" + ("" if evaluates else "; calibrates the network, labels are ignored")
        ),
    )
    if calibration:
        group.add_argument(
            "--calibration",
            type=pathlib.Path,
            metavar="PATH",
            help="data to calibrate on (default: --data, so that figures are those of data seen)",
        )
    group.add_argument(
        "--images",
        type=positive,
        metavar="N",
        default=None if evaluates else 1024,
        help=f"take so many images, drawn by --seed (default: {'all' if evaluates else 1024})",
    )
    if calibration:
        group.add_argument(
            "--calibration-images",
            type=positive,
            metavar="N",
            default=1024,
            help="the same for --calibration (default: %(default)s)",
        )
    group.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        default=3,
        help="read image files as grey (1) or colour (3, the default)",
    )
    group.add_argument("--resize", type=size, metavar="SIZE", help="224: the shorter side; 200x300: height and width")
    group.add_argument(
        "--crop", type=size, metavar="SIZE", help="the middle part, after --resize: 224, or height x width"
    )
    group.add_argument(
        "--mean",
        type=finite,
        nargs="+",
        metavar="M",
        help="subtracted from each channel, of values 0..1 (default: what the file of the network says, else nothing)",
    )
    group.add_argument(
        "--std",
        type=finite,
        nargs="+",
        metavar="S",
        help="by which each channel is divided then (default: as of --mean)",
    )
    group.add_argument("--batch", type=positive, default=32, help="images a batch (default: %(default)s)")


def add_conversion(parser):
    group = parser.add_argument_group("the conversion")
    group.add_argument(
        "--method",
        choices=("auto", *METHODS),
        default="auto",
        help="see pcsnn.convert (default: %(default)s: none where every activation is a QCFS whose L "
        "divides T D, else light)",
    )
    group.add_argument(
        "--no-strict",
        dest="strict",
        action="store_false",
        help="keep operations that cannot spike analog instead of refusing the network",
    )
    group.add_argument("--seed", type=natural, default=0, help="of everything drawn at random (default: %(default)s)")
    group.add_argument(
        "--spike-levels",
        type=timesteps,
        metavar="D",
        default=1,
        help="a time-step sends an integer 0..D, T D at most 255; 2^n - 1: n binary spikes of weights 1, 2, 4, ... "
        "(default: %(default)s)",
    )


def check_full_count(args):
    """UsageError where T D does not fit a byte, for any of the T."""
    several = getattr(args, "spike_levels", 1)
    named = getattr(args, "timesteps", 1) or 1
    most = max(named) if isinstance(named, list) else named
    if most * several > checks.MAX_TIMESTEPS:
        raise UsageError(
            f"--spike-levels: expected at most {checks.MAX_TIMESTEPS // most} at --timesteps {most}, got {several}: a "
            f"count takes one byte, so that T D is at most {checks.MAX_TIMESTEPS}"
        )


def add_timesteps(parser, required=True):
    parser.add_argument("--timesteps", type=timesteps, metavar="T", required=required, help="time-steps, 1..255")


def add_machine(parser):
    group = parser.add_argument_group("the machine")
    group.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    group.add_argument("--threads", type=threads, metavar="N", help="threads of the CPU (default: torch's choice)")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
