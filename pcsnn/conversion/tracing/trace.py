"""From a module to a torch.fx graph whose nodes know where they stand in the source."""

import types

from torch import fx

from pcsnn.conversion.spikingjelly import read
from pcsnn.conversion.spikingjelly.scales import fold_scales
from pcsnn.conversion.spikingjelly.time_axis import refuse_loops, remove_time
from pcsnn.conversion.tracing.copies import modules_of
from pcsnn.conversion.tracing.errors import explain
from pcsnn.conversion.tracing.hooks import drop_hooks, refuse_outer_hooks
from pcsnn.conversion.tracing.plain_classes import is_plain, make_plain
from pcsnn.conversion.tracing.tracer import Tracer, prepare, prepared
from pcsnn.conversion.tracing.unwrap import unwrapped
from pcsnn.graph.names import rename_colliding


def trace(model, shift=None):
    """A GraphModule of a copy of `model` in evaluation mode; every node has meta["location"].

    Weights are those that the model computes with, whatever made them (parametrizations, weight_norm, prune); wrappers
    of several devices and of torch.compile are seen through; forward hooks are traced like forward; layers that forward
    makes get a name; a layer whose attributes change between two calls becomes two. Networks of SpikingJelly lose their
    time dimension, and have an IntegrateFire at every IF node, whose potential at first is `shift` thresholds, or what
    a reset of the node makes it.

    Raises:
        ValueError: torch.fx cannot follow the model (control flow that depends on values); it is TorchScript or
            exported; neurons or what is done to time cannot be collapsed.
    """
    inside = unwrapped(model)
    refuse_outer_hooks(model)
    model = inside
    foreign, memo = read.is_spikingjelly(model), {}
    if foreign:
        source = read.read(model, shift, memo)
        prepare(source)
    else:
        source = prepared(model, memo)
    _own_forward(source)
    tracer = Tracer(memo)
    try:
        graph = tracer.trace(source)
    except Exception as error:
        raise explain(model, error) from error
    for part in modules_of(source):
        drop_hooks(part)
    rename_colliding(source, graph)
    for node in graph.nodes:
        if node.op == "call_module" and is_plain(layer := source.get_submodule(node.target)):
            make_plain(layer)
    graph._tracer_cls = None  # copies of the network by pickle are traced by torch.fx itself
    network = fx.GraphModule(source, graph, type(model).__name__)
    if foreign:
        if read.is_multi_step(model):
            remove_time(network)
        refuse_loops(network)
        fold_scales(network)
    return network


def _own_forward(source):
    """torch.fx reads the forward of the class; one that was put on the instance becomes that of a class of its own."""
    forward = vars(source).pop("forward", None)
    if forward is None:
        return
    kind = type(source)
    if not isinstance(forward, types.MethodType) or forward.__self__ is not source:
        raise ValueError(
            f"model: the forward of {kind.__name__} was replaced by {getattr(forward, '__qualname__', forward)}, a "
            "function without self; define forward in the class, or set types.MethodType(forward, model)"
        )
    source.__class__ = type(kind.__name__, (kind,), {"forward": forward.__func__, "__module__": kind.__module__})
