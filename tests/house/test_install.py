"""Building and running without a compiler: one clear warning, the same results, an error where kernels are required."""

import os
import shutil
import subprocess
import sys

import pytest
from folders import ROOT


def build(tmp_path, **environment):
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"],
        cwd=ROOT,
        env={**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler", **environment},
        capture_output=True,
        text=True,
    )


def test_a_failed_build_warns(tmp_path):
    done = build(tmp_path, PCSNN_REQUIRE_EXT="0")
    assert done.returncode == 0, done.stderr
    assert "C++ kernels were not built" in done.stderr
    assert not list((tmp_path / "lib").rglob("*.so"))


def test_a_failed_build_is_an_error_where_the_kernels_are_required(tmp_path):
    assert build(tmp_path, PCSNN_REQUIRE_EXT="1").returncode != 0


def run_without_extension(tmp_path, code, **environment):
    shutil.copytree(ROOT / "pcsnn", tmp_path / "pcsnn", ignore=shutil.ignore_patterns("*.so", "__pycache__", "kernels"))
    shutil.copytree(ROOT / "kernels", tmp_path / "pcsnn" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    only_the_copy = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
    return subprocess.run(
        [sys.executable, "-c", only_the_copy + code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )


def test_the_reference_runs_with_one_warning(tmp_path):
    done = run_without_extension(
        tmp_path,
        """
import pathlib
import torch
import pcsnn
assert pathlib.Path(pcsnn.__file__).parent.parent == pathlib.Path.cwd()
assert pcsnn.backend_info()["cpu"] == "reference"
levels = pcsnn.functional.levels(1.0, 8)
for _ in range(3):
    print(pcsnn.functional.fire_counts(torch.tensor([0.1, 0.49, 2.0]), levels).tolist())
try:
    with pcsnn.use_backend("c++"):
        pass
except RuntimeError as error:
    print(error)
""",
        PCSNN_REQUIRE_EXT="0",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["[1, 4, 8]"] * 3
    assert "was not built" in done.stdout
    assert done.stderr.count("RuntimeWarning") == 1 and "slow reference" in done.stderr


def test_the_import_fails_where_the_kernels_are_required(tmp_path):
    done = run_without_extension(tmp_path, "import pcsnn", PCSNN_REQUIRE_EXT="1")
    assert done.returncode != 0 and "PCSNN_REQUIRE_EXT=1" in done.stderr


@pytest.mark.skipif(
    not list((ROOT / "pcsnn").glob("_C.abi3.*")) or not shutil.which("nm"), reason="no kernels, or no nm"
)
def test_the_kernels_name_nothing_of_torch_but_its_stable_abi():
    """One build runs with every torch from 2.10 on: no C++ function of torch, which the next one may have otherwise."""
    (built,) = (ROOT / "pcsnn").glob("_C.abi3.*")
    done = subprocess.run(["nm", "-D", "--undefined-only", built], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in names)
    parts = "3c10", "2at", "5torch"  # namespaces, as C++ writes them into names
    assert not [name for name in names if name.startswith("_Z") and any(part in name for part in parts)]
