"""Takes the time dimension out of a traced multi-step network: from [T, N, ...] to averages over time, [N, ...]."""

import torch
import torch.nn.functional as F

from pcsnn.graph import taxonomy
from pcsnn.graph.nodes import leads_to, replace
from pcsnn.graph.places import argument
from pcsnn.graph.taxonomy import Role, role
from pcsnn.nn.integrate_fire import IntegrateFire

_ELEMENTWISE_ROLES = {Role.SUM, Role.DIFFERENCE, Role.NEGATION, Role.SCALE, Role.QUOTIENT, Role.COPY, Role.CAST}
_ELEMENTWISE = {*taxonomy.IN_PLACE_FUNCTIONS, torch.relu, F.relu, "relu", "add_", "sub_", "mul_", "div_"}


def _is(node, *names):
    """Whether a node calls the method or function of torch of one of these names."""
    return node.op in ("call_method", "call_function") and taxonomy.name(node.target) in names


def _sizes(node):
    given = node.args[1:]
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else given


def _repeats_steps(node):
    """expand or repeat of a first dimension alone: x.expand(T, -1, ...), x.repeat(T, 1, ...)."""
    rest = {"expand": -1, "repeat": 1}.get(taxonomy.name(node.target))
    return rest is not None and len(_sizes(node)) > 1 and all(size == rest for size in _sizes(node)[1:])


def _makes_time(node):
    """Whether a node puts time in front of a value that has none: x.unsqueeze(0), x.repeat(T, 1, 1, 1, 1) of an image."""
    if _is(node, "unsqueeze"):
        return argument(node, 1, "dim", None) == 0
    return _is(node, "repeat") and _repeats_steps(node)


def _refuse(node, what):
    raise ValueError(
        f"model: {node.meta.get('location') or node.name} {what}; expected time as dimension 0 of a multi-step "
        "network, made by unsqueeze(0) with expand or repeat, kept by its layers, and averaged by mean(0)"
    )


def _shift_dim(node, position, name, default):
    """Dimensions behind time and batch move one to the front."""
    dim = argument(node, position, name, default)
    if dim in (0, 1) or not isinstance(dim, int):
        _refuse(node, f"calls {taxonomy.name(node.target)} over dimension {dim} of [T, N, ...]")
    if dim > 0:
        node.args = node.args[:position] + (dim - 1,) + node.args[position + 1 :]
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != name}


class _Removal:
    def __init__(self, network):
        self.network = network
        self.timed = set()  # nodes whose value has time in front; in the new graph it is the average over it
        self.averages = []

    def run(self):
        for node in list(self.network.graph.nodes):
            self._visit(node)
        for node in self.averages:
            replace(node, node.args[0])
        self.network.graph.lint()
        self.network.recompile()

    def _visit(self, node):
        if node.op == "placeholder":
            if not leads_to(node, _makes_time):
                self.timed.add(node)
            return
        sources = [source for source in node.all_input_nodes if source in self.timed]
        if not sources:
            if _makes_time(node):
                self.timed.add(node.args[0])
                self._only_time(node)
                replace(node, node.args[0])
            return
        if node.op == "output":
            return
        if node.op == "call_module":
            self.timed.add(node)
        elif _repeats_steps(node):
            replace(node, node.args[0])
        elif (
            _is(node, "mean")
            and argument(node, 1, "dim", None) in (0, (0,), [0])
            and not argument(node, 2, "keepdim", False)
        ):
            self.averages.append(node)  # what it averages is an average already; its readers see no time
        else:
            self._call(node)

    def _only_time(self, node):
        """What gets a time dimension in one place has none in another, and cannot stand for both."""
        if len(node.args[0].users) > 1:
            _refuse(node, "makes a time dimension of a value that is used without one too")

    def _call(self, node):
        found = role(node, {})
        if found is Role.JOIN:
            if any(part not in self.timed for part in node.args[0]):
                _refuse(node, "joins values with and without time")
            _shift_dim(node, 1, "dim", 0)
        elif found is Role.FLATTEN:
            _shift_dim(node, 1, "start_dim", 0)
            if argument(node, 2, "end_dim", -1) >= 0:
                _shift_dim(node, 2, "end_dim", -1)
        elif found not in _ELEMENTWISE_ROLES and node.target not in _ELEMENTWISE:
            _refuse(node, f"calls {taxonomy.name(node.target) or node.target} on [T, N, ...]")
        self.timed.add(node)


def refuse_loops(network):
    """ValueError where a neuron of SpikingJelly is called several times in one forward, step by step.

    It keeps its potential from call to call, which neurons that take a mean current do not.
    """
    calls = {}
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), IntegrateFire):
            calls.setdefault(node.target, []).append(node)
    for name, nodes in calls.items():
        if len(nodes) > 1:
            where = nodes[-1].meta.get("location") or name
            raise ValueError(
                f"model: {where} calls {name}, a neuron that keeps its potential, {len(nodes)} times in one "
                "forward: a loop over time; convert the network inside the loop and give it the mean of its inputs over time"
            )


def remove_time(network):
    """Make a traced multi-step network one on averages over time. Changes `network`.

    Inputs [T, N, ...] become their mean over time [N, ...]; an input that the network repeats over T steps itself stays as it
    is. Outputs [T, N, ...] become their mean over time.

    Raises:
        ValueError: something is done to the time dimension but that; the message says where.
    """
    _Removal(network).run()
