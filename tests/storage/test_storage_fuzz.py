"""Some thousand mutations of saved networks, each loaded and run in child processes: see storage_fuzz_program.py."""

import json
import subprocess
import sys

import pytest
from folders import SUPPORT

PROGRAM = SUPPORT / "storage_fuzz_program.py"
COUNT = 750  # of mutations for each seed


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.quick(0)
def test_mutated_files_end_in_a_value_error_or_a_result(seed, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "work").mkdir()
    found = subprocess.run(
        [sys.executable, PROGRAM, str(seed), str(COUNT), tmp_path / "files"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "work",
        timeout=600,
    )
    assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    outcomes = json.loads(found.stdout.splitlines()[-1])
    assert (
        sum(outcomes.values()) == COUNT
        and min(outcomes["refused"], outcomes["ran"], outcomes["failed in forward"]) > 20
    )
    assert not list((tmp_path / "work").iterdir())
    assert all(file.name == "fuzzed" or file.name.startswith("seed") for file in (tmp_path / "files").iterdir())
