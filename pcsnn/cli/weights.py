"""The file of --weights: a state dict, and what the file says of the training: levels of QCFS, mean and std of images.

A file is of safetensors, which says things in its metadata, or one that torch.save wrote, which says them in a dict
around the state dict; of that nothing is unpickled but tensors, numbers, texts, lists and dicts (`weights_only`).
"""

import json
from typing import Any, NamedTuple

import safetensors
import torch

from pcsnn.cli.files import reading, reason
from pcsnn.exchange.state_dicts import find_state, unwrapped

_PAIRS = (("mean", "std"), ("image_mean", "image_std"))  # the latter of Hugging Face's preprocessor_config
_ZIP = b"PK\3\4"  # how a file of torch.save begins
_DEEPEST = 4  # dicts within dicts that are looked into
_NOTES = 2**16  # characters of a text in metadata that is read as JSON


class Weights(NamedTuple):
    """The content of a file: `levels` and `normalisation`, a pair (mean, std) as it stands there, None where it does
    not say."""

    tensors: dict[str, torch.Tensor]
    levels: int | None
    normalisation: tuple[Any, Any] | None


def read_weights(path, wanted):
    """Weights under the names of the bare network.

    Args:
        path: the file.
        wanted: the set of names that the network has.

    Raises:
        ValueError: it cannot be read, holds no state dict, or a network that was converted already.
    """
    with reading(path, "--weights"), open(path, "rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    found, around = (_read_torch if zipped else _read_safetensors)(path)
    extra = {name: found[name] for pair in _PAIRS for name in pair if name in found and name not in wanted}
    said = _pair(extra)
    if said:
        found = {name: value for name, value in found.items() if not any(value is part for part in said)}
    try:
        tensors = unwrapped(found, wanted)
    except ValueError as error:
        raise ValueError(f"--weights: {path}: {error}") from error
    levels = around.get("levels")
    levels = levels if isinstance(levels, int) and not isinstance(levels, bool) else None
    return Weights(tensors, levels, said or _pair(around))


def _read_safetensors(path):
    """(tensors, what the metadata say, texts that are JSON as what they stand for)."""
    try:
        with reading(path, "--weights"), safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except ValueError as error:
        if not isinstance(error.__cause__, safetensors.SafetensorError):
            raise
        raise ValueError(
            f"--weights: {path} is not a safetensors file ({reason(error.__cause__)}), nor one of torch.save; "
            "safetensors.torch.save_file(state, path) writes one, of the state dict of a network or of what "
            "torch.load(file, weights_only=True) gives"
        ) from error
    if "pcsnn" in metadata:
        raise ValueError(
            f"--weights: {path} is a network that was converted already; expected the weights it was made from"
        )
    return tensors, {name: _value(text) for name, text in metadata.items()}


def _value(text):
    """What a text of metadata stands for: JSON, numbers with commas or blanks between them, or itself."""
    try:
        return json.loads(text[:_NOTES])
    except (ValueError, RecursionError):
        pass
    try:
        return [float(part) for part in text[:_NOTES].strip("()[] ").replace(",", " ").split()]
    except ValueError:
        return text


def _read_torch(path):
    """(state dict, what stands around it)."""
    with reading(path, "--weights"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    found = find_state(content)
    if found is None:
        raise ValueError(f"--weights: {path} holds no state dict, names of tensors, at a place that is known")
    return found, content if content is not found else {}


def _pair(value, depth=0):
    """The first mean and std that stand together in a dict, or in dicts within."""
    if not isinstance(value, dict) or depth > _DEEPEST:
        return None
    for mean, std in _PAIRS:
        if mean in value and std in value:
            return value[mean], value[std]
    inside = (_pair(part, depth + 1) for part in value.values())
    return next(filter(None, inside), None)
