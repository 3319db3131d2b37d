"""Rewrites a traced network, without changing what it computes, into the form the other passes expect.

No in-place operations, no dropout, each activation a module of its own, max pooling behind the activation, and, where
asked, batch norm folded into the synapse before it.
"""

import copy
import itertools
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from pcsnn.graph import taxonomy
from pcsnn.graph.activations import rises_only, signed_activation
from pcsnn.graph.forms import known_forms, norms_before_pools
from pcsnn.graph.max_pools import is_max_pool, move_before
from pcsnn.graph.names import unused_name
from pcsnn.graph.nodes import finish, replace
from pcsnn.graph.places import activation, argument
from pcsnn.graph.written import ClippedReLU


def canonicalise(network, signed=False):
    """All rewriting passes but the folding of batch norm. Afterwards node.meta["activation"] marks activation places.

    signed: whether activations that go below zero are such places too.
    """
    _inputs_by_position(network)
    _drop_identities(network)
    _remove_in_place(network)
    _methods_to_functions(network)
    known_forms(network, signed)
    _separate_activations(network, signed)
    norms_before_pools(network)
    _pool_behind_activations(network)
    finish(network)


def _inputs_by_position(network):
    for node in network.graph.nodes:
        if not node.args and "input" in node.kwargs:
            others = dict(node.kwargs)
            node.args, node.kwargs = (others.pop("input"),), others


def _drop_identities(network):
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        dropped = node.op == "call_module" and isinstance(modules[node.target], taxonomy.DROPPED_MODULES)
        if node.op == "call_function" and node.target in taxonomy.DROPPED_FUNCTIONS:
            dropped = (
                not argument(node, 2, "train" if node.target is torch.dropout else "training", True)
                or argument(node, 1, "p", 0.5) == 0
            )
        dropped |= node.op == "call_method" and node.target == "requires_grad_"
        if dropped:
            replace(node, node.args[0])


def _out_of_place(node, modules):
    """Make an in-place call an ordinary one; whether it was in place."""
    if node.op == "call_function" and (form := _form(node.target)) is not None:
        node.target = form
        return True
    if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
        node.target = node.target[:-1]
        return True
    if node.op == "call_module":
        return bool(getattr(modules[node.target], "inplace", False))
    if node.op == "call_function" and node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    return False


def _form(function):
    """The out-of-place form of an in-place function, as torch.relu_, F.celu_, operator.ipow; None for any other."""
    name = taxonomy.name(function)
    if function in taxonomy.IN_PLACE_FUNCTIONS:
        return taxonomy.IN_PLACE_FUNCTIONS[function]
    if getattr(function, "__module__", None) == "_operator":
        return (
            getattr(operator, f"__{name[1:]}__", None)
            if name.startswith("i") and hasattr(operator, f"__{name}__")
            else None
        )
    if name.endswith("_") and not name.endswith("__"):
        return getattr(torch, name[:-1], None) or getattr(F, name[:-1], None)
    return None


def _assigns_part(node):
    return node.target in (operator.setitem, "__setitem__")


def _has_no_form(node):
    return node.op == "call_method" and not callable(getattr(torch.Tensor, node.target, None)) or _assigns_part(node)


def _is_view(node, modules):
    if node.op == "call_module":
        return isinstance(modules[node.target], taxonomy.VIEW_MODULES)
    return node.op in ("call_function", "call_method") and taxonomy.name(node.target) in taxonomy.VIEWS


def _is_size(node):
    """Whether a node is a number or a shape, which no operation changes in place."""
    if node.op == "call_method":
        return node.target in taxonomy.SIZE_METHODS
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in taxonomy.SHAPE_ATTRIBUTES
    computed = node.op == "call_function" and taxonomy.name(node.target) in dir(operator)
    return computed and all(map(_is_size, node.all_input_nodes))


