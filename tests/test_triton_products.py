"""Fused synapses as compiled: run on this processor against the reference, and compiled offline for four GPUs."""

import mmap
import re

import numpy
import pytest
import torch

from gpu_free import product_cases
from gpu_free.cases import assert_same, name
from gpu_free.cpu_kernel import run_compiled
from gpu_free.product_cases import FORMS, GEOMETRIES, Geometry, check
from pcsnn import kernels, reference
from pcsnn.kernels import inspection, products, variants

pytestmark = pytest.mark.skipif(kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled")
DTYPES = (torch.int8, torch.float16, torch.bfloat16, torch.float32)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)
MAP_NORESERVE = 0x4000  # Linux's; mmap has the name from Python 3.13 on


# ---- run on this processor --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("geometry", GEOMETRIES)
@dtypes
def test_every_geometry(dtype, geometry):
    generator = torch.Generator().manual_seed(1)
    place = list(GEOMETRIES).index(geometry) + DTYPES.index(dtype)
    form = list(FORMS)[place % len(FORMS)]
    timesteps = (127, 255, 8)[place % 3]
    made = product_cases.arguments(GEOMETRIES[geometry], FORMS[form], dtype, timesteps, generator)
    check(run_compiled, made, timesteps, misaligned=place % 2)


@pytest.mark.parametrize("form", FORMS)
@dtypes
def test_every_form(dtype, form):
    generator = torch.Generator().manual_seed(2)
    made = product_cases.arguments(GEOMETRIES["images of pixels"], FORMS[form], dtype, 200, generator)
    check(run_compiled, made, 200)


@pytest.mark.parametrize("timesteps", (1, 127, 128, 255))
@pytest.mark.parametrize("tile", [(size, flat, tile) for size, dtype in ((1, "int8"), (2, "bfloat16"), (4, "float32"))
                                  for flat, tiles in ((False, products.TILES), (True, products.FLAT_TILES))
                                  for tile in tiles[size]], ids=lambda t: f"{t[0]}-{'flat' if t[1] else 'tap'}-{t[2][:3]}")
def test_every_tile_with_its_fibers_in_any_order(tile, timesteps, monkeypatch):
    size, flat, share = tile
    tiles = products.FLAT_TILES if flat else products.TILES
    monkeypatch.setitem(tiles, size, (share, share))
    generator = torch.Generator().manual_seed(timesteps)
    inputs = 5 if flat else 40
    geometry = Geometry((1, inputs, 13, 11), (70, inputs, 3, 3), padding=(1, 1))  # rows and columns of two tiles and more
    dtype = {1: torch.int8, 2: torch.bfloat16, 4: torch.float32}[size]
    made = product_cases.arguments(geometry, FORMS["bisected"], dtype, timesteps, generator, levels=16)
    for seed in (0, 1, 2):
        check(lambda launch: run_compiled(launch, shuffle=seed), made, timesteps)


@dtypes
def test_float_inputs_and_aligned_channels(dtype):
    generator = torch.Generator().manual_seed(4)
    geometry = Geometry((2, 64, 9, 8), (48, 64, 3, 3), padding=(1, 1))
    for form in ("guessed by channel", "bisected by channel"):
        check(run_compiled, product_cases.arguments(geometry, FORMS[form], dtype, 16, generator,
                                                    valued=dtype != torch.int8), 16)


