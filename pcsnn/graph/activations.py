"""Activations that go below zero, found in a graph by their rows: where a neuron with spikes of two signs can stand."""

import copy
import inspect
import operator
import types

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

from pcsnn.graph.places import argument
from pcsnn.graph.written import KnownActivation
from pcsnn.levels.activations import RISES, row_of, rows
from pcsnn.levels.probe import CORE, currents
from pcsnn.tensors.host import on_host

SCALED = {"CELU", "SELU", "RReLU", "celu", "selu", "rrelu"}  # what graph/forms writes as another, scaled or shifted


def names():
    """What the modules and functions of all rows are called, and what is one of them scaled or shifted."""
    return {known.__name__ for row in rows() for known in (*row.modules, *row.functions)} | SCALED | {"prelu"}


def own_modules():
    """Module classes that users registered, which a graph calls as a whole."""
    return {kind for row in rows() if row.own for kind in row.modules}


def own_functions():
    """Functions in Python that users registered, which a graph calls as a whole."""
    return [known for row in rows() if row.own for known in row.functions if isinstance(known, types.FunctionType)]


def signed_activation(node, modules):
    """The activation at a node as a module of its own, if it has a signed form; else None."""
    return _found(node, modules)[0]


def mismatch(node, modules):
    """Why a call of what a user registered is no such activation, in words; None for any other node."""
    return _found(node, modules)[1]


def signed_kind(module):
    """(kind, slope) as `pcsnn.nn.SignedNeuron` takes them; None for any other module."""
    if isinstance(module, KnownActivation):
        return module.kind, module.parameter
    for row in rows():
        if type(module) in row.modules and all(
            getattr(module, name) == value for name, (value, _) in row.settings.items()
        ):
            attribute = row.modules[type(module)]
            return row.kind, None if attribute is None else _plain(getattr(module, attribute))
    return None


def rises_only(module):
    """Whether an activation never falls, so that a maximum may be taken before or behind it."""
    found = signed_kind(module)
    if found is None:
        return True
    kind, slope = found
    slopes = torch.as_tensor(1.0 if slope is None else slope, dtype=torch.float64, device="cpu").reshape(-1, 1)
    return bool((row_of(kind).turns(slopes) == RISES).all())


def _plain(parameter):
    """A number, or a tensor of several that no gradient follows."""
    if not isinstance(parameter, torch.Tensor):
        return parameter
    return parameter.detach() if parameter.numel() > 1 else parameter.item()


def _found(node, modules):
    """(module of the activation at a node or None, why a registered one is none or None)."""
    if node.op == "call_module":
        module = modules[node.target]
        found = signed_kind(module)
        return (
            _checked(found, module, lambda: copy.deepcopy(module).to("cpu", torch.float64)) if found else (None, None)
        )
    function = getattr(torch, node.target, None) if node.op == "call_method" else node.target
    if node.op not in ("call_function", "call_method") or function is None:
        return None, None
    for row in rows():
        if function in row.functions and all(
            argument(node, 1, name, default) == value for name, (value, default) in row.settings.items()
        ):
            return _called(row, function, node, modules)
    return None, None


def _called(row, function, node, modules):
    if not row.own:  # torch.nn has a module of the same arguments
        given = {name: value for name, (value, _) in row.settings.items()}
        if row.parameter is not None:
            given[row.parameter[0]] = argument(node, 1, *row.parameter)
        return next(iter(row.modules))(**given), None
    others = _constants((node.args[1:], dict(node.kwargs)), modules)
    if others is None:
        return (
            None,
            "takes what changes with the input beside its current; expected numbers, or a tensor [C] of the network",
        )
    args, kwargs = others
    parameter = None
    if row.parameter is not None:
        name, default = row.parameter
        position, default = _position(function, name, default)
        parameter = _plain(args[position - 1] if len(args) >= position else kwargs.get(name, default))
    args, kwargs = tree_map_only(torch.Tensor, _on_host, (args, kwargs))
    module = KnownActivation(row.kind, parameter)
    return _checked((row.kind, parameter), module, lambda: lambda z: function(z, *args, **kwargs))


def _on_host(value):
    return value.detach().to("cpu", torch.float64 if value.is_floating_point() else value.dtype)


def _position(function, name, default):
    """Where a function takes an argument, and its default there; the second place for one whose signature is not known."""
    try:
        known = inspect.signature(function).parameters
    except ValueError:
        return 1, default
    own = known[name].default
    return list(known).index(name), default if own is inspect.Parameter.empty else own


def _constants(value, modules):
    """Arguments of a call with the network's tensors in the place of their nodes; None where another node is among them."""
    if any(node.op != "get_attr" for node in _nodes(value)):
        return None
    return fx.map_arg(value, lambda node: operator.attrgetter(node.target)(modules[""]))


def _nodes(value):
    found = []
    fx.map_arg(value, found.append)
    return found


def _checked(found, module, made):
    """(module, None) where what `made` returns computes the formula of its kind; else (None, what it does in words)."""
    kind, parameter = found
    row = row_of(kind)
    why = _differs(row, parameter, made) if row.own else None  # torch's own compute theirs
    return (module, None) if why is None else (None, why)


@on_host
@torch.no_grad()
def _differs(row, parameter, made):
    if row.parameter is not None:
        if isinstance(parameter, bool) or not isinstance(parameter, (int, float, torch.Tensor)):
            return f"has the {row.parameter[0]} {parameter!r}; expected a number or a tensor [C]"
        if isinstance(parameter, torch.Tensor) and parameter.dim() != 1:
            return f"has a {row.parameter[0]} of shape {tuple(parameter.shape)}; expected a number or a tensor [C]"
    channels = len(parameter) if isinstance(parameter, torch.Tensor) else 1
    z = currents()
    z = z[z.abs() <= CORE][:, None].expand(-1, channels).contiguous()
    try:
        values = made()(z.clone())
        slope = parameter.double().cpu() if isinstance(parameter, torch.Tensor) else parameter
        expected = row(z, slope)
        row.turns(torch.as_tensor(1.0 if slope is None else slope, dtype=torch.float64).reshape(-1, 1))
    except Exception as error:
        return f"cannot be tried on float64 currents [N, {channels}] ({type(error).__name__}: {error})"
    if not isinstance(values, torch.Tensor) or values.shape != z.shape:
        return f"does not return a tensor of the shape of its current, {tuple(z.shape)}"
    off = ((values - expected).abs() > 1e-5 * (1 + expected.abs())).nonzero()
    if not len(off):
        return None
    row_, column = off[len(off) // 2].tolist()
    return (
        f"computes something else than its formula: at {z[row_, column].item():.6g} it gives "
        f"{values[row_, column].item():.6g}, the formula {expected[row_, column].item():.6g}; register a formula with this "
        "parameter, or another kind"
    )
