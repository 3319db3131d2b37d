"""How thresholds, shifts and amplitudes are chosen, against hand computations; and what calibration data may be."""

import copy
import warnings

import pytest
import torch
from tiny_networks import IMAGE, LEVELS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pcsnn
from pcsnn import reference
from pcsnn.levels import even
from pcsnn.nn import QCFS


def neurons(snn):
    return dict(snn.neurons())


def two_layers(activation=nn.ReLU, seed=0):
    return randomise(nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation()), seed)


def data(rows=96, seed=1):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


# Which method is taken


@pytest.mark.parametrize(
    "activations, timesteps, method",
    [
        ((lambda: QCFS(4),), 4, "none"),
        ((lambda: QCFS(4),), 12, "none"),
        ((lambda: QCFS(4),), 6, "light"),
        ((lambda: QCFS(4),), 2, "light"),
        ((nn.ReLU,), 4, "light"),
        ((nn.ReLU6,), 4, "light"),
        ((lambda: QCFS(4), nn.ReLU), 4, "light"),
        ((lambda: QCFS(4), lambda: QCFS(3)), 12, "none"),
        ((lambda: QCFS(4), lambda: QCFS(3)), 8, "light"),
    ],
)
def test_auto(activations, timesteps, method):
    net = randomise(nn.Sequential(*[layer for act in activations for layer in (nn.Linear(5, 5), act())]))
    snn = pcsnn.convert(net, timesteps, calibration=data())
    assert snn.report.method == method
    if method == "light":
        with pytest.raises(ValueError, match="calibration: expected data for method 'light', got None"):
            pcsnn.convert(net, timesteps)


def test_none_takes_learned_thresholds_and_bounds():
    net = randomise(nn.Sequential(nn.Linear(5, 5), QCFS(4), nn.ReLU6(), nn.Linear(5, 5), nn.Hardtanh(0, 2.5)))
    snn = pcsnn.convert(net, 6, method="none")
    assert [neuron.threshold.item() for neuron in neurons(snn).values()] == [net[1].threshold.item(), 6.0, 2.5]
    chain = nn.Sequential(nn.Linear(5, 5), nn.ReLU6(), nn.Hardtanh(0, 2.5))
    (neuron,) = neurons(pcsnn.convert(chain, 6, method="none")).values()
    assert neuron.threshold.item() == 2.5
    assert torch.equal(neurons(snn)["1"].levels, pcsnn.functional.levels(net[1].threshold, 6))
    assert torch.equal(
        neurons(pcsnn.convert(net, 8, method="none"))["1"].levels,
        pcsnn.functional.levels(net[1].threshold, 8, quantization_levels=4),
    )


def test_none_names_the_relus():
    with pytest.raises(ValueError, match="bound, and 1, 3 have none"):
        pcsnn.convert(two_layers(), 4, method="none")


# Recorded maxima


@pytest.mark.parametrize(
    "calibration",
    [data(), data().split(40), [(part, "label") for part in data().split(7)]],
    ids=["tensor", "list", "labels"],
)
def test_max_records_the_largest_activation_of_each_feature(calibration):
    net = two_layers()
    snn = pcsnn.convert(net, 8, calibration=calibration, method="max")
    hidden = net[1](net[0](data()))
    first = hidden.amax(0)
    torch.testing.assert_close(neurons(snn)["1"].threshold, torch.where(first > 0, first, torch.inf), rtol=1e-6, atol=0)
    second = net[3](net[2](hidden)).amax(0)
    torch.testing.assert_close(
        neurons(snn)["3"].threshold, torch.where(second > 0, second, torch.inf), rtol=1e-5, atol=0
    )


def test_max_of_convolutions_is_per_channel_and_of_tokens_per_layer():
    net, x = build("residual", nn.ReLU), inputs("residual")[0]
    snn = pcsnn.convert(net, 8, calibration=x, method="max")
    torch.testing.assert_close(neurons(snn)["act"].threshold, torch.relu(net.conv(x)).amax((0, 2, 3)))
    net, x = build("tokens", nn.ReLU), inputs("tokens")[0]
    snn = pcsnn.convert(net, 8, calibration=x, method="max")
    assert [neuron.threshold.dim() for neuron in neurons(snn).values()] == [0, 0]
    torch.testing.assert_close(neurons(snn)["1"].threshold, torch.relu(net[0](x)).amax())
    assert snn(inputs("tokens", batch=2)[0][:, :3]).shape == (2, 3, 5)  # another number of tokens


