"""Puts modules of torch.nn where a graph writes an activation out in several operations."""

import torch

from pcsnn.graph.activations import signed_activation
from pcsnn.graph.forms import staircases
from pcsnn.graph.forms.arithmetic import Arithmetic
from pcsnn.graph.forms.clips import Clips
from pcsnn.graph.forms.constants import Constants
from pcsnn.graph.forms.gates import Gates
from pcsnn.graph.forms.maxima import known_maximum
from pcsnn.graph.names import unused_name
from pcsnn.graph.places import activation, bound
from pcsnn.graph.written import ClippedReLU

UNSIGNED_ADVICE = "{} written out; convert it with signed=True, or put a ReLU or pcsnn.nn.QCFS there and retrain"


def recognise(network, signed):
    """Replace forms by one module each, up to rounding what they are. Changes `network`.

    signed: whether activations that go below zero are replaced; else meta["advice"] of their nodes names them.
    """
    constants = Constants(network)
    modules = dict(network.named_modules())
    arithmetic = Arithmetic(constants, modules)
    clips = Clips(constants, arithmetic, modules)
    staircase, gates = staircases.Staircases(constants, clips, modules), Gates(constants, arithmetic, clips, modules)

    def put(node, source, module, before=(1.0, 0.0), after=(1.0, 0.0)):
        place = _replace(network, node, source, module, before, after)
        modules[place.target] = module

    for node in reversed(list(network.graph.nodes)):  # the whole of a form before its parts
        if node.op == "output" or not node.users or node._erased:
            continue
        found = staircase(node)
        if found is not None and found.how == "floor":
            put(node, found.source, staircases.module(network, node, found))
            continue
        if found is not None:
            found.step.meta["advice"] = (
                f"{found.how} makes the staircase of pcsnn.nn.QCFS({found.levels}, threshold={found.threshold:.4g}), "
                "which rounds ties up and not to even: put that module there; no training is needed"
            )
            continue
        clip = clips(node)
        module = None if clip is None else clip.module()
        if module is not None:
            if not _alike(activation(node, modules), module) or (
                clip.source is not node.args[0] and not _alike(activation(node.args[0], modules), module)
            ):
                put(node, clip.source, module)
            continue
        if activation(node, modules) is not None or signed_activation(node, modules) is not None:
            continue
        form = gates(node)
        if form is not None and signed:
            put(node, form.source, form.module, (form.in_scale, form.in_shift), (form.out_scale, form.out_shift))
        elif form is not None:
            for part in _between(node, form.source):
                part.meta["advice"] = f"{node.name} is {UNSIGNED_ADVICE.format(form.name)}"
        else:
            known_maximum(node)
    network.graph.lint()


def _alike(one, other):
    """Whether two activations, None for none, are the same ReLU or clipped ReLU."""
    return type(one) is type(other) and not isinstance(one, ClippedReLU) and bound(one) == bound(other)


def _between(root, source):
    """`root` and the nodes that it is made of, up to `source`."""
    found, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        if node not in found and node is not source and node.op != "get_attr":
            found.append(node)
            waiting += [other for other in node.all_input_nodes if len(found) < 12]
    return found


def _replace(network, root, source, module, before, after):
    """The node of `module` that stands for `root`, between a scale and a shift on either side."""
    floating = [part for part in (*network.parameters(), *network.buffers()) if part.is_floating_point()]
    like = floating[0] if floating else torch.zeros(())
    name = unused_name(network, root.name)
    module = module.to(like.device).eval().requires_grad_(False)
    for parameter in module.parameters():  # of PReLU
        parameter.data = parameter.to(like.dtype)
    network.add_submodule(name, module)
    with network.graph.inserting_before(root):
        value = _line(network, source, *before)
        place = network.graph.call_module(name, (value,))
        value = _line(network, place, *after)
    for node in (place, value):
        node.meta = {key: kept for key, kept in root.meta.items() if key != "advice"}
    root.replace_all_uses_with(value)
    _erase(root)
    return place


def _line(network, node, scale, shift):
    if scale != 1.0:
        node = network.graph.call_function(torch.mul, (node, scale))
    return network.graph.call_function(torch.add, (node, shift)) if shift else node


def _erase(node):
    """Take out a node and what it alone read, but for inputs."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.users or node.op in ("placeholder", "output") or node._erased:
            continue
        sources = node.all_input_nodes
        node.graph.erase_node(node)
        waiting += sources