def reserve(shape):
    """uint8 [N, C, H, W], channels last, of more memory than there is: zero until written, behind as much of the same."""
    images, channels, height, width = shape
    size = torch.Size(shape).numel()
    memory = mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    flat = torch.from_numpy(numpy.frombuffer(memory, dtype=numpy.uint8))[size:]
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ("pixels", "taps", "few channels", "depthwise", "2^31 pixels"))
@pytest.mark.parametrize("dtype", (torch.int8, torch.float16), ids=name)
def test_more_than_2_to_31_counts(dtype, kind):
    generator = torch.Generator().manual_seed(6)
    channels, kernel = {"pixels": (16, 1), "taps": (32, 3), "few channels": (16, 3), "depthwise": (16, 3),
                        "2^31 pixels": (1, 1)}[kind]
    groups = channels if kind == "depthwise" else 1
    width, tail = 2**11, 4
    height = 2**31 // width // channels + 2**8
    counts, out = reserve((1, channels, height, width)), reserve((1, channels, height, width))
    near = tail + kernel // 2
    counts[:, :, -near:] = torch.randint(5, (1, channels, near, width), generator=generator).to(torch.uint8)
    weight = (torch.randint(-8, 9, (channels, channels // groups, kernel, kernel), generator=generator)).to(dtype)
    levels = torch.arange(-20, 60, 8).to(torch.int32 if dtype == torch.int8 else torch.float32)
    synapse = ((1, 1), (kernel // 2,) * 2, (1, 1), groups)
    launch = products.plan(out, counts, weight, None, levels, None, None, None, *synapse, 1, 4)
    run_compiled(launch, first=launch.programs - launch.arguments["column_tiles"] * (tail * width // launch.constants["ROWS"]))
    expected = reference.conv2d_fire(counts[:, :, -near:], weight, None, levels, None, None, None, *synapse, 1)
    assert_same(out[:, :, -tail:], expected[:, :, -tail:])


# ---- compiled for GPUs ------------------------------------------------------------------------------------------------
PRODUCTS = [] if kernels.INTERPRETED else variants.products_of_every_tile()


@pytest.mark.parametrize("variant", PRODUCTS, ids=str)
def test_compiles_with_tensor_cores_without_spills_in_shared_memory(variant):
    with_dot = variant.launch.kernel is products.product_kernel
    for target_name, target in inspection.TARGETS.items():
        compiled = inspection.compile_launch(variant.launch, target)
        used = inspection.resources(compiled)
        assert (used["stack"], used["spill"]) == (0, 0), (target_name, used)
        assert used["shared"] <= inspection.SHARED_LIMITS[target_name], (target_name, used)
        # No tensor core multiplies float32 exactly; on NVIDIA's there is no float32 at all.
        has_unit = with_dot and (variant.inputs != torch.float32 or target.backend == "hip")
        assert (used["tensor_core"] > 0) == has_unit, (target_name, used)
        neurons_a_thread = variant.launch.constants["ROWS"] * variant.launch.constants["COLUMNS"] // variant.launch.threads
        if target.backend == "cuda" and neurons_a_thread * variant.output.itemsize >= 16:
            assert used["store128"] == used["stores"] > 0, (target_name, used)
        assert not re.search(r"\breassoc\b|\bfast\b", compiled.asm["llir"]), target_name


def test_tiles_fill_a_gpu_and_leave_no_half_empty():
    for tiles in (*products.TILES.values(), *products.FLAT_TILES.values()):
        for rows in (1, 16, 17, 49, 3136, 10**6):
            for columns in (1, 10, 64, 512):
                for groups in (1, 32):
                    share = products.tile(rows, columns, groups, tiles)
                    assert share in tiles
                    if share not in tiles[-2:]:
                        programs = groups * -(-rows // share.rows) * -(-columns // share.columns)
                        assert programs >= products.FULL and rows > share.rows // 2 and columns > share.columns // 2
    assert products.tile(10**6, 512, 1, products.TILES[1]) == products.TILES[1][0]
    assert products.tile(1, 1000, 1, products.TILES[1]) == products.TILES[1][-1]


# ---- on a GPU ---------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
@pytest.mark.parametrize("geometry", (*GEOMETRIES, Geometry((4, 64, 56, 56), (128, 64, 3, 3), (2, 2), (1, 1))), ids=str)
@dtypes
def test_on_a_gpu(dtype, geometry):
    generator = torch.Generator().manual_seed(7)
    geometry = GEOMETRIES.get(geometry, geometry)
    for form in FORMS.values():
        for timesteps in (127, 255):
            made = product_cases.arguments(geometry, form, dtype, timesteps, generator)
            on_gpu = [x.cuda() if isinstance(x, torch.Tensor) else x for x in made]
            assert_same(kernels.conv2d_fire(*on_gpu, timesteps).cpu(), reference.conv2d_fire(*made))
