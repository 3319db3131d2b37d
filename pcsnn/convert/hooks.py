"""Hooks of a network: those that act on values are part of its function, and no graph shows them."""

from torch.nn.modules import module as registry

from pcsnn.convert.copies import modules_of
from pcsnn.convert.effective_weights import makes_weights


def _described(hook):
    code = getattr(getattr(hook, "__func__", hook), "__code__", None)
    name = getattr(hook, "__qualname__", type(hook).__name__)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name


def acting_hooks(module):
    """Forward hooks and forward pre-hooks of a module, less those that compute its weights."""
    return [hook for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()) if not makes_weights(hook)]


def refuse_hooks(model, argument="model"):
    """ValueError, naming layer and hook, where a forward hook or pre-hook would act on what a network computes.

    Backward hooks do nothing without a backward pass and are let through, as are hooks that compute weights.
    """
    names = {module: name for name, module in model.named_modules()}
    for module in modules_of(model):
        for hook in acting_hooks(module):
            name = names.get(module, "a layer in a plain list")
            where = f"{name} ({type(module).__name__})" if name else f"{type(module).__name__} itself"
            raise ValueError(f"{argument}: {where} has a forward hook, {_described(hook)}, whose effect no graph shows; remove it "
                             "(handle.remove()), or do in forward what it does")
    for hook in (*registry._global_forward_pre_hooks.values(), *registry._global_forward_hooks.values()):
        raise ValueError(f"{argument}: a forward hook for all modules is registered, {_described(hook)}, whose effect no graph "
                         "shows; remove it (handle.remove()) before converting")


def drop_hooks(model):
    """Take the hooks of a copy off it that `refuse_hooks` lets through: those of the backward pass and of state dicts."""
    for module in model.modules():
        for kept in ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks"):
            getattr(module, kept).clear()
        module._is_full_backward_hook = None


