"""Errors by layer, against hand computations in float64."""

import weakref

import pytest
import torch
from analysis_cases import ERRORS, Stream, data, images, two_layers
from tiny_networks import LEVELS, NETWORKS, NORMS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader

import pcsnn
from pcsnn.analysis import layer_errors, sweep
from pcsnn.nn import QCFS


def staircase(current, neuron):
    """(15) per channel in float64."""
    shape = [1, -1] + [1] * (current.dim() - 2)
    theta, psi, worth = (
        torch.as_tensor(value).double().expand(current.shape[1]).reshape(shape)
        for value in (neuron.threshold, neuron.offset, neuron.amplitude)
    )
    count = torch.floor((current + psi) * neuron.timesteps / theta + 0.5).clamp(0, neuron.timesteps)
    return worth / neuron.timesteps * count, count, worth


def parts(z, student, activation, neuron):
    """Element-wise errors of one layer: whole, propagated, clipping, rounding; the counts."""
    rate, count, worth = staircase(student, neuron)
    wanted = activation(student)
    too_large = wanted > worth
    clipping = torch.where(too_large, rate - wanted, 0.0)
    rounding = torch.where(too_large, 0.0, rate - wanted)
    return rate - activation(z), wanted - activation(z), clipping, rounding, count


def check(row, z, student, activation, neuron):
    """A row against the definitions; returns the layer's own and propagated error."""
    whole, propagated, clipping, rounding, count = parts(z, student, activation, neuron)
    torch.testing.assert_close(propagated + clipping + rounding, whole, rtol=0, atol=1e-12)
    norm = activation(z).norm()
    for name, error in (("rate", whole), ("propagated", propagated), ("clipping", clipping), ("rounding", rounding)):
        assert getattr(row, name) == pytest.approx(float(error.norm() / norm), rel=1e-4, abs=1e-6), name
    assert row.current == pytest.approx(float((student - z).norm() / z.norm()), rel=1e-4, abs=1e-6)
    cross = float((propagated * (clipping + rounding)).sum() / norm**2)
    assert row.rate**2 == pytest.approx(row.propagated**2 + row.clipping**2 + row.rounding**2 + 2 * cross, rel=1e-4)
    assert row.saturated == pytest.approx(float((count == neuron.timesteps).double().mean()), abs=1e-9)
    dead = (count.transpose(0, 1).flatten(1) == 0).all(1)
    assert row.dead == pytest.approx(float(dead.double().mean()), abs=1e-9)
    return whole, cross


