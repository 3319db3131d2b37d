"""The gradient methods with fewer steps, for tests: their entries in the registry give way to others for a while."""

import contextlib
from unittest import mock

from pcsnn.calibration import METHODS


@contextlib.contextmanager
def few_steps(steps, **options):
    """Inside, "light" and "advanced" take so many gradient steps, with other options if given."""
    changed = {name: METHODS[name].with_options(steps=steps, **options) for name in ("light", "advanced")}
    with mock.patch.dict(METHODS, changed):
        yield
