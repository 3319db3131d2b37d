"""The graph of a network as JSON, and back, with every node checked: see docs/files.md for what a file may say."""

import keyword

import torch
from torch import fx, nn

from pcsnn.graph.names import attribute
from pcsnn.graph.nodes import is_fresh
from pcsnn.storage import functions
from pcsnn.storage.container import check_tensor
from pcsnn.storage.kinds import kind_of
from pcsnn.storage.modules import MOST_LEVELS, build, levels_of, module_entry, plain
from pcsnn.storage.paths import check_input, check_node_name, check_path, plain_paths
from pcsnn.storage.values import decode, encode

MOST_NODES = 2**15
_OPERATIONS = ("placeholder", "get_attr", "call_module", "call_function", "call_method", "output")


# Saving


def describe(network):
    """({"nodes", "modules", "attributes"}, {name: tensor}, {path in the network: path in the file}) of a GraphModule.

    Raises:
        ValueError: it calls something that a file cannot carry.
    """
    called = {node.target for node in network.graph.nodes if node.op == "call_module"}
    outermost = {path for path in called if not any(_within(path, other) for other in called)}
    read = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    paths = plain_paths(called | read)
    modules, tensors = {}, {}
    for path in dict.fromkeys(node.target for node in network.graph.nodes if node.target in outermost):
        part = plain(network.get_submodule(path))
        modules[paths[path]] = module_entry(part)
        tensors |= {f"{paths[path]}.{key}": value for key, value in part.state_dict().items()}
    attributes = [
        path
        for path in dict.fromkeys(node.target for node in network.graph.nodes if node.target in read)
        if not any(_within(path, other) for other in outermost)
    ]
    for path in attributes:
        value = attribute(network, path)
        tensors[paths[path]] = value.detach() if isinstance(value, torch.Tensor) else value
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"snn: cannot save {name}: expected a tensor, got {type(tensor).__name__}")
        check_tensor(name, tensor)
    nodes = [_node_entry(node, paths) for node in network.graph.nodes]
    return {"nodes": nodes, "modules": modules, "attributes": [paths[path] for path in attributes]}, tensors, paths


def _within(path, other):
    return path.startswith(f"{other}.")


def _node_entry(node, paths):
    target = node.target
    if node.op in ("call_module", "get_attr"):
        target = paths[target]
    elif node.op == "call_function":
        target = functions.function_name(target)
    return {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": encode(node.args),
        "kwargs": encode(dict(node.kwargs)),
    }


# Loading


def restore(description, tensors):
    """The GraphModule of a description and its tensors, which are taken out of `tensors`.

    Raises:
        ValueError: it names what is not allowed, is not complete, or does not fit its tensors.
    """
    modules, attributes, entries = (description[name] for name in ("modules", "attributes", "nodes"))
    if len(entries) > MOST_NODES:
        raise ValueError(f"path: has {len(entries)} nodes; at most {MOST_NODES} are allowed")
    called = {entry["target"] for entry in entries if entry["op"] == "call_module"}
    owned = _by_module(modules, attributes, tensors)
    root = _tree(modules, attributes, owned, tensors, called)
    graph, nodes, parts = fx.Graph(), {}, dict(root.named_modules(remove_duplicate=False))
    for entry in entries:
        node = _node(graph, entry, nodes, parts)
        if entry["name"] in nodes:
            raise ValueError(f"path: has two nodes of the name {entry['name']!r}")
        nodes[entry["name"]] = node
        node.meta["kind"] = kind_of(node, parts)
    ends = [entry["op"] for entry in entries].count("output")
    if ends != 1 or entries[-1]["op"] != "output":
        raise ValueError(f"path: has {ends} outputs, or something behind its output; expected one at the end")
    for node in graph.nodes:
        if node.op == "call_module":
            _keep_inputs(node, parts)
        del node.meta["kind"]
    graph.lint()
    network = fx.GraphModule(root, graph)
    network.requires_grad_(False)
    return network