def hooks(*networks):
    return [
        hook
        for net in networks
        for module in net.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


@pytest.mark.parametrize("method", ["max", "paper"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_two_layers_by_hand(activation, method):
    net, x = two_layers(activation, seed=4), 1.5 * data(200, 7)
    snn = pcsnn.convert(net, 3, calibration=data(320), method=method)
    errors = layer_errors(net, snn, x)
    assert (errors.method, errors.timesteps, [row.name for row in errors.rows]) == (method, 3, ["1", "3"])
    first, second = dict(snn.neurons()).values()
    double, x = two_layers(activation, seed=4).double(), x.double()
    with torch.no_grad():
        z = double[0](x)
        whole, cross = check(errors.rows[0], z, z, double[1], first)
        assert cross == 0 and errors.rows[0].propagated < 1e-6 and errors.rows[0].current < 1e-6
        rates = double[1](z) + whole
        _, cross = check(errors.rows[1], double[2](double[1](z)), double[2](rates), double[3], second)
    assert abs(cross) > 1e-3
    assert all(getattr(errors.rows[1], name) > 0.01 for name in ERRORS) and errors.rows[0].saturated > 0


def test_shifts_and_amplitudes_count_as_the_neurons_own_error():
    net, x = two_layers(seed=4), data(200, 7)
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    neuron = dict(snn.neurons())["1"]
    neuron.adjust(torch.linspace(-0.2, 0.2, 6), 0.6 * neuron.amplitude)
    row = layer_errors(net, snn, x).rows[0]
    z = two_layers(seed=4).double()[0](x.double()).detach()
    check(row, z, z, torch.relu, neuron)
    assert row.current < 1e-6 and row.propagated < 1e-6 and row.clipping > 0.1


def test_residual_by_hand():
    net, x = build("residual", nn.ReLU), images(20)
    snn = pcsnn.convert(net, 3, calibration=images(seed=5), method="max")
    errors = layer_errors(net, snn, x.split(6))
    act, last = dict(snn.neurons()).values()
    double, x = build("residual", nn.ReLU, torch.float64), x.double()
    with torch.no_grad():
        z = double.conv(x)
        whole, _ = check(errors.rows[0], z, z, torch.relu, act)
        h = torch.relu(z)
        rate = h + whole
        check(errors.rows[1], double.second(h) + h, double.second(rate) + rate, torch.relu, last)
    assert errors.rows[1].propagated > 0.01


def test_max_pool_before_an_activation_is_looked_at_behind_it():
    net = randomise(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 5, 4)))
    snn = pcsnn.convert(net, 3, calibration=images(seed=5), method="max")
    (row,) = layer_errors(net, snn, images()).rows
    z = net[1](net[0](images())).double().detach()
    check(row, z, z, torch.relu, dict(snn.neurons())["3"])


@pytest.mark.parametrize("name, fold", [*((name, None) for name in NETWORKS), *((name, True) for name in NORMS)])
def test_lossless_networks_have_no_error(name, fold):
    net, x = build(name), inputs(name)
    snn = pcsnn.convert(net, LEVELS, fold=fold)
    with pcsnn.record(snn) as record:
        snn(*x)
    rows = layer_errors(net, snn, [x]).rows
    assert [row.name for row in rows] == list(record.counts)
    for row, counts in zip(rows, record.counts.values()):
        assert [getattr(row, field) for field in ERRORS] == [0] * 5
        assert row.saturated == float((counts == LEVELS).double().mean())


def test_float_activation_of_a_qcfs_network_is_qcfs():
    net, x = two_layers(lambda: QCFS(4)), data()
    row = layer_errors(net, pcsnn.convert(net, 3, method="none"), x).rows[0]
    theta, z = net[1].threshold.item(), net[0](x).double().detach()
    wanted, given = ((theta / n) * torch.floor(z * n / theta + 0.5).clamp(0, n) for n in (4, 3))
    assert row.rounding == row.rate == pytest.approx(float((given - wanted).norm() / wanted.norm()), rel=1e-5)
    assert row.clipping == 0


def test_names_of_shared_activations_are_those_of_the_spiking_network():
    net = build("shared_activation", nn.ReLU)
    snn = pcsnn.convert(net, 8, calibration=images(), method="max")
    assert [row.name for row in layer_errors(net, snn, images()).rows] == [name for name, _ in snn.neurons()]
    assert len({name for name, _ in snn.neurons()}) == 4


def test_dead_channels():
    net = two_layers()
    net[0].weight.data[2:4] = 0
    net[0].bias.data[2:4] = torch.tensor([-1.0, 0.5])
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    assert layer_errors(net, snn, data()).rows[0].dead == pytest.approx(1 / 6)


def test_a_channel_is_dead_only_if_it_is_silent_in_every_batch():
    net = nn.Sequential(nn.ReLU6(), nn.Linear(4, 2))
    snn = pcsnn.convert(net, 3, method="none")
    eye = 6 * torch.eye(4)[:3]
    assert layer_errors(net, snn, [eye[:1], eye[1:]]).rows[0].dead == 0.25
    assert layer_errors(net, snn, [eye[:1], eye[:1]]).rows[0].dead == 0.75
    assert layer_errors(net, snn, [eye[:1], eye[:1]]).rows[0].saturated == 0.25


def test_channels_of_convolutions_are_dimension_1():
    net = randomise(nn.Sequential(conv(), nn.ReLU6(), conv(4, 2)))
    net[0].weight.data[:3] = 0
    net[0].bias.data[:3] = -1
    snn = pcsnn.convert(net, 16, method="none")
    assert layer_errors(net, snn, [torch.randn(2, 3, size, 8) for size in (8, 5)]).rows[0].dead == 0.75


def test_channels_of_tokens_are_their_features():
    net = randomise(nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 5)))
    net[0].weight.data[:2] = 0
    net[0].bias.data[:2] = -1
    snn = pcsnn.convert(net, 16, method="none")
    batches = [torch.randn(2, tokens, 6) for tokens in (7, 3)]
    assert layer_errors(net, snn, batches).rows[0].dead == 0.25


