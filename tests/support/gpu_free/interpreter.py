"""Triton's interpreter, which TRITON_INTERPRET=1 switches on for a whole process before kernels are imported."""

import os
import subprocess
import sys

import pytest

from pcsnn import kernels

interpreted = pytest.mark.skipif(
    not kernels.INTERPRETED, reason="runs in a process of its own, with TRITON_INTERPRET=1"
)
not_interpreted = pytest.mark.skipif(kernels.INTERPRETED, reason="this is the process of its own")


def interpret(launch):
    """Run a launch here, in the interpreter."""
    launch()


def run_interpreted(file):
    """Run the tests of a file in a process of their own; all must pass."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-10000:] + run.stderr[-2000:]
