"""The operators as torch sees them: schemas, fakes, tracing, compilation, export."""

import cases
import pytest
import torch
from operator_samples import (
    COUNTS,
    CURRENT,
    KERNEL,
    LAST,
    LEVELS,
    ROWS,
    SAMPLES,
    SCALE,
    SCALES,
    STEPS,
    WHOLE,
    WHOLE_LEVELS,
)

from pcsnn import functional
from pcsnn.operators import dispatch


def test_every_operator_has_samples():
    assert set(SAMPLES) == set(dispatch._operators)


@pytest.mark.parametrize("name, sample", [(name, i) for name, found in SAMPLES.items() for i in range(len(found))])
def test_opcheck(name, sample):
    done = torch.library.opcheck(getattr(torch.ops.pcsnn, name).default, SAMPLES[name][sample])
    assert set(done.values()) == {"SUCCESS"}, done


def all_functions(current, steps, levels, scale, counts):
    first = functional.fire_counts(current, levels, counts, scale)
    rates = functional.fire_rates(current, levels, scale, current, repeat=1)
    written = functional.fire_rates(current + 1, levels, scale, inplace=True, repeat=0)
    spikes = functional.fire_spikes(steps, levels, torch.float32, scale)
    trains = functional.expand_spikes(first, 4, torch.tensor([1, 0, 3, 2]), torch.bfloat16, 0.5)
    fused = functional.conv2d_fire(counts, KERNEL, levels, scale=scale, repeat=1, padding=1)
    whole = functional.linear_fire(counts[:, :, 0, :3], WHOLE[:, :, 0, 0], WHOLE_LEVELS)
    tokens = current[0].transpose(0, 2)  # features last: as many as there are levels for
    attended = functional.spiking_attention(tokens, tokens, tokens, levels, scale=scale, heads=3, causal=True, repeat=1)
    pooled = functional.max_pool2d(counts, 2), functional.sum_pool2d(counts, 2)
    return first, rates, written, spikes, trains, fused, whole, *pooled, attended


ARGUMENTS = {"per layer": (CURRENT, STEPS, LEVELS, SCALE, COUNTS), "per channel": (LAST, STEPS, ROWS, SCALES, COUNTS)}


@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_compiled_whole(kind, backend):
    torch._dynamo.reset()
    compiled = torch.compile(all_functions, fullgraph=True, backend=backend)
    for got, expected in zip(compiled(*ARGUMENTS[kind]), all_functions(*ARGUMENTS[kind])):
        cases.assert_same(got, expected, f"{kind}, {backend}")


def test_compiled_with_a_dynamic_batch():
    torch._dynamo.reset()
    compiled = torch.compile(functional.fire_counts, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (2, 5, 9):
        current = torch.randn(batch, 3, 4)
        cases.assert_same(compiled(current, ROWS), functional.fire_counts(current, ROWS))


class Layer(torch.nn.Module):
    def forward(self, *arguments):
        return all_functions(*arguments)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_exported(kind):
    program = torch.export.export(Layer(), ARGUMENTS[kind])
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {f"pcsnn.{name}.default" for name in SAMPLES} <= called
    for got, expected in zip(program.module()(*ARGUMENTS[kind]), all_functions(*ARGUMENTS[kind])):
        cases.assert_same(got, expected, kind)
