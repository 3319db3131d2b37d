"""Whole converted networks in one safetensors file: tensors, and the graph as JSON in its metadata. Nothing is unpickled."""

import builtins
import inspect
import json
import os
import operator
import pathlib
import re

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import fx, nn

import pcsnn.nn
from pcsnn.convert.network import SpikingNetwork, check_converted
from pcsnn.convert.operations import MOVING_ATTRIBUTES, SHAPE_ATTRIBUTES
from pcsnn.convert.report import Report, Row

FORMAT = 1
_INPUT = re.compile(r"\*{0,2}[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"\w+(\.\w+)*", re.ASCII)
_OPERATORS = {
    "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow", "matmul", "getitem", "eq", "ne", "lt", "le", "gt", "ge",
}
_UNSAFE_METHODS = {"apply_", "map_", "map2_", "register_hook", "backward", "share_memory_", "module_load"}


def _function_name(function):
    """A name that `_function` finds again; ValueError for functions a file may not name."""
    for holder, prefix in ((F, "F"), (torch, "torch"), (operator, "operator")):
        name = getattr(function, "__name__", "")
        if getattr(holder, name, None) is function:
            found = f"{prefix}.{name}"
            _function(found)
            return found
    if function is builtins.getattr:
        return "getattr"
    raise ValueError(f"snn: cannot save a call of {function}")


def _is_torch(function):
    return callable(function) and (getattr(function, "__module__", None) or "torch").startswith("torch")


def _function(name):
    """The function of a name: of torch.nn.functional, a tensor function of torch, or an operator; nothing else."""
    prefix, _, leaf = name.rpartition(".")
    if name == "getattr":
        return builtins.getattr
    allowed = {
        "F": not leaf.startswith("_") and _is_torch(F.__dict__.get(leaf)),
        "torch": leaf in torch.functional.__all__ or (leaf != "from_file" and hasattr(torch._C._VariableFunctions, leaf)
                                                      and not leaf.startswith("_")),
        "operator": leaf in _OPERATORS,
    }.get(prefix, False)
    if not allowed:
        raise ValueError(f"path: names the function {name!r}, which is not allowed in a network file")
    return getattr({"F": F, "torch": torch, "operator": operator}[prefix], leaf)


def _check_method(name):
    if name.startswith("_") or name in _UNSAFE_METHODS or not callable(getattr(torch.Tensor, name, None)):
        raise ValueError(f"path: names the method {name!r}, which is not allowed in a network file")
    return name


_TORCH_CONSTANTS = (torch.dtype, torch.memory_format, torch.layout)


def _encode(value):
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (tuple, list)):
        return {"list" if isinstance(value, list) else "tuple": [_encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [_encode(item) for item in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, _TORCH_CONSTANTS):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"snn: cannot save the argument {value!r} of type {type(value).__name__}")


def _decode(value, nodes):
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "node":
        return nodes[content]
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(_decode(item, nodes) for item in content)
    if kind == "dict":
        return {_decode(key, nodes): _decode(item, nodes) for key, item in content}
    if kind == "slice":
        return slice(*(_decode(item, nodes) for item in content))
    if kind == "ellipsis":
        return Ellipsis
    if kind == "device":
        return torch.device(content)
    constant = getattr(torch, content, None)
    if kind != "torch" or not isinstance(constant, _TORCH_CONSTANTS):
        raise ValueError(f"path: has an argument {value!r} that this version does not know")
    return constant


def _constructor_arguments(module):
    """The arguments that make a module like this one, less tensors: its own account, or attributes of the same names."""
    if hasattr(module, "configuration"):
        return {name: _encode(value) for name, value in module.configuration().items()}
    arguments = {}
    for name in inspect.signature(type(module).__init__).parameters:
        if name in ("self", "device", "dtype"):
            continue
        if name == "bias":
            arguments[name] = getattr(module, name, None) is not None
        elif hasattr(module, name):
            arguments[name] = _encode(getattr(module, name))
    return arguments


def _class_name(module):
    kind = type(module)
    for holder, prefix in ((nn, "nn"), (pcsnn.nn, "pcsnn.nn")):
        if getattr(holder, kind.__name__, None) is kind:
            return f"{prefix}.{kind.__name__}"
    raise ValueError(f"snn: cannot save a module of class {kind.__name__}: only those of torch.nn and pcsnn.nn")


def _build(entry, name, tensors):
    prefix, _, leaf = entry["class"].rpartition(".")
    holder = {"nn": nn, "pcsnn.nn": pcsnn.nn}.get(prefix)
    kind = getattr(holder, leaf, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"path: names the module class {entry['class']!r}, which is not allowed in a network file")
    arguments = {key: _decode(value, {}) for key, value in entry["arguments"].items()}
    arguments |= {key: tensors[f"{name}.{key}"] for key in getattr(kind, "TENSORS", ()) if f"{name}.{key}" in tensors}
    return kind(**arguments).requires_grad_(False)


def _module_entry(module):
    """Class and arguments of a module; ValueError where they would not make a module with the same tensors."""
    entry = {"class": _class_name(module), "arguments": _constructor_arguments(module)}
    if not hasattr(module, "TENSORS"):
        try:
            with torch.device("meta"):
                twin = _build(entry, "", {})
        except Exception as error:
            raise ValueError(f"snn: cannot save {type(module).__name__}: {error}") from error
        shapes = [{key: value.shape for key, value in part.state_dict().items()} for part in (module, twin)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"snn: cannot save {type(module).__name__}: it does not keep its constructor's arguments")
    return entry


def _check_node(op, target, args, kwargs):
    """Refuse what a file may not hold: names that are not plain ones would become code of the GraphModule."""
    plain = {"placeholder": _INPUT, "call_module": _PATH, "get_attr": _PATH}.get(op)
    if plain and not plain.fullmatch(target):
        raise ValueError(f"path: names an input or module {target!r}, which is not allowed in a network file")
    if not all(isinstance(name, str) and _INPUT.fullmatch(name) for name in kwargs):
        raise ValueError(f"path: names the arguments {list(kwargs)}, which are not allowed in a network file")
    if op == "call_function" and target is builtins.getattr and args[1] not in SHAPE_ATTRIBUTES | MOVING_ATTRIBUTES:
        raise ValueError(f"path: reads the attribute {args[1]!r}, which is not allowed in a network file")


def save(snn, path):
    """Write a whole converted network to one safetensors file, readable without the source network's class.

    The file appears whole or not at all.

    Args:
        snn: a SpikingNetwork of torch.nn modules and torch functions.
        path: the file to write.

    Raises:
        TypeError: not a SpikingNetwork.
        ValueError: it calls a function or module of the user's own, which a file cannot carry.
    """
    check_converted(snn)
    network, nodes, modules, attributes = snn.network, [], {}, []
    for node in network.graph.nodes:
        target = node.target
        _check_node(node.op, target, node.args, node.kwargs)
        if node.op == "call_function":
            target = _function_name(target)
        elif node.op == "call_method":
            _check_method(target)
        elif node.op == "call_module" and target not in modules:
            modules[target] = _module_entry(network.get_submodule(target))
        elif node.op == "get_attr" and target not in attributes:
            attributes.append(target)
        nodes.append({"name": node.name, "op": node.op, "target": target, "args": _encode(node.args),
                      "kwargs": _encode(dict(node.kwargs))})
    tensors = {}
    for name in modules:
        tensors |= {f"{name}.{key}": value for key, value in network.get_submodule(name).state_dict().items()}
    for name in attributes:
        parent, _, leaf = name.rpartition(".")
        tensors[name] = getattr(network.get_submodule(parent), leaf)
    report = snn.report
    description = {
        "format": FORMAT, "nodes": nodes, "modules": modules, "attributes": attributes,
        "report": {"method": report.method, "timesteps": report.timesteps, "rows": [vars(row) for row in report.rows]},
    }
    if snn.max_graphs:
        description["max_graphs"] = snn.max_graphs
    unfinished = pathlib.Path(f"{os.fspath(path)}.unfinished")
    try:
        save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, unfinished,
                  metadata={"pcsnn": json.dumps(description)})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path):
    """The SpikingNetwork that `save` wrote, on the CPU.

    A file names only functions and modules of torch and pcsnn; nothing in it is executed as code or unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a network of this format, or names something that is not allowed.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"path: no file {os.fspath(path)}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:
        raise ValueError(f"path: {os.fspath(path)} is not a safetensors file: {error}") from error
    if "pcsnn" not in metadata:
        raise ValueError(f"path: {os.fspath(path)} has no pcsnn network in it, only tensors")
    try:
        return _restore(json.loads(metadata["pcsnn"]), tensors)
    except ValueError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"path: {os.fspath(path)} holds no complete network: {reason}") from error


def _restore(description, tensors):
    if description["format"] != FORMAT:
        raise ValueError(f"path: expected format {FORMAT}, got {description['format']}; it is from another version")
    parts = {}
    for name, entry in description["modules"].items():
        parts[name] = _build(entry, name, tensors)
        state = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        parts[name].load_state_dict(state, assign=True)
    for name in description["attributes"]:
        parts[name] = tensors[name]
    graph, nodes = fx.Graph(), {}
    for entry in description["nodes"]:
        op, target = entry["op"], entry["target"]
        args, kwargs = _decode(entry["args"], nodes), _decode(entry["kwargs"], nodes)
        if op == "call_function":
            target = _function(target)
        elif op == "call_method":
            _check_method(target)
        _check_node(op, target, args, kwargs)
        nodes[entry["name"]] = graph.create_node(op, target, args, kwargs, name=entry["name"])
    graph.lint()
    report = description["report"]
    network = fx.GraphModule(parts, graph)
    network.requires_grad_(False)
    snn = SpikingNetwork(network, Report(report["method"], report["timesteps"], [Row(**row) for row in report["rows"]]))
    snn.max_graphs = description.get("max_graphs", 0)
    return snn
