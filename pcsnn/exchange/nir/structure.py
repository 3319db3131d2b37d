"""A NIR graph with graphs in it as one list of nodes in the order of their execution."""

import graphlib

from pcsnn.exchange.nir.files import Graph, Node, Refused

DEEPEST = 32  # graphs within graphs


def ordered(graph):
    """[(Node, names of its sources)] of a Graph, every source before its readers.

    ValueError, naming nodes, where there is no such order. A graph within it takes the place of its node: its input and
    its output become nodes that pass on what they get.
    """
    nodes, edges = {}, []
    _flatten(graph, "", nodes, edges, 0)
    sources = {name: [] for name in nodes}
    for source, target in edges:
        sources[target].append(source)
    _check(nodes, sources)
    try:
        order = list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError as error:
        cycle = error.args[1][:-1]
        raise Refused(
            f"{', '.join(cycle[:5])}{', ...' if len(cycle) > 5 else ''} form a cycle; expected none: what "
            "a neuron gets back from later layers depends on single steps, not on the mean current"
        ) from None
    return [(nodes[name], sources[name]) for name in order]


def _flatten(graph, prefix, nodes, edges, depth):
    """Add the nodes of a graph, their names behind `prefix`, and its edges."""
    if depth > DEEPEST:
        raise Refused(f"{prefix.rstrip('.')} lies too deep")
    if not graph.nodes:
        raise Refused(f"{prefix.rstrip('.') or 'the graph'} has no nodes")
    ends = {}
    for name, node in graph.nodes.items():
        full = prefix + name
        if isinstance(node, Graph):
            ends[name] = _ends(full, node)
            _flatten(node, f"{full}.", nodes, edges, depth + 1)
        else:
            if full in nodes:
                raise Refused(f"two nodes are named {full}")
            kind = "Pass" if depth and node.kind in ("Input", "Output") else node.kind
            nodes[full] = Node(full, kind, node.fields)
            ends[name] = full, full
    seen = set()
    for edge in graph.edges:
        for name in edge:
            if name not in ends:
                raise Refused(
                    f"the edge {prefix}{edge[0]} -> {prefix}{edge[1]} names {name}, and there is no such node"
                )
        if edge in seen:
            raise Refused(f"the edge {prefix}{edge[0]} -> {prefix}{edge[1]} stands there twice")
        seen.add(edge)
        edges.append((ends[edge[0]][1], ends[edge[1]][0]))


def _ends(name, graph):
    """Names of the input and of the output of a graph within another."""
    found = []
    for kind in ("Input", "Output"):
        inside = graph.of_kind(kind)
        if len(inside) != 1:
            raise Refused(f"{name} (NIRGraph): expected one {kind} node in it, got {len(inside)}")
        found.append(f"{name}.{inside[0].name}")
    return found


def _check(nodes, sources):
    read = {source for names in sources.values() for source in names}
    for kind in ("Input", "Output"):
        if not any(node.kind == kind for node in nodes.values()):
            raise Refused(f"the graph has no {kind} node")
    for name, node in nodes.items():
        if node.kind == "Input" and sources[name]:
            node.refuse(f"expected nothing before it, got an edge from {sources[name][0]}")
        if node.kind == "Output" and name in read:
            node.refuse("expected nothing behind it, got an edge from it")
        if node.kind != "Input" and not sources[name]:
            node.refuse("no edge leads to it")
        if node.kind != "Output" and name not in read:
            node.refuse("no edge leads from it; expected one to another node or to an Output")
