"""From a module to a torch.fx graph whose nodes know where they stand in the source."""

import copy
import os
import pathlib
import sys

import torch
from torch import fx

from pcsnn.convert import spikingjelly
from pcsnn.convert.integrate_fire import IntegrateFire, fold_scales
from pcsnn.convert.time_axis import remove_time
from pcsnn.nn import QCFS, ChannelScale

_NOT_SOURCE = tuple(f"{pathlib.Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


def _location():
    """file:line of the innermost frame that is neither torch's nor the converter's: the network's, else the caller's."""
    frame = sys._getframe()
    while frame and frame.f_code.co_filename.startswith(_NOT_SOURCE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, qualified_name):
        return isinstance(module, (QCFS, IntegrateFire, ChannelScale)) or super().is_leaf_module(module, qualified_name)

    def create_node(self, *arguments, **named):
        node = super().create_node(*arguments, **named)
        node.meta["location"] = _location()
        return node

    def create_proxy(self, kind, target, args, kwargs, *others, **named):
        if kind == "placeholder" and args and (args[0] is None or isinstance(args[0], (bool, str))):
            return args[0]  # an option of forward: it may steer control flow, and keeps its default
        return super().create_proxy(kind, target, args, kwargs, *others, **named)


def required_inputs(network):
    """How many inputs a traced network takes that have no default."""
    return sum(node.op == "placeholder" and not node.args for node in network.graph.nodes)


def trace(model, shift=None):
    """A GraphModule of a copy of `model` in evaluation mode; every node has meta["location"].

    Networks of SpikingJelly lose their time dimension, and have an IntegrateFire at every IF node, whose potential at first is
    `shift` thresholds, or what a reset of the node makes it. Raises ValueError when torch.fx cannot follow the model (control
    flow that depends on values), or where neurons or what is done to time cannot be collapsed.
    """
    foreign = spikingjelly.is_spikingjelly(model)
    source = spikingjelly.read(model, shift) if foreign else copy.deepcopy(model).eval()
    for parameter in source.parameters():
        parameter.requires_grad_(False)
    tracer = _Tracer()
    try:
        graph = tracer.trace(source)
    except Exception as error:
        raise ValueError(f"model: torch.fx cannot trace {type(model).__name__}: {error}. Take control flow that depends "
                         "on values out of forward, or convert the parts without it") from error
    network = fx.GraphModule(source, graph, type(model).__name__)
    if foreign:
        if spikingjelly.is_multi_step(model):
            remove_time(network)
        fold_scales(network)
    return network
