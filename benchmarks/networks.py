"""The networks that the benchmarks train, ship and measure, by name."""

import json

import safetensors
import safetensors.torch

import data
import pcsnn
from pcsnn import models

FASHION_MNIST = {"resnet20": models.cifar_resnet20, "vgg": models.vgg_small, "mobilenet": models.mobilenet_small,
                 "transformer": models.linear_transformer_small}
QCFS, RELU = ("resnet20", "vgg", "transformer"), ("vgg", "mobilenet")  # the shipped checkpoints with either activation
THRESHOLD = 4.0  # initial: batch norm gives currents of deviation 1, and L = 8 then puts levels 0.5 apart


def build(name, levels):
    """A network for FashionMNIST, untrained; `levels` of its QCFS activations, None for ReLU or ReLU6."""
    options = {"in_channels": 1, "num_classes": 10}
    if levels is not None:
        options["activation"] = lambda: pcsnn.nn.QCFS(levels, THRESHOLD)
    return FASHION_MNIST[name](**options)


def checkpoint_path(name, activation="qcfs"):
    return data.HERE / "checkpoints" / f"{name}{'-relu' if activation == 'relu' else ''}-fashion-mnist.safetensors"


def load(path):
    """A checkpoint that train.py wrote -> the network in evaluation mode, and its metadata with numbers."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = {name: value if name in ("model", "data") else json.loads(value)
                    for name, value in file.metadata().items()}
    network = build(metadata["model"], metadata["levels"])
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval(), metadata
