"""A NIR graph with graphs in it as one list of nodes in the order of their execution."""

import graphlib

from pcsnn.exchange.nir.files import Graph, Node, Refused

DEEPEST = 32  # graphs within graphs


def ordered(graph):
    """[(Node, names of its sources)] of a Graph, every source before its readers.

    ValueError, naming nodes, where there is no such order. A graph within it takes the place of its node: its input and
    its output become nodes that pass on what they get.
    """
    nodes, sources = _flat(graph)
    order = _sorted(
        sources,
        "expected none: what a neuron gets back from later layers depends on single steps, not on the mean current "
        "(serial=True runs loops of one neuron step by step)",
    )
    return [(nodes[name], sources[name]) for name in order]


def ordered_steps(graph, stateful):
    """[(Node, names of its sources, names of those whose value of the step before it gets)] of a Graph, likewise.

    A loop is cut behind the node of a kind in `stateful` that it holds; ValueError where it holds none or several.
    """
    nodes, sources = _flat(graph)
    late = {name: [] for name in nodes}
    for name, node in nodes.items():
        if node.kind in stateful:
            for reader in _leading_to(name, nodes, sources, stateful):
                if name in sources[reader]:
                    late[reader].append(name)
    now = {name: [source for source in sources[name] if source not in late[name]] for name in nodes}
    order = _sorted(now, "expected one layer of neurons in every loop, whose spikes come back a step later")
    return [(nodes[name], now[name], late[name]) for name in order]


def _leading_to(name, nodes, sources, stateful):
    """The node of that name, and those that lead to it through no other node of a kind in `stateful`."""
    found, todo = {name}, [name]
    while todo:
        for source in sources[todo.pop()]:
            if source not in found and nodes[source].kind not in stateful:
                found.add(source)
                todo.append(source)
    return found


def _flat(graph):
    """Nodes by name, those of graphs within too, and {name: names of its sources}; both checked."""
    nodes, edges = {}, []
    _flatten(graph, "", nodes, edges, 0)
    sources = {name: [] for name in nodes}
    for source, target in edges:
        sources[target].append(source)
    _check(nodes, sources)
    return nodes, sources


def _sorted(sources, words):
    try:
        return list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError as error:
        cycle = error.args[1][:-1]
        raise Refused(f"{', '.join(cycle[:5])}{', ...' if len(cycle) > 5 else ''} form a cycle; {words}") from None


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