def test_a_layer_without_reference_is_infinitely_wrong():
    net = nn.Sequential(nn.ReLU6(), nn.Linear(2, 2))
    snn = pcsnn.convert(net, 4, method="none")
    dict(snn.neurons())["0"].adjust(1.0, 6.0)
    row = layer_errors(net, snn, torch.zeros(3, 2)).rows[0]
    assert (row.current, row.rate, row.rounding, row.propagated, row.dead) == (0, torch.inf, torch.inf, 0, 0)


def values(errors):
    return [value for row in errors.rows for value in list(vars(row).values())[1:]]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.split(96),
        lambda x: x.split(7),
        lambda x: iter(x.split(40)),
        lambda x: ((part, 1) for part in x.split(9)),
        lambda x: [[part] for part in x.split(96)],
        lambda x: [x[:0], x],
        lambda x: DataLoader(x, batch_size=10),
        lambda x: DataLoader(Stream(list(x)), batch_size=32),
    ],
    ids=["whole", "uneven", "iterator", "labelled generator", "lists", "one empty", "loader", "stream"],
)
def test_every_kind_of_data_gives_the_same(make):
    net = two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    expected = values(layer_errors(net, snn, data()))
    assert values(layer_errors(net, snn, make(data()))) == pytest.approx(expected, rel=1e-5, abs=1e-6)


class Fresh:
    """Makes batches as they are asked for, and knows how many of them are alive."""

    def __init__(self, labels=False):
        self.labels, self.alive, self.most = labels, weakref.WeakSet(), 0

    def __iter__(self):
        for seed in range(12):
            part = data(4, seed)
            self.alive.add(part)
            self.most = max(self.most, len(self.alive))
            yield (part, torch.zeros(4, dtype=torch.int64)) if self.labels else part


def test_batches_are_not_kept():
    net, source = two_layers(), Fresh()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    layer_errors(net, snn, source)
    assert source.most <= 3
    for labels in (False, True):
        source = Fresh(labels)
        sweep(net, source, [2, 3], "max")
        assert source.most <= 3


