"""Triton kernels for CUDA and ROCm: one launch an operation, equal to `pcsnn.reference` bit for bit.

Operators are what the files of this package name in `__all__`; they take the arguments of the schemas in
`pcsnn.operators`, already checked.
"""

import importlib
import pkgutil

import triton

from pcsnn.kernels.common import INTERPRETED

VERSION = triton.__version__
__all__ = ["INTERPRETED", "VERSION"]

for _found in pkgutil.iter_modules(__path__):
    if not _found.ispkg:
        _module = importlib.import_module(f"{__name__}.{_found.name}")
        _operators = getattr(_module, "__all__", ())
        __all__.extend(_operators)
        globals().update({name: getattr(_module, name) for name in _operators})
