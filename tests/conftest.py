"""What `--quick` leaves out, and one thread for each worker: together the workers fill the machine."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


CASES = 5  # of each test function that --quick runs, evenly spread, unless its marker `quick` says otherwise


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help=f"run {CASES} cases of each test function at most")


def _kept(cases):
    """The cases of a test function that --quick runs."""
    marker = cases[0].get_closest_marker("quick")
    kept = min(len(cases), marker.args[0] if marker else CASES)
    return [cases[number * (len(cases) - 1) // max(kept - 1, 1)] for number in range(kept)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("--quick"):
        return
    functions = {}
    for item in items:
        functions.setdefault((item.path, item.cls, item.originalname), []).append(item)
    kept = {case for cases in functions.values() for case in _kept(cases)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
