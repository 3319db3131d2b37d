"""Modules as the name of a class and its arguments, beside their tensors; and back, without any memory but that of the
tensors."""

import contextlib
import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pcsnn.storage.classes import CLASS_NAMES, CLASSES, is_flag, is_size
from pcsnn.storage.values import decode, encode
from pcsnn.tensors.checks import CURRENT_DTYPES, full_count

# thresholds of all neurons times T D: what a file's neurons may take in memory, or its own size where that is more
MOST_LEVELS = 2**26
_IGNORED = {"inplace"}  # of activations in old files: a loaded network writes over nothing that others may read
_SPIKE_LEVELS = "spike_levels"  # 1 is not written: files of binary spikes are those of earlier versions
_FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
_ENCODER = "nn.TransformerEncoder"


# Saving


def plain(module):
    """The module, or where its weights are computed from others a copy that holds them: what a file can carry."""
    if any(part._forward_hooks or part._backward_hooks for part in module.modules()):
        raise ValueError(f"snn: cannot save {type(module).__name__} with hooks; remove them (handle.remove())")
    if parametrize.is_parametrized(module):
        module = _without_parametrizations(module)
    for hook in module._forward_pre_hooks.values():
        module = _without_hook(copy.deepcopy(module), type(hook))
    if any(
        part._forward_pre_hooks or "forward" in vars(part) or parametrize.is_parametrized(part)
        for part in module.modules()
    ):
        raise ValueError(
            f"snn: cannot save {type(module).__name__} with hooks or a forward of its own inside; remove them"
        )
    return module


def _without_parametrizations(module):
    """Of the class before them, to be read but not run. (torch's own removal changes a class that copies share.)"""
    found = object.__new__(parametrize.type_before_parametrizations(module))
    found.__dict__.update(
        module.__dict__, **{name: dict(getattr(module, name)) for name in ("_parameters", "_buffers", "_modules")}
    )
    del found._modules["parametrizations"]
    for name in module.parametrizations:
        found.register_parameter(name, nn.Parameter(getattr(module, name).detach(), requires_grad=False))
    return found


def _without_hook(module, kind):
    """With the weight that a hook of torch.nn.utils computes at every call."""
    if not issubclass(kind, (WeightNorm, SpectralNorm, BasePruningMethod)):
        raise ValueError(f"snn: cannot save {type(module).__name__} with hooks; remove them (handle.remove())")
    for key, hook in list(module._forward_pre_hooks.items()):
        if type(hook) is kind:
            del module._forward_pre_hooks[key]
            hook.remove(module)
    return module


def module_entry(module):
    """Class and arguments of a plain module; ValueError where they would not make a module with the same tensors."""
    name = _class_name(module)
    arguments = _encoder_arguments(module) if name == _ENCODER else _arguments(module, name)
    try:
        _check(name, arguments)
        twin = None if hasattr(module, "TENSORS") else _twin(name, arguments)
    except Exception as error:
        reason = str(error).removeprefix("path: ")
        raise ValueError(f"snn: cannot save {type(module).__name__}: {reason}") from error
    if twin is not None and _shapes(module) != _shapes(twin):
        raise ValueError(f"snn: cannot save {type(module).__name__}: it does not keep its constructor's arguments")
    written = {key: value for key, value in arguments.items() if not (key.endswith(_SPIKE_LEVELS) and value == 1)}
    return {"class": name, "arguments": {key: encode(value) for key, value in written.items()}}


def _class_name(module):
    kind = type(module)
    if kind is nn.TransformerEncoder:
        return _ENCODER
    if kind not in CLASS_NAMES:
        raise ValueError(
            f"snn: cannot save a module of class {kind.__name__}: only those of torch.nn and pcsnn.nn "
            "that are on a list, see docs/files.md; classes of one's own are unknown to whoever loads the file"
        )
    return CLASS_NAMES[kind]


def _shapes(module):
    return {key: value.shape for key, value in module.state_dict().items()}


_GETTERS = {
    nn.PairwiseDistance: dict(p=lambda module: module.norm),
    nn.MultiheadAttention: dict(
        bias=lambda module: module.in_proj_bias is not None, add_bias_kv=lambda module: module.bias_k is not None
    ),
    nn.TransformerEncoderLayer: dict(
        d_model=lambda module: module.self_attn.embed_dim,
        nhead=lambda module: module.self_attn.num_heads,
        dim_feedforward=lambda module: module.linear1.out_features,
        dropout=lambda module: module.dropout.p,
        activation=lambda module: _activation(module.activation),
        layer_norm_eps=lambda module: module.norm1.eps,
        batch_first=lambda module: module.self_attn.batch_first,
        bias=lambda module: module.linear1.bias is not None,
    ),
}


def _activation(function):
    if function is F.relu or type(function) is nn.ReLU:
        return "relu"
    if function is F.gelu or type(function) is nn.GELU and function.approximate == "none":
        return "gelu"
    raise ValueError(f"its activation is {function}, expected relu or gelu")


def _arguments(module, name):
    """{argument: value}, less tensors: the module's own account, or its attributes of the same names."""
    kind, checks = CLASSES[name]
    if hasattr(module, "configuration"):
        return module.configuration()
    getters = _GETTERS.get(kind, {})
    arguments = {}
    for key in checks:
        if key in getters:
            arguments[key] = getters[key](module)
        elif key == "bias" and not isinstance(getattr(module, key), bool):
            arguments[key] = getattr(module, key) is not None
        elif hasattr(module, key):
            arguments[key] = getattr(module, key)
    return arguments


