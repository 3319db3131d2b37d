"""Whole converted networks in one safetensors file: tensors, and the graph as JSON in its metadata. docs/files.md has
the format."""

import contextlib
import copy
import dataclasses
import json
import os

import torch

from pcsnn.network.network import SpikingNetwork, check_converted
from pcsnn.network.normalisation import Normalisation
from pcsnn.network.report import KINDS, Report, Row
from pcsnn.storage import container, graph
from pcsnn.storage.paths import check_path, plain_paths
from pcsnn.tensors import checks

FORMAT = 2
FIRST = 1  # without checksum, and with paths as they were in the source
_MOST_TEXT = 2000
_SERVE_EVERY_TIMESTEPS = ("none", "max")  # methods in files that do not say for which T they were calibrated


def save(snn: SpikingNetwork, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
    """Write a whole converted network to one safetensors file, readable without the source network's class.

    The file appears whole or not at all, under its name in one step: whoever loads meanwhile gets the old network or
    the new one, and after an error, a full disk or a kill the old file is as it was. (A kill leaves
    NAME.xxxxxxxx.unfinished beside it, which may be deleted.) It has the permissions of the file it replaces, or those
    of any new file. A link stays a link, and what it points to is replaced.

    Layers whose names a file cannot have (with a hyphen or a blank, with an underscore in front, named like an
    attribute of torch.fx.GraphModule) come back under the nearest one that it can, in the report too. Weights that are
    computed from others (torch.nn.utils: weight_norm, spectral_norm, prune, parametrize) are saved as what they are
    now.

    Args:
        snn: a SpikingNetwork of modules of torch.nn and pcsnn.nn, and functions of torch, all on the lists in
            docs/files.md.
        path: the file to write, text, bytes or os.PathLike.

    Raises:
        TypeError: not a SpikingNetwork, or no path.
        ValueError: it holds what a file cannot carry: a function or module of the user's own or one that is not on the
            lists, hooks, or a tensor that is not dense.
        OSError: the file cannot be written; the message names it and says why.
    """
    check_converted(snn)
    path = os.fsdecode(path)
    description, tensors, paths = graph.describe(snn.network)
    report = snn.report
    rows = [{key: _text(value) for key, value in vars(row).items()} for row in report.rows]
    for row in rows:
        row["name"] = paths.get(row["name"], row["name"])
    layouts = {name: order for name, tensor in tensors.items() if (order := _order(tensor))}
    description |= {
        "format": FORMAT,
        "layouts": layouts,
        "report": {
            "method": report.method,
            "timesteps": report.timesteps,
            "calibrated_for": report.calibrated_for,
            "rows": rows,
        },
    }
    if report.spike_levels > 1:
        description["report"]["spike_levels"] = report.spike_levels
    if snn.max_graphs:
        description["max_graphs"] = snn.max_graphs
    if snn.normalisation:
        description["normalisation"] = snn.normalisation._asdict()
    try:  # what load would refuse is refused now
        with _plain_context():
            _restore(copy.deepcopy(description), dict(tensors))
    except ValueError as error:
        raise ValueError(f"snn: cannot save this network: {str(error).removeprefix('path: ')}") from error
    container.write(path, {"pcsnn": json.dumps(description)}, tensors)


def load(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> SpikingNetwork:
    """The SpikingNetwork that `save` wrote, on the CPU.

    Files may come from anybody. Whatever one holds, no code in it runs, nothing is unpickled, nothing of torch or
    Python is changed, and nothing but the file is read: it names only functions, modules and paths that are on lists
    (docs/files.md), and anything else is refused here, before it is called. A network from a stranger may still compute
    nonsense, raise an ordinary exception in forward, or want more memory than there is, as any network may.

    The file is read once, by one descriptor, and is the old or the new one where somebody saves meanwhile. The network
    has its own memory, about that of the file's tensors, and does not follow later changes of the file.

    Args:
        path: the file, text, bytes or os.PathLike.

    Raises:
        TypeError: no path.
        FileNotFoundError, OSError: there is no such file, or it cannot be read.
        ValueError: it is not a network of this format, was changed since it was saved, or names something that is not
            allowed.
    """
    path = os.fsdecode(path)
    with _plain_context():
        metadata, tensors = container.read(path)
        if "pcsnn" not in metadata:
            raise ValueError(f"path: {path} has no pcsnn network in it, only tensors")
        try:
            description = json.loads(metadata["pcsnn"])
            _check_format(description, "checksum" in metadata)
            return _restore(description, tensors)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"path: {path} holds no complete network: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _plain_context():
    """The CPU as device of what is made, ordinary tensors, no gradients: whatever is set around a call."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        yield


def _check_format(description, has_checksum):
    found = description["format"]
    if found not in (FIRST, FORMAT) or isinstance(found, bool):
        raise ValueError(f"path: expected format {FORMAT} or {FIRST}, got {found}; it is from another version")
    if has_checksum != (found == FORMAT):
        raise ValueError(
            f"path: a file of format {found} has {'a' if has_checksum else 'no'} checksum: it was "
            f"changed since it was saved"
        )


def _restore(description, tensors):
    """The network of a description; takes its tensors out of `tensors`."""
    if description["format"] == FIRST:
        tensors = _rename(description, tensors)
    for name, order in description.get("layouts", {}).items():
        tensors[name] = _in_order(tensors[name], order)
    report = _report(description["report"])
    network = graph.restore(description, tensors)
    _check_spike_levels(network, report.spike_levels)
    snn = SpikingNetwork(network, report)
    snn.max_graphs = description.get("max_graphs", 0)
    snn.normalisation = _normalisation(description.get("normalisation"))
    return snn


def _normalisation(entry):
    """(mean, std) of a file, None where it does not say."""
    if entry is None:
        return None
    try:
        return Normalisation.of(entry["mean"], entry["std"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: has a normalisation that is none: {str(error)[:200]}") from error


def _check_spike_levels(network, spike_levels):
    """ValueError for a layer made for another D than the report says, by which record and set_timesteps go."""
    for name, module in network.named_modules():
        known = {"spike_levels": getattr(module, "spike_levels", spike_levels)}
        if getattr(module, "counted", False) and not module.fixed_steps:
            known["input_spike_levels"] = module.input_spike_levels
        if getattr(module, "residual_worth", None) is not None:
            known["residual_spike_levels"] = module.residual_spike_levels
        for key, found in known.items():
            if found != spike_levels:
                raise ValueError(
                    f"path: has a report of spike_levels = {spike_levels}, and the layer {name!r} of {key} = {found}"
                )


def _order(tensor):
    """The dimensions of a dense tensor from the outermost in memory to the innermost, where that is not how they are
    numbered.

    Products round differently where weights lie differently.
    """
    order = sorted(range(tensor.dim()), key=lambda dim: -tensor.stride(dim))
    return None if tensor.is_contiguous() or not tensor.permute(order).is_contiguous() else order


def _in_order(tensor, order):
    """The same values with dimensions in that order in memory."""
    if not isinstance(order, list) or sorted(order) != list(range(tensor.dim())):
        raise ValueError(f"path: has the order of dimensions {str(order)[:100]} for a tensor of {tensor.dim()}")
    return tensor.permute(order).contiguous().permute([order.index(dim) for dim in range(len(order))])


def _rename(description, tensors):
    """Give the paths of a file of the first format names that they may have now. Changes `description`; returns the
    tensors."""
    modules, attributes = description["modules"], description["attributes"]
    for path in (*modules, *attributes):
        if not isinstance(path, str) or "__" in f".{path}.".replace("._", "."):
            check_path(path)
    names = plain_paths({*modules, *attributes})
    description["modules"] = {names[path]: entry for path, entry in modules.items()}
    description["attributes"] = [names[path] for path in attributes]
    for entry in description["nodes"]:
        if entry["op"] in ("call_module", "get_attr"):
            entry["target"] = names[entry["target"]]
    for row in description["report"]["rows"]:
        row["name"] = names.get(row["name"], row["name"])
    renamed = {}
    for name, tensor in tensors.items():
        owner = name
        while owner and owner not in names:
            owner = owner.rpartition(".")[0]
        renamed[names[owner] + name[len(owner) :] if owner else name] = tensor
    return renamed


def _report(entry):
    """The conversion report of a file, whose texts are shown as they are: no control characters."""
    rows = [Row(**{key: _text(value) for key, value in _row(row).items()}) for row in entry["rows"]]
    several = entry.get("spike_levels", 1)
    try:
        checks.full_count(entry["timesteps"], several)
    except (TypeError, ValueError) as error:
        raise ValueError(f"path: has a report of {error}") from error
    if not isinstance(entry["method"], str):
        raise ValueError(f"path: has a report of the method {str(entry['method'])[:200]!r}")
    if "calibrated_for" in entry:
        calibrated_for = entry["calibrated_for"]
        if calibrated_for is not None:
            checks.timesteps(calibrated_for)
    else:
        calibrated_for = None if entry["method"] in _SERVE_EVERY_TIMESTEPS else entry["timesteps"]
    return Report(_text(entry["method"]), entry["timesteps"], rows, calibrated_for, several)


def _row(entry):
    """The fields of a row of a report. Files of format 1, and earlier ones of format 2, have its two texts in one."""
    if isinstance(entry.get("detail"), str) and "source" not in entry:
        entry = dict(entry)
        detail = entry.pop("detail")
        source, _, became = detail.partition(": ") if entry.get("kind") == "spiking" else (detail, "", "")
        entry |= {"source": source, "became": became}
    fields = {field.name for field in dataclasses.fields(Row)}
    if (
        not {"name", "source"} <= entry.keys() <= fields
        or entry.get("kind") not in KINDS
        or not all(isinstance(value, str) for value in entry.values())
    ):
        raise ValueError(f"path: has a report with the row {str(entry)[:200]}, which this version does not know")
    return entry


def _text(value):
    """Text of a report, printable and not too long; other values as they are."""
    if not isinstance(value, str):
        return value
    return "".join(letter if letter.isprintable() else "?" for letter in value[:_MOST_TEXT])
