"""From a module to a torch.fx graph whose nodes know where they stand in the source."""

import copy
import pathlib
import re

import torch
from torch import fx

from pcsnn.nn import QCFS

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_TORCH = str(pathlib.Path(torch.__file__).parent)


class _Tracer(fx.Tracer):
    def __init__(self):
        super().__init__()
        self.record_stack_traces = True

    def is_leaf_module(self, module, qualified_name):
        return isinstance(module, QCFS) or super().is_leaf_module(module, qualified_name)


def _location(node):
    """file:line of the innermost frame that is not torch's own, or ''."""
    frames = [match for match in _FRAME.finditer(node.stack_trace or "") if not match["file"].startswith(_TORCH)]
    return f"{frames[-1]['file']}:{frames[-1]['line']}" if frames else ""


def trace(model):
    """A GraphModule of a copy of `model` in evaluation mode; every node has meta["location"].

    Raises ValueError when torch.fx cannot follow the model (control flow that depends on values).
    """
    source = copy.deepcopy(model).eval()
    for parameter in source.parameters():
        parameter.requires_grad_(False)
    tracer = _Tracer()
    try:
        graph = tracer.trace(source)
    except Exception as error:
        raise ValueError(f"model: torch.fx cannot trace {type(model).__name__}: {error}. Take control flow that depends "
                         "on values out of forward, or convert the parts without it") from error
    network = fx.GraphModule(source, graph, type(model).__name__)
    for node in network.graph.nodes:
        node.meta["location"] = _location(node)
    return network
