"""The Triton kernel for pooling as compiled: for four GPUs, and run on this processor against the reference."""

import pytest
import torch
from gpu_free.cases import Guarded, assert_same, name
from gpu_free.cpu_kernel import run_compiled

from pcsnn import functional, kernels, reference, use_backend
from pcsnn.kernels import pooling
from pcsnn.kernels.offline import compile, launches

pytestmark = pytest.mark.skipif(
    kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled"
)
GEOMETRIES = [  # counts, kernel, stride, padding, dilation, ceil_mode
    ((3, 64, 57, 56), (3, 3), (2, 2), (1, 1), (1, 1), False),
    ((2, 17, 33, 29), (2, 3), (1, 2), (1, 0), (1, 2), True),
    ((1, 200, 9, 9), (5, 5), (3, 3), (2, 2), (1, 1), True),
    ((70, 1, 6, 6), (2, 2), (2, 2), (0, 0), (1, 1), False),
]


def channels_last(shape):
    return torch.empty(shape, device="meta", memory_format=torch.channels_last).stride()


DTYPES = pytest.mark.parametrize("dtype", (torch.uint8, torch.float16, torch.bfloat16), ids=name)


@DTYPES
@pytest.mark.parametrize("sums", [False, True], ids=["max", "sum"])
@pytest.mark.parametrize("shape, kernel, stride, padding, dilation, ceil", GEOMETRIES)
def test_it_equals_the_reference(shape, kernel, stride, padding, dilation, ceil, sums, dtype):
    most = 256 if dtype == torch.uint8 or not sums else 256 // (kernel[0] * kernel[1])  # so that sums are exact
    counts = torch.randint(most, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    counts = counts.contiguous(memory_format=torch.channels_last)
    with use_backend("reference"):
        expected = functional.max_pool2d(counts, kernel, stride, padding, dilation, ceil)
    if sums:
        expected = reference.sum_pool2d(counts, kernel, stride, padding, dilation, expected.shape[2:]).contiguous(
            memory_format=torch.channels_last
        )
    out = Guarded(expected.shape, channels_last(expected.shape), dtype)
    run_compiled(pooling.plan(out.tensor, counts, kernel, stride, padding, dilation, sums))
    out.check()
    assert_same(out.tensor, expected)


@pytest.mark.parametrize("variant", [] if kernels.INTERPRETED else launches.of("pooling"), ids=str)
@pytest.mark.quick(2)
def test_it_compiles_without_spills(variant):
    for target_name, target in compile.TARGETS.items():
        used = compile.resources(compile.compile_launch(variant.launch, target))
        assert (used["stack"], used["spill"]) == (0, 0) and used["shared"] <= 2**14, (target_name, used)
        if variant.launch.arguments["channels"] % 16 == 0:
            assert used["load128"] > 0 and used["store128"] > 0, (target_name, used)
