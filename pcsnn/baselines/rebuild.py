"""The same network with other neurons: weights are shared, not copied."""

import copy

from torch import fx, nn

from pcsnn.graph.names import attribute
from pcsnn.network.network import check_unfused
from pcsnn.nn import TimeAverage


class Evaluated(nn.Module):
    """A module that stays in evaluation mode: its batch norms are shared with the SpikingNetwork."""

    def train(self, mode: bool = True) -> "Evaluated":
        return super().train(False)


def with_neurons(snn, make, average=TimeAverage):
    """A GraphModule that computes like `snn.network`, each neuron replaced by make(neuron) and each TimeAverage by
    average(); all else is shared."""
    check_unfused(snn)
    analog = [row.name for row in snn.report.rows if row.kind == "analog"]
    if analog:
        raise ValueError(
            f"snn: {', '.join(analog)} {'is' if len(analog) == 1 else 'are'} analog, applied to averages over "
            "time: this network has no form that runs step by step"
        )
    network = snn.network
    made = {name: make(neuron) for name, neuron in snn.neurons()}
    made |= {name: average() for name, module in network.named_modules() if isinstance(module, TimeAverage)}
    called = {node.target for node in network.graph.nodes if node.op in ("call_module", "get_attr")}
    parts = {name: made.get(name) or attribute(network, name) for name in called}
    return fx.GraphModule(parts, copy.deepcopy(network.graph)).eval()
