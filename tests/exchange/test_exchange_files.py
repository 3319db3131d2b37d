"""torch.export and AOTInductor: a fresh process loads the file, with pcsnn imported, and gives bit-equal results."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from folders import ROOT
from tiny_networks import build, inputs, one_thread  # noqa: F401

import pcsnn

EXPORTED = """
import sys
import torch
import pcsnn
for name in sys.argv[2:]:
    x, expected = torch.load(f"{sys.argv[1]}/{name}.pt", weights_only=True)
    found = torch.export.load(f"{sys.argv[1]}/{name}.pt2").module()(*x)
    assert torch.equal(found, expected), name
print("equal")
"""
COMPILED = """
import sys
import torch
import pcsnn
x, expected = torch.load(sys.argv[1] + "/all.pt", weights_only=True)
found = torch._inductor.aoti_load_package(sys.argv[1] + "/all.pt2")(*x)
assert len(found) == len(expected) == 2 and all(map(torch.equal, found, expected))
print("equal")
"""


def fresh(script, *arguments):
    """What a new Python process that knows nothing of this one prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def forms(name):
    """The network as converted, and as optimised with float32 and int8 weights."""
    snn = pcsnn.convert(build(name), 4)
    return {"plain": snn, "float32": pcsnn.optimize(snn), "int8": pcsnn.optimize(snn, "int8")}


def test_exported_programs_run_in_a_fresh_process(tmp_path):
    names = []
    for network in ("residual", "max_pool_first", "conv_bn"):
        x = inputs(network)
        for form, snn in forms(network).items():
            names.append(f"{network}-{form}")
            torch.export.save(torch.export.export(snn, x), tmp_path / f"{names[-1]}.pt2")
            torch.save((x, snn(*x)), tmp_path / f"{names[-1]}.pt")
    assert fresh(EXPORTED, tmp_path, *names)[:2] == (0, "equal\n")


@pytest.mark.parametrize("form", ["plain", "float32", "int8"])
def test_an_exported_program_takes_other_batches(form, tmp_path):
    snn, x = forms("residual")[form], inputs("residual")
    program = torch.export.export(snn, x, dynamic_shapes=(({0: torch.export.Dim("batch")},),))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 2, 7):
        more = inputs("residual", batch=batch)
        assert torch.equal(loaded(*more), snn(*more))


class Together(torch.nn.Module):
    """Several networks of one input, so that one compilation, which takes most of the time, is for all."""

    def __init__(self, networks):
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, x):
        return [network(x) for network in self.networks]


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs g++")
@pytest.mark.quick(0)
def test_an_aotinductor_package_runs_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    made, x = forms("mlp"), inputs("mlp")
    model = Together([made["plain"], made["int8"]]).eval()
    torch._inductor.aoti_compile_and_package(
        torch.export.export(model, x),
        package_path=str(tmp_path / "all.pt2"),
        inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False},
    )
    torch.save((x, model(*x)), tmp_path / "all.pt")
    code, printed, errors = fresh(COMPILED, tmp_path)
    assert (code, printed) == (0, "equal\n"), errors
    code, _, errors = fresh(COMPILED.replace("import pcsnn\n", ""), tmp_path)
    assert code != 0 and "pcsnn" in errors  # its operators are found by importing pcsnn