def _by_module(modules, attributes, tensors):
    """{module path: {its tensors}}; every tensor of a file belongs to one module or is an attribute."""
    owned = {path: {} for path in modules}
    for path in (*modules, *attributes):
        check_path(path)
    alone = set(attributes)
    for name in list(tensors):
        parts = name.split(".")
        owners = [".".join(parts[:length]) for length in range(1, len(parts))]
        owners = [owner for owner in owners if owner in owned]
        if len(owners) + (name in alone) != 1:
            raise ValueError(
                f"path: has the tensor {name!r}, which belongs to {'no' if not owners else 'more than one'} module"
            )
        if owners:
            owned[owners[0]][name[len(owners[0]) + 1 :]] = tensors.pop(name)
    return owned


def _tree(modules, attributes, owned, tensors, called):
    """A module that holds the modules and tensors of a file at their paths."""
    root = nn.Module()
    levels, most = 0, max(MOST_LEVELS, sum(value.nbytes for part in owned.values() for value in part.values()))
    for path, entry in modules.items():
        if path not in called:
            raise ValueError(f"path: has the module {path!r}, which nothing calls")
        levels += levels_of(entry, owned[path])
        if levels > most:
            raise ValueError(
                f"path: has neurons with more than {most} levels in all, which is not allowed in a network file"
            )
        try:
            module = build(entry, owned.pop(path))
        except Exception as error:
            raise ValueError(
                f"path: the module {path!r} cannot be made: {str(error).removeprefix('path: ')}"
            ) from error
        _holder(root, path).add_module(path.rpartition(".")[2], module)
    for path in attributes:
        if path not in tensors:
            raise ValueError(f"path: has no tensor {path!r}")
        _holder(root, path).register_buffer(path.rpartition(".")[2], tensors.pop(path))
    return root


def _holder(root, path):
    """The module in which something of that path stands; none of those of the file itself."""
    module = root
    for part in path.split(".")[:-1]:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]
        if type(module) is not nn.Module:
            raise ValueError(f"path: has {path!r} within another module")
    return module


def _node(graph, entry, nodes, parts):
    op, target, name = entry["op"], entry["target"], entry["name"]
    check_node_name(name)
    if op not in _OPERATIONS:
        raise ValueError(f"path: has the operation {op!r}, which is not allowed in a network file")
    args, kwargs = decode(entry["args"], nodes), decode(entry["kwargs"], nodes)
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise ValueError(f"path: the node {name!r} has no arguments")
    if not all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in kwargs):
        raise ValueError(f"path: names the arguments {list(kwargs)}, which are not allowed in a network file")
    if op == "call_function":
        target = functions.function(target)
    elif op == "call_method":
        if not isinstance(target, str) or target not in functions.METHODS:
            raise ValueError(f"path: names the method {target!r}, which is not allowed in a network file")
    elif op == "placeholder":
        check_input(target)
    elif op != "output":
        check_path(target)
        _check_there(op, target, parts)
    return graph.create_node(op, target, args, kwargs, name=name)


def _check_there(op, path, parts):
    parent, _, leaf = path.rpartition(".")
    holder = parts.get(path if op == "call_module" else parent)
    there = holder is not None and (
        type(holder) is not nn.Module
        if op == "call_module"
        else isinstance(holder._parameters.get(leaf, holder._buffers.get(leaf)), torch.Tensor)
    )
    if not there:
        raise ValueError(
            f"path: names the {'module' if op == 'call_module' else 'tensor'} {path!r}, which is not in the file"
        )


def _keep_inputs(node, parts):
    """A neuron, the only layer of a file that may, writes over its current only where nothing else can see it."""
    neuron = parts[node.target]
    source = node.args[0] if node.args else None
    if getattr(neuron, "inplace", False) and not (isinstance(source, fx.Node) and is_fresh(source, parts)):
        neuron.inplace = False
