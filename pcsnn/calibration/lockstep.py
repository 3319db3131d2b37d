"""A network and its student side by side, node after node: each neuron is chosen on the student's own inputs."""

import copy
import itertools

import torch
from torch.utils._pytree import tree_flatten, tree_leaves

from pcsnn.data.batches import show_steps
from pcsnn.data.inputs import count, rows


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


def student_of(network, neurons):
    """`network` with the modules {name: module} at its activations; it shares all others."""
    student = torch.fx.GraphModule(network, copy.deepcopy(network.graph))
    for name, neuron in neurons.items():
        student.set_submodule(name, neuron)
    return student


@torch.no_grad()
def _sizes(network, inputs):
    """Bytes for one input of the batch `inputs`, at each node: (alive at once, of its value alone), lists."""
    run, alive, own = Run(network, inputs), [], []
    for node in network.graph.nodes:
        run.step(node)
        alive.append(run.size() / count(inputs))
        own.append(_bytes(run.env[node]) / count(inputs))
        run.drop(node)
    return alive, own


def footprint(network, inputs):
    """Bytes for one input of the batch `inputs`: (the most that is alive at once, all values together)."""
    alive, own = _sizes(network, inputs)
    return max(alive), sum(own)


def joining(network, batches, whole, budget):
    """From which node on each batch fits into `budget` bytes beside those before it; the first one does from 0 on.

    Values shrink on the way through most networks, so that late layers see more inputs than early ones, which see more
    positions of each. whole: whether batches must not be cut.
    """
    known, taken, starts = {}, None, []
    for batch in batches:
        key = tuple(part.shape[1:] for part in tree_leaves(batch))
        if whole or key not in known:
            alive, _ = _sizes(network, batch if whole else rows(batch, slice(1)))
            known[key] = list(itertools.accumulate(reversed(alive), max))[::-1]  # the most from a node on
        needed = [size * count(batch) for size in known[key]]
        taken = needed if taken is None else [before + more for before, more in zip(taken, needed)]
        fits = (place for place, size in enumerate(taken) if not starts or size <= budget)
        starts.append(next(fits, len(taken)))
    return starts


@torch.no_grad()
def lockstep(network, batches, choose, progress, corrections=None, starts=None):
    """Run `network` and a student on all batches, one node at a time.

    At an activation, choose(node, currents of the student, outputs of the network), lists with an entry a batch,
    returns the module that stands there in the student. At any other node, which the network has computed already and
    the student not yet, corrections(node, runs of the network, runs of the student) returns one, or None for the
    network's. starts: of `joining`, where batches are not there from the first node on: at that node, or once no
    correction is pending, they catch up with what has been chosen so far.

    Returns:
        (outputs of the network, outputs of the student), lists too.
    """
    teacher, student, chosen = [], [], {}
    starts = [0] * len(batches) if starts is None else starts

    def catch_up(batch, place, modules):
        run = Run(network, batch)
        for node in itertools.islice(network.graph.nodes, place):
            run.step(node, modules.get(node))
            run.drop(node)
        return run

    with show_steps(list(network.graph.nodes), "fitting layers", progress) as nodes:
        for place, node in enumerate(nodes):
            while len(teacher) < len(batches) and starts[len(teacher)] <= place:
                batch = batches[len(teacher)]
                if starts[len(teacher)] and corrections is not None and corrections.pending:
                    break
                known = chosen | corrections.fitted if place and corrections is not None else chosen
                teacher.append(catch_up(batch, place, {}))
                student.append(catch_up(batch, place, known))
            for run in teacher:
                run.step(node)
            module = None
            if node.meta.get("activation"):
                module = choose(node, [run.env[node.args[0]] for run in student], [run.env[node] for run in teacher])
                chosen[node] = module
            elif corrections is not None:
                module = corrections(node, teacher, student)
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