def test_each_use_of_a_shared_activation_has_its_own_threshold():
    net = network(lambda s, x: s.act(s.second(s.act(s.conv(x))) * 10), act=nn.ReLU(), conv=conv(), second=conv(4, 4))
    snn = pcsnn.convert(randomise(net), 8, calibration=torch.randn(4, *IMAGE), method="max")
    first, second = neurons(snn).values()
    assert not torch.equal(first.threshold, second.threshold)
    assert second.threshold.max() > 2 * first.threshold.max()


def test_max_pool_over_channels_needs_one_threshold():
    snn = pcsnn.convert(
        build("max_pool_over_channels", nn.ReLU), 8, calibration=inputs("max_pool_over_channels")[0], method="max"
    )
    assert [neuron.threshold.dim() for neuron in neurons(snn).values()] == [0, 0]


@pytest.mark.parametrize("method", ["max", "paper"])
def test_a_channel_that_never_fires_stays_silent_without_nan(method):
    net = two_layers()
    net[0].weight.data[2] = 0
    net[0].bias.data[2] = -1
    snn = pcsnn.convert(net, 5, calibration=data(), method=method)
    neuron = neurons(snn)["1"]
    assert neuron.threshold[2] == torch.inf and neuron.amplitude[2] == 0
    with pcsnn.record(snn) as record:
        out = snn(data(20, 5) * 100)
    assert out.isfinite().all() and (record.counts["1"][:, 2] == 0).all() and record.counts["1"].any()
    assert all(value.isfinite().all() for value in record.rates().values())
    assert torch.equal(pcsnn.set_timesteps(snn, 5)(data()), snn(data()))


def test_a_layer_that_never_fires():
    net = two_layers()
    net[0].weight.data.zero_()
    net[0].bias.data.fill_(-1)
    for method in ("max", "paper"):
        assert pcsnn.convert(net, 4, calibration=data(), method=method)(data()).isfinite().all()


# The paper's calibration


def paper_by_hand(net, batches, timesteps):
    """(17) on a network linear - ReLU - linear - ReLU, in float64, from the definitions."""
    net = copy.deepcopy(net).double()
    batches = [batch.double() for batch in batches]
    theta = []
    for layer in (1, 3):
        theta.append(torch.cat([net[: layer + 1](batch) for batch in batches]).amax(0))
    psi, phi = [0, 0], [0, 0]

    def staircase(z, i):
        k = torch.floor((z + psi[i]) * timesteps / theta[i] + 0.5).clamp(0, timesteps)
        return (theta[i] + phi[i]) / timesteps * k

    for batch in batches:
        z0 = net[0](batch)
        a0 = torch.minimum(torch.relu(z0), theta[0])
        z1 = net[2](a0)
        a1 = torch.minimum(torch.relu(z1), theta[1])
        s0 = staircase(z0, 0)
        y1 = net[2](s0)
        s1 = staircase(y1, 1)
        for i, (z, y, a, s) in enumerate([(z0, z0, a0, s0), (z1, y1, a1, s1)]):
            psi[i] = 0.99 * psi[i] + 0.01 * (z - y).mean(0)
            phi[i] = 0.99 * phi[i] + 0.01 * (a - s).mean(0)
    return theta, psi, phi


