"""Clipping in other words: minima, maxima, masks and differences of ReLUs with constant bounds."""

import math
from dataclasses import dataclass

import torch
from torch import fx, nn

from pcsnn.graph.forms.arithmetic import TooLarge, close
from pcsnn.graph.forms.calls import called, chosen, setting, two_operands, without_casts
from pcsnn.graph.written import ClippedReLU

_OPEN = torch.tensor(math.inf, dtype=torch.float64)
_ZERO = torch.zeros((), dtype=torch.float64)
_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}


def _equal(one, other):
    return one.dim() == 0 and other.dim() == 0 and bool(one == other) or torch.equal(one, other)


@dataclass
class Clip:
    """clip(source, low, high), bounds float64, [] or shapes that broadcast."""

    source: fx.Node
    low: torch.Tensor = -_OPEN
    high: torch.Tensor = _OPEN

    def behind(self, inner):
        """This clip of what `inner` clips, as one."""

        def within(value):
            return torch.minimum(torch.maximum(value, self.low), self.high)

        return Clip(inner.source, within(inner.low), within(inner.high))

    def module(self):
        """nn.ReLU, nn.Hardtanh(0, bound) or ClippedReLU where it clips at zero from below; else None."""
        if self.low.any() or not (self.high > 0).all():
            return None
        if (self.high == math.inf).all():
            return nn.ReLU()
        return nn.Hardtanh(0.0, self.high.item()) if self.high.dim() == 0 else ClippedReLU(self.high)


