"""How thresholds, shifts and amplitudes are chosen. A new method is one file here, which registers it."""

import importlib
import pkgutil

from pcsnn.calibration.method import METHODS, Method, Task, register

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")

__all__ = ["METHODS", "Method", "Task", "register"]
