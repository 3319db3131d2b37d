"""QCFS, ParallelSpikingNeuron and CollapsedNeuron as modules."""

import copy

import pytest
import torch
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import reference
from pcsnn.levels import even
from pcsnn.nn import QCFS, CollapsedNeuron, ParallelSpikingNeuron

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def currents(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def formula(z, theta, levels):
    """(1) in float64."""
    return theta / levels * torch.floor(z.double() * levels / theta + 0.5).clamp(0, levels)


# QCFS


@pytest.mark.parametrize("levels", [1, 2, 3, 8, 100, 255])
def test_qcfs_is_the_formula(levels):
    z, act = currents(4, 1000), QCFS(levels, threshold=1.7)
    torch.testing.assert_close(act(z).double(), formula(z, act.threshold.item(), levels), rtol=1e-6, atol=0)


def test_qcfs_at_ties_and_special_values():
    act = QCFS(4, threshold=2.0)
    inf, nan = float("inf"), float("nan")
    z = torch.tensor([0.25, 0.24999999, 1.75, 1.7499999, -0.0, 1e-40, -inf, inf, nan])
    assert act(z).tolist() == [0.5, 0.0, 2.0, 1.5, 0.0, 0.0, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_qcfs_keeps_the_dtype(dtype):
    z, act = currents(3, 5, dtype=dtype), QCFS(8, 1.5)
    assert act(z).dtype == dtype and act(z).shape == z.shape and act(z[:0]).shape == (0, 5)
    torch.testing.assert_close(act(z).double(), formula(z, 1.5, 8), rtol=0.01, atol=0)
    act.to(dtype)(z.requires_grad_()).sum().backward()
    assert z.grad.dtype == act.threshold.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_formula_with_a_straight_through_floor(dtype):
    z, weight = currents(7, 11, dtype=dtype).requires_grad_(), currents(7, 11, seed=1, dtype=dtype)
    act = QCFS(5, 1.5).to(dtype)
    (act(z) * weight).sum().backward()
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    other = z.detach().double().requires_grad_()
    scaled = other * 5 / theta + 0.5
    floored = scaled + (torch.floor(scaled) - scaled).detach()
    inside = (other.detach() >= 0) & (other.detach() <= 1.5)
    clipped = torch.where(inside, floored, torch.floor(scaled.detach()).clamp(0, 5))
    (theta / 5 * clipped * weight.double()).sum().backward()
    torch.testing.assert_close(z.grad.double(), other.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(act.threshold.grad.double(), theta.grad, rtol=1e-4, atol=1e-5)
    assert (z.grad == 0).any() and (z.grad != 0).any()


def test_threshold_gradient_where_all_neurons_saturate_is_numerical():
    z, step = torch.full((10,), 50.0), 2.0**-8
    act = QCFS(4, 2.0)
    act(z).sum().backward()
    numerical = (QCFS(4, 2.0 + step)(z).sum() - QCFS(4, 2.0 - step)(z).sum()) / (2 * step)
    assert act.threshold.grad.item() == pytest.approx(numerical.item(), rel=1e-4) == 10


def test_qcfs_learns():
    torch.manual_seed(0)
    act = QCFS(4, 8.0)
    optimiser, z = torch.optim.SGD([act.threshold], lr=1.0), torch.rand(500)
    for _ in range(300):
        optimiser.zero_grad()
        (act(z) - z).square().mean().backward()
        optimiser.step()
    assert 0.8 < act.threshold.item() < 1.4


def test_qcfs_has_no_second_derivative():
    z = currents(5).requires_grad_()
    (grad,) = torch.autograd.grad(QCFS(4)(z).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_qcfs_state_dict_deepcopy_and_casts():
    act = QCFS(4, 1.3)
    assert list(act.state_dict()) == ["threshold"] and isinstance(act.threshold, nn.Parameter)
    other = QCFS(4)
    other.load_state_dict(act.state_dict())
    z = currents(100)
    assert torch.equal(other(z), act(z)) and torch.equal(copy.deepcopy(act)(z), act(z))
    assert torch.equal(act.double()(z.double()).float(), other(z))
    assert "levels=4" in repr(act)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((0,), ValueError, "levels: expected a value in 1..255, got 0"),
        ((256,), ValueError, "levels: "),
        ((4.0,), TypeError, "levels: "),
        ((True,), TypeError, "levels: "),
        ((4, 0.0), ValueError, "threshold: expected values above zero"),
        ((4, -1), ValueError, "threshold: "),
        ((4, float("nan")), ValueError, "threshold: "),
        ((4, "8"), TypeError, "threshold: "),
        ((4, torch.ones(3)), ValueError, "threshold: expected a number"),
        ((4, True), TypeError, "threshold: "),
    ],
)
def test_qcfs_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        QCFS(*arguments)


def test_qcfs_refuses_inputs_and_thresholds_gone_wrong():
    with pytest.raises(TypeError, match="z: expected a tensor"):
        QCFS(4)([1.0])
    with pytest.raises(TypeError, match="z: expected dtype"):
        QCFS(4)(torch.ones(3, dtype=torch.int64))
    for value in (0.0, -1.0, float("nan")):
        act = QCFS(4)
        act.threshold.data.fill_(value)
        with pytest.raises(ValueError, match="threshold: expected values above zero"):
            act(currents(3))


def test_qcfs_compiles_and_exports():
    act, z = QCFS(4, 1.5), currents(6, 5)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(act, fullgraph=True, backend="eager")(z), act(z))
    assert torch.equal(torch.export.export(act, (z,)).module()(z), act(z))


# ParallelSpikingNeuron


@pytest.mark.parametrize("timesteps", [1, 2, 5, 8, 32, 255])
def test_parallel_neuron_fires_like_qcfs_of_the_mean_for_uneven_currents(timesteps):
    x = currents(timesteps, 4, 50).double()
    neuron = ParallelSpikingNeuron(1.3, timesteps).double()
    spikes = neuron(x)
    theta = neuron.threshold.item()
    assert spikes.shape == x.shape and set(spikes.unique().tolist()) <= {0.0, theta}
    torch.testing.assert_close(spikes.mean(0), formula(x.mean(0), theta, timesteps), rtol=1e-9, atol=1e-12)
    assert (spikes[1:] >= spikes[:-1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_agree(dtype):
    x = currents(6, 3, 4, 5, dtype=dtype)
    theta = torch.tensor([0.5, 1.0, 2.0, torch.inf])
    spikes, counts, rate = (
        ParallelSpikingNeuron(theta, 6, output=output)(x) for output in ("spikes", "counts", "rate")
    )
    assert spikes.dtype == rate.dtype == dtype and counts.dtype == torch.uint8
    assert spikes.shape == x.shape and counts.shape == rate.shape == (3, 4, 5)
    assert torch.equal((spikes != 0).sum(0), counts.long()) and not counts[:, 3].any() and counts[:, :3].any()
    assert torch.equal(
        counts.long(),
        reference.search(
            reference.fire_spikes(x, even.table(theta.double(), 6)).sum(0).float() - 0.5, torch.arange(6.0)
        ).long(),
    )
    torch.testing.assert_close(
        rate.double(), torch.where(theta == torch.inf, 0, theta).double()[None, :, None] * counts / 6, rtol=0.01, atol=0
    )
    plain = ParallelSpikingNeuron(theta, 6, amplitude=1.0)(x)
    assert set(plain.unique().tolist()) == {0.0, 1.0}


def test_shift():
    x = torch.full((4, 1, 1), 0.3)
    assert [int(ParallelSpikingNeuron(1.0, 4, shift=shift, output="counts")(x)) for shift in (0.0, 0.5, 0.8, 1.0)] == [
        1,
        1,
        2,
        2,
    ]


def make(kind, **options):
    theta = torch.tensor([0.5, 1.0, 2.0])
    return ParallelSpikingNeuron(theta, 6, **options) if kind == "parallel" else CollapsedNeuron(theta, 6, **options)


def example(kind, dtype=torch.float32):
    return currents(6, 4, 3, 5, dtype=dtype) if kind == "parallel" else currents(4, 3, 5, dtype=dtype)


@pytest.mark.parametrize("kind", ["parallel", "collapsed"])
class TestNeuronModules:
    def test_state_dict_holds_what_cannot_be_derived(self, kind):
        neuron = make(kind)
        assert {"threshold", "amplitude"} <= set(neuron.state_dict()) <= {"threshold", "amplitude", "offset"}
        assert not list(neuron.parameters())

    def test_loading_derives_levels_anew(self, kind):
        one, two, x = make(kind), make(kind), example(kind)
        with torch.no_grad():
            one.threshold.mul_(1.7)
            one.amplitude.mul_(0.9)
        two.load_state_dict(one.state_dict())
        fresh = type(one)(one.threshold, 6, amplitude=one.amplitude)
        assert torch.equal(two.levels, fresh.levels) and torch.equal(two.scale, fresh.scale)
        assert torch.equal(two(x), fresh(x)) and not torch.equal(two(x), make(kind)(x))
        nested = nn.Sequential(make(kind))
        nested.load_state_dict({f"0.{key}": value for key, value in one.state_dict().items()}, assign=True)
        assert torch.equal(nested(x), fresh(x))

    def test_loading_refuses_bad_thresholds(self, kind):
        state = make(kind).state_dict()
        state["threshold"] = torch.tensor([1.0, -1.0, 1.0])
        with pytest.raises((ValueError, RuntimeError), match="threshold: expected values above zero"):
            make(kind).load_state_dict(state)
        with pytest.raises(RuntimeError, match="size mismatch"):
            make(kind).load_state_dict({**make(kind).state_dict(), "threshold": torch.ones(4)})

    def test_deepcopy(self, kind):
        neuron, x = make(kind), example(kind)
        twin = copy.deepcopy(neuron)
        assert torch.equal(twin(x), neuron(x))
        assert twin.levels.data_ptr() != neuron.levels.data_ptr()

    def test_half_and_double(self, kind):
        neuron, x = make(kind), example(kind)
        expected = neuron(x)
        for dtype in (torch.float16, torch.bfloat16):
            half = copy.deepcopy(neuron).to(dtype)
            assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}
            assert torch.equal(half(x), expected)
            assert half(x.to(dtype)).dtype == dtype
        double = copy.deepcopy(neuron).double()
        assert {buffer.dtype for buffer in double.buffers()} == {torch.float64}
        assert torch.equal(double(x.double()).float(), expected)
        assert torch.equal(double.half()(x), expected) and torch.equal(double.float()(x), expected)

    def test_compile_and_export(self, kind):
        neuron, x = make(kind), example(kind)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(neuron, fullgraph=True, backend="eager")(x), neuron(x))
        assert torch.equal(torch.export.export(neuron, (x,)).module()(x), neuron(x))

    def test_empty_batches(self, kind):
        x = example(kind)
        empty = x[:, :0] if kind == "parallel" else x[:0]
        assert make(kind)(empty).shape == empty.shape

    def test_gradients_are_refused_over_time_and_straight_through_without_it(self, kind):
        x = example(kind).requires_grad_()
        if kind == "parallel":
            with pytest.raises(RuntimeError, match="requires a gradient"):
                make(kind)(x)
        else:
            make(kind)(x).sum().backward()
            assert x.grad.any()
        with torch.no_grad():
            assert not make(kind)(x).requires_grad

    def test_inputs_are_unchanged(self, kind):
        x = example(kind)
        before = x.clone()
        make(kind)(x)
        assert torch.equal(x, before)

    @pytest.mark.parametrize(
        "threshold, error",
        [
            (0, ValueError),
            (0.0, ValueError),
            (-1.0, ValueError),
            (float("nan"), ValueError),
            (torch.tensor([1.0, 0.0]), ValueError),
            (torch.tensor([1.0, float("nan")]), ValueError),
            (torch.ones(2, 2), ValueError),
            (torch.ones(0), ValueError),
            (torch.ones(2, dtype=torch.int64), TypeError),
            ("1", TypeError),
            (None, TypeError),
            (True, TypeError),
            ([1.0], TypeError),
        ],
    )
    def test_bad_thresholds(self, kind, threshold, error):
        with pytest.raises(error, match="threshold: "):
            (ParallelSpikingNeuron if kind == "parallel" else CollapsedNeuron)(threshold, 4)

    @pytest.mark.parametrize(
        "timesteps, error",
        [
            (0, ValueError),
            (256, ValueError),
            (-3, ValueError),
            (True, TypeError),
            (4.0, TypeError),
            (None, TypeError),
            ("4", TypeError),
            (torch.tensor(4), TypeError),
        ],
    )
    def test_bad_timesteps(self, kind, timesteps, error):
        with pytest.raises(error, match="timesteps: "):
            (ParallelSpikingNeuron if kind == "parallel" else CollapsedNeuron)(1.0, timesteps)

    @pytest.mark.parametrize(
        "amplitude, error", [(float("nan"), ValueError), (torch.ones(2, 2), ValueError), ("1", TypeError)]
    )
    def test_bad_amplitudes(self, kind, amplitude, error):
        with pytest.raises(error):
            (ParallelSpikingNeuron if kind == "parallel" else CollapsedNeuron)(1.0, 4, amplitude=amplitude)

    def test_bad_currents(self, kind):
        neuron = make(kind)
        with pytest.raises(TypeError, match="current: expected a tensor, got list"):
            neuron([1.0])
        with pytest.raises(TypeError, match="current: expected dtype"):
            neuron(example(kind).long())
        with pytest.raises(ValueError, match="levels: expected one row for each channel"):
            neuron(example(kind).transpose(-1, -2))


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"output": "train"}, ValueError, "output: expected one of spikes, counts, rate, got 'train'"),
        ({"shift": float("nan")}, ValueError, "shift: "),
        ({"shift": "half"}, TypeError, "shift: "),
        ({"output": None}, ValueError, "output: "),
    ],
)
def test_bad_options_of_the_parallel_neuron(options, error, words):
    with pytest.raises(error, match=words):
        ParallelSpikingNeuron(1.0, 4, **options)


