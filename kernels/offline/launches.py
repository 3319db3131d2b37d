"""The launches of every kernels file, for offline compilation: each file with a kernel offers `launches()`, found
here."""

import importlib
import pkgutil

from pcsnn import kernels


def modules():
    """{name: module} of the kernels files."""
    names = [found.name for found in pkgutil.iter_modules(kernels.__path__) if not found.ispkg]
    return {name: importlib.import_module(f"{kernels.__name__}.{name}") for name in names}


def families():
    """Names of the kernels files that offer launches."""
    return {name for name, module in modules().items() if hasattr(module, "launches")}


def of(*names):
    """The Variants of these kernels files."""
    return [variant for name in names for variant in modules()[name].launches()]
