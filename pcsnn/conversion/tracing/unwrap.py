"""What people hand over around a network: wrappers of devices, averages and compilers; and what cannot be traced."""

import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


class Wrapped(nn.Module):
    """Stands for DataParallel and the like inside a network: the same names, one device."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def is_compiled(module):
    """Whether a module is what torch.compile returned."""
    return type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module)


def inner(module):
    """The network that a wrapper runs as it is; None for any other module."""
    if isinstance(module, _WRAPPERS):
        return module.module
    return module._orig_mod if is_compiled(module) else None


def stand_in(wrapper, module):
    """What stands in a copy for a wrapper around `module`."""
    return module if is_compiled(wrapper) else Wrapped(module)


def unwrapped(model):
    """The network within all wrappers around it.

    Raises:
        ValueError: it, or a part of it, is TorchScript, an exported program or sharded, or was never run (lazy layers).
    """
    for name, module in model.named_modules():
        _refuse(f"model: {name}" if name else "model:", module)
    while (found := inner(model)) is not None:
        model = found
    return model


def _refuse(what, module):
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{what} is TorchScript ({type(module).__name__}), whose code is compiled; convert the eager network "
            "that was scripted or traced, with its state_dict loaded"
        )
    if isinstance(module, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    ):
        raise ValueError(
            f"{what} is a program of torch.export ({type(module).__name__}), whose layers are gone; convert the "
            "network that was exported, with its state_dict loaded"
        )
    if type(module).__name__ in ("FullyShardedDataParallel", "FSDPModule"):
        raise ValueError(
            f"{what} is sharded over processes ({type(module).__name__}); gather its full state_dict, load it into "
            "the plain network, and convert that"
        )
    lazy = [
        key
        for key, value in (*module._parameters.items(), *module._buffers.items())
        if value is not None and torch.nn.parameter.is_lazy(value)
    ]
    if lazy:
        raise ValueError(
            f"{what} is {type(module).__name__} whose {lazy[0]} has no shape yet; run the model on one batch first"
        )