def test_another_number_of_steps_is_refused():
    for steps in (3, 5):
        with pytest.raises(ValueError, match="levels: expected|current"):
            ParallelSpikingNeuron(1.0, 4)(torch.ones(steps, 2, 3))
    with pytest.raises(ValueError, match="current: "):
        ParallelSpikingNeuron(1.0, 4)(torch.ones(4))


# CollapsedNeuron


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels, timesteps", [(None, 7), (4, 8), (4, 6), (255, 255)])
def test_collapsed_neuron_is_the_reference(levels, timesteps, dtype):
    theta, offset, amplitude = torch.tensor([0.7, 1.9]), torch.tensor([0.1, -0.3]), torch.tensor([0.8, 1.8])
    neuron = CollapsedNeuron(theta, timesteps, quantization_levels=levels, offset=offset, amplitude=amplitude)
    x = currents(5, 2, 9, dtype=dtype)
    table = even.table(theta.double(), timesteps, levels, offset=offset.double())
    counts = reference.fire_counts(x, table)
    assert torch.equal(neuron.counts(x), counts)
    torch.testing.assert_close(neuron(x).double(), amplitude.double()[:, None] * counts / timesteps, rtol=0.01, atol=0)
    assert torch.equal(neuron.rates_of(counts, dtype), neuron(x))


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 5), (4, 3, 1), (3, 1)])
def test_residual(shape):
    neuron, x, residual = make("collapsed"), example("collapsed"), currents(*shape, seed=1)
    assert torch.equal(neuron(x, residual), neuron(x + residual))
    assert torch.equal(neuron.counts(x, residual), neuron.counts(x + residual))
    assert torch.equal(neuron(residual, x), neuron(x + residual))


def test_in_place():
    neuron, x = make("collapsed"), example("collapsed")
    expected = neuron(x)
    neuron.inplace = True
    out = neuron(x)
    assert torch.equal(out, expected) and out.data_ptr() == x.data_ptr()


def test_set_timesteps_and_adjust():
    neuron, x = CollapsedNeuron(1.5, 8, quantization_levels=4), currents(3, 4, 5)
    neuron.set_timesteps(4)
    assert torch.equal(neuron(x), CollapsedNeuron(1.5, 4, quantization_levels=4)(x))
    with pytest.raises(ValueError, match="timesteps: "):
        neuron.set_timesteps(0)
    assert neuron.timesteps == 4
    neuron.adjust(torch.full((4,), 0.2), torch.full((4,), 1.1))
    assert torch.equal(
        neuron(x),
        CollapsedNeuron(1.5, 4, quantization_levels=4, offset=torch.full((4,), 0.2), amplitude=torch.full((4,), 1.1))(
            x
        ),
    )


def test_every_public_name_is_there():
    for name in (
        "convert",
        "set_timesteps",
        "record",
        "save",
        "load",
        "backend_info",
        "use_backend",
        "baselines",
        "functional",
        "nn",
    ):
        assert hasattr(pcsnn, name)
