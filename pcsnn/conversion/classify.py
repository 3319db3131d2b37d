"""What each node of a canonical network is under time collapse, and the report rows that say so."""

import builtins

import torch
import torch.nn.functional as F
from torch import fx

from pcsnn.conversion.advice import advice
from pcsnn.conversion.averages import is_product, origin
from pcsnn.conversion.casts import rounding
from pcsnn.conversion.channels import compared_by
from pcsnn.conversion.heads import HEADS, behind_all_neurons
from pcsnn.conversion.signal import Signal
from pcsnn.graph import taxonomy
from pcsnn.graph.activations import rises_only
from pcsnn.graph.max_pools import is_max_pool
from pcsnn.graph.places import argument, worth
from pcsnn.network.report import Row


def _source_name(node):
    return str(node.target) if node.op == "call_module" else node.name


def _operation(node, modules):
    if node.op == "call_module":
        return modules[node.target]._get_name()
    return taxonomy.name(node.target) or str(node.target)


def _is_constant(value):
    return not isinstance(value, fx.Node) or value.meta["signal"] == Signal.CONSTANT


def _dynamic(node):
    """How many operands of a node change over time; x in x * x counts twice."""
    operands = []
    fx.map_arg((node.args, node.kwargs), operands.append)
    return sum(operand.meta["signal"] > Signal.CONSTANT for operand in operands)


