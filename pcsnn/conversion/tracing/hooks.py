"""Hooks of a network: those that act on values are part of its function, and are traced as forward is."""

import copy
import types

from torch.nn.modules import module as registry

from pcsnn.conversion.tracing.unwrap import inner

_DICTS = ("_forward_pre_hooks", "_forward_hooks")


def describe_hook(hook):
    """Name of a hook, with file and line where it has them."""
    code = getattr(getattr(hook, "__func__", hook), "__code__", None)
    name = getattr(hook, "__qualname__", type(hook).__name__)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name


def refuse_outer_hooks(model):
    """ValueError, naming the hook, where a forward hook acts on a wrapper (DataParallel, ...) or on all modules."""
    for name, module in model.named_modules():
        for hook in (hook for kept in _DICTS if inner(module) is not None for hook in getattr(module, kept).values()):
            raise ValueError(
                f"model: {name or 'itself'} ({type(module).__name__}) has a forward hook, {describe_hook(hook)}, on "
                "the wrapper; register it on the network inside"
            )
    for hook in (*registry._global_forward_pre_hooks.values(), *registry._global_forward_hooks.values()):
        raise ValueError(
            f"model: a forward hook for all modules is registered, {describe_hook(hook)}, which no graph follows; "
            "remove it (handle.remove()) before converting"
        )


def refuse_hooks(network, argument):
    """ValueError, naming layer and hook, where a module of a converted network has a forward hook."""
    for name, module in network.named_modules():
        for hook in (hook for kept in _DICTS for hook in getattr(module, kept).values()):
            raise ValueError(
                f"{argument}: {name or 'itself'} ({type(module).__name__}) has a forward hook, {describe_hook(hook)}, "
                "which a fused layer would not call; remove it (handle.remove())"
            )


def separate_hooks(modules, memo):
    """Give copies of modules hooks that write to copies of what the originals hold, and none of the backward pass."""
    for module in modules:
        for kept in _DICTS:
            hooks = getattr(module, kept)
            for key, hook in hooks.items():
                hooks[key] = _separated(hook, memo)
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        module._is_full_backward_hook = None


def _separated(hook, memo):
    """A function with copies of what it closes over and of the lists and dicts of its module.

    All other hooks were copied with the modules that have them.
    """
    if not isinstance(hook, types.FunctionType):
        return hook
    holders = {
        name: _copied(hook.__globals__[name], memo)
        for name in hook.__code__.co_names
        if isinstance(hook.__globals__.get(name), (list, dict, set))
    }
    cells = tuple(_cell(cell, memo) for cell in hook.__closure__ or ())
    made = types.FunctionType(
        hook.__code__,
        {**hook.__globals__, **holders} if holders else hook.__globals__,
        hook.__name__,
        hook.__defaults__,
        cells,
    )
    made.__kwdefaults__ = hook.__kwdefaults__
    return made


def _copied(value, memo):
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # it holds what cannot be copied
        return type(value)()


def _cell(cell, memo):
    try:
        return types.CellType(copy.deepcopy(cell.cell_contents, memo))
    except Exception:  # empty, or holding what cannot be copied
        return cell


def drop_hooks(module):
    """Take all forward hooks off a traced copy."""
    for kept in _DICTS:
        getattr(module, kept).clear()


def with_hooks(module, call):
    """call(*args, **kwargs) with the forward hooks of `module` around it, as torch.nn.Module has them."""

    def hooked(*args, **kwargs):
        for key, hook in list(module._forward_pre_hooks.items()):
            if key in module._forward_pre_hooks_with_kwargs:
                args, kwargs = _run(module, hook, args, kwargs) or (args, kwargs)
            else:
                changed = _run(module, hook, args)
                args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
        result = call(*args, **kwargs)
        for key, hook in list(module._forward_hooks.items()):
            given = (args, kwargs) if key in module._forward_hooks_with_kwargs else (args,)
            changed = _run(module, hook, *given, result)
            result = result if changed is None else changed
        return result

    return hooked


def _run(module, hook, *values):
    try:
        return hook(module, *values)
    except Exception as error:
        raise ValueError(
            f"calls the forward hook {describe_hook(hook)} of {type(module).__name__}, which cannot be traced "
            f"({error}); remove it (handle.remove()), or do in forward what it does"
        ) from error
