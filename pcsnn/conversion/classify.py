"""What each node of a canonical network is under time collapse, and the report rows that say so."""

from torch import fx

from pcsnn.conversion.advice import advice
from pcsnn.conversion.averages import is_product, origin
from pcsnn.conversion.casts import rounding
from pcsnn.conversion.channels import compared_by
from pcsnn.conversion.heads import HEADS, behind_all_neurons
from pcsnn.conversion.signal import Signal
from pcsnn.graph import taxonomy
from pcsnn.graph.names import operation_name, source_name
from pcsnn.graph.places import argument, worth
from pcsnn.graph.taxonomy import ALWAYS_LINEAR, MOVES, Role, role
from pcsnn.network.report import Row


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
        self.rows.append(Row(source_name(node), kind, detail, node.meta.get("location", "")))

    def _analog(self, node, why):
        self._row(node, "analog", why)
        self.problems.append(self.rows[-1])
        return Signal.ANALOG

    def visit(self, node):
        """The signal of a node; adds its row."""
        if node.op in ("placeholder", "get_attr"):
            (self.data if node.op == "placeholder" else self.learned).add(node)
            return Signal.CONSTANT
        found = role(node, self.modules)
        if self.data.intersection(node.all_input_nodes) and found is not Role.SHAPE:
            self.data.add(node)
        if self.learned.intersection(node.all_input_nodes):
            self.learned.add(node)
        highest = max((source.meta["signal"] for source in node.all_input_nodes), default=Signal.CONSTANT)
        name = operation_name(node, self.modules)
        if node.op == "output":
            return highest
        if node.meta.get("activation"):
            self._row(node, "spiking", name)
            return Signal.TRAINS
        if highest == Signal.CONSTANT and node.op != "call_module" and found not in _ALWAYS:
            return self._of_inputs(node, name)
        return _RULES.get(found, _Classifier._other)(self, node, name, highest)

    def _synapse(self, node, detail, highest):
        self._row(node, "synapse", detail)
        return Signal.STEADY if highest <= Signal.STEADY else max(highest, Signal.CURRENT)

    def _weights(self, node, name, highest):
        if node.op == "call_module":
            folded = node.meta.get("folded")
            return self._synapse(node, f"{name}, {folded} folded in" if folded else name, highest)
        if _is_constant(argument(node, 1, "weight", None)):
            return self._synapse(node, name, highest)
        return self._other(node, name, highest)

    def _norm(self, node, name, highest):
        if node.op == "call_module":
            if self.modules[node.target].running_mean is None:
                return self._analog(
                    node,
                    "BatchNorm without running statistics divides by those of the batch; "
                    "train it with track_running_stats=True",
                )
            return self._weights(node, name, highest)
        if not argument(node, 5, "training", False) and _dynamic(node) <= 1:
            return self._synapse(node, name, highest)
        return self._of_inputs(node, name) if highest == Signal.CONSTANT else self._other(node, name, highest)

    def _lookup(self, node, name, highest):
        made = self._synapse if highest == Signal.CONSTANT else self._other
        return made(node, name, highest)

    def _steady(self, node, name, highest):
        return Signal.CONSTANT

    def _moved(self, node, name, highest):
        return highest

    def _joined(self, node, name, highest):
        self._row(node, "exact", f"{name} of {len(node.all_input_nodes)}")
        return highest

    def _padded(self, node, name, highest):
        """Padding above zero does not spike."""
        module = self.modules[node.target] if node.op == "call_module" else None
        value = argument(node, 3, "value", 0) if module is None else getattr(module, "value", 0)
        return highest if value is None or value <= 0 else max(highest, Signal.CURRENT)

    def _attribute(self, node, name, highest):
        return highest if node.args[1] in taxonomy.MOVING_ATTRIBUTES else self._other(node, name, highest)

    def _cast(self, node, name, highest):
        rounds = rounding(node, self.network)
        return self._analog(node, rounds) if rounds else highest

    def _linear(self, node, detail, highest):
        self._row(node, "exact", detail)
        return highest if highest <= Signal.STEADY else max(highest, Signal.CURRENT)

    def _interpolated(self, node, name, highest):
        by_module = node.op == "call_module"
        mode = self.modules[node.target].mode if by_module else argument(node, 3, "mode", "nearest")
        signal = self._linear(node, name if by_module else f"{name}, {mode}", highest)
        return highest if taxonomy.is_nearest(mode) else signal

    def _filled(self, node, name, highest):
        if argument(node, 2, "value", None) == 0 and _dynamic(node) == 1:
            return self._linear(node, f"{name} with 0", highest)
        return self._other(node, name, highest)

    def _quotient(self, node, name, highest):
        if _is_constant(argument(node, 1, "other", None)) and argument(node, 2, "rounding_mode", None) is None:
            return self._linear(node, f"{name} by a constant", highest)
        return self._other(node, name, highest)

    def _product(self, node, name, highest):
        if _dynamic(node) == 1:
            return self._linear(node, f"{name} by a constant", highest)
        if is_product(node) and _dynamic(node) == 2:
            return self._averaged_product(node, name, highest)
        return self._analog(
            node,
            node.meta.get("advice")
            or f"{name} of two activations: their product over time is not that of their averages; "
            "train without the gate, or keep it analog with strict=False",
        )

    def _of_inputs(self, node, name):
        """What reads only inputs and parameters.

        A function of the inputs alone is exact, the same at every time-step; with parameters in it, it is a layer,
        which must be linear.
        """
        if node not in self.data:
            return Signal.CONSTANT
        learned = any(source not in self.data and source in self.learned for source in node.all_input_nodes)
        signal = Signal.STEADY if learned else Signal.CONSTANT
        found = role(node, self.modules)
        if found is Role.LOOKUP:
            return self._synapse(node, name, Signal.CONSTANT)
        divided = found is Role.QUOTIENT and argument(node, 1, "other", None) not in self.data
        if divided or found in MOVES | ALWAYS_LINEAR:
            return signal
        if found in _PRODUCTS and (learned or len(self.data.intersection(node.all_input_nodes)) == 1):
            if learned:
                self._row(node, "exact", f"{name} by a constant")
            return signal
        library = getattr(node.target, "__module__", None) or "torch"
        if learned or name in taxonomy.RANDOM or library.partition(".")[0] not in ("torch", "_operator", "builtins"):
            return self._other(node, name, Signal.STEADY)
        self._row(node, "exact", f"{name} of the input alone, the same at every time-step")
        return Signal.CONSTANT

    def _averaged_product(self, node, name, highest):
        """A matrix product of two activations: averaging the right one over time makes it linear in the left one."""
        signals = [factor.meta["signal"] for factor in node.args]
        node.meta["averaged"] = all(signal in (Signal.TRAINS, Signal.CURRENT) for signal in signals)
        if not node.meta["averaged"]:  # one of them is constant over time
            return self._linear(node, f"{name} with averages over time", highest)
        origins = [origin(factor, lambda source: source.meta["signal"] > Signal.CONSTANT) for factor in node.args]
        node.meta["factors"] = [
            name for source in origins for name in source.meta.get("factors", [source_name(source)])
        ]
        spiking, *averaged = node.meta["factors"]
        what = "linear attention" if len(averaged) == 2 else name
        signal = self._linear(node, f"{what}: {spiking} spiking, {' and '.join(averaged)} averaged over time", highest)
        node.meta["row"] = self.rows[-1]
        for source in origins:
            if "row" in source.meta:
                source.meta["row"].source = f"{name} within {node.name}"
        return signal

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
        names = [source_name(place) for place in places]
        if others and places:
            return (
                f"spikes of {', '.join(names)} with values of {', '.join(map(source_name, others))}, which do not spike"
            )
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


