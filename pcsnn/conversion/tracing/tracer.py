"""Tracing by torch.fx that keeps what fx forgets: settings of a layer at each call, layers made in forward."""

import copy
import functools
import math
import os
import pathlib
import sys
import threading
from contextlib import contextmanager

import torch
from torch import fx, nn

from pcsnn.conversion.tracing import einops_patterns
from pcsnn.conversion.tracing.copies import copied, modules_of
from pcsnn.conversion.tracing.effective_weights import materialise
from pcsnn.conversion.tracing.hooks import with_hooks
from pcsnn.conversion.tracing.in_place_proxy import InPlaceProxy
from pcsnn.conversion.tracing.one_step import one_step
from pcsnn.conversion.tracing.plain_classes import is_plain, layer_class
from pcsnn.graph.activations import own_functions
from pcsnn.graph.names import unused_name

HOME = pathlib.Path(__file__).parents[2]
_CONVERTER = ("calibration", "conversion", "data", "graph", "network", "storage")
NOT_SOURCE = tuple(
    f"{folder}{os.sep}" for folder in (pathlib.Path(torch.__file__).parent, *(HOME / room for room in _CONVERTER))
)
_LOCK = threading.RLock()  # torch.fx patches classes while it traces
_SETTING = (bool, int, float, str, type(None), tuple, list)


