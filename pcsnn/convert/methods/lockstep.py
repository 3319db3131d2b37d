"""A network and its student, run side by side node after node, so that each neuron is chosen on the student's own inputs."""

import torch
from torch.utils._pytree import tree_flatten

from pcsnn.convert.methods.batches import show_steps

MEMORY = 2**30  # bytes that the live values of one network may take


def _bytes(value):
    return sum(part.numel() * part.element_size() for part in tree_flatten(value)[0] if isinstance(part, torch.Tensor))


class _Run:
    """The live values of a graph on one batch: each is dropped after its last reader."""

    def __init__(self, network, batch):
        self._network, self._inputs, self._values = network, iter(batch), {}

    def of(self, node):
        return self._values[node]

    def step(self, node, module=None):
        """Compute a node, with another module in its place if given."""
        arguments, named = torch.fx.map_arg((node.args, node.kwargs), self._values.__getitem__)
        if node.op == "placeholder":
            value = node.args[0] if node.args else next(self._inputs)
        elif node.op == "call_module":
            value = (module or self._network.get_submodule(node.target))(*arguments, **named)
        elif node.op == "call_function":
            value = node.target(*arguments, **named)
        elif node.op == "call_method":
            value = getattr(arguments[0], node.target)(*arguments[1:], **named)
        elif node.op == "get_attr":
            parent, _, leaf = node.target.rpartition(".")
            value = getattr(self._network.get_submodule(parent), leaf)
        else:
            value = arguments[0]
        self._values[node] = value

    def drop(self, nodes):
        for node in nodes:
            self._values.pop(node, None)

    def size(self):
        return sum(map(_bytes, self._values.values()))


def last_read(network):
    """{node: the nodes that nobody reads after it}, but for the output."""
    last = {}
    for node in network.graph.nodes:
        for source in node.all_input_nodes:
            last[source] = node
    dropped = {}
    for source, reader in last.items():
        dropped.setdefault(reader, []).append(source)
    return dropped


@torch.no_grad()
def footprint(network, inputs):
    """Bytes for one input of a batch: (the most that is alive at once, all values together)."""
    run, dropped, peak, total = _Run(network, inputs), last_read(network), 0, 0
    for node in network.graph.nodes:
        run.step(node)
        peak, total = max(peak, run.size()), total + _bytes(run.of(node))
        run.drop(dropped.get(node, ()))
    count = len(inputs[0])
    return peak / count, total / count


@torch.no_grad()
def lockstep(network, batches, choose, progress):
    """Run `network` and a student on all batches, one node at a time.

    At an activation, choose(node, currents of the student, outputs of the network), lists with an entry a batch, returns
    the module that stands there in the student. Returns (outputs of the network, outputs of the student), lists too.
    """
    teacher = [_Run(network, batch) for batch in batches]
    student = [_Run(network, batch) for batch in batches]
    dropped = last_read(network)
    for node in show_steps(list(network.graph.nodes), "fitting layers", progress):
        for run in teacher:
            run.step(node)
        module = None
        if node.meta.get("activation"):
            module = choose(node, [run.of(node.args[0]) for run in student], [run.of(node) for run in teacher])
        for run in student:
            run.step(node, module)
        for run in teacher + student:
            run.drop(dropped.get(node, ()))
    return [[run.of(node) for run in runs] for runs in (teacher, student)]


def per_input(value):
    """The floating tensors [N, C, ...] among the outputs of a network."""
    return [part for part in tree_flatten(value)[0]
            if isinstance(part, torch.Tensor) and part.is_floating_point() and part.dim() > 1]
