"""Every kernel at every configuration the launchers may pick, compiled for four GPUs without one."""

import re

import pytest

from pcsnn import kernels
from pcsnn.kernels import common, inspection, variants

pytestmark = pytest.mark.skipif(kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled")
ALL = [] if kernels.INTERPRETED else variants.variants()
FLUSHED_OR_FUSED = r"\.ftz|\bfma\.rn\.f(?:32|64)|\bmad\.(?:rn\.)?f"


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_compiles_without_spills_and_with_wide_accesses(variant):
    neurons_a_thread = variant.launch.constants["BLOCK"] // common.THREADS
    for name, target in inspection.TARGETS.items():
        compiled = inspection.compile_launch(variant.launch, target)
        used = inspection.resources(compiled)
        assert (used["stack"], used["spill"], used["shared"]) == (0, 0, 0), (name, used)
        if variant.size in ("wide", "large"):
            assert used["store128"] == used["stores"] > 0, (name, used)
        if neurons_a_thread * variant.inputs.itemsize >= 16:
            assert used["load128"] > 0, (name, used)
        # Rounding: no product is fused with a sum, no denormal is flushed.
        assert not re.search(r"\bcontract\b|\breassoc\b|\bfast\b|@llvm\.(?:fma|fmuladd)", compiled.asm["llir"]), name
        if target.backend == "cuda":
            assert not re.search(FLUSHED_OR_FUSED, compiled.asm["ptx"]), name
        else:
            assert ".amdhsa_float_denorm_mode_32 3" in compiled.asm["amdgcn"]
            if variant.form != "plain":  # the guess divides, which AMD does with multiply-adds
                assert used["fused"] == 0, (name, used)


def test_variants_hold_every_configuration_of_every_operation():
    seen = {(v.operation, v.inputs, v.output, v.launch.constants["BLOCK"]) for v in ALL}
    for current in variants.CURRENTS:
        for output in variants.SPIKES:
            blocks = {block for operation, i, o, block in seen if (operation, i, o) == ("fire_spikes", current, output)}
            wide = 16 // output.itemsize
            expected = {common.THREADS * n for n in (wide, min(wide, common.NARROW))}
            assert expected <= blocks, (current, output)
    assert {v.operation for v in ALL} == {"fire_counts", "fire_rates", "fire_spikes", "expand_spikes"}