def test_two_inputs():
    net = build("two_inputs", nn.ReLU)
    x, y = inputs("two_inputs")
    snn = pcsnn.convert(net, 8, calibration=[(x, y)], method="max")
    row = layer_errors(net, snn, [(x, y)]).rows[1]
    z = (net.second(torch.relu(net.conv(x))) + net.conv(y)).double().detach()
    with pcsnn.record(snn) as record:
        snn(x, y)
    rates = record.rates()
    student = (net.second(rates["act"]) + net.conv(y)).double().detach()
    check(row, z, student, torch.relu, dict(snn.neurons())["last"])
    assert layer_errors(net, snn, [((x, y), None)]).rows[1] == row


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    net = build("residual", dtype=dtype)
    errors = layer_errors(net, pcsnn.convert(net, LEVELS), inputs("residual", dtype)[0])
    assert values(errors) and all(row.clipping == 0 for row in errors.rows)
    assert errors.rows[0].rate < (1e-12 if dtype == torch.float64 else 0.01)
    with pytest.raises(ValueError, match=f"model: expected parameters of dtype {dtype} .*got torch.float32"):
        layer_errors(build("residual"), pcsnn.convert(net, LEVELS), inputs("residual", dtype)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
def test_data_and_float_network_follow_to_the_device():
    net, x = two_layers().double(), data().double()
    snn = pcsnn.convert(net, 4, calibration=x, method="max")
    errors, result = values(layer_errors(net, snn, x)), sweep(net, x, [4], "max").rows[0]
    assert values(layer_errors(net, snn.cuda(), x)) == pytest.approx(errors, rel=1e-9, abs=1e-12)
    assert next(net.parameters()).device.type == "cpu"
    row = sweep(net.cuda(), [(x, torch.zeros(96, dtype=torch.int64))], [4], "max").rows[0]
    assert row.accuracy is not None
    assert (row.fidelity, row.spikes_per_neuron) == (result.fidelity, result.spikes_per_neuron)
    assert row.logit_error == pytest.approx(result.logit_error, rel=1e-9)


def test_a_loaded_network(tmp_path):
    net = build("conv_bn", nn.ReLU)
    snn = pcsnn.convert(net, 4, calibration=images(), method="max")
    pcsnn.save(snn, tmp_path / "snn.safetensors")
    assert layer_errors(net, pcsnn.load(tmp_path / "snn.safetensors"), images()) == layer_errors(net, snn, images())


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_networks_stay_as_they_are():
    net = randomise(
        nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(256, 3))
    ).train()
    expected, x = state(net), images()
    snn = pcsnn.convert(net, 4, calibration=x, method="max")
    out = snn(x)
    first = layer_errors(net, snn, x), sweep(net, x, [4])
    assert first == (layer_errors(net, snn, x), sweep(net, x, [4]))
    assert net.training and net[1].training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert torch.equal(snn(x), out) and not hooks(net, snn)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(net=5), TypeError, "model: expected the float network, a torch.nn.Module, got int"),
        (dict(snn=two_layers()), TypeError, "snn: expected a SpikingNetwork, made by pcsnn.convert, got Sequential"),
        (dict(net=two_layers()[:3]), ValueError, "model: expected the source of snn, with activations at 1, 3, got 1"),
        (
            dict(net=nn.Linear(5, 3)),
            ValueError,
            "model: expected the source of snn, with activations at 1, 3, got none",
        ),
        (
            dict(net=nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU())),
            ValueError,
            r"model: expected the source of snn, whose 1 has currents \(32, 6\), got \(32, 7\)",
        ),
        (
            dict(net=network(lambda s, x: s.a(x) if x.sum() > 0 else x, a=nn.ReLU())),
            ValueError,
            "model: torch.fx cannot trace",
        ),
        (dict(data=5), TypeError, "data: expected a tensor, or an iterable .*got int"),
        (dict(data=[]), ValueError, "data: expected at least one batch with data, got none"),
        (dict(data=data()[:0]), ValueError, r"data: expected a tensor \[N, ...\] with N > 0"),
        (dict(data=[data(), data() * float("nan")]), ValueError, "data: expected finite values, .* in batch 1"),
        (dict(data=["x"]), TypeError, "data: expected 1 tensor a batch, .*got str in batch 0"),
    ],
)
def test_layer_errors_refuses(change, error, words):
    net = two_layers()
    given = dict(net=net, snn=pcsnn.convert(net, 4, calibration=data(), method="max"), data=data()) | change
    with pytest.raises(error, match=words):
        layer_errors(**given)
    assert not hooks(net, given["snn"])


def test_a_spiking_network_is_no_float_network():
    net = two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    for call in (lambda: layer_errors(snn, snn, data()), lambda: sweep(snn, data())):
        with pytest.raises(TypeError, match="model: expected the float network, .*got SpikingNetwork"):
            call()


def test_networks_that_overflow_are_refused():
    net, broken = two_layers(), two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    broken[2].bias.data[1] = torch.inf
    with pytest.raises(ValueError, match="model: 3 reaches NaN or infinity on the data"):
        layer_errors(broken, snn, data())
    snn.network.get_submodule("2").bias.data[0] = torch.inf
    with pytest.raises(ValueError, match="snn: 3 reaches NaN or infinity on the data"):
        layer_errors(net, snn, data())
