"""What each node of a canonical network is under time collapse, and the report rows that say so."""

import builtins
import enum
import operator

import torch

from pcsnn.convert import operations as ops
from pcsnn.convert.canonicalise import is_max_pool
from pcsnn.convert.places import argument
from pcsnn.convert.report import Row


class Signal(enum.IntEnum):
    """How a value relates to the spikes it is an average of."""

    CONSTANT = 0  # the same at every time-step
    TRAINS = 1  # each element is the rate of one neuron, whose amplitude is positive
    CURRENT = 2  # a linear combination of rates
    ANALOG = 3  # a function of averages that is not linear


def _source_name(node):
    return str(node.target) if node.op == "call_module" else node.name


def _operation(node, modules):
    if node.op == "call_module":
        return type(modules[node.target]).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class _Classifier:
    def __init__(self, network):
        self.modules = dict(network.named_modules())
        self.rows = []
        self.problems = []

    def _row(self, node, kind, detail):
        self.rows.append(Row(_source_name(node), kind, detail, node.meta.get("location", "")))

    def _analog(self, node, why):
        self._row(node, "analog", why)
        self.problems.append(self.rows[-1])
        return Signal.ANALOG

    def visit(self, node):
        """The signal of a node; adds its row."""
        if node.op in ("placeholder", "get_attr"):
            return Signal.CONSTANT
        signals = [argument.meta["signal"] for argument in node.all_input_nodes]
        highest = max(signals, default=Signal.CONSTANT)
        dynamic = sum(signal > Signal.CONSTANT for signal in signals)
        name = _operation(node, self.modules)
        if node.op == "output":
            return highest
        if node.meta.get("activation"):
            self._row(node, "spiking", name)
            return Signal.TRAINS
        if node.op == "call_module":
            return self._module(node, name, highest)
        return self._call(node, name, highest, dynamic)

    def _module(self, node, name, highest):
        module = self.modules[node.target]
        if isinstance(module, ops.SYNAPSE_MODULES):
            if isinstance(module, ops.BATCH_NORMS) and module.running_mean is None:
                return self._analog(node, "BatchNorm without running statistics divides by those of the batch; "
                                          "train it with track_running_stats=True")
            folded = node.meta.get("folded")
            self._row(node, "synapse", f"{name}, {folded} folded in" if folded else name)
            return Signal.CURRENT
        if is_max_pool(node, self.modules):
            return self._max_pool(node, name, highest)
        if isinstance(module, ops.LINEAR_MODULES):
            nearest = isinstance(module, torch.nn.Upsample) and ops.is_nearest(module.mode)
            return self._linear(node, name, highest, moving=nearest)
        if isinstance(module, ops.MOVING_MODULES):
            return highest
        return self._other(node, name, highest)

    def _call(self, node, name, highest, dynamic):
        function, method = (node.target, None) if node.op == "call_function" else (None, node.target)
        if function in ops.SYNAPSE_FUNCTIONS and node.args[1].meta["signal"] == Signal.CONSTANT:
            self._row(node, "synapse", name)
            return Signal.CURRENT
        if function in ops.SHAPE_FUNCTIONS or method in ops.SHAPE_METHODS or (
                function is builtins.getattr and node.args[1] in ops.SHAPE_ATTRIBUTES):
            return Signal.CONSTANT
        if highest == Signal.CONSTANT and not is_max_pool(node, self.modules):
            return Signal.CONSTANT  # a function of the input alone, the same at every time-step
        if is_max_pool(node, self.modules):
            return self._max_pool(node, name, highest)
        if function in ops.MOVING_FUNCTIONS or method in ops.MOVING_METHODS:
            if function in (torch.cat, torch.concat, torch.concatenate, torch.stack):
                self._row(node, "exact", f"{name} of {len(node.all_input_nodes)}")
            return highest
        if function in ops.INTERPOLATIONS:
            mode = argument(node, 3, "mode", "nearest")
            return self._linear(node, f"{name}, {mode}", highest, moving=ops.is_nearest(mode))
        if function in ops.LINEAR_FUNCTIONS | ops.ADDITIONS:
            return self._linear(node, name, highest)
        if function in ops.PRODUCTS and dynamic == 1:
            return self._linear(node, f"{name} by a constant", highest)
        if function in ops.QUOTIENTS:
            divisor = node.args[1]
            if not isinstance(divisor, torch.fx.Node) or divisor.meta["signal"] == Signal.CONSTANT:
                return self._linear(node, f"{name} by a constant", highest)
        return self._other(node, name, highest)

    def _linear(self, node, detail, highest, moving=False):
        self._row(node, "exact", detail)
        return highest if moving else max(highest, Signal.CURRENT)

    def _max_pool(self, node, name, highest):
        if highest <= Signal.TRAINS:
            self._row(node, "exact", f"{name} on spike counts" if highest else f"{name} on the input")
            return highest
        return self._analog(node, f"{name} of a sum of spike trains is not the sum's maximum over time; put the activation "
                                  "before it, or use average pooling")

    def _other(self, node, name, highest):
        if highest == Signal.CONSTANT:
            return Signal.CONSTANT
        return self._analog(node, f"{name} is neither linear nor a ReLU; replace it by ReLU or pcsnn.nn.QCFS and retrain, "
                                  "or keep it analog, applied to averages over time, with strict=False")


def classify(network):
    """Give every node its meta["signal"]. Returns (rows in execution order, the analog ones among them)."""
    classifier = _Classifier(network)
    for node in network.graph.nodes:
        node.meta["signal"] = classifier.visit(node)
    return classifier.rows, classifier.problems


_KEEPS_CHANNELS = (ops.AVERAGE_POOL_FUNCTIONS | ops.MAX_POOL_FUNCTIONS | ops.INTERPOLATIONS | ops.ADDITIONS
                   | ops.QUOTIENTS | {operator.mul, torch.mul, torch.multiply, torch.nn.functional.pad, torch.clone}) - {torch.mean, torch.amax}


def has_channels(node, modules):
    """Whether dimension 1 of a node's value is a channel of fixed size and meaning, so that it may have its own threshold.

    None: only if the value has two dimensions (a linear layer's output has its features last).
    """
    if node.op == "call_module":
        module = modules[node.target]
        if isinstance(module, torch.nn.Linear):
            return None
        if isinstance(module, ops.SYNAPSE_MODULES):
            return True
        through = node.meta.get("activation") or isinstance(module, ops.POOL_MODULES + (torch.nn.Upsample,))
        return has_channels(node.args[0], modules) if through else False
    if node.op != "call_function":
        return False
    if node.target in ops.SYNAPSE_FUNCTIONS:
        return None if node.target is torch.nn.functional.linear else True
    if node.target in (torch.cat, torch.concat, torch.concatenate) and argument(node, 1, "dim", 0) != 1:
        return False
    if node.target is operator.getitem:
        index = node.args[1]
        if not (isinstance(index, tuple) and len(index) > 1 and all(isinstance(part, slice) for part in index[:2])):
            return False
    elif node.target not in _KEEPS_CHANNELS and node.target not in (torch.cat, torch.concat, torch.concatenate):
        return False
    known = [has_channels(source, modules) for source in node.all_input_nodes if source.meta["signal"] > Signal.CONSTANT]
    return False if not known or False in known else (None if None in known else True)
