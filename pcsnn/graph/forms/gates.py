"""Activations that go below zero, written out: products with a sigmoid, an error function or a hyperbolic tangent, and
others that are a known one scaled or shifted."""

import math
from dataclasses import dataclass

from torch import fx, nn

from pcsnn.graph.forms.arithmetic import TooLarge, close, is_one, line
from pcsnn.graph.forms.calls import called, chosen, setting, two_operands

_TANH = math.sqrt(2 / math.pi)
_CUBE = 0.044715
_SELU = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717  # its scale and alpha
_GATES = {"sigmoid", "tanh", "erf", "hardsigmoid", "relu6", "clamp", "hardtanh", "div"}


@dataclass
class Form:
    """out_scale * module(in_scale * source + in_shift) + out_shift, and what people call it."""

    source: fx.Node
    module: nn.Module
    name: str
    in_scale: float = 1.0
    in_shift: float = 0.0
    out_scale: float = 1.0
    out_shift: float = 0.0


class Gates:
    """Finds such activations in a graph."""

    def __init__(self, constants, arithmetic, clips, modules):
        self._constants, self._arithmetic, self._clips, self._modules = constants, arithmetic, clips, modules

    def __call__(self, node):
        """The Form that ends at a node; None for any other node."""
        name = called(node, self._modules)
        if name in ("mul", "div"):
            return self._gated(node)
        found = {
            "where": self._leaky,
            "maximum": self._leaky,
            "max": self._leaky,
            "prelu": self._prelu,
            "celu": self._celu,
            "selu": self._selu,
            "rrelu": self._rrelu,
        }.get(name)
        form = found and found(node) or self._shifted_clip(node, name)
        return form if form is not None and isinstance(form.source, fx.Node) else None

    def _gated(self, root):
        for gate in self._arithmetic.gates(root):
            kind = called(gate, self._modules)
            if kind not in _GATES:
                continue
            for source in self._arithmetic.beginnings(gate):
                for inner in (source, *(source.args[:1] if called(source, self._modules) == "softplus" else ())):
                    try:
                        form = self._form(root, inner, gate, kind)
                    except TooLarge:
                        continue
                    if form is not None:
                        return form
        return None

    def _form(self, root, source, gate, kind):
        """The Form of a polynomial in `source` and one gate of it."""
        terms = self._arithmetic.polynomial(root, source)
        if any(value.dim() for value in terms.values()):
            return None
        terms = {factors: value.item() for factors, value in terms.items()}
        product = tuple(sorted((source, gate), key=lambda node: node.name))
        weight = terms.get(product)
        if not weight:
            return None
        if set(terms) == {product}:
            return self._product(source, gate, kind, weight)
        if set(terms) == {product, (source,)} and close(terms[source,], weight):
            return self._gelu(source, gate, kind, weight)
        return None

    def _product(self, source, gate, kind, weight):
        """weight * source * gate."""
        if kind == "tanh" and called(gate.args[0], self._modules) == "softplus":
            soft = gate.args[0]
            usual = (
                setting(soft, self._modules, 1, "beta", 1) == 1
                and setting(soft, self._modules, 2, "threshold", 20) == 20
            )
            return Form(source, nn.Mish(), "Mish", out_scale=weight) if usual and soft.args[0] is source else None
        if kind in ("sigmoid", "hardsigmoid"):
            inner = line(self._arithmetic.polynomial(gate.args[0], source), source)
            if inner is None or inner[1] or not inner[0]:
                return None
            known, name = (nn.SiLU(), "SiLU") if kind == "sigmoid" else (nn.Hardswish(), "Hardswish")
            return _stretched(source, known, name, inner[0], weight)
        clip = self._clips(gate)
        if clip is None or clip.low.any() or clip.high.dim() or clip.high == math.inf:
            return None
        high = clip.high.item()
        inner = line(self._arithmetic.polynomial(clip.source, source), source)
        if inner is None or not close(inner[1], high / 2):
            return None
        return _stretched(source, nn.Hardswish(), "Hardswish", inner[0] * 6 / high, weight * high)

    def _gelu(self, source, gate, kind, weight):
        """weight * source * (1 + gate)."""
        inner = self._arithmetic.polynomial(gate.args[0], source)
        if any(value.dim() for value in inner.values()):
            return None
        slope = inner.pop((source,), None)
        if slope is None:
            return None
        slope = slope.item()
        if kind == "erf" and not inner:
            return _stretched(source, nn.GELU(), "GELU", slope * math.sqrt(2), 2 * weight)
        cube = inner.pop((source,) * 3, None)
        if kind != "tanh" or inner or cube is None:
            return None
        stretch = slope / _TANH
        if not close(cube.item(), _TANH * _CUBE * stretch**3, 1e-5):
            return None
        return _stretched(source, nn.GELU("tanh"), "GELU by tanh", stretch, 2 * weight)

    def _leaky(self, node):
        """where(z > 0, z, slope * z) and maximum(z, slope * z)."""
        if called(node, self._modules) == "where":
            return self._leaky_choice(*(chosen(node) or (None, None, None)))
        operands = two_operands(node)
        for source, other in (operands, operands[::-1]) if operands else ():
            slope = self._slope(other, source)
            if slope is not None and 0 < slope < 1:
                return Form(source, nn.LeakyReLU(slope), "LeakyReLU")
        return None

    def _leaky_choice(self, mask, one, other):
        name = called(mask, self._modules)
        compared = two_operands(mask) if name in ("gt", "ge", "lt", "le") else None
        if compared is None or self._constants.number(compared[1]) != 0:
            return None
        steep, shallow = (one, other) if name in ("gt", "ge") else (other, one)
        steep, shallow = self._slope(steep, compared[0]), self._slope(shallow, compared[0])
        return None if steep != 1.0 or shallow is None else Form(compared[0], nn.LeakyReLU(shallow), "LeakyReLU")

    def _slope(self, node, source):
        """The factor by which a node is `source`; None where it is something else."""
        if not isinstance(source, fx.Node) or not isinstance(node, fx.Node):
            return None
        try:
            found = line(self._arithmetic.polynomial(node, source), source)
        except TooLarge:
            return None
        return None if found is None or found[1] else found[0]

    def _prelu(self, node):
        weight = self._constants(setting(node, self._modules, 1, "weight"))
        if node.op == "call_module" or weight is None or weight.dim() > 1:
            return None
        module = nn.PReLU(weight.numel())
        module.weight.data = weight.reshape(-1).float()
        return Form(node.args[0], module, "PReLU")

    def _celu(self, node):
        alpha = self._constants.number(setting(node, self._modules, 1, "alpha", 1.0))
        return None if not alpha else _stretched(node.args[0], nn.ELU(), "CELU", 1 / alpha, 1.0)

    def _selu(self, node):
        scale, alpha = _SELU
        return Form(node.args[0], nn.ELU(alpha), "SELU", out_scale=scale)

    def _rrelu(self, node):
        training = False if node.op == "call_module" else setting(node, self._modules, 3, "training", False)
        ends = setting(node, self._modules, 1, "lower", 1 / 8), setting(node, self._modules, 2, "upper", 1 / 3)
        return None if training is not False else Form(node.args[0], nn.LeakyReLU(sum(ends) / 2), "RReLU")

    def _shifted_clip(self, node, name):
        """clip(z, low, high) with a low below zero: a clipped ReLU between two shifts."""
        if name not in ("hardtanh", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "max", "min"):
            return None
        clip = self._clips(node)
        if clip is None or clip.low.dim() or clip.high.dim():
            return None
        if not -math.inf < clip.low < 0 or not clip.low < clip.high < math.inf:
            return None
        low, high = clip.low.item(), clip.high.item()
        return Form(clip.source, nn.Hardtanh(0.0, high - low), "Hardtanh", in_shift=-low, out_shift=low)


def _stretched(source, module, name, stretch, weight):
    """weight * module(stretch * source) / stretch."""
    if is_one(stretch):
        stretch = 1.0
    scale = weight / stretch
    return Form(source, module, name, in_scale=stretch, out_scale=1.0 if is_one(scale) else scale)
