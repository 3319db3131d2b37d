"""The kernels of every instruction set this processor has, in memory that stops at an access outside a tensor."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from folders import ROOT, SUPPORT

from pcsnn.operators import dispatch

CAPABILITIES = ("default", "avx2", "avx512")

pytestmark = pytest.mark.skipif(bool(dispatch._no_extension), reason=f"no C++ kernels: {dispatch._no_extension}")


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=SUPPORT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("guarded memory needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("guard") / "guarded_memory.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", SUPPORT / "guarded_memory.c", "-o", library, "-ldl"], check=True
    )
    return library


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.quick(0)
def test_equal_to_the_reference_within_its_memory(capability, guard):
    best = torch.backends.cpu.get_cpu_capability().lower()
    if capability not in ("default", best) and not (capability == "avx2" and best == "avx512"):
        pytest.skip(f"this processor has {best}")
    done = run(
        "import runpy; runpy.run_path('sweep.py', run_name='__main__')",
        LD_PRELOAD=str(guard),
        PCSNN_CPU_CAPABILITY=capability,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(SUPPORT)]),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    used, compared, backend = done.stdout.split()
    assert (used, backend) == (capability, "c++") and int(compared) > 800


@pytest.mark.parametrize("offset, write, caught", ((0, True, False), (1, True, True), (100, False, True)))
def test_the_guard_catches(guard, offset, write, caught):
    access = "ctypes.memset(end, 1, 1)" if write else "ctypes.string_at(end, 1)"
    code = f"""
import ctypes
import torch
tensor = torch.zeros(1001, dtype=torch.uint8)
end = tensor.data_ptr() + 1000 + {offset}
{access}
del tensor
"""
    assert (run(code, LD_PRELOAD=str(guard)).returncode != 0) == caught


def test_an_unknown_instruction_set_is_an_error():
    done = run("import torch, pcsnn; torch.ops.pcsnn.cpu_capability()", PCSNN_CPU_CAPABILITY="mmx")
    assert done.returncode != 0 and "PCSNN_CPU_CAPABILITY: expected avx512, avx2 or default, got mmx" in done.stderr
