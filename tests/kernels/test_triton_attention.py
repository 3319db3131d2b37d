"""Fused attention as compiled: run on this processor against the reference, and compiled offline for four GPUs."""

import re

import pytest
import torch
from gpu_free import attention_cases
from gpu_free.attention_cases import FORMS, SIZES, Form, Size, check, counts_through_identity
from gpu_free.cases import assert_same, name
from gpu_free.cpu_kernel import run_compiled

from pcsnn import functional, kernels, reference
from pcsnn.kernels import attention
from pcsnn.kernels.offline import compile, launches

pytestmark = pytest.mark.skipif(
    kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled"
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)
SMALL = attention.Tile(16, 16, 16, 64, 2)  # quick to compile; every other tile differs in sizes only


# ---- run on this processor ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
@dtypes
@pytest.mark.quick(2)
def test_every_form(dtype, form):
    generator = torch.Generator().manual_seed(1)
    for place, size in enumerate((SIZES["few queries"], SIZES["image"])):
        made = attention_cases.arguments(size, FORMS[form], dtype, generator)
        check(run_compiled, made, misaligned=place, tile=SMALL)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.quick(2)
def test_every_size(size):
    generator = torch.Generator().manual_seed(2)
    dtype = DTYPES[list(SIZES).index(size) % 3]
    for form in ("by feature", "causal"):
        check(run_compiled, attention_cases.arguments(SIZES[size], FORMS[form], dtype, generator), tile=SMALL)


@dtypes
def test_the_first_tile_with_its_fibers_in_any_order(dtype):
    generator = torch.Generator().manual_seed(3)
    made = attention_cases.arguments(Size(1, 70, 70, 1, 32, 32), FORMS["causal"], dtype, generator)
    for seed in (0, 1):
        check(lambda launch: run_compiled(launch, shuffle=seed), made)


@dtypes
def test_counts_are_those_of_the_neuron(dtype):
    generator = torch.Generator().manual_seed(4)
    for timesteps, repeat in ((4, 1), (200, 0)):
        levels = functional.levels(2.0, timesteps)
        query = (
            levels[torch.randint(timesteps, (2, 30, 24), generator=generator)]  # at levels, and one unit beside them
            * (1 + torch.randint(-1, 2, (2, 30, 24), generator=generator) * 2.0**-23)
        ).to(dtype)

        def call(*made):
            out = torch.empty_like(query)
            run_compiled(
                attention.plan(out, *(x.contiguous() if isinstance(x, torch.Tensor) else x for x in made), tile=SMALL)
            )
            return out

        counts = counts_through_identity(query, levels, repeat, call)
        assert torch.equal(counts.to(torch.uint8), reference.fire_counts(query, levels))


# ---- compiled for GPUs ----------------------------------------------------------------------------------------------
ATTENTIONS = [] if kernels.INTERPRETED else launches.of("attention")


@pytest.mark.parametrize("variant", ATTENTIONS, ids=str)
@pytest.mark.quick(2)
def test_compiles_with_tensor_cores_without_spills_in_shared_memory(variant):
    for target_name, target in compile.TARGETS.items():
        compiled = compile.compile_launch(variant.launch, target)
        used = compile.resources(compiled)
        assert (used["stack"], used["spill"]) == (0, 0), (target_name, used)
        assert used["shared"] <= compile.SHARED_LIMITS[target_name], (target_name, used)
        # K^T V is float32, which no tensor core multiplies exactly; on NVIDIA's there is no float32 at all.
        halves = variant.inputs != torch.float32 and variant.launch.kernel is attention.attention_kernel
        assert (used["tensor_core"] > 0) == (halves or target.backend == "hip"), (target_name, used)
        if variant.launch.kernel is attention.attention_kernel:
            assert used["load128"] > 0, (target_name, used)
        assert not re.search(r"\breassoc\b|\bfast\b", compiled.asm["llir"]), target_name


def test_tiles_fit_queries_and_heads():
    for size, tiles in attention.TILES.items():
        assert attention.pick_tile(10**4, 64, size) == tiles[64] and attention.pick_tile(10**4, 65, size) == tiles[128]
        assert attention.pick_tile(10**4, attention.MAX_WIDTH, size) == tiles[256]
        assert attention.pick_tile(tiles[0].rows, attention.MAX_WIDTH, size) == tiles[0]
    assert attention.sums_keys_first(10**4, 10**4, 64, 64, False, 2) and not attention.sums_keys_first(
        49, 49, 32, 32, False, 2
    )
    assert attention.sums_keys_first(100, 100, 64, 64, False, 4) and not attention.sums_keys_first(
        100, 100, 64, 64, True, 4
    )


# ---- on a GPU -------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
@pytest.mark.parametrize(
    "size", (*SIZES.values(), Size(2, 300, 300, 2, 64, 64), Size(1, 2000, 2000, 1, 256, 32)), ids=str
)
@dtypes
def test_on_a_gpu(dtype, size):
    generator = torch.Generator().manual_seed(7)
    for form in (*FORMS.values(), Form(causal=True, timesteps=8)):
        made = attention_cases.arguments(size, form, dtype, generator)
        on_gpu = [x.cuda() if isinstance(x, torch.Tensor) else x for x in made]
        assert_same(kernels.spiking_attention(*on_gpu).cpu(), reference.spiking_attention(*made[:8]))
