"""A network and its student side by side, node after node: each neuron is chosen on the student's own inputs."""

import torch
from torch.utils._pytree import tree_flatten

from pcsnn.data.batches import show_steps
from pcsnn.data.inputs import count


def _bytes(value):
    return sum(part.numel() * part.element_size() for part in tree_flatten(value)[0] if isinstance(part, torch.Tensor))


class Run(torch.fx.Interpreter):
    """A graph run node by node on one batch; each value is dropped after its last reader."""

    def __init__(self, network, batch):
        super().__init__(network)
        self.args_iter = iter(batch)

    def step(self, node, module=None):
        """Compute a node, with another module in its place if given."""
        self.env[node] = self.run_node(node) if module is None else module(*self.fetch_args_kwargs_from_env(node)[0])

    def value(self, argument):
        """What an argument of a node is: a value computed before, or a constant."""
        return self.env[argument] if isinstance(argument, torch.fx.Node) else argument

    def drop(self, node):
        """Forget what nobody reads after `node`."""
        for value in self.user_to_last_uses.get(node, ()):
            del self.env[value]

    def size(self):
        return sum(map(_bytes, self.env.values()))


@torch.no_grad()
def footprint(network, inputs):
    """Bytes for one input of the batch `inputs`: (the most that is alive at once, all values together)."""
    run, peak, total = Run(network, inputs), 0, 0
    for node in network.graph.nodes:
        run.step(node)
        peak, total = max(peak, run.size()), total + _bytes(run.env[node])
        run.drop(node)
    return peak / count(inputs), total / count(inputs)


@torch.no_grad()
def lockstep(network, batches, choose, progress, correct=None):
    """Run `network` and a student on all batches, one node at a time.

    At an activation, choose(node, currents of the student, outputs of the network), lists with an entry a batch,
    returns the module that stands there in the student. At any other node, which the network has computed already and
    the student not yet, correct(node, runs of the network, runs of the student) returns one, or None for the network's.

    Returns:
        (outputs of the network, outputs of the student), lists too.
    """
    teacher = [Run(network, batch) for batch in batches]
    student = [Run(network, batch) for batch in batches]
    with show_steps(list(network.graph.nodes), "fitting layers", progress) as nodes:
        for node in nodes:
            for run in teacher:
                run.step(node)
            module = None
            if node.meta.get("activation"):
                module = choose(node, [run.env[node.args[0]] for run in student], [run.env[node] for run in teacher])
            elif correct is not None:
                module = correct(node, teacher, student)
            for run in student:
                run.step(node, module)
            for run in teacher + student:
                run.drop(node)
    return [[run.env[node] for run in runs] for runs in (teacher, student)]


def per_input(value):
    """The floating tensors [N, C, ...] among the outputs of a network."""
    return [
        part
        for part in tree_flatten(value)[0]
        if isinstance(part, torch.Tensor) and part.is_floating_point() and part.dim() > 1
    ]
