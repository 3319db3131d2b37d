"""The methods "quick", "light" and "advanced" as a whole, on real and tiny networks, and the bent levels they find."""

import copy
import warnings

import pytest
import torch
from few_steps import few_steps
from lib import data, networks
from tiny_networks import LEVELS, MOVED_POOLS, NETWORKS, build, inputs, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.calibration import least_squares, refine
from pcsnn.calibration.layerwise import ADVANCED, LIGHT, QUICK
from pcsnn.calibration.lockstep import footprint, lockstep
from pcsnn.data.batches import Batches
from pcsnn.data.inputs import Input
from pcsnn.data.pools import first, mini_batches, shuffled
from pcsnn.levels import even
from pcsnn.nn import QCFS, CollapsedNeuron

METHODS = ["quick", "light", "advanced"]


@pytest.fixture
def four_steps():
    with few_steps(4):
        yield


def two_layers(seed=0):
    return randomise(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), seed)


def samples(rows=96, seed=1):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def relative_error(snn, net, x):
    return ((snn(x) - net(x)).square().sum() / net(x).square().sum()).sqrt().item()


# A real network


@pytest.fixture(scope="module")
def fashion():
    """A shipped ReLU network, 64 images to calibrate and 100 others to test."""
    images = data.normalise(data.fashion_mnist("t10k")[0][:164], data.FASHION_MNIST)
    net, _ = networks.load(networks.checkpoint_path("vgg", "relu"))
    return net, images[:64], images[64:]


@torch.no_grad()
def test_every_method_lowers_the_error_of_recorded_maxima(fashion):
    net, calibration, x = fashion
    with few_steps(16):
        snns = {
            method: pcsnn.convert(net, 4, calibration=calibration, method=method)
            for method in ("max", "paper", *METHODS)
        }
    error = {method: relative_error(snn, net, x) for method, snn in snns.items()}
    assert error["paper"] < error["max"]
    assert all(error[method] < 0.75 * error["max"] for method in METHODS)
    loss = {method: refine._divergence(snn(x), net(x), LIGHT.options.temperature) for method, snn in snns.items()}
    assert all(loss[method] < 0.5 * loss["max"] for method in METHODS)


@torch.no_grad()
def test_bent_levels_lower_the_error_of_even_ones(fashion):
    net, calibration, x = fashion
    bent = relative_error(pcsnn.convert(net, 4, calibration=calibration, method="quick"), net, x)
    even = pcsnn.convert(net, 4, calibration=calibration, method=QUICK.with_options(bend_levels=False))
    assert all(neuron.bend is None and neuron.spacing.repeat == 1 for _, neuron in even.neurons())
    assert bent < relative_error(even, net, x)


# All kinds of networks


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - MOVED_POOLS))
@torch.no_grad()
def test_quick_serves_every_construct(name):
    net, x = build(name, nn.ReLU), inputs(name, batch=8)
    calibration = [x] if len(x) > 1 else x[0]
    quick, plain = (pcsnn.convert(net, 4, calibration=calibration, method=method) for method in ("quick", "max"))
    expected = net(*x)
    expected = (
        expected
        if isinstance(expected, torch.Tensor)
        else next(iter(expected.values() if isinstance(expected, dict) else expected))
    )

    def error(snn):
        out = snn(*x)
        out = out if isinstance(out, torch.Tensor) else next(iter(out.values() if isinstance(out, dict) else out))
        assert out.isfinite().all()
        return (out - expected).square().sum()

    assert error(quick) <= error(plain) * 1.6  # on 8 samples either may win by chance