_PRODUCTS = {Role.SCALE, Role.PRODUCT}
# also where they read only inputs and parameters
_ALWAYS = {Role.SYNAPSE, Role.NORM, Role.SHAPE, Role.MAX_POOL, Role.AVERAGE_POOL, Role.MEAN}
_RULES = {
    **dict.fromkeys(MOVES, _Classifier._moved),
    **dict.fromkeys(ALWAYS_LINEAR, _Classifier._linear),
    **dict.fromkeys(_PRODUCTS, _Classifier._product),
    Role.SYNAPSE: _Classifier._weights,
    Role.NORM: _Classifier._norm,
    Role.LOOKUP: _Classifier._lookup,
    Role.MAX_POOL: _Classifier._max_pool,
    Role.MAXIMUM: _Classifier._max_pool,
    Role.INTERPOLATION: _Classifier._interpolated,
    Role.FILL: _Classifier._filled,
    Role.CHANNEL_SCALE: _Classifier._linear,
    Role.QUOTIENT: _Classifier._quotient,
    Role.JOIN: _Classifier._joined,
    Role.STACK: _Classifier._joined,
    Role.PAD: _Classifier._padded,
    Role.ATTRIBUTE: _Classifier._attribute,
    Role.CAST: _Classifier._cast,
    Role.SHAPE: _Classifier._steady,
}


def classify(network):
    """Give every node its meta["signal"]. Returns (rows in execution order, the analog ones among them)."""
    classifier = _Classifier(network)
    for node in network.graph.nodes:
        node.meta["signal"] = classifier.visit(node)
    return classifier.rows, classifier.problems