class _Classifier:
    def __init__(self, network):
        self.modules = dict(network.named_modules())
        self.network = network
        self.tail = behind_all_neurons(network)
        self.rows = []
        self.problems = []
        self.data = set()  # nodes that hold values of inputs, not parameters or sizes alone
        self.learned = set()  # nodes that hold values of parameters or buffers

    def _row(self, node, kind, detail):
        self.rows.append(Row(_source_name(node), kind, detail, node.meta.get("location", "")))

    def _analog(self, node, why):
        self._row(node, "analog", why)
        self.problems.append(self.rows[-1])
        return Signal.ANALOG

    def visit(self, node):
        """The signal of a node; adds its row."""
        if node.op in ("placeholder", "get_attr"):
            (self.data if node.op == "placeholder" else self.learned).add(node)
            return Signal.CONSTANT
        if self.data.intersection(node.all_input_nodes) and not self._is_shape(node):
            self.data.add(node)
        if self.learned.intersection(node.all_input_nodes):
            self.learned.add(node)
        highest = max((source.meta["signal"] for source in node.all_input_nodes), default=Signal.CONSTANT)
        name = _operation(node, self.modules)
        if node.op == "output":
            return highest
        if node.meta.get("activation"):
            self._row(node, "spiking", name)
            return Signal.TRAINS if rises_only(self.modules[node.target]) else Signal.CURRENT
        if node.op == "call_module":
            return self._module(node, name, highest)
        return self._call(node, name, highest)

    def _is_shape(self, node):
        if node.op == "call_method":
            return node.target in taxonomy.SHAPE_METHODS
        return node.op == "call_function" and (
            node.target in taxonomy.SHAPE_FUNCTIONS
            or node.target is builtins.getattr
            and node.args[1] in taxonomy.SHAPE_ATTRIBUTES
        )

    def _module(self, node, name, highest):
        module = self.modules[node.target]
        if isinstance(module, taxonomy.LOOKUPS) and highest == Signal.CONSTANT:
            return self._synapse(node, name, highest)
        if isinstance(module, taxonomy.SYNAPSE_MODULES):
            if isinstance(module, taxonomy.BATCH_NORMS) and module.running_mean is None:
                return self._analog(
                    node,
                    "BatchNorm without running statistics divides by those of the batch; "
                    "train it with track_running_stats=True",
                )
            folded = node.meta.get("folded")
            return self._synapse(node, f"{name}, {folded} folded in" if folded else name, highest)
        if is_max_pool(node, self.modules):
            return self._max_pool(node, name, highest)
        if isinstance(module, taxonomy.LINEAR_MODULES):
            nearest = isinstance(module, torch.nn.Upsample) and taxonomy.is_nearest(module.mode)
            return self._linear(node, name, highest, moving=nearest)
        if isinstance(module, taxonomy.MOVING_MODULES):
            return self._moving(highest, getattr(module, "value", 0))
        return self._other(node, name, highest)

    def _call(self, node, name, highest):
        function, method = (node.target, None) if node.op == "call_function" else (None, node.target)
        if function in taxonomy.SYNAPSE_FUNCTIONS and _is_constant(argument(node, 1, "weight", None)):
            return self._synapse(node, name, highest)
        if function is F.batch_norm and not argument(node, 5, "training", False) and _dynamic(node) <= 1:
            return self._synapse(node, name, highest)
        if self._is_shape(node):
            return Signal.CONSTANT
        if highest == Signal.CONSTANT and function not in taxonomy.AVERAGE_POOL_FUNCTIONS | taxonomy.MAX_POOL_FUNCTIONS:
            return self._of_inputs(node, name, function, method)
        if is_max_pool(node, self.modules):
            return self._max_pool(node, name, highest)
        if function is torch.maximum:
            return self._max_pool(node, name, highest)
        if method in taxonomy.CASTS:
            rounds = rounding(node, self.network)
            return self._analog(node, rounds) if rounds else highest
        if (
            function in taxonomy.MOVING_FUNCTIONS
            or method in taxonomy.MOVING_METHODS
            or (function is builtins.getattr and node.args[1] in taxonomy.MOVING_ATTRIBUTES)
        ):
            if function in taxonomy.JOINING_FUNCTIONS:
                self._row(node, "exact", f"{name} of {len(node.all_input_nodes)}")
            return self._moving(highest, argument(node, 3, "value", 0) if function is F.pad else 0)
        if function in taxonomy.INTERPOLATIONS:
            mode = argument(node, 3, "mode", "nearest")
            return self._linear(node, f"{name}, {mode}", highest, moving=taxonomy.is_nearest(mode))
        if function in taxonomy.LINEAR_FUNCTIONS | taxonomy.ADDITIONS:
            return self._linear(node, name, highest)
        if function in taxonomy.PRODUCTS and _dynamic(node) == 1:
            return self._linear(node, f"{name} by a constant", highest)
        if (
            function in taxonomy.QUOTIENTS
            and _is_constant(argument(node, 1, "other", None))
            and argument(node, 2, "rounding_mode", None) is None
        ):
            return self._linear(node, f"{name} by a constant", highest)
        if function is torch.masked_fill and argument(node, 2, "value", None) == 0 and _dynamic(node) == 1:
            return self._linear(node, f"{name} with 0", highest)
        if is_product(node) and _dynamic(node) == 2:
            return self._product(node, name, highest)
        if function in taxonomy.PRODUCTS and highest > Signal.CONSTANT:
            return self._analog(
                node,
                node.meta.get("advice")
                or f"{name} of two activations: their product over time is not that of their averages; "
                "train without the gate, or keep it analog with strict=False",
            )
        return self._other(node, name, highest)

    def _of_inputs(self, node, name, function, method):
        """What reads only inputs and parameters.

        A function of the inputs alone is exact, the same at every time-step; with parameters in it, it is a layer, which must
        be linear.
        """
        if node not in self.data:
            return Signal.CONSTANT
        learned = any(source not in self.data and source in self.learned for source in node.all_input_nodes)
        signal = Signal.STEADY if learned else Signal.CONSTANT
        if function in taxonomy.LOOKUP_FUNCTIONS:
            return self._synapse(node, name, Signal.CONSTANT)
        divided = function in taxonomy.QUOTIENTS and argument(node, 1, "other", None) not in self.data
        if (
            divided
            or function
            in taxonomy.MOVING_FUNCTIONS | taxonomy.ADDITIONS | taxonomy.LINEAR_FUNCTIONS | taxonomy.INTERPOLATIONS
            or method in taxonomy.MOVING_METHODS
        ):
            return signal
        if function in taxonomy.PRODUCTS and (learned or len(self.data.intersection(node.all_input_nodes)) == 1):
            if learned:
                self._row(node, "exact", f"{name} by a constant")
            return signal
        library = getattr(function, "__module__", None) or "torch"
        if learned or name in taxonomy.RANDOM or library.partition(".")[0] not in ("torch", "_operator", "builtins"):
            return self._other(node, name, Signal.STEADY)
        self._row(node, "exact", f"{name} of the input alone, the same at every time-step")
        return Signal.CONSTANT

    def _synapse(self, node, detail, highest):
        self._row(node, "synapse", detail)
        return Signal.STEADY if highest <= Signal.STEADY else max(highest, Signal.CURRENT)

    def _linear(self, node, detail, highest, moving=False):
        self._row(node, "exact", detail)
        return highest if moving or highest <= Signal.STEADY else max(highest, Signal.CURRENT)

    def _product(self, node, name, highest):
        """A matrix product of two activations: averaging the right one over time makes it linear in the left one."""
        signals = [factor.meta["signal"] for factor in node.args]
        node.meta["averaged"] = all(signal in (Signal.TRAINS, Signal.CURRENT) for signal in signals)
        if not node.meta["averaged"]:  # one of them is constant over time
            return self._linear(node, f"{name} with averages over time", highest)
        origins = [origin(factor, lambda source: source.meta["signal"] > Signal.CONSTANT) for factor in node.args]
        node.meta["factors"] = [
            name for source in origins for name in source.meta.get("factors", [_source_name(source)])
        ]
        spiking, *averaged = node.meta["factors"]
        what = "linear attention" if len(averaged) == 2 else name
        signal = self._linear(node, f"{what}: {spiking} spiking, {' and '.join(averaged)} averaged over time", highest)
        node.meta["row"] = self.rows[-1]
        for source in origins:
            if "row" in source.meta:
                source.meta["row"].detail = f"{name} within {node.name}"
        return signal

    def _moving(self, highest, padding):
        """Padding above zero does not spike."""
        return highest if padding is None or padding <= 0 else max(highest, Signal.CURRENT)

    def _max_pool(self, node, name, highest):
        if highest <= Signal.TRAINS:
            if highest == Signal.TRAINS:
                places, others = compared_by(node, self.modules)
                unlike = self._unlike(places, others)
                if unlike:
                    return self._analog(
                        node,
                        f"{name} compares {unlike}, worth different values: the maximum of such trains is not "
                        "that of their rates; add or average them, or join them as channels",
                    )
            what = "spike counts" if highest == Signal.TRAINS else "what is constant over time"
            self._row(node, "exact", f"{name} on {what}")
            return highest
        return self._analog(
            node,
            f"{name} of a sum of spike trains is not the sum's maximum over time; put the activation "
            "before it, or use average pooling",
        )

    def _unlike(self, places, others):
        """What a maximum compares whose spikes differ in worth, in words; None where all are worth the same."""
        names = [_source_name(place) for place in places]
        if others and places:
            return f"spikes of {', '.join(names)} with values of {', '.join(map(_source_name, others))}, which do not spike"
        worths = [worth(self.modules[name]) for name in names]
        if len(names) > 1 and (None in worths or len(set(worths)) > 1):
            return f"spikes of several layers ({', '.join(names)})"
        return None

    def _other(self, node, name, highest):
        if highest == Signal.CONSTANT and not list(self.modules[node.target].parameters()):
            if node in self.data:
                self._row(node, "exact", f"{name} of the input alone, the same at every time-step")
            return Signal.CONSTANT
        node.meta["head"] = node in self.tail and name in HEADS
        if node.meta["head"]:
            self._row(node, "analog", f"{name} behind the last neuron, applied to the averages over time")
            return Signal.ANALOG
        return self._analog(node, advice(node, name, self.modules))


def classify(network):
    """Give every node its meta["signal"]. Returns (rows in execution order, the analog ones among them)."""
    classifier = _Classifier(network)
    for node in network.graph.nodes:
        node.meta["signal"] = classifier.visit(node)
    return classifier.rows, classifier.problems
