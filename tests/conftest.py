"""What `--quick` leaves out, and one thread for each worker: together the workers fill the machine."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--quick", action="store_true", help="without tests marked slow, and a few cases of those marked many"
    )


def _is_left_out(case, cases):
    """Whether --quick leaves out one of the cases of a test function."""
    if case.get_closest_marker("slow"):
        return True
    many = case.get_closest_marker("many")
    if many is None or len(cases) <= many.args[0]:
        return False
    kept = many.args[0]
    return cases.index(case) not in {step * (len(cases) - 1) // max(kept - 1, 1) for step in range(kept)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("--quick"):
        return
    cases = {}
    for item in items:
        cases.setdefault((item.path, item.cls, item.originalname), []).append(item)
    left_out = {item for same in cases.values() for item in same if _is_left_out(item, same)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