def _encoder_arguments(module):
    layers = [_arguments(layer, _class_name(layer)) for layer in module.layers]
    if any(layer != layers[0] for layer in layers):
        raise ValueError("snn: cannot save TransformerEncoder: its layers differ")
    norm = None if module.norm is None else _arguments(module.norm, _class_name(module.norm))
    return dict(
        encoder_layer=layers[0],
        num_layers=len(layers),
        norm=norm,
        enable_nested_tensor=module.enable_nested_tensor,
        mask_check=module.mask_check,
    )


# Loading


def _check(name, arguments):
    """ValueError for arguments that a file may not give to a module of that class."""
    if name == _ENCODER:
        if arguments.keys() != {"encoder_layer", "num_layers", "norm", "enable_nested_tensor", "mask_check"}:
            raise ValueError(f"path: has a {name} with other arguments than it takes: {', '.join(map(str, arguments))}")
        _check("nn.TransformerEncoderLayer", arguments["encoder_layer"])
        if arguments["norm"] is not None:
            _check("nn.LayerNorm", arguments["norm"])
        checks = dict(
            encoder_layer=None, norm=None, num_layers=is_size, enable_nested_tensor=is_flag, mask_check=is_flag
        )
    else:
        checks = CLASSES[name][1]
    for key, value in arguments.items():
        if key not in checks:
            raise ValueError(f"path: has a {name} with the argument {key!r}, which is not allowed in a network file")
        if checks[key] is not None and not checks[key](value):
            raise ValueError(f"path: has a {name} with {key} = {value!r}, which is not allowed in a network file")


def _twin(name, arguments):
    """A module of shapes without memory; those of pcsnn.nn are small."""
    with contextlib.nullcontext() if name.startswith("pcsnn.") else torch.device("meta"):
        if name == _ENCODER:
            layer = nn.TransformerEncoderLayer(**arguments["encoder_layer"])
            norm = None if arguments["norm"] is None else nn.LayerNorm(**arguments["norm"])
            module = nn.TransformerEncoder(**{**arguments, "encoder_layer": layer, "norm": norm})
        else:
            module = CLASSES[name][0](**arguments)
    return module.eval().requires_grad_(False)


def build(entry, tensors):
    """The module of an entry of a file, with these tensors, which are taken over as they are.

    Raises:
        ValueError: class or arguments are not on the list, or do not fit the tensors.
    """
    name = entry["class"]
    if not isinstance(name, str) or name not in CLASSES and name != _ENCODER:
        raise ValueError(f"path: names the module class {name!r}, which is not allowed in a network file")
    arguments = {
        key: decode(value)
        for key, value in entry["arguments"].items()
        if key not in _IGNORED or name.startswith("pcsnn.")
    }
    _check(name, arguments)
    if arguments.get("num_layers", 0) > len(tensors):  # before so many are made
        raise ValueError(
            f"path: has a {name} with {arguments['num_layers']} layers, and {len(tensors)} tensors for them"
        )
    kind = nn.TransformerEncoder if name == _ENCODER else CLASSES[name][0]
    if hasattr(kind, "TENSORS"):
        if not tensors.keys() <= set(kind.TENSORS):
            raise ValueError(
                f"path: has a {name} with the tensors {', '.join(tensors)}; expected some of {', '.join(kind.TENSORS)}"
            )
        _check_fused(name, arguments, tensors)
        module = kind(**arguments, **tensors)
    else:
        module = _twin(name, arguments)
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def levels_of(entry, tensors):
    """How many levels a file's neurons have: they are made from thresholds when loading."""
    arguments = entry["arguments"]
    timesteps, several = arguments.get("timesteps"), arguments.get(_SPIKE_LEVELS, 1)
    channels = max(
        (tensors[key].numel() for key in ("threshold", "slope", "weight_scale") if key in tensors), default=0
    )
    return channels * timesteps * several if isinstance(timesteps, int) and isinstance(several, int) else 0


def _check_fused(name, arguments, tensors):
    """ValueError for tensors of optimised layers whose shapes or dtypes do not fit each other: kernels read them side
    by side."""
    weight = tensors.get("weight")
    rows = None
    if weight is not None:
        kind = CLASSES[name][0].kind
        if weight.dtype not in _FUSED_DTYPES or weight.dim() != kind.DIMENSIONS or 0 in weight.shape:
            raise ValueError(f"path: has a {name} with a weight of {weight.dtype}, shape {tuple(weight.shape)}")
        if (weight.dtype == torch.int8) != ("weight_scale" in tensors):
            raise ValueError(
                f"path: has a {name} with a weight of {weight.dtype} and "
                f"{'no ' * (weight.dtype == torch.int8)}weight_scale"
            )
        synapse = kind(weight, **{key: arguments[key] for key in kind.GEOMETRY if key in arguments})
        rows = synapse.outputs(weight)
    for key, value in tensors.items():
        if key in ("weight", "bend"):
            continue
        if (
            value.dtype not in ((torch.float32, torch.float64) if name != "pcsnn.nn.ChannelScale" else CURRENT_DTYPES)
            or value.dim() > 1
        ):
            raise ValueError(f"path: has a {name} whose {key} is {value.dtype}, shape {tuple(value.shape)}")
        if value.dim() == 0 and key in ("bias", "weight_scale", "low"):
            raise ValueError(f"path: has a {name} whose {key} is a number, expected one for each channel")
        if value.dim():
            rows = len(value) if rows is None else rows
            if len(value) != rows or not rows:
                raise ValueError(f"path: has a {name} whose {key} has {len(value)} channels, expected {rows}")
    bend = tensors.get("bend")
    if bend is None:
        return
    full = full_count(arguments["timesteps"], arguments.get(_SPIKE_LEVELS, 1))
    if not bend.is_floating_point() or tuple(bend.shape) not in ((full,), (rows, full)):
        raise ValueError(
            f"path: has a {name} whose bend is {bend.dtype}, shape {tuple(bend.shape)}; expected {full} levels"
        )
