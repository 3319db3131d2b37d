"""Every kernel at every configuration the launchers may pick, compiled for four GPUs without one.

Those of products, pooling and attention, of which more is expected, have test files of their own.
"""

import ast
import re

import pytest
import triton

from pcsnn import kernels
from pcsnn.kernels import spikes, variants
from pcsnn.kernels.offline import compile, launches

pytestmark = pytest.mark.skipif(
    kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled"
)
ALL = [] if kernels.INTERPRETED else launches.of("rates", "spikes")
OTHERS = launches.families() - {"rates", "spikes", "synapses", "pooling", "attention"}
CUDA = ("sm_80", "sm_90", "sm_100")
SHARED = 32 * 1024  # bytes, to bring values of one size into the order of those of another


def neurons_a_thread(launch):
    return launch.constants["ROWS"] * launch.constants["COLUMNS"] // launch.threads


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_compiles_without_spills_and_with_wide_accesses(variant):
    neurons = neurons_a_thread(variant.launch)
    for name, target in compile.TARGETS.items():
        compiled = compile.compile_launch(variant.launch, target)
        used = compile.resources(compiled)
        assert (used["stack"], used["spill"]) == (0, 0), (name, used)
        assert used["shared"] <= SHARED, (name, used)
        if variant.size in ("wide", "large"):
            vector = min(variant.launch.constants["VECTOR"], neurons)
            assert used["store128"] == used["stores"] > 0 or variant.output.itemsize * vector < 16, (name, used)
            if variant.operation in ("fire_counts", "fire_rates"):  # the others store in loops
                assert used["stores"] == neurons // vector, (name, used)
            assert used["load128"] > 0 or variant.inputs.itemsize * vector < 16, (name, used)
        # Rounding: no product is fused with a sum but where the definition says so, no denormal is flushed.
        assert not re.search(r"\bcontract\b|\breassoc\b|\bfast\b|@llvm\.fmuladd", compiled.asm["llir"]), name
        if target.backend == "cuda":
            assert not re.search(r"\.ftz|\bmad\.(?:rn\.)?f", compiled.asm["ptx"]), name
        else:
            assert ".amdhsa_float_denorm_mode_32 3" in compiled.asm["amdgcn"]
        fused = compiled.asm["llir"].count("call float @llvm.fma.f32") + compiled.asm["llir"].count(
            "@llvm.nvvm.fma.rn.f("
        )
        if "bisected" in variant.form or "scanned" in variant.form or variant.operation == "expand_spikes":
            assert fused == 0, (name, fused)


@pytest.mark.parametrize(
    "variant",
    [
        v
        for v in ALL
        if v.form in ("flat line", "planes line", "last line")
        and v.size == "wide"
        and v.operation in ("fire_counts", "fire_rates")
    ],
    ids=str,
)
def test_levels_of_a_line_load_nothing_a_neuron(variant):
    """The current in loads of 128 bits, and what belongs to a channel once for all its neurons of a thread; two
    multiply-adds a neuron: the guess and the level."""
    neurons = neurons_a_thread(variant.launch)
    currents = neurons * variant.inputs.itemsize // 16
    values = 3 + (variant.operation == "fire_rates")
    for name in CUDA:
        compiled = compile.compile_launch(variant.launch, compile.TARGETS[name])
        used = compile.resources(compiled)
        # of up to 16 columns, four at a time, or of up to four planes, for the 32 neurons of a thread
        assert currents < used["loads"] <= currents + 4 * values, (name, used, currents)
        assert used["fused"] == 2 * neurons, (name, used)


def test_variants_hold_every_configuration_of_every_operation():
    assert {v.operation for v in ALL} == {"fire_counts", "fire_rates", "fire_spikes", "expand_spikes"}
    pairs = {(v.operation, v.inputs, v.output) for v in ALL}
    assert {("fire_spikes", current, output) for current in variants.CURRENTS for output in spikes.SPIKES} <= pairs
    integers = {(v.operation, v.output) for v in ALL if v.launch.arguments.get("spike_levels") is not None}
    assert integers == {
        (operation, output) for operation in ("fire_spikes", "expand_spikes") for output in spikes.SPIKES
    }
    for operation in ("fire_counts", "fire_rates"):
        threads = {neurons_a_thread(v.launch) for v in ALL if v.operation == operation}
        assert {4, 32} <= threads, (operation, threads)
    searches = {
        (v.launch.constants["LINE"], v.launch.constants["STEPS"] > 0, v.launch.constants["STEPS"] < 0)
        for v in ALL
        if "LINE" in v.launch.constants
    }
    assert searches == {(1, False, False), (2, True, False), (0, True, False), (0, False, True)}


@pytest.mark.parametrize("variant", [] if kernels.INTERPRETED else launches.of(*sorted(OTHERS)), ids=str)
def test_any_other_kernel_compiles_without_spills(variant):
    for name, target in compile.TARGETS.items():
        used = compile.resources(compile.compile_launch(variant.launch, target))
        assert (used["stack"], used["spill"]) == (0, 0), (name, used)
        assert used["shared"] <= compile.SHARED_LIMITS[name], (name, used)


def test_every_kernel_is_offered_for_compilation():
    jitted = {
        name: value
        for module in launches.modules().values()
        for name, value in vars(module).items()
        if isinstance(value, triton.runtime.jit.JITFunction) and value.fn.__module__ == module.__name__
    }
    called = {  # by other kernels, and so compiled with them
        node.func.id
        for function in jitted.values()
        for node in ast.walk(ast.parse(function.src))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    offered = {variant.launch.kernel.fn.__name__ for variant in launches.of(*launches.families())}
    assert jitted.keys() - called == offered
