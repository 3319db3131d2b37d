"""Loads the images that the benchmarks use: FashionMNIST from its IDX files, CIFAR-10 subsets from npz files."""

import gzip
import math
import pathlib

import numpy
import torch

HERE = pathlib.Path(__file__).resolve().parents[1]
SHIPPED_FASHION_MNIST = HERE / "data" / "fashion-mnist"
FASHION_MNIST = (0.2860,), (0.3530,)  # mean and standard deviation of the training images
CIFAR10 = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the published weights expect


def _idx(path):
    """An IDX file of bytes, gzip -> uint8 array; ValueError when it is anything else."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: expected an IDX file of bytes, got the magic number {content[:4].hex()}")
    header = 4 + 4 * content[3]
    shape = numpy.frombuffer(content, ">u4", content[3], 4).tolist()
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{path}: expected {math.prod(shape)} bytes after the header, got {len(content) - header}")
    return numpy.frombuffer(content, numpy.uint8, offset=header).reshape(shape)


def fashion_mnist(split, folder=SHIPPED_FASHION_MNIST):
    """FashionMNIST's "train" or "t10k" images, uint8 [N, 1, 28, 28], and labels, int64 [N].

    Raises:
        FileNotFoundError: the folder lacks the files; says where they are published.
    """
    files = [pathlib.Path(folder) / f"{split}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"FashionMNIST: no {' and no '.join(missing)}. Download these files from "
            "https://github.com/zalandoresearch/fashion-mnist (data/fashion) into that folder."
        )
    images, labels = (torch.from_numpy(_idx(file).copy()) for file in files)
    return images.unsqueeze(1), labels.long()


def cifar10(name, folder):
    """Images, uint8 [N, 3, 32, 32], and labels, int64 [N], of `folder`/`name`.npz (images [N, 32, 32, 3], labels)."""
    path = pathlib.Path(folder) / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"CIFAR-10: no {path}. Expected an npz file with `images`, uint8 [N, 32, 32, 3], and `labels`, uint8 [N]."
        )
    with numpy.load(path) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return images.permute(0, 3, 1, 2).contiguous(), labels.long()


def normalise(images, statistics):
    """uint8 [N, C, H, W] -> float32, scaled to 0..1, less the mean and divided by the deviation of each channel."""
    mean, deviation = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    return (images.float() / 255 - mean) / deviation