@pytest.mark.parametrize("timesteps", [2, 4])
def test_paper_matches_a_hand_computation(timesteps):
    net, batches = two_layers(seed=4), list(data(640).split(32))
    theta, psi, phi = paper_by_hand(net, batches, timesteps)
    snn = pcsnn.convert(net.double(), timesteps, calibration=[batch.double() for batch in batches], method="paper")
    for i, neuron in enumerate(neurons(snn).values()):
        alive = theta[i] > 0
        assert alive.any() and phi[i][alive].abs().max() > 1e-4
        torch.testing.assert_close(neuron.threshold[alive], theta[i][alive], rtol=1e-6, atol=0)
        torch.testing.assert_close(neuron.offset[alive], psi[i][alive], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(neuron.amplitude[alive], (theta[i] + phi[i])[alive], rtol=1e-6, atol=0)
    assert psi[1].abs().max() > 1e-4


def test_paper_keeps_learned_thresholds_and_teaches_with_the_source_levels():
    net = two_layers(lambda: QCFS(4))
    snn = pcsnn.convert(net, 3, calibration=data(640), method="paper")
    for i, neuron in zip((1, 3), neurons(snn).values()):
        assert neuron.threshold.item() == net[i].threshold.item()
        assert neuron.amplitude.shape == neuron.offset.shape == (net[i - 1].out_features,)
    teacher = net[1](net[0](data(640))).double().split(32)
    phi, psi = 0.0, 0.0
    theta = net[1].threshold.detach().double()
    for batch, taught in zip(data(640).split(32), teacher):
        k = reference.search(net[0](batch).detach(), even.table(theta, 3))
        phi = 0.99 * phi + 0.01 * (taught - (theta + phi) / 3 * k).mean(0)
    torch.testing.assert_close(neurons(snn)["1"].amplitude.double(), theta + phi, rtol=1e-6, atol=1e-7)
    assert psi == neurons(snn)["1"].offset.abs().max()


def test_paper_lowers_the_error_of_recorded_maxima():
    net, calibration = two_layers(seed=4), data(9600).split(32)
    x = data(500, 9)
    error = {
        method: (pcsnn.convert(net, 2, calibration=calibration, method=method)(x) - net(x)).mean(0).abs().mean()
        for method in ("max", "paper")
    }
    assert error["paper"] < 0.9 * error["max"]


@pytest.mark.parametrize("method", ["max", "paper"])
def test_conversion_is_deterministic(method):
    net, x = build("residual", nn.ReLU), inputs("residual")[0]
    one, two = (pcsnn.convert(net, 4, calibration=x, method=method) for _ in range(2))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


# Calibration data


def generator():
    yield from data().split(32)


def labelled():
    for part in data().split(32):
        yield part, torch.zeros(len(part))


@pytest.mark.parametrize("method", ["max", "paper", "quick"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: data(),
        lambda: list(data().split(32)),
        generator,
        labelled,
        lambda: iter(list(labelled())),
        lambda: DataLoader(TensorDataset(data(), torch.arange(96)), batch_size=32),
        lambda: DataLoader(data(), batch_size=32),
        lambda: [[part] for part in data().split(32)],
        lambda: [(part, None, {}) for part in data().split(32)],
        lambda: [data()[:0], *data().split(32)],
    ],
    ids=[
        "tensor",
        "list",
        "generator",
        "labelled generator",
        "iterator",
        "loader",
        "loader without labels",
        "lists",
        "tuples",
        "one empty",
    ],
)
def test_every_kind_of_calibration_gives_the_same(make, method):
    expected = pcsnn.convert(two_layers(), 4, calibration=data(), method=method).state_dict()
    for key, value in pcsnn.convert(two_layers(), 4, calibration=make(), method=method).state_dict().items():
        assert torch.equal(value, expected[key])


@pytest.mark.parametrize(
    "pairs", [lambda x, y: [(x, y)], lambda x, y: [(x, y, torch.zeros(3))], lambda x, y: [((x, y), 1)]]
)
def test_calibration_of_a_network_with_two_inputs(pairs):
    net = build("two_inputs", nn.ReLU)
    x, y = inputs("two_inputs")
    snn = pcsnn.convert(net, 255, calibration=pairs(x, y), method="max")
    torch.testing.assert_close(snn(x, y), net(x, y), rtol=0, atol=0.05)
    with pytest.raises(TypeError, match="calibration: expected 2 tensors a batch"):
        pcsnn.convert(net, 4, calibration=x, method="max")


@pytest.mark.parametrize(
    "calibration, error, words",
    [
        (5, TypeError, "calibration: expected a tensor, or an iterable .*got int"),
        ("data", TypeError, "calibration: expected tensors, got 'data'"),
        ({"x": data()}, TypeError, "calibration: .*got dict with keys x where the inputs are input"),
        ([], ValueError, "calibration: expected at least one batch with data, got none"),
        (iter(()), ValueError, "calibration: expected at least one batch"),
        ([data()[:0]], ValueError, "calibration: expected at least one batch"),
        (data()[:0], ValueError, r"calibration: expected a tensor \[N, ...\] with N > 0"),
        (torch.tensor(1.0), ValueError, "calibration: expected a tensor"),
        ([()], TypeError, "calibration: expected 1 tensor a batch"),
        ([data(), None], TypeError, "calibration: .*got NoneType in batch 1"),
        ([data().numpy()], TypeError, "calibration: .*got ndarray"),
        ([(1, data())], TypeError, "calibration: .*got tuple"),
        (
            [data(), data() * float("nan")],
            ValueError,
            "calibration: expected finite values, got NaN or infinity in batch 1",
        ),
        (data() / 0, ValueError, "calibration: expected finite values"),
    ],
)
@pytest.mark.parametrize("method", ["max", "paper", "quick", "light"])
def test_malformed_calibration(calibration, error, words, method):
    with pytest.raises(error, match=words):
        pcsnn.convert(two_layers(), 4, calibration=calibration, method=method)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_overflows_is_refused(value):
    net = two_layers()
    net[0].bias.data[1] = value
    with pytest.raises(ValueError, match="1 reaches NaN or infinity on the calibration data"):
        pcsnn.convert(net, 4, calibration=data(), method="max")


def test_hooks_are_gone_when_calibration_fails():
    net = two_layers()
    with pytest.raises(ValueError):
        pcsnn.convert(net, 4, calibration=[data(), data() * float("nan")], method="paper")
    assert not any(module._forward_hooks for module in net.modules())


# set_timesteps


@pytest.mark.parametrize("method, activation", [("none", lambda: QCFS(4)), ("none", nn.ReLU6), ("max", nn.ReLU)])
def test_set_timesteps_equals_a_new_conversion(method, activation):
    net, x = build("residual", activation), inputs("residual")[0]
    options = dict(calibration=x, method=method, fold=False)
    snn = pcsnn.convert(net, 4, **options)
    for timesteps in (7, 8, 255, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert pcsnn.set_timesteps(snn, timesteps) is snn
        fresh = pcsnn.convert(net, timesteps, **options)
        assert snn.timesteps == timesteps
        assert [row.detail for row in snn.report.rows] == [row.detail for row in fresh.report.rows]
        assert torch.equal(snn(x), fresh(x))
        for one, two in zip(neurons(snn).values(), neurons(fresh).values(), strict=True):
            assert torch.equal(one.levels, two.levels) and torch.equal(one.scale, two.scale)


def test_set_timesteps_keeps_and_warns_about_calibration():
    net = two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(640), method="paper")
    before = {name: (neuron.offset.clone(), neuron.amplitude.clone()) for name, neuron in snn.neurons()}
    with pytest.warns(UserWarning, match="calibrated at T = 4; calibrate anew for T = 8"):
        pcsnn.set_timesteps(snn, 8)
    for name, neuron in snn.neurons():
        assert torch.equal(neuron.offset, before[name][0]) and torch.equal(neuron.amplitude, before[name][1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pcsnn.set_timesteps(snn, 8)


@pytest.mark.parametrize(
    "timesteps, error", [(0, ValueError), (256, ValueError), (True, TypeError), (2.0, TypeError), ("4", TypeError)]
)
def test_set_timesteps_refuses_and_leaves_all_as_it_was(timesteps, error):
    snn, x = pcsnn.convert(build("residual"), LEVELS), inputs("residual")[0]
    before = snn(x)
    with pytest.raises(error, match="timesteps: "):
        pcsnn.set_timesteps(snn, timesteps)
    assert snn.timesteps == LEVELS and torch.equal(snn(x), before)


def test_set_timesteps_refuses_other_modules():
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork, made by pcsnn.convert, got Linear"):
        pcsnn.set_timesteps(nn.Linear(1, 1), 4)
