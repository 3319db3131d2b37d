"""Names of nodes and layers: those in messages, and those that a graph and the code made of it can carry."""

import keyword

from torch import fx

from pcsnn.graph import taxonomy

_TAKEN = {*dir(fx.GraphModule), "meta", "_graph", "_code", "_tracer_cls", "_tracer_extras", "_graphmodule_cls_name"}


def source_name(node):
    """What reports and messages call a node: its layer or tensor where it has one."""
    return node.target if node.op in ("call_module", "get_attr") else node.name


def operation_name(node, modules):
    """What a node computes, in a word: the class of its layer, or the function or method."""
    if node.op == "call_module":
        return type(modules[node.target]).__name__
    return taxonomy.name(node.target) or str(node.target)


def attribute(network, path):
    """The tensor or module of a dotted path."""
    parent, _, leaf = path.rpartition(".")
    return getattr(network.get_submodule(parent), leaf)


def unused_name(network, wanted):
    """`wanted`, or wanted_1, wanted_2, ..., whichever names no module or attribute yet."""
    name, count = wanted, 0
    parent, _, leaf = wanted.rpartition(".")
    holder = network.get_submodule(parent)
    while hasattr(holder, name.rpartition(".")[2]):
        count += 1
        name = f"{wanted}_{count}"
    return name


def _carried(part, first):
    """A name like `part` that may stand in code; `first`: as an attribute of the graph's module."""
    if keyword.iskeyword(part) or first and part in _TAKEN:
        return f"{part}_"
    return part


def rename_colliding(network, graph):
    """Give layers and tensors other names whose own a GraphModule has or Python reserves, such as "code" and "class".

    `network`: the traced module, `graph`: its graph; both are changed.
    """
    renamed = {}
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        holder, path = network, []
        for part in node.target.split("."):
            key = (id(holder), part)
            if key not in renamed:
                renamed[key] = _renamed(holder, part, not path)
            path.append(renamed[key])
            holder = getattr(holder, path[-1])
        node.target = ".".join(path)


def _renamed(holder, part, first):
    name = _carried(part, first)
    if name == part:
        return part
    while hasattr(holder, name):
        name += "_"
    for kept in (holder._modules, holder._parameters, holder._buffers, vars(holder)):
        if part in kept:
            kept[name] = kept.pop(part)
            break
    return name
