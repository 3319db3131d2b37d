"""The straight-through gradient of a staircase (C4), against the curve in plain differentiable torch."""

import pytest
import torch
from tiny_networks import one_thread  # noqa: F401 (a fixture)

import pcsnn
from pcsnn import reference
from pcsnn.nn import staircase
from pcsnn.tensors.arithmetic import per_channel


def curve(current, levels, amplitude):
    """The transfer curve (C4) in plain differentiable torch."""
    steps = levels.shape[-1]
    fixed = levels.detach()  # the outermost knots move with their levels
    half = ((fixed[..., 1] - fixed[..., 0]) / 2, (fixed[..., -1] - fixed[..., -2]) / 2)
    knots = torch.cat([(levels[..., 0] - half[0]).unsqueeze(-1), levels, (levels[..., -1] + half[1]).unsqueeze(-1)], -1)
    value, out = [0, *(k - 0.5 for k in range(1, steps + 1)), steps], 0
    for i in range(steps + 1):
        low, high = (per_channel(knots[..., j], current.dim()) for j in (i, i + 1))
        share = (current - low) / (high - low)
        inside = (current >= low) & (current < high)
        out = out + torch.where(inside, value[i] + share * (value[i + 1] - value[i]), 0)
    return out * per_channel(amplitude, current.dim()) / steps


@pytest.mark.parametrize("backend", ["reference", "c++"])
@pytest.mark.parametrize("timesteps", [2, 4, 7, 32])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 5, 7), (2, 3, 1, 2, 3), (0, 3, 2)])
@pytest.mark.parametrize("layout", ["plain", "channels last", "strided"])
@pytest.mark.parametrize("by_channel", [True, False])
def test_gradients_are_those_of_the_curve(backend, timesteps, shape, layout, by_channel):
    torch.manual_seed(timesteps)
    current = torch.randn(shape) * 2
    if layout == "channels last":
        current = current.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == "strided":
        current = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2] * 2
    levels = torch.randn(3, timesteps).sort().values if by_channel else torch.randn(timesteps).sort().values
    amplitude = torch.rand(levels.shape[:-1]) + 0.5
    arguments = [value.clone().requires_grad_() for value in (levels, amplitude)]
    current.requires_grad_()
    outside = torch.randn(shape)
    with pcsnn.use_backend(backend):
        out = staircase.staircase(current, *arguments)
        found = torch.autograd.grad(out, [current, *arguments], outside)
    precise = [value.detach().double().requires_grad_() for value in (current, *arguments)]
    to_current, to_levels, _ = torch.autograd.grad(curve(*precise), precise, outside.double())
    torch.testing.assert_close(found[0].double(), to_current, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), to_levels, rtol=1e-3, atol=1e-3)
    k = reference.search(current.detach(), levels)
    worth = (outside * k).double() / timesteps
    expected = worth.sum([d for d in range(len(shape)) if d != 1]) if by_channel else worth.sum()
    torch.testing.assert_close(found[2].double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(out, k * per_channel(amplitude / timesteps, len(shape)))


@pytest.mark.parametrize("shape", [(40, 17, 9, 8), (3, 40, 7, 7), (600, 19)])  # tiles of 256 neurons, 16 channels
@pytest.mark.parametrize("timesteps", [4, 19, 20, 39, 45])  # up to 19: a pass for each interval
def test_the_layout_does_not_change_the_gradient(shape, timesteps):
    torch.manual_seed(timesteps)
    levels = torch.randn(shape[1], timesteps).sort().values
    outside, current = torch.randn(2, *shape)
    found = []
    for last in (False, True):
        turned = [part.movedim(1, -1).contiguous().movedim(-1, 1) if last else part for part in (current, outside)]
        if current.dim() == 2 and not last:
            turned = [part.t().contiguous().t() for part in turned]
        arguments = [turned[0].clone().requires_grad_(), levels.clone().requires_grad_()]
        out = staircase.staircase(*arguments, torch.ones(shape[1]))
        found.append(torch.autograd.grad(out, arguments, turned[1]))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


def test_gradients_of_one_level_and_of_equal_levels_are_finite():
    current = torch.randn(40, 2).requires_grad_()
    for levels in (torch.tensor([[0.5], [0.1]]), torch.tensor([[0.2, 0.2, 0.2], [0.0, 0.3, 0.3]])):
        arguments = levels.requires_grad_(), torch.ones(2, requires_grad=True)
        found = torch.autograd.grad(staircase.staircase(current, *arguments).sum(), [current, *arguments])
        assert all(value.isfinite().all() for value in found)


def test_the_gradient_does_not_depend_on_threads():
    torch.manual_seed(0)
    current, outside = torch.randn(2, 64, 3, 9, 9)
    levels, amplitude = torch.randn(3, 4).sort().values, torch.ones(3)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        arguments = [value.clone().requires_grad_() for value in (current, levels, amplitude)]
        found.append(torch.autograd.grad(staircase.staircase(*arguments), arguments, outside))
    torch.set_num_threads(1)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(gradient=torch.ones(4, 3, dtype=torch.float64)), "gradient: expected float32, got"),
        (dict(current=torch.ones(4, 3, dtype=torch.bfloat16)), "current: expected float32, got"),
        (dict(knots=torch.ones(3, 6, dtype=torch.float64)), "knots: expected float32, got"),
        (dict(slopes=torch.ones(3, 5, dtype=torch.float16)), "slopes: expected float32, got"),
        (dict(gradient=torch.ones(3, 4)), r"gradient: expected the shape of current \[4, 3\], got \[3, 4\]"),
        (dict(knots=torch.ones(1, 3, 6)), r"knots: expected \[K\] or \[C, K\], got shape \[1, 3, 6\]"),
        (dict(knots=torch.tensor(1.0)), r"knots: expected \[K\] or \[C, K\], got shape \[\]"),
        (dict(knots=torch.ones(2, 6), slopes=torch.ones(2, 5)), "knots: expected .*3"),
        (dict(knots=torch.ones(3, 1), slopes=torch.ones(3, 0)), "slopes: expected one less than knots"),
        (dict(slopes=torch.ones(3, 6)), r"slopes: expected one less than knots \[3, 6\], got shape \[3, 6\]"),
        (dict(slopes=torch.ones(5)), r"slopes: expected one less than knots \[3, 6\], got shape \[5\]"),
        (dict(slopes=torch.ones(2, 5)), r"slopes: expected one less than knots \[3, 6\], got shape \[2, 5\]"),
    ],
)
def test_the_gradient_operator_refuses(change, words):
    given = dict(gradient=torch.ones(4, 3), current=torch.ones(4, 3), knots=torch.ones(3, 6), slopes=torch.ones(3, 5))
    with pytest.raises(RuntimeError, match=words):
        torch.ops.pcsnn.transfer_gradient(*(given | change).values())