def location():
    """file:line of the innermost frame that is neither torch's nor the converter's: the network's or the caller's."""
    frame = sys._getframe()
    while frame and frame.f_code.co_filename.startswith(NOT_SOURCE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def _inside(functions):
    """The name of that one of some functions which is running; None for none."""
    names = {function.__code__: function.__name__ for function in functions}
    frame = sys._getframe() if names else None
    while frame:
        if frame.f_code in names:
            return names[frame.f_code]
        frame = frame.f_back
    return None


def prepared(module, memo=None):
    """A copy to trace, without computed weights and gradients; `memo` as in `copied`."""
    copy_ = copied(module, memo)
    prepare(copy_)
    return copy_


def prepare(module):
    """The same for a copy, in place."""
    parts = modules_of(module)
    materialise(parts)
    for part in parts:
        for parameter in part.parameters():
            parameter.requires_grad_(False)


class Tracer(fx.Tracer):
    """`copies`: {id of an original: its copy}, for forwards that still hold the original."""

    def __init__(self, copies):
        self.einops = einops_patterns.functions()
        super().__init__(autowrap_modules=(math, *einops_patterns.modules()), autowrap_functions=self.einops)
        self.copies = copies
        self.own = own_functions()
        self.listed = set()  # layers in plain lists, which torch does not know of
        self.twins, self.rewritten = {}, []

    def trace(self, root, concrete_args=None):
        parts = modules_of(root)
        self.listed = set(parts) - set(root.modules())
        with _LOCK, one_step(self.own, parts):
            self.thread = threading.get_ident()
            graph = super().trace(root, concrete_args)
        self._settle(graph)
        for (
            node
        ) in self.rewritten:  # fx takes them for a function that it wrapped, and would wrap torch's own from then on
            node.meta.pop("is_wrapped", None)
        return graph

    def is_leaf_module(self, module, qualified_name):
        return einops_patterns.is_layer(module) or not isinstance(module, nn.Sequential) and is_plain(module)

    def create_node(self, *arguments, **named):
        node = super().create_node(*arguments, **named)
        node.meta["location"] = location()
        inside = _inside(self.own)
        if inside:
            node.meta["advice"] = (
                f"{node.name} is within {inside}, a registered activation that was reached in a way that cannot be kept as "
                "one step; call it by a name that forward looks up, or as an attribute of a layer"
            )
        return node

    def proxy(self, node):
        return InPlaceProxy(node, self)

    def create_proxy(self, kind, target, args, kwargs, *others, **named):
        if kind == "placeholder" and args and (args[0] is None or isinstance(args[0], (bool, str))):
            return args[0]  # an option of forward: it may steer control flow, and keeps its default
        if kind == "call_function" and target in self.einops:
            result = einops_patterns.call(target, *args, **kwargs)
            self.rewritten.append(result.node)
            return result
        return super().create_proxy(kind, target, args, kwargs, *others, **named)

    def create_arg(self, value):
        if isinstance(value, torch.Tensor):
            value = self.copies.get(id(value), value)
        return super().create_arg(value)

    def path_of_module(self, module):
        module = self.copies.get(id(module), module)
        if module not in self.submodule_paths:
            self._install(module)
        return self.submodule_paths[module]

    def _install(self, module):
        """A layer that forward calls and no attribute of the network names."""
        kind = type(module).__name__
        if module not in self.listed and (
            any(True for _ in module.parameters()) or any(True for _ in module.buffers())
        ):
            raise ValueError(
                f"calls a {kind} that is not part of the network: made inside forward its weights would be others in "
                "every call; make it in __init__ and keep it as an attribute, several in nn.ModuleList"
            )
        if module not in self.listed and isinstance(module, nn.modules.dropout._DropoutNd) and module.training:
            raise ValueError(
                f"makes a {kind} inside forward, which drops values in evaluation mode too; make it in __init__ and "
                "keep it as an attribute"
            )
        own = module if module in self.listed else prepared(module)
        name = unused_name(self.root, kind.lower())
        self.root.add_module(name, own)
        for (_, outer), (path, part) in zip(module.named_modules(), own.named_modules()):
            self.submodule_paths[outer] = self.submodule_paths[part] = f"{name}.{path}" if path else name

    def call_module(self, module, forward, args, kwargs):
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)  # torch.fx sees the calls of all threads; theirs go on as they were
        own = self.copies.get(id(module), module)
        path = self.path_of_module(own)
        if einops_patterns.is_layer(own):
            return einops_patterns.call_layer(own, *args)
        if not self.is_leaf_module(own, path):
            if layer_class(own) is None or isinstance(own, nn.Sequential):
                return super().call_module(own, forward, args, kwargs)
            with self._own_forward(own, module, path):
                return super().call_module(own, forward, args, kwargs)
        own = self.root.get_submodule(path)

        def call(*args, **kwargs):
            settings = _settings(own, path)
            result = super(Tracer, self).call_module(own, forward, args, kwargs)
            result.node.meta["settings"] = settings
            return result

        return with_hooks(own, call)(*args, **kwargs)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        if not (self.root._forward_hooks or self.root._forward_pre_hooks):
            return function, args
        return lambda root, *inputs: with_hooks(root, functools.partial(function, root))(*inputs), args

    @contextmanager
    def _own_forward(self, own, module, path):
        """While a forward that replaces a layer's runs, the layer's own, where that calls it, is the plain layer."""
        base, tracer = layer_class(own), self
        original = base.forward
        inherited = "forward" not in vars(base)

        def forward(self, *args, **kwargs):
            if self is own or self is module:
                return tracer._call_twin(own, base, path, args, kwargs)
            return original(self, *args, **kwargs)

        base.forward = forward
        try:
            yield
        finally:
            if inherited:
                del base.forward
            else:
                base.forward = original

    def _call_twin(self, own, base, path, args, kwargs):
        if own not in self.twins:
            twin = copy.copy(own)
            for holder in ("_parameters", "_buffers", "_modules"):
                twin.__dict__[holder] = dict(vars(own)[holder])
            twin.__dict__.pop("forward", None)
            twin.__class__ = base
            twin = copy.deepcopy(twin)
            name = unused_name(self.root, f"{path}.plain" if path else "plain")
            own.add_module(name.rpartition(".")[2], twin)
            self.twins[own] = self.submodule_paths[twin] = name
        return self.create_proxy("call_module", self.twins[own], args, kwargs)

    def _settle(self, graph):
        """A layer whose attributes changed between its calls becomes one layer for each setting."""
        known = {}
        for node in graph.nodes:
            settings = node.meta.pop("settings", None)
            if settings is None:
                continue
            layer = self.root.get_submodule(node.target)
            variants = known.setdefault(node.target, [])
            name = next((name for name, other in variants if other == settings), None)
            if name is None:
                name = unused_name(self.root, node.target) if variants else node.target
                if variants:
                    self.root.set_submodule(name, copy.deepcopy(layer))
                vars(self.root.get_submodule(name)).update(settings)
                variants.append((name, settings))
            node.target = name


def _settings(module, name):
    """The attributes of a layer that are numbers, texts and tuples of them."""
    settings = {}
    for key, value in vars(module).items():
        if not key.startswith("_") and key != "training" and isinstance(value, (*_SETTING, fx.Proxy)):
            parts = value if isinstance(value, (tuple, list)) else (value,)
            if any(isinstance(part, fx.Proxy) for part in parts):
                raise ValueError(f"sets {key} of {name} to a value that depends on the input; expected numbers")
            settings[key] = copy.deepcopy(value)
    return settings
