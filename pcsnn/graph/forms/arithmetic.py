"""Sums and products of a graph as polynomials, so that a function is known however its terms are arranged."""

import math

import torch
from torch import fx

from pcsnn.graph.forms.calls import called, setting, two_operands

MOST_TERMS = 12
DEEPEST = 8  # operations between the end of a form and its beginning
_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "neg", "pow", "square"}


def close(one, other, tolerance=1e-6):
    """Whether constants, numbers or tensors, are one but for their rounding."""
    one, other = (torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in (one, other))
    try:
        return torch.allclose(*torch.broadcast_tensors(one, other), rtol=tolerance, atol=0.0)
    except RuntimeError:  # shapes that do not broadcast
        return False


class TooLarge(Exception):
    """A polynomial of more terms than any known form has."""


class Arithmetic:
    """Polynomials over the nodes of a graph: {factors, a tuple of nodes by name: coefficient, float64}."""

    def __init__(self, constants, modules):
        self._constants, self._modules = constants, modules

    def is_arithmetic(self, node):
        return called(node, self._modules) in _ARITHMETIC

    def polynomial(self, value, *atoms, depth=DEEPEST):
        """What a node or number is in terms of `atoms` and of operations that are not arithmetic. Raises TooLarge."""
        if isinstance(value, fx.Node) and value in atoms:
            return {(value,): torch.ones((), dtype=torch.float64)}
        constant = self._constants(value)
        if constant is not None:
            return {(): constant}
        terms = self._expanded(value, atoms, depth) if depth else None
        if terms is None:
            return {(value,): torch.ones((), dtype=torch.float64)}
        if len(terms) > MOST_TERMS:
            raise TooLarge
        return {factors: coefficient for factors, coefficient in terms.items() if coefficient.any()}

    def _expanded(self, node, atoms, depth):
        name = called(node, self._modules)
        if name not in _ARITHMETIC:
            return None

        def inner(value):
            return self.polynomial(value, *atoms, depth=depth - 1)

        if name == "neg":
            return _scaled(inner(node.args[0]), -1.0)
        if name == "square":
            base = inner(node.args[0])
            return _product(base, base)
        alpha = node.kwargs.get("alpha", 1)
        kwargs = {key: value for key, value in node.kwargs.items() if key != "alpha"}
        operands = two_operands(node) if len(kwargs) == len(node.kwargs) else [*node.args, *kwargs.values()]
        if operands is None or len(operands) != 2 or not isinstance(alpha, (int, float)):
            return None
        one, other = operands
        if name == "pow":
            exponent = self._constants.number(other)
            if exponent not in (1.0, 2.0, 3.0):
                return None
            base = result = inner(one)
            for _ in range(int(exponent) - 1):
                result = _product(result, base)
            return result
        if name == "div":
            divisor = self._constants(other)
            if divisor is None or setting(node, self._modules, 2, "rounding_mode") is not None or not divisor.all():
                return None
            return _scaled(inner(one), 1.0 / divisor)
        if name == "mul":
            return _product(inner(one), inner(other))
        if name == "rsub":
            one, other = other, one
        return _sum(inner(one), _scaled(inner(other), alpha if name == "add" else -alpha))

    def gates(self, root):
        """The operations that are not arithmetic from which arithmetic makes `root`."""
        return [node for node in self._reached(root, 5) if not self.is_arithmetic(node)]

    def beginnings(self, gate):
        """Nodes that a form with this gate may be a function of."""
        return [node for source in gate.all_input_nodes for node in self._reached(source, 6)]

    def _reached(self, node, depth):
        found, waiting = {}, [(node, depth)]
        while waiting:
            node, left = waiting.pop(0)
            if node in found or self._constants(node) is not None:
                continue
            found[node] = None
            if left and self.is_arithmetic(node):
                waiting += [(source, left - 1) for source in node.all_input_nodes]
        return list(found)


def line(terms, node):
    """(slope, shift) of a polynomial slope * node + shift whose coefficients are numbers; None for any other."""
    if set(terms) - {(), (node,)} or (node,) not in terms or any(value.dim() for value in terms.values()):
        return None
    return terms[node,].item(), terms[()].item() if () in terms else 0.0


def _sum(one, other):
    total = dict(one)
    for factors, coefficient in other.items():
        total[factors] = total[factors] + coefficient if factors in total else coefficient
    return total


def _scaled(terms, factor):
    return {factors: coefficient * factor for factors, coefficient in terms.items()}


def _product(one, other):
    result = {}
    for left, a in one.items():
        for right, b in other.items():
            factors = tuple(sorted(left + right, key=lambda node: node.name))
            result = _sum(result, {factors: a * b})
            if len(result) > MOST_TERMS or len(factors) > 4:
                raise TooLarge
    return result


def is_one(value):
    return math.isclose(value, 1.0, rel_tol=1e-6)
