"""Weights that are computed at each call, by weight_norm, spectral_norm, prune, parametrizations, made plain."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_METHODS = (WeightNorm, SpectralNorm, BasePruningMethod)
_COMPANIONS = ("g", "v", "orig", "mask", "u")  # name_g, ..., tensors that such a hook computes a weight from


def makes_weights(hook):
    """Whether a forward pre-hook is one of torch's that compute a weight."""
    return isinstance(hook, _METHODS)


def _make_plain(module, name, value):
    """Let a module have a tensor as an ordinary parameter, whatever has stood there."""
    module.__dict__.pop(name, None)
    module._buffers.pop(name, None)
    module.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))


def _from_hooks(module):
    for key, hook in list(module._forward_pre_hooks.items()):
        if not makes_weights(hook):
            continue
        name = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
        hook(module, ())  # the weight of a state dict that was just loaded is not there yet
        value = getattr(module, name)
        del module._forward_pre_hooks[key]
        for companion in _COMPANIONS:
            for holder in (module._parameters, module._buffers):
                holder.pop(f"{name}_{companion}", None)
        if isinstance(hook, SpectralNorm):
            module._buffers.pop(f"{name}_v", None)
            for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
                hooks.clear()
        _make_plain(module, name, value)


def _from_parametrizations(module):
    values = {name: getattr(module, name) for name in module.parametrizations}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]  # the class that torch made shares its properties with the original's
    for name, value in values.items():
        _make_plain(module, name, value)


@torch.no_grad()
def materialise(modules):
    """Give every module in evaluation mode the weights that it computes with, as parameters of its own. In place.

    Parameters that several modules share become one each: what is folded into one does not reach the other.

    Raises:
        ValueError: a weight cannot be computed.
    """
    seen = set()
    for module in modules:
        if isinstance(module, parametrize.ParametrizationList):
            continue
        try:
            if parametrize.is_parametrized(module):
                _from_parametrizations(module)
            _from_hooks(module)
        except Exception as error:
            raise ValueError(
                f"model: the weights of {type(module).__name__} cannot be computed ({type(error).__name__}: {error}); "
                "make them plain parameters first (torch.nn.utils.parametrize.remove_parametrizations, "
                "remove_weight_norm, prune.remove)"
            ) from error
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in seen:
                module._parameters[name] = copy.deepcopy(parameter)
            seen.add(id(parameter))
