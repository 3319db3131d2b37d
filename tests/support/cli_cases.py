"""What the tests of the command line share: a folder of modules, images and arrays, and how a command is run in it."""

import contextlib
import json
import pathlib

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pcsnn.cli import main

HEADS = """
import torch
from cli_nets import make
from torch import nn

def one_logit():
    return nn.Sequential(*make()[:-1], nn.Linear(144, 1))

def flat():
    return nn.Sequential(*one_logit(), nn.Flatten(0))

class Mean(nn.Module):
    def forward(self, x):
        return x.mean()

def scalar():
    return nn.Sequential(*one_logit(), Mean())
"""
NETS = """
import torch
from torch import nn
from pcsnn.nn import QCFS

def make(activation="qcfs", seed=0, tail=nn.Identity):
    torch.manual_seed(seed)
    act = {"qcfs": lambda: QCFS(4, 2.0), "relu": nn.ReLU}[activation]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), act(), nn.Conv2d(4, 4, 3), act(), tail(),
                         nn.Flatten(), nn.Linear(144, 3))

def analog():
    return make(tail=nn.GELU)

def broken():
    raise KeyError("no such thing")

def number():
    return 7

instance = nn.ReLU()
"""
SIZES = ("--resize", "8x8")
NET = ("cli_nets:make", "--method", "max", *SIZES)
ANALOG = ("cli_nets:analog", "--method", "max", *SIZES, "--no-strict")
QUICK = ("--rounds", "1", "--time-batch", "2", "--operation-images", "2", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Modules, images and arrays that the commands name."""
    place = tmp_path_factory.mktemp("cli")
    (place / "cli_nets.py").write_text(NETS)
    (place / "cli_heads.py").write_text(HEADS)
    generator = numpy.random.default_rng(0)
    for kind in ("apple", "pear", "quince"):
        (place / "photos" / kind).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (10, 12, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(place / "photos" / kind / f"{number}.png")
    arrays = {
        "images": generator.integers(0, 256, (9, 3, 8, 8), dtype=numpy.uint8),
        "labels": generator.integers(0, 3, 9),
    }
    numpy.savez(place / "arrays.npz", **arrays)
    return place


@contextlib.contextmanager
def within(folder):
    """In the folder, whose modules can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(autouse=True)
def inside(folder):
    with within(folder):
        yield


def run(*arguments):
    """The exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def net(**options):
    import cli_nets

    return cli_nets.make(**options).eval().to(memory_format=torch.channels_last)


def photos(order=None, kind="photos"):
    """What the commands should make of the folder: resized images [12, 3, 8, 8] and labels [12]."""
    files = sorted(pathlib.Path(kind).rglob("*.png"))
    values = [torch.from_numpy(numpy.array(Image.open(file))).permute(2, 0, 1)[None] / 255 for file in files]
    small = torch.cat([F.interpolate(value, (8, 8), mode="bilinear", antialias=True) for value in values])
    labels = torch.tensor([("apple", "pear", "quince").index(file.parent.name) for file in files])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)) if order is None else order
    return small[order], labels[order]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def swept(folder):
    path = folder / "swept.jsonl"
    with within(folder):
        assert run("sweep", *NET, "--data", "photos", "--timesteps", 2, 4, *QUICK, "--output", path) == 0
    return path
