"""Which modules are layers of torch or pcsnn by what they compute, not by what they inherit from."""

import inspect

from torch import nn

from pcsnn.graph.activations import own_modules
from pcsnn.nn import DAQCFS, QCFS, ChannelScale
from pcsnn.nn.integrate_fire import IntegrateFire

_OURS = (QCFS, DAQCFS, IntegrateFire, ChannelScale)
# what a subclass may define anew and still compute the same
_HARMLESS = {
    "__init__",
    "__module__",
    "__doc__",
    "__qualname__",
    "__annotations__",
    "__annotate_func__",
    "__annotations_cache__",
    "__dict__",
    "__weakref__",
    "__repr__",
    "__firstlineno__",
    "__static_attributes__",
    "__constants__",
    "__hash__",
    "_version",
    "_get_name",
    "extra_repr",
    "reset_parameters",
    "_reset_parameters",
    "train",
    "eval",
}


def is_layer_class(kind):
    """Whether a class is one of torch.nn's, pcsnn's own or a registered one, that a graph calls as a whole."""
    return (
        kind in _OURS
        or kind in own_modules()
        or (
            kind.__module__.startswith(("torch.nn.", "torch.ao.nn."))
            and issubclass(kind, nn.Module)
            and kind not in (nn.Module, nn.Sequential)
        )
    )


def layer_class(module):
    """The nearest class that a graph calls as a whole of those that a module's class is or inherits from; or None."""
    return next((kind for kind in type(module).__mro__ if is_layer_class(kind)), None)


def is_plain(module):
    """Whether a module computes what its `layer_class` does: neither its class nor the instance changes how."""
    base = layer_class(module)
    if base is None or "forward" in vars(module):
        return False
    given = {*dir(base), *module._parameters, *module._buffers, *inspect.signature(base.__init__).parameters}
    own = type(module).__mro__[: type(module).__mro__.index(base)]
    return not any(set(vars(kind)) & given - _HARMLESS for kind in own)


def make_plain(module):
    """Let a plain module be of the class it computes like, in place."""
    base = layer_class(module)
    if type(module) is not base:
        module.__class__ = base