@pytest.mark.parametrize("name", ["residual", "tokens", "conv1d", "conv3d", "transposed", "two_inputs"])
@pytest.mark.parametrize("method", ["light", "advanced"])
def test_gradient_methods_serve_every_kind_of_synapse(name, method, four_steps):
    if name not in NETWORKS:
        name = next(other for other in NETWORKS if name.removeprefix("conv") in other)
    net, x = build(name, nn.ReLU), inputs(name, batch=8)
    before = copy.deepcopy(net.state_dict())
    snn = pcsnn.convert(net, 4, calibration=[x] if len(x) > 1 else x[0], method=method)
    assert snn(*x).isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(nn.utils.parametrize.is_parametrized(module) for module in snn.modules())
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    assert not any(module._forward_hooks for module in [*net.modules(), *snn.modules()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_other_dtypes(dtype, method, four_steps):
    net, x = two_layers().to(dtype), samples().to(dtype)
    snn = pcsnn.convert(net, 4, calibration=x, method=method)
    assert snn(x).dtype == dtype and relative_error(snn, net, x) < 0.6


def test_weights_change_with_advanced_only(four_steps):
    net, x = two_layers(), samples()
    for method, changes in (("quick", False), ("light", False), ("advanced", True)):
        snn = pcsnn.convert(net, 4, calibration=x, method=method)
        assert torch.equal(dict(snn.network.named_modules())["0"].weight, net[0].weight) != changes
        assert not torch.equal(dict(snn.network.named_modules())["4"].bias, net[4].bias)


def test_an_output_without_bias_gets_one():
    net, x = randomise(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))), samples(512)
    snn = pcsnn.convert(net, 2, calibration=x, method="quick")
    torch.testing.assert_close(snn(x).mean(0), net(x).mean(0), rtol=0, atol=1e-4)
    assert net[2].bias is None


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_that_never_fires_stays_silent(method, four_steps):
    net = two_layers()
    net[0].weight.data[2] = 0
    net[0].bias.data[2] = -1
    snn = pcsnn.convert(net, 4, calibration=samples(), method=method)
    neuron = dict(snn.neurons())["1"]
    assert neuron.threshold[2] == torch.inf and neuron.amplitude[2] == 0 and (neuron.levels[2] == torch.inf).all()
    assert snn(samples(20, 5) * 100).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_qcfs_with_another_timestep_count(method, four_steps):
    net, x = randomise(nn.Sequential(nn.Linear(5, 8), QCFS(4), nn.Linear(8, 8), QCFS(3), nn.Linear(8, 3))), samples(512)
    snn = pcsnn.convert(net, 4, calibration=x, method=method)
    exact, fitted_ = (neuron for _, neuron in snn.neurons())
    assert torch.equal(exact.levels, pcsnn.functional.levels(net[1].threshold, 4, quantization_levels=4))
    assert fitted_.threshold.shape == (8,)
    assert relative_error(snn, net, x) < relative_error(pcsnn.convert(net, 4, method="none"), net, x)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_lossless_network_stays_as_it_is(method):
    net, x = randomise(nn.Sequential(nn.Linear(5, 8), QCFS(4), nn.Linear(8, 3))), samples()
    torch.testing.assert_close(pcsnn.convert(net, 8, calibration=x, method=method)(x), net(x), rtol=0, atol=1e-5)


def test_clipped_relu_stays_within_its_bound():
    net, x = randomise(nn.Sequential(nn.Linear(5, 6), nn.Hardtanh(0, 0.5), nn.Linear(6, 3))), samples(512)
    neuron = dict(pcsnn.convert(net, 8, calibration=x, method="quick").neurons())["1"]
    assert (neuron.amplitude <= 0.5 * 1.05).all()


# Determinism, memory, seeds


@pytest.mark.parametrize("method", METHODS)
def test_deterministic_under_a_seed(method, four_steps):
    net, x = build("residual", nn.ReLU), inputs("residual", batch=80)[0]
    torch.manual_seed(1)
    one = pcsnn.convert(net, 4, calibration=x, method=method, seed=3).state_dict()
    torch.manual_seed(2)
    two = pcsnn.convert(net, 4, calibration=x, method=method, seed=3).state_dict()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    other = pcsnn.convert(net, 4, calibration=x, method=method, seed=4).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items()) == (method == "quick")


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_seed_is_checked(seed, error):
    with pytest.raises(error, match="seed: expected"):
        pcsnn.convert(two_layers(), 4, calibration=samples(), seed=seed)


@pytest.mark.parametrize("method", METHODS)
def test_no_more_than_1024_inputs_are_taken(method, four_steps):
    read = []

    class Endless:
        def __iter__(self):
            for i in range(10**6):
                read.append(i)
                yield samples(100, i)

    pcsnn.convert(two_layers(), 4, calibration=Endless(), method=method)
    assert max(read) <= 10


