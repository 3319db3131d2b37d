"""The networks and images that are timed: shipped ones with real weights, or large ones with random weights."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import pcsnn
from lib import data, networks
from pcsnn import models

# name -> (constructor, channels of an image, its usual size)
RANDOM = {
    name: (getattr(models, name), *image)
    for names, image in (
        (("resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "vgg16_bn", "mobilenet_v2"), (3, 224)),
        (("cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56"), (3, 32)),
    )
    for name in names
}
SHIPPED = {f"{name}-fashion-mnist": name for name in networks.QCFS}
NAMES = [*SHIPPED, *RANDOM]
CALIBRATION = 4  # random images that settle batch norm and thresholds of a random network; times do not depend on them
SHIPPED_CALIBRATION = 32


@dataclass
class Workload:
    """A network in evaluation mode, images [N, C, H, W] to time it on, and others to set thresholds by."""

    name: str
    network: nn.Module
    images: torch.Tensor
    calibration: torch.Tensor

    @property
    def quantized(self):
        """Whether the network was trained with QCFS."""
        return any(isinstance(module, pcsnn.nn.QCFS) for module in self.network.modules())

    def relu_network(self):
        """The same layers with nn.ReLU in place, batch norm folded: what a user would run who wants no spikes."""
        return in_layout(fuse(relu_form(self.network)))

    def convert(self, timesteps):
        """The spiking network, batch norm folded as in `relu_network`, thresholds learned or recorded maxima."""
        return in_layout(
            pcsnn.convert(
                self.network, timesteps, calibration=self.calibration, method="max", fold=True, progress=False
            )
        )


def in_layout(module):
    """Channels last, the faster layout of convolutions, for every competitor alike."""
    return module.to(memory_format=torch.channels_last)


def relu_form(network):
    """A copy with in-place nn.ReLU where QCFS or nn.ReLU stood."""
    copied = copy.deepcopy(network)
    for name, module in list(copied.named_modules()):
        if isinstance(module, (pcsnn.nn.QCFS, nn.ReLU)):
            copied.set_submodule(name, nn.ReLU(inplace=True))
    return copied


def load(name, batch, image_size=None, device="cpu", seed=0):
    """The workload `name`, one of NAMES, with `batch` images.

    Raises:
        FileNotFoundError: a shipped checkpoint is missing.
        ValueError: an image size for a shipped network, which has its own.
    """
    torch.manual_seed(seed)
    if name in SHIPPED:
        network, images, calibration = _shipped(name, batch, image_size)
    else:
        network, images, calibration = _random(name, batch, image_size)
    return Workload(name, *(in_layout(part).to(device) for part in (network, images, calibration)))


def _shipped(name, batch, image_size):
    if image_size is not None:
        raise ValueError(f"image size: {name} has images of its own, 28x28")
    path = networks.checkpoint_path(SHIPPED[name])
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: train it with train.py")
    network, _ = networks.load(path)
    images = data.normalise(data.fashion_mnist("t10k")[0][: batch + SHIPPED_CALIBRATION], data.FASHION_MNIST)
    return network, images[:batch], images[batch:]


def _random(name, batch, image_size):
    """Random weights whose activations keep their size through the layers: batch norm sees a batch of random images."""
    constructor, channels, usual = RANDOM[name]
    size = image_size or usual
    network = constructor(activation=nn.ReLU)
    images = torch.randn(batch + CALIBRATION, channels, size, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches seen: here, one
    with torch.no_grad():
        network.train()(images[batch:])
    return network.eval(), images[:batch], images[batch:]
