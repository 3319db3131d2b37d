"""Values in a graph that do not depend on the network's input: numbers, parameters and buffers, and what is computed
of them."""

import torch
from torch import fx

from pcsnn.graph.forms.calls import called
from pcsnn.graph.names import attribute

_FILLED = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0, "zeros": 0.0, "ones": 1.0}
_COMPUTED = {
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "pow",
    "square",
    "sqrt",
    "abs",
    "exp",
    "sigmoid",
    "softplus",
    "relu",
    "clamp",
    "clamp_min",
    "clamp_max",
    "view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "getitem",
    "detach",
    "clone",
    "contiguous",
    "item",
    "tanh",
    "log",
    "flatten",
}
_IDENTITIES = {"to", "type_as", "cpu", "cuda", "float", "double", "expand_as"}


class Constants:
    """Looks for constants in a graph: each a float64 tensor, [] where it is one number."""

    def __init__(self, network):
        self._network, self._modules = network, dict(network.named_modules())
        self._values = {}
        for node in network.graph.nodes:  # in order of execution: what a node reads is known
            self._values[node] = self._evaluate(node)

    def __call__(self, value):
        """The constant that an argument or node is; None for what depends on the input."""
        found = self._of(value)
        if isinstance(found, bool) or not isinstance(found, (int, float, torch.Tensor)):
            return None
        if isinstance(found, torch.Tensor) and (found.is_complex() or found.dtype == torch.bool):
            return None
        if not isinstance(found, torch.Tensor):
            found = torch.tensor(found, dtype=torch.float64, device="cpu")
        found = found.detach().to("cpu", torch.float64)
        return found.reshape(()) if found.numel() == 1 and found.dim() <= 1 else found

    def number(self, value):
        """The same as a float; None where it is not one number."""
        found = self(value)
        return found.item() if found is not None and found.dim() == 0 else None

    def _of(self, value):
        return self._values.get(value) if isinstance(value, fx.Node) else value

    def _evaluate(self, node):
        if node.op == "get_attr":
            return attribute(self._network, node.target)
        name = called(node, self._modules)
        if name in _FILLED:
            return _FILLED[name]
        if name in ("full_like", "new_full", "full"):
            return self._of(node.args[1] if len(node.args) > 1 else node.kwargs.get("fill_value"))
        if name in _IDENTITIES:
            return self._of(node.args[0])
        if node.op == "call_module" or name not in _COMPUTED or not node.all_input_nodes:
            return None
        if any(self._values[source] is None for source in node.all_input_nodes):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._of)
        function = getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target
        return function(*args, **kwargs)
