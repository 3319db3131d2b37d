"""Hooks on the modules of a network that others run at the same time."""

import contextlib
import contextvars

_watches = contextvars.ContextVar("pcsnn_watches", default=())  # those that this context has entered and not left


@contextlib.contextmanager
def watch(hooks):
    """While it holds, hook(module, arguments) runs before the forward of each module, where this context calls it.

    A context is a thread or an asyncio task. What other threads run through the same modules sets nothing off, nor do
    copies of the modules.

    Args:
        hooks: pairs (module, hook).
    """
    entry = object()

    def only_here(watched, hook):
        def run(module, arguments):
            if module is watched and entry in _watches.get():
                hook(module, arguments)

        return run

    with contextlib.ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_pre_hook(only_here(module, hook)).remove)
        _watches.set((*_watches.get(), entry))
        stack.callback(lambda: _watches.set(tuple(other for other in _watches.get() if other is not entry)))
        yield
