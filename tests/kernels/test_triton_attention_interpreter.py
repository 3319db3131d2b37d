"""Fused attention under Triton's interpreter, against the reference.

Run without TRITON_INTERPRET=1, this file runs itself again with it, in a process of its own. bfloat16 is left to
test_triton_attention.py: the interpreter is wrong there.
"""

import pytest
import torch
from gpu_free import attention_cases
from gpu_free.attention_cases import FORMS, SIZES, Form, Size, check, counts_through_identity
from gpu_free.cases import assert_same, name
from gpu_free.interpreter import interpret, interpreted, not_interpreted, run_interpreted

from pcsnn import functional, kernels, reference, use_backend
from pcsnn.kernels import attention
from pcsnn.nn import CollapsedNeuron, SpikingAttention

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy on infinities, intended
DTYPES = (torch.float16, torch.float32)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)


@not_interpreted
def test_in_a_process_of_its_own():
    run_interpreted(__file__)


@interpreted
@pytest.mark.parametrize("size", SIZES)
@dtypes
def test_every_form_of_every_size(dtype, size):
    generator = torch.Generator().manual_seed(1)
    for place, form in enumerate(FORMS.values()):
        made = attention_cases.arguments(SIZES[size], form, dtype, generator)
        expected = check(interpret, made, misaligned=place % 2)
        assert size == "one token" or expected.any()


@interpreted
@dtypes
def test_every_tile(dtype):
    generator = torch.Generator().manual_seed(2)
    for tile in attention.TILES[dtype.itemsize].values():
        for form in ("causal", "bisected"):
            check(
                interpret,
                attention_cases.arguments(Size(1, 130, 90, 1, 40, 70), FORMS[form], dtype, generator),
                tile=tile,
            )


@interpreted
@dtypes
def test_counts_are_those_of_the_neuron(dtype):
    generator = torch.Generator().manual_seed(3)
    for timesteps in (1, 4, 13, 255):
        neuron = CollapsedNeuron(2.0, timesteps)
        query = neuron.levels[torch.randint(timesteps, (2, 20, 24), generator=generator)]
        query = (query * (1 + torch.randint(-1, 2, query.shape, generator=generator) * 2.0**-23)).to(dtype)
        query[0, 0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0])
        for repeat in (0, 1):
            counts = counts_through_identity(query, neuron.levels, repeat, kernels.spiking_attention)
            assert torch.equal(counts.to(torch.uint8), neuron.counts(query))


@interpreted
@dtypes
def test_values_of_any_kind_are_close(dtype):
    """Real operands: sums round in another order, and half precision rounds the scores."""
    generator = torch.Generator().manual_seed(4)
    for causal in (False, True):
        query, key, value = (torch.randn(2, 60, 64, generator=generator).to(dtype) for _ in range(3))
        made = (query, key, value, functional.levels(1.0, 8), torch.tensor(0.05), 2, causal, 1)
        actual, expected = kernels.spiking_attention(*made), reference.spiking_attention(*made[:8])
        tolerance = 2e-6 if dtype == torch.float32 else 2e-3
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@interpreted
def test_the_module_and_strided_inputs():
    generator = torch.Generator().manual_seed(5)
    layer = SpikingAttention(2, 4 + torch.rand(24, generator=generator), 4, scale=0.25, causal=True)
    wide = torch.randint(-4, 5, (2, 10, 144), generator=generator).float()
    inputs = [wide[..., first : first + 48 : 2] for first in (0, 48, 96)]
    with use_backend("triton"):
        actual = layer(*inputs)
    with use_backend("reference"):
        torch.testing.assert_close(actual, layer(*inputs), rtol=1e-6, atol=1e-5)
    assert actual.is_contiguous()


@interpreted
def test_keys_first_where_they_are_many():
    generator = torch.Generator().manual_seed(6)
    made = attention_cases.arguments(Size(1, 80, 80, 1, 8, 8), Form(), torch.float32, generator)
    assert attention.sums_keys_first(80, 80, 8, 8, False, 4)
    assert_same(kernels.spiking_attention(*made), reference.spiking_attention(*made[:8]))


@interpreted
def test_empty_batches_and_refusals():
    levels, scale = functional.levels(1.0, 4), torch.tensor(1.0)
    query = torch.zeros(0, 5, 8)
    assert kernels.spiking_attention(query, query, query, levels, scale, 2, False, 1).shape == (0, 5, 8)
    query = torch.ones(1, 3, 4)
    assert not kernels.spiking_attention(query, query[:, :0], query[:, :0], levels, scale, 1, False, 1).any()  # no keys
    with pytest.raises(TypeError, match="query: expected float32, float16 or bfloat16 on a GPU"):
        kernels.spiking_attention(*[query.double()] * 3, levels, scale, 1, False, 1)
    wide = torch.ones(1, 2, 300)
    with pytest.raises(ValueError, match="query: expected at most 256 features a head"):
        kernels.spiking_attention(wide, wide, wide, levels, scale, 1, False, 1)
