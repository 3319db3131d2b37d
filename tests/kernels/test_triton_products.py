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
from pcsnn.kernels import products, synapses, tiles
from pcsnn.kernels.offline import compile, launches

pytestmark = pytest.mark.skipif(
    kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled"
)
DTYPES = (torch.int8, torch.float16, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)
MAP_NORESERVE = 0x4000  # Linux's; mmap has the name from Python 3.13 on


# ---- run on this processor ------------------------------------------------------------------------------------------
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


@pytest.mark.parametrize(
    "size, tile",
    [(size, tile) for size in (1, 2) for tile in tiles.of(size)],
    ids=lambda x: "x".join(map(str, x[:3])) if isinstance(x, tuple) else str(x),
)
@pytest.mark.quick(2)
def test_every_tile_with_its_fibers_in_any_order(size, tile):
    dtype = {1: torch.int8, 2: torch.bfloat16}[size]
    generator = torch.Generator().manual_seed(tile.rows)
    inputs = 5 if tile.inner == 32 else tile.inner
    geometry = Geometry((1, inputs, 13, 11), (tile.columns + 6, inputs, 3, 1), padding=(1, 0))  # two tiles each way
    made = product_cases.arguments(geometry, FORMS["currents with residual"], dtype, 100, generator)
    check(lambda launch: run_compiled(launch, shuffle=1), made, 128 if tile.inner == 64 else 127, tile=tile)


@dtypes
def test_float_inputs_and_aligned_channels(dtype):
    generator = torch.Generator().manual_seed(4)
    geometry = Geometry((2, 64, 9, 8), (48, 64, 3, 3), padding=(1, 1))
    for form in ("line by channel", "bisected by channel"):
        check(
            run_compiled,
            product_cases.arguments(geometry, FORMS[form], dtype, 16, generator, valued=dtype != torch.int8),
            16,
        )