def test_first_keeps_shapes_apart():
    batches = Batches(
        [torch.zeros(3, 2, 4), torch.ones(2, 2, 5), torch.full((4, 2, 4), 2.0)], [Input("x")], torch.device("cpu")
    )
    groups = first(batches, 8)
    assert [group[0].shape for group in groups] == [(6, 2, 4), (2, 2, 5)]
    assert [len(batch[0]) for batch in mini_batches(groups, 4)] == [4, 2, 2]
    drawn = shuffled(groups, 4, torch.Generator().manual_seed(0))
    once = [next(drawn)[0] for _ in range(3)]
    assert sorted(value.item() for batch in once for value in batch[:, 0, 0]) == [0.0] * 3 + [1.0] * 2 + [2.0] * 3


def test_images_of_several_sizes():
    net = randomise(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    batches = [torch.randn(4, 3, size, size) for size in (5, 7, 5)]
    assert pcsnn.convert(net, 4, calibration=batches, method="quick")(batches[1]).isfinite().all()


def test_large_values_are_taken_in_part(monkeypatch):
    net, x = two_layers(), samples(64)
    taken = []
    fit = least_squares.fit
    monkeypatch.setattr(
        least_squares,
        "fit",
        lambda place, currents, *others, **options: (
            taken.append(sum(map(len, currents))) or fit(place, currents, *others, **options)
        ),
    )
    peak, total = footprint(net_graph := pcsnn.convert(net, 4, calibration=x, method="max").network, (x[:1],))
    assert total >= peak > 0 and net_graph is not None
    pcsnn.convert(net, 4, calibration=x, method=QUICK.with_options(fitting_bytes=16 * 4 * 11))
    assert taken and max(taken) <= 32


def test_lockstep_runs_both_networks():
    net = pcsnn.convert(two_layers(), 4, calibration=samples(), method="max").network
    x = samples(10)
    for node in net.graph.nodes:
        node.meta["activation"] = node.op == "call_module" and isinstance(
            net.get_submodule(node.target), CollapsedNeuron
        )
    net.requires_grad_(False)
    for name in ("1", "3"):
        net.get_submodule(name).inplace = False
    taught, learnt = lockstep(net, mini_batches([(x,)], 4), lambda node, currents, activations: nn.ReLU(), False)
    assert torch.equal(torch.cat(taught), net(x))
    plain = nn.Sequential(*[nn.ReLU() if isinstance(m, CollapsedNeuron) else m for m in net.children()])
    torch.testing.assert_close(torch.cat(learnt), plain(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_overflows_is_refused(value, method):
    net = two_layers()
    net[0].bias.data[1] = value
    with pytest.raises(ValueError, match="1 reaches NaN or infinity on the calibration data"):
        pcsnn.convert(net, 4, calibration=samples(), method=method)


# Bent levels


def bent_network():
    net = two_layers()
    return net, pcsnn.convert(net, 4, calibration=samples(512), method="quick")


def test_bent_levels_are_read_between_positions():
    bend = torch.tensor([[0.0, 0.1, 0.3, 0.2]])
    assert torch.equal(even.resample_bend(bend, 4), bend.double())
    torch.testing.assert_close(even.resample_bend(bend, 2), torch.tensor([[0.05, 0.25]], dtype=torch.float64))
    torch.testing.assert_close(
        even.resample_bend(bend, 8)[0, [0, 1, 2, 7]], torch.tensor([0.0, 0.025, 0.075, 0.2], dtype=torch.float64)
    )
    assert torch.equal(even.resample_bend(bend[:, :1], 3), torch.zeros(1, 3, dtype=torch.float64))
    levels = pcsnn.functional.levels(2.0, 4, bend=bend)
    torch.testing.assert_close(levels, torch.tensor([[0.25, 0.95, 1.85, 2.15]]))
    assert torch.equal(pcsnn.functional.levels(1.0, 2, bend=torch.tensor([1.0, 0.0])), torch.tensor([1.25, 1.25]))


@pytest.mark.parametrize(
    "bend, error",
    [
        (torch.tensor(1.0), ValueError),
        (torch.ones(2, 3, 4), ValueError),
        (torch.tensor([1.0, torch.inf]), ValueError),
        (torch.ones(3, 0), ValueError),
        (torch.ones(2, 4), ValueError),
        ([1.0], TypeError),
        (torch.ones(4).long(), TypeError),
    ],
)
def test_bend_is_checked(bend, error):
    with pytest.raises(error, match="bend: expected"):
        pcsnn.functional.levels(torch.ones(3), 4, bend=bend)


def test_set_timesteps_reads_the_bend_and_comes_back():
    net, snn = bent_network()
    x, before = samples(40, 8), {name: neuron.levels.clone() for name, neuron in snn.neurons()}
    out = snn(x)
    with pytest.warns(UserWarning, match="calibrated at T = 4; calibrate anew for T = 16"):
        pcsnn.set_timesteps(snn, 16)
    assert relative_error(snn, net, x) < 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pcsnn.set_timesteps(snn, 4)
    assert all(torch.equal(neuron.levels, before[name]) for name, neuron in snn.neurons()) and torch.equal(snn(x), out)


def test_bent_levels_are_saved_copied_and_recorded(tmp_path):
    _, snn = bent_network()
    x = samples(40, 8)
    assert all(neuron.bend is not None for _, neuron in snn.neurons())
    pcsnn.save(snn, tmp_path / "net.safetensors")
    for other in (
        pcsnn.load(tmp_path / "net.safetensors"),
        copy.deepcopy(snn),
        torch.compile(snn, backend="eager", fullgraph=True),
    ):
        assert torch.equal(other(x), snn(x))
    with pcsnn.record(snn) as record:
        snn(x)
    for name, neuron in snn.neurons():
        assert record.counts[name].max() <= 4 and torch.equal(
            record.rates()[name], neuron.rates_of(record.counts[name])
        )
    torch.testing.assert_close(pcsnn.baselines.packed(snn)(x), snn(x), rtol=0, atol=1e-3)
    assert pcsnn.baselines.serial(snn)(x).isfinite().all()


def test_levels_of_the_shared_case_stay_even_beyond_16_timesteps():
    snn = pcsnn.convert(two_layers(), 17, calibration=samples(512), method="quick")
    assert all(neuron.bend is None for _, neuron in snn.neurons()) and LEVELS == 4


def test_the_mean_of_the_outputs_that_the_divergence_does_not_see_is_corrected():
    net, x = two_layers(), samples(64)
    with torch.no_grad():
        expected = net(x)
    for method in (LIGHT.with_options(steps=20), ADVANCED.with_options(steps=20)):
        difference = pcsnn.convert(net, 4, calibration=x, method=method, progress=False)(x) - expected
        assert difference.mean().abs() < 1e-5 * expected.abs().mean()


@pytest.fixture
def rates(monkeypatch):
    """The learning rates that Adam was given."""
    found, adam = [], torch.optim.Adam
    monkeypatch.setattr(
        torch.optim, "Adam", lambda groups: found.extend(group["lr"] for group in groups) or adam(groups)
    )
    return found


@pytest.mark.parametrize(
    "method, layers, batch, share",
    [
        (LIGHT, 3, 64, 1),
        (LIGHT, 3, 16, 1 / 2),
        (LIGHT, 40, 64, 1 / 2),
        (LIGHT, 40, 16, 1 / 4),
        (ADVANCED, 40, 16, 1 / 4),
    ],
)
def test_deep_networks_and_small_batches_take_smaller_steps(rates, method, layers, batch, share):
    net = randomise(nn.Sequential(*[part for _ in range(layers) for part in (nn.Linear(5, 5), nn.ReLU())]))
    pcsnn.convert(net, 4, calibration=samples(64), method=method.with_options(steps=1, batch=batch))
    options = method.options
    rate = options.learning_rate_beside_weights if options.change_weights else options.learning_rate
    assert rates[0] == pytest.approx(rate * share) and rates[2] == pytest.approx(options.weight_learning_rate * share)


@pytest.mark.parametrize("batch, share", [(8, 1), (2, 1 / 2)])
def test_eight_inputs_of_many_outputs_are_a_full_batch(rates, batch, share):
    net = randomise(nn.Sequential(nn.Conv1d(5, 5, 1), nn.ReLU(), nn.Conv1d(5, 5, 1)))
    images = samples(64).unsqueeze(-1).expand(-1, -1, 6)
    pcsnn.convert(net, 4, calibration=images, method=LIGHT.with_options(steps=1, dense_batch=batch))
    assert rates[0] == pytest.approx(LIGHT.options.learning_rate * share)
