"""Saved networks taken apart, changed, and written again with a checksum that fits, as somebody hostile would."""

import json

from tiny_networks import LEVELS, build

import pcsnn
from pcsnn.storage import container


def saved(folder, name="upsampling_functions", **options):
    """(network, path) of a tiny one."""
    snn = pcsnn.convert(build(name), LEVELS, progress=False, **options)
    pcsnn.save(snn, folder / "net.safetensors")
    return snn, folder / "net.safetensors"


def parts(path):
    """(description, tensors)."""
    metadata, tensors = container.read(str(path))
    return json.loads(metadata["pcsnn"]), tensors


def write(path, description, tensors):
    text = description if isinstance(description, str) else json.dumps(description)
    container.write(str(path), {"pcsnn": text}, tensors)


def node(name, op, target, args=(), **kwargs):
    """A node of a description; arguments are JSON."""
    return {
        "name": name,
        "op": op,
        "target": target,
        "args": {"tuple": list(args)},
        "kwargs": {"dict": [*map(list, kwargs.items())]},
    }
