"""Files that come with installed packages, none of whose code runs."""

import importlib.util
import pathlib


class Missing(Exception):
    """What is needed and not here, and how to get it."""


def folder(package, name=None, requirement=None):
    """The folder of an installed package.

    Args:
        package: as it is imported. name: as it is told; None: `package`. requirement: as pip takes it; None: `name`.

    Raises:
        Missing: it is not installed.
    """
    name = package if name is None else name
    found = importlib.util.find_spec(package)
    if found is None:
        raise Missing(f"{name} is not installed (pip install --no-deps {requirement or name})")
    return pathlib.Path(found.submodule_search_locations[0])
