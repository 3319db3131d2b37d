"""Operators called directly with arguments that are almost right: an error or a result, and the process lives."""

import json
import os
import shutil
import subprocess
import sys

import operator_mutations
import pytest
from folders import ROOT, SUPPORT

from pcsnn.operators import dispatch

LEAST, MOST, SECONDS = 50, 500, 10  # calls of an operator, and for how long a child goes on
NAMES = operator_mutations.names() if not dispatch._no_extension else []

pytestmark = pytest.mark.skipif(
    bool(dispatch._no_extension) or not sys.platform.startswith("linux"), reason="needs the C++ kernels, on Linux"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of children in whose memory an access outside a tensor ends the process, where there is a compiler for that."""
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": places}
    compiler = shutil.which("cc")
    if compiler is not None:
        library = tmp_path_factory.mktemp("guard") / "guarded_memory.so"
        source = SUPPORT / "guarded_memory.c"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
        found["LD_PRELOAD"] = str(library)
    return found


def test_every_operator_has_samples():
    assert {name for name in NAMES if not operator_mutations.samples(name)} == set()
    assert {"conv2d_fire", "_products", "transfer_gradient", "_linear_fire"} < set(NAMES)


@pytest.mark.parametrize("part", range(3))
def test_mutations(part, environment, tmp_path):
    log, chosen = tmp_path / "call", NAMES[part::3]
    command = [sys.executable, "-W", "ignore", SUPPORT / "operator_mutations.py", log, part, MOST, SECONDS, *chosen]
    done = subprocess.run(
        list(map(str, command)), cwd=SUPPORT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"at {log.read_text().strip()}:\n{done.stderr[-2000:]}"
    for name, (accepted, refused) in json.loads(done.stdout.splitlines()[-1]).items():
        assert accepted + refused >= LEAST, name
        assert name == "cpu_capability" or accepted > 0 and refused > 0, name