def reserve(shape):
    """uint8 [N, C, H, W], channels last, of more memory than there is: zero until written, behind as much again."""
    images, channels, height, width = shape
    size = torch.Size(shape).numel()
    memory = mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    flat = torch.from_numpy(numpy.frombuffer(memory, dtype=numpy.uint8))[size:]
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ("pixels", "taps", "few channels", "depthwise", "2^31 pixels"))
@pytest.mark.parametrize("dtype", (torch.int8, torch.float16), ids=name)
@pytest.mark.quick(2)
def test_more_than_2_to_31_counts(dtype, kind):
    generator = torch.Generator().manual_seed(6)
    channels, kernel = {
        "pixels": (16, 1),
        "taps": (32, 3),
        "few channels": (16, 3),
        "depthwise": (16, 3),
        "2^31 pixels": (1, 1),
    }[kind]
    groups = channels if kind == "depthwise" else 1
    width, tail = 2**11, 4
    height = 2**31 // width // channels + 2**8
    counts, out = reserve((1, channels, height, width)), reserve((1, channels, height, width))
    near = tail + kernel // 2
    counts[:, :, -near:] = torch.randint(5, (1, channels, near, width), generator=generator).to(torch.uint8)
    weight = (torch.randint(-8, 9, (channels, channels // groups, kernel, kernel), generator=generator)).to(dtype)
    levels = torch.arange(-20, 60, 8).to(torch.int32 if dtype == torch.int8 else torch.float32)
    synapse = ((1, 1), (kernel // 2,) * 2, (1, 1), groups)
    launch = synapses.plan(out, counts, weight, None, levels, None, None, None, *synapse, 1, 4)
    run_compiled(
        launch, first=launch.programs - launch.arguments["column_tiles"] * (tail * width // launch.constants["ROWS"])
    )
    expected = reference.conv2d_fire(counts[:, :, -near:], weight, None, levels, None, None, None, *synapse, 1)
    assert_same(out[:, :, -tail:], expected[:, :, -tail:])


# ---- compiled for GPUs ----------------------------------------------------------------------------------------------
PRODUCTS = [] if kernels.INTERPRETED else launches.of("synapses")


@pytest.mark.parametrize("variant", PRODUCTS, ids=str)
@pytest.mark.quick(2)
def test_compiles_with_tensor_cores_without_spills_in_shared_memory(variant):
    launch = variant.launch
    for target_name, target in compile.TARGETS.items():
        compiled = compile.compile_launch(launch, target)
        used = compile.resources(compiled)
        assert (used["stack"], used["spill"]) == (0, 0), (target_name, used)
        assert used["shared"] <= compile.SHARED_LIMITS[target_name], (target_name, used)
        assert (used["tensor_core"] > 0) == (launch.kernel is products.product_kernel), (target_name, used)
        sums = launch.constants["ROWS"] * launch.constants["COLUMNS"] // launch.threads
        if target.backend == "cuda" and sums * variant.output.itemsize >= 16:
            assert used["store128"] == used["stores"] > 0, (target_name, used)
        assert not re.search(r"\breassoc\b|\bfast\b", compiled.asm["llir"]), target_name
        if (
            launch.kernel is products.product_kernel
            and launch.constants["ROWS"] >= 64
            and target_name in ("sm_80", "sm_90")
        ):
            check_loop(compiled.asm["ptx"], variant, target_name)


def check_loop(ptx, variant, target_name):
    """What makes a large tile fast: tensor cores fed from shared memory, which copies fill that no thread waits for,
    and no 64-bit multiplication between them."""
    constants = variant.launch.constants
    loops = re.findall(r"^(\$L__BB\w+):((?:(?!^\$L__BB\w+:).)*?bra\S*\s+\1;)", ptx, re.M | re.S)
    main = max((body for _, body in loops if re.search(r"mma", body)), key=len)
    kind = {torch.int8: "s32.s8.s8", torch.bfloat16: "f32.bf16.bf16", torch.float16: "f32.f16.f16"}[variant.inputs]
    if target_name == "sm_90":
        assert re.search(rf"wgmma\.mma_async\S*{kind}", main)
    assert "cp.async" in main
    if constants["INNER"] > 32:  # bytes of three channels lie as they lie
        assert "ld.global" not in main
    assert not re.search(r"mul\.lo\.[su]64|div\.|rem\.", main)


def loads_behind_the_product(launch):
    """Loads from global memory that sm_90 issues behind its last product, and the bytes of them all."""
    ptx = compile.compile_launch(launch, compile.TARGETS["sm_90"]).asm["ptx"]
    behind = ptx[ptx.rindex("wgmma.mma_async") :]
    loads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+)", behind)
    return len(loads), sum(int(lanes or 1) * int(bits) // 8 for lanes, bits in loads)


@pytest.mark.parametrize("dtype", synapses.WEIGHTS, ids=name)
def test_levels_of_a_line_are_not_loaded(dtype):
    launch = synapses.variant("conv2d", dtype, tiles.of(dtype.itemsize)[0], "line", 127).launch
    constants = launch.constants
    bare = launch._replace(arguments=launch.arguments | dict(line_ptr=None), constants=constants | dict(LINE=0))
    _, table = loads_behind_the_product(launch)
    _, rest = loads_behind_the_product(bare)
    columns = (
        constants["COLUMNS"] // 4
    )  # those of a thread: a quad shares a row; where it reads pieces of them, a pair does
    assert (table - rest) // (3 * 4) in (columns, 2 * columns), "first, step and 1 / step of each column"


def test_tiles_fill_a_gpu_and_leave_no_half_empty():
    for itemsize in (1, 2):
        for rows in (1, 16, 17, 49, 3136, 10**6):
            for columns in (1, 10, 64, 512):
                for inputs, taps in ((3, 7), (40, 9), (64, 1), (192, 1), (512, 9)):
                    for groups in (1, 32):
                        tile = tiles.pick(itemsize, rows, columns, inputs, taps, groups)
                        fitting = tiles.candidates(itemsize, inputs)
                        assert tile in fitting
                        if tile != fitting[-1]:
                            programs = groups * -(-rows // tile.rows) * -(-columns // tile.columns)
                            assert programs >= tiles.PROGRAMS and rows > tile.rows // 2 and columns > tile.columns // 2
    assert tiles.pick(1, 10**6, 512, 512, 9, 1) == tiles.TILES[1][128][0]
    assert tiles.pick(1, 1, 1000, 512, 1, 1) == tiles.TILES[1][128][-1]
    inner = {3: 32, 64: 64, 72: 32, 128: 128, 192: 64, 200: 32, 512: 128}
    assert {inputs: tiles.candidates(1, inputs)[0].inner for inputs in inner} == inner
    assert set(tiles.MEASURED.values()) <= set(tiles.of(1))


# ---- on a GPU -------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
@pytest.mark.parametrize("geometry", (*GEOMETRIES, Geometry((4, 64, 56, 56), (128, 64, 3, 3), (2, 2), (1, 1))), ids=str)
@pytest.mark.parametrize("dtype", (*DTYPES, torch.float32), ids=name)
def test_on_a_gpu(dtype, geometry):
    generator = torch.Generator().manual_seed(7)
    geometry = GEOMETRIES.get(geometry, geometry)
    for form in FORMS.values():  # float32 is the library's, in the order of whose sums these are exact too
        for timesteps in (127, 255):
            made = product_cases.arguments(geometry, form, dtype, timesteps, generator)
            on_gpu = [x.cuda() if isinstance(x, torch.Tensor) else x for x in made]
            line, reach = product_cases.searched(made)
            found = kernels.conv2d_fire(*on_gpu, timesteps, None if line is None else line.cuda(), reach)
            assert_same(found.cpu(), reference.conv2d_fire(*made))
