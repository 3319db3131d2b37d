"""The networks that the benchmarks train, ship and measure, by name."""

import json

import safetensors
import safetensors.torch
from torch import nn

import pcsnn
from lib import data
from pcsnn import models

FASHION_MNIST = {
    "resnet20": models.cifar_resnet20,
    "vgg": models.vgg_small,
    "mobilenet": models.mobilenet_small,
    "transformer": models.linear_transformer_small,
}
SIGNED = {"leaky_relu": lambda: nn.LeakyReLU(0.1), "silu": nn.SiLU}  # activations that go below zero
QCFS, RELU = ("resnet20", "vgg", "transformer"), ("vgg", "mobilenet")  # the shipped checkpoints with either activation
THRESHOLD = 4.0  # initial: batch norm gives currents of deviation 1, and L = 8 then puts levels 0.5 apart


def build(name, levels, activation="relu"):
    """A network for FashionMNIST, untrained; `levels` of its QCFS, None for ReLU, ReLU6 or one of SIGNED."""
    options = {"in_channels": 1, "num_classes": 10}
    if activation in SIGNED:
        options["activation"] = SIGNED[activation]
    if levels is not None:
        options["activation"] = lambda: pcsnn.nn.QCFS(levels, THRESHOLD)
    return FASHION_MNIST[name](**options)


def checkpoint_path(name, activation="qcfs"):
    return (
        data.HERE
        / "checkpoints"
        / f"{name}{'' if activation == 'qcfs' else f'-{activation}'}-fashion-mnist.safetensors"
    )


def load(path):
    """A checkpoint that train.py wrote -> the network in evaluation mode, and its metadata with numbers."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = {
            name: value if name in ("model", "data", "activation") else json.loads(value)
            for name, value in file.metadata().items()
        }
    network = build(metadata["model"], metadata["levels"], metadata.get("activation", "relu"))
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval(), metadata