class Clips:
    """Finds clips in a graph."""

    def __init__(self, constants, arithmetic, modules):
        self._constants, self._arithmetic, self._modules = constants, arithmetic, modules

    def __call__(self, node):
        """The Clip that a node and the clips before it are together; None for any other node."""
        clip = self._one(node)
        while clip is not None:
            inner = self._one(clip.source)
            if inner is None:
                return clip
            clip = clip.behind(inner)
        return None

    def _one(self, node):
        name = called(node, self._modules)
        if not name:
            return None
        find = {
            "where": self._where,
            "mul": self._masked,
            "masked_fill": self._filled,
            "sub": self._difference,
            "add": self._moved,
            "rsub": self._moved,
            "maximum": self._extreme,
            "minimum": self._extreme,
            "max": self._extreme,
            "min": self._extreme,
            "div": self._absolutes,
        }.get(name, self._named)
        clip = find(node, name)
        return clip if clip is not None and isinstance(clip.source, fx.Node) else None

    def _bound(self, value, otherwise):
        """A constant bound; `otherwise` for None, None for what is no constant or NaN."""
        if value is None:
            return otherwise
        found = self._constants(value)
        return None if found is None or found.isnan().any() else found

    def _named(self, node, name):
        source = node.args[0] if node.args else None

        def given(position, name, default=None):
            return setting(node, self._modules, position, name, default)

        if name == "threshold":
            limit, value = (
                self._constants.number(given(place, which)) for place, which in ((1, "threshold"), (2, "value"))
            )
            return Clip(source, _ZERO) if limit == 0 and value == 0 else None
        low, high = {
            "relu": lambda: (0, None),
            "relu6": lambda: (0, 6),
            "hardtanh": lambda: (given(1, "min_val", -1.0), given(2, "max_val", 1.0)),
            "clamp": lambda: (given(1, "min"), given(2, "max")),
            "clamp_min": lambda: (given(1, "min"), None),
            "clamp_max": lambda: (None, given(1, "max")),
        }.get(name, lambda: (None, None))()
        if low is None and high is None:
            return None
        low, high = self._bound(low, -_OPEN), self._bound(high, _OPEN)
        return None if low is None or high is None or (low > high).any() else Clip(source, low, high)

    def _extreme(self, node, name):
        operands = two_operands(node)
        if operands is None or not isinstance(operands[1], fx.Node) or not isinstance(operands[0], fx.Node):
            return None
        for source, other in (operands, operands[::-1]):
            limit = self._bound(other, None)
            if limit is not None:
                return Clip(source, low=limit) if name in ("maximum", "max") else Clip(source, high=limit)
        return None

    def _comparison(self, node):
        """(source, whether it must be above, limit) of a comparison with a constant; None for any other node."""
        name = called(node, self._modules)
        operands = two_operands(node) if name in _MIRRORED else None
        if operands is None:
            return None
        source, limit = operands
        if self._constants(source) is not None:
            source, limit, name = limit, source, _MIRRORED[name]
        limit = self._bound(limit, None)
        return None if limit is None else (source, name in ("gt", "ge"), limit)

    def _chosen(self, mask, kept, limit, elsewhere=False):
        """The clip of a value that is `kept` where a mask is set (elsewhere: where it is not), and `limit`
        otherwise."""
        found, limit = self._comparison(mask), self._bound(limit, None)
        if found is None or limit is None or found[0] is not kept or not _equal(found[2], limit):
            return None
        return Clip(kept, low=limit) if found[1] != elsewhere else Clip(kept, high=limit)

    def _where(self, node, name):
        parts = chosen(node)
        if parts is None:
            return None
        mask, one, other = parts
        return self._chosen(mask, one, other) or self._chosen(mask, other, one, elsewhere=True)

    def _masked(self, node, name):
        """z * (z > 0); else as an expression of absolute values."""
        operands = two_operands(node)
        if operands is None:
            return None
        for kept, mask in (operands, operands[::-1]):
            found = self._comparison(without_casts(mask))
            if found is not None and found[0] is kept and found[1] and not found[2].any():
                return Clip(kept, low=_ZERO)
        return self._absolutes(node, name)

    def _filled(self, node, name):
        if len(node.args) != 3:
            return None
        return self._chosen(node.args[1], node.args[0], node.args[2], elsewhere=True)

    def _shifted(self, node):
        """(sign, source, shift) of sign * source + shift, one operation; None for any other node."""
        name, operands = called(node, self._modules), two_operands(node)
        if name not in ("add", "sub", "rsub") or operands is None:
            return None
        one, other = operands if name != "rsub" else operands[::-1]
        for place, (source, constant) in enumerate(((one, other), (other, one))):
            shift = self._constants(constant)
            if shift is not None and isinstance(source, fx.Node):
                if name == "add":
                    return 1, source, shift
                return (1, source, -shift) if place == 0 else (-1, source, shift)
        return None

    def _moved(self, node, name):
        """A clip between two shifts that cancel; else as `_absolutes` finds it."""
        return self._between_shifts(node) or self._absolutes(node, name)

    def _between_shifts(self, node):
        """bound - relu(bound - z) and the like."""
        outer = self._shifted(node)
        clip = None if outer is None else self(outer[1])
        inner = None if clip is None else self._shifted(clip.source)
        if inner is None or inner[0] != outer[0]:
            return None
        sign, source, shift = inner
        if sign > 0 and close(shift, -outer[2]):
            return Clip(source, clip.low - shift, clip.high - shift)
        if sign < 0 and close(shift, outer[2]):
            return Clip(source, shift - clip.high, shift - clip.low)
        return None

    def _difference(self, node, name):
        """relu(z) - relu(z - bound); else as `_moved` and `_absolutes` find it."""
        operands = two_operands(node)
        first, second = (self(operand) for operand in operands) if operands else (None, None)
        if first is None or second is None:
            return self._moved(node, name)
        inner = self._shifted(second.source)
        if (
            inner is None
            or inner[0] < 0
            or inner[1] is not first.source
            or first.low.any()
            or second.low.any()
            or not (torch.stack([first.high.max(), second.high.max()]) == math.inf).all()
        ):
            return None
        return Clip(first.source, _ZERO, -inner[2])

    def _absolutes(self, node, name):
        """(|z| - |z - bound| + bound) / 2, however it is arranged."""
        for gate in self._arithmetic.gates(node):
            if called(gate, self._modules) != "abs":
                continue
            for source in self._arithmetic.beginnings(gate):
                bound = self._pact(node, source)
                if bound is not None:
                    return Clip(source, _ZERO, bound)
        return None

    def _pact(self, node, source):
        try:
            terms = self._arithmetic.polynomial(node, source)
        except TooLarge:
            return None
        shift = terms.pop((), None)
        gates = [
            (factors[0], coefficient)
            for factors, coefficient in terms.items()
            if len(factors) == 1 and called(factors[0], self._modules) == "abs"
        ]
        if shift is None or len(terms) != 2 or len(gates) != 2:
            return None
        bound = 2 * shift
        for (plain, plus), (moved, minus) in (gates, gates[::-1]):
            if not close(plus, 0.5) or not close(minus, -0.5) or plain.args[0] is not source:
                continue
            inner = self._arithmetic.polynomial(moved.args[0], source)
            slope = inner.pop((source,), None)
            start = inner.pop((), None)
            if (
                not inner
                and slope is not None
                and start is not None
                and close(slope.abs(), 1.0)
                and close(start * slope, -bound)
            ):
                return bound
        return None