def _origin(node, modules):
    """The node that made the memory which a node may share."""
    while _is_view(node, modules) and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _sharing(node, modules):
    """Pairs (other node that may share memory with `node`, its readers). The parts of a split share nothing."""
    chain = [node]
    while _is_view(chain[-1], modules) and chain[-1].args and isinstance(chain[-1].args[0], fx.Node):
        chain.append(chain[-1].args[0])
    part = {
        source: view.args[1]
        for view, source in itertools.pairwise(chain)
        if taxonomy.name(source.target) in taxonomy.SPLITS and view.target is operator.getitem
    }
    waiting = [chain[-1]]
    while waiting:
        alias = waiting.pop()
        readers = [
            user
            for user in alias.users
            if alias not in part or user.target is not operator.getitem or user.args[1] == part[alias]
        ]
        waiting += [reader for reader in readers if _is_view(reader, modules)]
        if alias is not node:
            yield alias, readers


def _remove_in_place(network):
    """Whoever reads a tensor after it was overwritten reads the result instead."""
    modules = dict(network.named_modules())
    position = {node: i for i, node in enumerate(network.graph.nodes)}
    overwriting = set()
    for node in network.graph.nodes:
        if node.kwargs.get("out") is not None:
            raise ValueError(f"model: {node.meta['location'] or node.name} writes to out=; use its result instead")
        if not _out_of_place(node, modules) and not _assigns_part(node):
            continue
        if node.op == "call_module":
            overwriting.add(node.target)
        target = node.args[0]
        if not isinstance(target, fx.Node) or _is_size(target):
            continue
        if _origin(target, modules).op == "get_attr":
            raise ValueError(
                f"model: {node.meta['location'] or node.name} changes a parameter or buffer in forward; compute a new "
                "tensor instead"
            )
        for alias, readers in _sharing(target, modules):
            if any(position[reader] > position[node] and not _is_size(reader) for reader in readers):
                raise ValueError(
                    f"model: {node.meta['location'] or node.name} overwrites memory that {alias.name} "
                    "shares and that is read later; use the out-of-place form there"
                )
        for user in list(target.users):
            if position[user] > position[node]:
                user.replace_input_with(target, node)
    for name in overwriting:
        modules[name].inplace = False
    network.graph.eliminate_dead_code(_is_kept)
    for node in network.graph.nodes:
        if _has_no_form(node):
            what = f"calls {node.target}_, which has no out-of-place form"
            if _assigns_part(node):
                what = "assigns to a part of a tensor"
            raise ValueError(
                f"model: {node.meta['location'] or node.name} {what}; write it with torch.where, torch.cat or "
                "masked_fill"
            )


def _is_kept(node):
    """Whether a node stays though nothing reads it: what in-place operations did has been given to their readers."""
    return node.op in ("placeholder", "output")


def _methods_to_functions(network):
    for node in network.graph.nodes:
        if node.op == "call_method" and node.target in taxonomy.FUNCTION_METHODS:
            node.op, node.target = "call_function", getattr(torch, node.target)


def _separate_activations(network, signed):
    """Each activation place becomes a module of its own, nn.ReLU, nn.Hardtanh(0, bound), QCFS or (signed) what it is,
    named where it stands."""
    modules = dict(network.named_modules())
    taken = set()
    for node in list(network.graph.nodes):
        module = activation(node, modules) or (signed_activation(node, modules) if signed else None)
        if module is None:
            continue
        if node.op == "call_module" and node.target not in taken:
            name = node.target
        else:
            name = unused_name(network, node.target if node.op == "call_module" else node.name)
        taken.add(name)
        network.add_submodule(name, copy.deepcopy(module))
        with network.graph.inserting_before(node):
            place = network.graph.call_module(name, (node.args[0],))
        place.meta = {**node.meta, "activation": True}
        replace(node, place)


def _pool_behind_activations(network):
    """conv - max pool - activation becomes conv - activation - max pool: equal where activations are monotone (12)."""
    modules = dict(network.named_modules())
    for place in list(network.graph.nodes):
        if not place.meta.get("activation") or not rises_only(network.get_submodule(place.target)):
            continue
        pool = place.args[0]
        while (
            is_max_pool(pool, modules)
            and len(pool.users) == 1
            and not pool.args[0].meta.get("activation")
            and not (
                pool.target is torch.amax and isinstance(network.get_submodule(place.target), (ClippedReLU, nn.PReLU))
            )
        ):
            pool = move_before(place, pool)
