"""What a network ends in behind its last neuron: functions of its result, which are applied to the average over
time."""

from contextlib import contextmanager

from torch import fx
from torch.utils._pytree import tree_leaves

from pcsnn.graph.names import operation_name
from pcsnn.graph.taxonomy import ALWAYS_LINEAR, MOVES, Role, role

# by the name of a function, method or module
HEADS = {
    "softmax",
    "log_softmax",
    "softmin",
    "sigmoid",
    "logsigmoid",
    "log_sigmoid",
    "tanh",
    "softplus",
    "exp",
    "argmax",
    "argmin",
    "topk",
    "sort",
    "argsort",
    "max",
    "normalize",
    "hardsigmoid",
    "special_expit",
    "expit",
    "Softmax",
    "Softmax2d",
    "LogSoftmax",
    "Softmin",
    "Sigmoid",
    "LogSigmoid",
    "Tanh",
    "Softplus",
    "Hardsigmoid",
    "_softmax",
}
_SCALED = {Role.SCALE, Role.QUOTIENT}
_PLAIN = MOVES | ALWAYS_LINEAR | {Role.CHANNEL_SCALE, Role.CAST}


def behind_all_neurons(network):
    """The nodes behind which no neuron, synapse or product of two values comes any more."""
    modules = dict(network.named_modules())
    tail = set()
    for node in reversed(network.graph.nodes):
        if all(user.op == "output" or user in tail and _is_plain(user, modules) for user in node.users):
            tail.add(node)
    return tail


@contextmanager
def without_heads(network):
    """`network` gives what its heads read, within the context: calibration compares that, not probabilities or
    places."""
    output = next(node for node in network.graph.nodes if node.op == "output")
    whole, made = output.args, set()
    for node in network.graph.nodes:
        if node.meta.get("head") or made.intersection(node.all_input_nodes):
            made.add(node)
    waiting, read = [leaf for leaf in tree_leaves(whole) if isinstance(leaf, fx.Node)], {}
    while waiting:
        node = waiting.pop(0)
        if node in made:
            waiting += node.all_input_nodes
        else:
            read[node] = None
    if made:
        output.args = (tuple(read),)
        network.recompile()
    try:
        yield
    finally:
        if made:
            output.args = whole
            network.recompile()


def _is_plain(node, modules):
    """Whether a node is such a function, or only moves, adds up or scales."""
    if node.meta.get("activation"):
        return False
    found = role(node, modules)
    if found in _SCALED:
        changing = [source for source in node.all_input_nodes if source.op != "get_attr"]
        return len(changing) == 1 and not _twice(node, changing[0])
    return found in _PLAIN or operation_name(node, modules) in HEADS or node.target is getattr


def _twice(node, source):
    operands = []
    fx.map_arg((node.args, node.kwargs), operands.append)
    return operands.count(source) > 1
