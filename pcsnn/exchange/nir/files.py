"""NIR graphs, in memory or in a file, as plain named nodes.

A file is read by h5py alone: nothing in it is run, and no link out of it followed.
"""

import os
from dataclasses import dataclass

import numpy as np

INSTALL = "pip install nir"
DEEPEST = 32  # groups within groups
RATIO = 1100  # bytes of an array for one of the file: what gzip makes of zeros
SLACK = 2**16


class Refused(ValueError):
    """A graph that cannot be read; the message names the node."""

    def __init__(self, words):
        super().__init__(f"path_or_graph: {words}")


@dataclass
class Node:
    """A node of a NIR graph: its name, behind those of the graphs that hold it, its class there, and its fields."""

    name: str
    kind: str
    fields: dict

    def refuse(self, words):
        raise Refused(f"{self.name} ({self.kind}): {words}")

    @property
    def metadata(self):
        metadata = self.fields.get("metadata")
        return metadata if isinstance(metadata, dict) else {}


@dataclass
class Graph:
    """Nodes by name, a Graph or a Node each, and edges (source, target)."""

    nodes: dict
    edges: list
    metadata: dict

    def of_kind(self, kind):
        """Its own nodes of a class, in their order."""
        return [node for node in self.nodes.values() if isinstance(node, Node) and node.kind == kind]


def package(caller):
    """The package nir; ImportError, saying how to get it."""
    try:
        import nir
    except ImportError as error:
        raise ImportError(f"{caller} needs the package nir: {INSTALL}") from error
    return nir


def read(path_or_graph):
    """The Graph of a nir.NIRGraph or of a file that nir.write made."""
    nir = package("read_nir")
    if isinstance(path_or_graph, nir.NIRGraph):
        return _from_object(nir, path_or_graph, ())
    if not isinstance(path_or_graph, (str, os.PathLike)):
        raise TypeError(
            f"path_or_graph: expected a nir.NIRGraph or the path of a file, got {type(path_or_graph).__name__}"
        )
    return _from_file(os.fspath(path_or_graph))


def _from_object(nir, graph, above):
    if graph in above:
        raise Refused("the graph holds itself")
    if not isinstance(graph.nodes, dict):
        raise Refused(f"the nodes: expected a dict, got {type(graph.nodes).__name__}")
    nodes = {}
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRNode):
            raise Refused(f"{name}: expected a node of NIR, got {type(node).__name__}")
        if isinstance(node, nir.NIRGraph):
            nodes[str(name)] = _from_object(nir, node, (*above, graph))
            continue
        fields = dict(vars(node))
        kind = type(node).__name__
        if kind in ("Input", "Output"):  # whose type is called shape in files
            types = fields["output_type" if kind == "Output" else "input_type"]
            fields["shape"] = types.get(kind.lower()) if isinstance(types, dict) else types
        elif kind == "Flatten" and isinstance(fields.get("input_type"), dict):
            fields["input_type"] = fields["input_type"].get("input")
        elif kind != "Flatten":
            fields.pop("input_type", None)  # what nir made of the other fields
        nodes[str(name)] = Node(str(name), kind, fields)
    return Graph(nodes, _edges(graph.edges), graph.metadata if isinstance(graph.metadata, dict) else {})


def _edges(edges):
    try:
        pairs = [tuple(part.decode() if isinstance(part, bytes) else str(part) for part in edge) for edge in edges]
    except (TypeError, ValueError):
        pairs = [()]
    if any(len(pair) != 2 for pair in pairs):
        raise Refused("the edges: expected pairs of the names of nodes")
    return pairs


def _from_file(path):
    import h5py

    if not os.path.exists(path):
        raise FileNotFoundError(f"path_or_graph: no file {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Refused(f"{path} is no HDF5 file: {error}") from error
    with file:
        try:
            root = _values(h5py, file, "", set(), 0).get("node")
        except Refused:
            raise
        except Exception as error:  # whatever h5py says of a damaged file
            raise Refused(f"{path} cannot be read: {error}") from error
    if not isinstance(root, dict) or root.get("type") != "NIRGraph":
        raise Refused(f"{path} holds no NIR graph")
    return _from_values(root, "the graph")


def _values(h5py, group, where, seen, depth):
    """A group as a dict: groups in it as dicts, arrays as numpy's, strings as str."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen or depth > DEEPEST:
        raise Refused(f"{where or 'the file'} is linked to twice, or lies too deep")
    seen.add(address)
    found = {}
    for key in group:
        inside = f"{where}/{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise Refused(f"{inside} is a link to another place")
        item = group[key]
        if isinstance(item, h5py.Group):
            found[key] = _values(h5py, item, inside, seen, depth + 1)
        elif isinstance(item, h5py.Dataset):
            found[key] = _value(h5py, item, inside)
        else:
            raise Refused(f"{inside} is neither a group nor an array")
    return found


def _value(h5py, item, where):
    if item.is_virtual or item.external:
        raise Refused(f"{where} lies in another file")
    text = h5py.check_string_dtype(item.dtype) is not None
    if not text and item.dtype.kind not in "biuf":
        raise Refused(f"{where}: expected numbers or text, got {item.dtype}")
    if item.shape is None or item.nbytes > RATIO * item.id.get_storage_size() + SLACK:
        raise Refused(
            f"{where}: {item.shape} of {item.dtype} are not in the file, which holds "
            f"{item.id.get_storage_size()} bytes of it"
        )
    value = item[()]
    return value.decode() if isinstance(value, bytes) else value


def _from_values(values, where):
    """The Graph of a dict that `_values` made."""
    nodes, edges = values.get("nodes"), values.get("edges", np.empty((0, 2)))
    if not isinstance(nodes, dict):
        raise Refused(f"{where} has no nodes")
    made = {}
    for name, fields in nodes.items():
        kind = fields.get("type") if isinstance(fields, dict) else None
        if not isinstance(kind, str):
            raise Refused(f"{name}: expected a node with a type")
        made[name] = _from_values(fields, name) if kind == "NIRGraph" else Node(name, kind, fields)
    metadata = values.get("metadata", {})
    return Graph(made, _edges(edges), metadata if isinstance(metadata, dict) else {})
