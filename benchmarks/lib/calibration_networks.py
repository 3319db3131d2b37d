"""The networks, trained with ReLU or ReLU6, on which calibration.py compares methods, and their images."""

from dataclasses import dataclass

import safetensors.torch
import torch

from lib import data, digits, networks
from lib.packages import Missing
from pcsnn import models


@dataclass
class Case:
    """A float network in evaluation mode, images [N, C, H, W] to calibrate and test it, and the latter's labels [N]."""

    name: str
    label: str
    network: torch.nn.Module
    calibration: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor


def cifar_resnet20(args):
    if args.cifar is None:
        raise Missing("needs --cifar FOLDER, with calibration.npz, test.npz and resnet20.safetensors")
    path = args.cifar / "resnet20.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"CIFAR ResNet-20: no {path}")
    network = models.cifar_resnet20()
    network.load_state_dict(safetensors.torch.load_file(path))
    calibration, _ = data.cifar10("calibration", args.cifar)
    images, labels = data.cifar10("test", args.cifar)
    return Case(
        "cifar-resnet20",
        "CIFAR ResNet-20, ReLU",
        network.eval(),
        data.normalise(calibration[: args.calibration_images], data.CIFAR10),
        data.normalise(images[: args.images], data.CIFAR10),
        labels[: args.images],
    )


def _fashion_mnist(name, label, args):
    if args.data is None:
        raise Missing("needs --data FOLDER, with FashionMNIST's training images, to calibrate on")
    calibration, _ = data.fashion_mnist("train", args.data)
    path = networks.checkpoint_path(name, "relu")
    if not path.is_file():
        raise Missing(f"no checkpoint {path.name}: train it with train.py --model {name} --activation relu")
    network, _ = networks.load(path)
    images, labels = data.fashion_mnist("t10k")
    return Case(
        name,
        label,
        network,
        data.normalise(calibration[: args.calibration_images], data.FASHION_MNIST),
        data.normalise(images[: args.images], data.FASHION_MNIST),
        labels[: args.images],
    )


def vgg(args):
    return _fashion_mnist("vgg", "FashionMNIST VGG, ReLU", args)


def mobilenet(args):
    return _fashion_mnist("mobilenet", "FashionMNIST MobileNet, ReLU6", args)


def mnist(args):
    try:
        network = digits.mnist_network()
        calibration, images, labels = digits.digits()
    except ImportError as error:
        raise Missing(str(error)) from None
    return Case(
        "mnist",
        "ccexam's MNIST network on scikit-learn's digits",
        network,
        calibration[: args.calibration_images],
        images[: args.images],
        labels[: args.images],
    )


CASES = {"cifar-resnet20": cifar_resnet20, "vgg": vgg, "mobilenet": mobilenet, "mnist": mnist}
