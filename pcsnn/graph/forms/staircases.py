"""Clip-floor-shift activations (1) that a network writes out, as the published QCFS code and its descendants do."""

import math
from dataclasses import dataclass

from torch import fx, nn

from pcsnn.graph.forms.arithmetic import close
from pcsnn.graph.forms.calls import called, two_operands, without_casts
from pcsnn.graph.names import attribute
from pcsnn.graph.written import Staircase
from pcsnn.tensors import checks

_TOLERANCE = 1e-5
_STEPS = ("floor", "round")


@dataclass
class Found:
    """theta / L * clip(step(z * L / theta + 1/2), 0, L), where it is read and how it steps ("floor"; "round" without
    1/2)."""

    source: fx.Node
    threshold: float
    levels: int
    step: fx.Node
    how: str


class Staircases:
    """Finds staircases in a graph."""

    def __init__(self, constants, clips, modules):
        self._constants, self._clips, self._modules = constants, clips, modules

    def __call__(self, root):
        """The staircase that ends at a node; None for any other node."""
        if called(root, self._modules) not in ("mul", "div"):
            return None
        gain, inner = self._scaled(root)
        clip = self._clip(inner)
        if clip is not None:  # clip(s * floor(f * z + 1/2), 0, h)
            outer, step = self._scaled(clip.source)
            found = self._step(step)
            if found is None or outer <= 0:
                return None
            rate, source = self._scaled(found[0])
            levels = clip.high.item() / outer
        else:  # floor(f * clip(g * z, 0, h) + 1/2)
            step, found = inner, self._step(inner)
            if found is None:
                return None
            rate, inside = self._scaled(found[0])
            clip = self._clip(inside)
            if clip is None:
                return None
            within, source = self._scaled(clip.source)
            levels, outer, rate = rate * clip.high.item(), 1.0, rate * within
        whole = round(levels)
        if (
            not 1 <= whole <= checks.MAX_TIMESTEPS
            or not math.isclose(levels, whole, rel_tol=_TOLERANCE)
            or rate <= 0
            or not math.isclose(gain * outer * rate, 1.0, rel_tol=_TOLERANCE)
            or not isinstance(source, fx.Node)
        ):
            return None
        return Found(source, whole / rate, whole, step, found[1])

    def _clip(self, node):
        """A clip at zero from below and one number from above."""
        clip = self._clips(self._straight(node)) if isinstance(node, fx.Node) else None
        bounded = clip is not None and clip.high.dim() == 0 and not clip.low.any()
        return clip if bounded and 0 < clip.high < math.inf else None

    def _scaled(self, node):
        """(factor, what it multiplies) through all products and quotients with one number."""
        factor = 1.0
        node = self._straight(node)
        while called(node, self._modules) in ("mul", "div"):
            operands = two_operands(node)
            if operands is None:
                break
            one, other = operands
            number = self._constants.number(other)
            if called(node, self._modules) == "div":
                if not number:
                    break
                number, inner = 1 / number, one
            elif number is None:
                number, inner = self._constants.number(one), other
            else:
                inner = one
            if number is None:
                break
            factor, node = factor * number, self._straight(inner)
        return factor, node

    def _step(self, node):
        """(what is rounded, "floor" or "round"); None for any other node."""
        node = self._straight(node)
        name = called(node, self._modules)
        if name not in _STEPS or len(node.args) != 1 or node.kwargs:
            return None
        inner = node.args[0]
        if name == "round":
            return inner, name
        operands = two_operands(inner) if called(inner, self._modules) == "add" else None
        for source, shift in (operands, operands[::-1]) if operands else ():
            number = self._constants.number(shift)
            if number is not None and close(number, 0.5):
                return source, name
        return None

    def _straight(self, node):
        """`a` of (a - z).detach() + z, which has the gradient of z; the node itself where it is not so."""
        operands = two_operands(node) if called(node, self._modules) == "add" else None
        for moved, plain in (operands, operands[::-1]) if operands else ():
            difference = without_casts(moved)
            if difference is moved or called(difference, self._modules) != "sub":
                continue
            parts = two_operands(difference)
            if parts is not None and parts[1] is plain and isinstance(parts[0], fx.Node):
                return parts[0]
        return node


def module(network, root, found):
    """The Staircase of what stands between `found.source` and `root`."""
    graph, copies = fx.Graph(), {}
    copies[found.source] = graph.placeholder("z")
    wanted, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node not in wanted and node is not found.source:
            wanted.add(node)
            waiting += node.all_input_nodes
    held = nn.Module()
    for node in network.graph.nodes:
        if node not in wanted:
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op in ("get_attr", "call_module"):
            name = node.target.replace(".", "_")
            part = attribute(network, node.target)
            copies[node].target = name
            if isinstance(part, nn.Module):
                held.add_module(name, part)
            else:
                held.register_buffer(name, part.detach())
    graph.output(copies[root])
    return Staircase(held, graph, found.threshold, found.levels)
