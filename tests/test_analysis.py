"""Errors by layer and sweeps over T, against hand computations in float64."""

import sys
import weakref

import pytest
import torch
from tiny_networks import LEVELS, NETWORKS, NORMS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pcsnn
from pcsnn.analysis import layer_errors, sweep
from pcsnn.nn import QCFS

ERRORS = ("current", "rate", "clipping", "rounding", "propagated")


def two_layers(activation=nn.ReLU, seed=0):
    return randomise(nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 3)), seed)


def data(rows=96, seed=1):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def images(batch=8, seed=3):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


# The definitions, written out once more


def staircase(current, neuron):
    """(15) per channel in float64."""
    shape = [1, -1] + [1] * (current.dim() - 2)
    theta, psi, worth = (torch.as_tensor(value).double().expand(current.shape[1]).reshape(shape)
                         for value in (neuron.threshold, neuron.offset, neuron.amplitude))
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


# layer_errors


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


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("make", [
    lambda x: x.split(96), lambda x: x.split(7), lambda x: iter(x.split(40)),
    lambda x: ((part, 1) for part in x.split(9)),
    lambda x: [[part] for part in x.split(96)], lambda x: [x[:0], x], lambda x: DataLoader(x, batch_size=10),
    lambda x: DataLoader(Stream(list(x)), batch_size=32)],
    ids=["whole", "uneven", "iterator", "labelled generator", "lists", "one empty", "loader", "stream"])
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
    with pytest.raises(ValueError, match=f"net: expected parameters of dtype {dtype} .*got torch.float32"):
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


def hooks(*networks):
    return [hook for net in networks for module in net.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]


def test_networks_stay_as_they_are():
    net = randomise(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(),
                                  nn.Linear(256, 3))).train()
    expected, x = state(net), images()
    snn = pcsnn.convert(net, 4, calibration=x, method="max")
    out = snn(x)
    first = layer_errors(net, snn, x), sweep(net, x, [4])
    assert first == (layer_errors(net, snn, x), sweep(net, x, [4]))
    assert net.training and net[1].training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert torch.equal(snn(x), out) and not hooks(net, snn)


@pytest.mark.parametrize("change, error, words", [
    (dict(net=5), TypeError, "net: expected the float network, a torch.nn.Module, got int"),
    (dict(snn=two_layers()), TypeError, "snn: expected a SpikingNetwork, made by pcsnn.convert, got Sequential"),
    (dict(net=two_layers()[:3]), ValueError, "net: expected the source of snn, with activations at 1, 3, got 1"),
    (dict(net=nn.Linear(5, 3)), ValueError, "net: expected the source of snn, with activations at 1, 3, got none"),
    (dict(net=nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU())), ValueError,
     r"net: expected the source of snn, whose 1 has currents \(32, 6\), got \(32, 7\)"),
    (dict(net=network(lambda s, x: s.a(x) if x.sum() > 0 else x, a=nn.ReLU())), ValueError,
     "net: torch.fx cannot trace"),
    (dict(data=5), TypeError, "data: expected a tensor, or an iterable .*got int"),
    (dict(data=[]), ValueError, "data: expected at least one batch with data, got none"),
    (dict(data=data()[:0]), ValueError, r"data: expected a tensor \[N, ...\] with N > 0"),
    (dict(data=[data(), data() * float("nan")]), ValueError, "data: expected finite values, .* in batch 1"),
    (dict(data=["x"]), TypeError, "data: expected 1 tensor a batch, .*got str in batch 0"),
])
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
        with pytest.raises(TypeError, match="net: expected the float network, .*got SpikingNetwork"):
            call()


def test_networks_that_overflow_are_refused():
    net, broken = two_layers(), two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    broken[2].bias.data[1] = torch.inf
    with pytest.raises(ValueError, match="net: 3 reaches NaN or infinity on the data"):
        layer_errors(broken, snn, data())
    snn.network.get_submodule("2").bias.data[0] = torch.inf
    with pytest.raises(ValueError, match="snn: 3 reaches NaN or infinity on the data"):
        layer_errors(net, snn, data())


# sweep


def labelled(net, wrong=30):
    """Data with the float network's own decisions as labels, but for `wrong` of them."""
    labels = net(data()).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % 3
    return labels


@pytest.mark.parametrize("method", ["max", "paper", "auto"])
@pytest.mark.parametrize("activation", [nn.ReLU, lambda: QCFS(4)], ids=["relu", "qcfs"])
def test_sweep_by_hand(activation, method):
    net, x = two_layers(activation), data()
    labels = labelled(net)
    result = sweep(net, list(zip(x.split(20), labels.split(20))), [8, 2, 3], method)
    assert [row.timesteps for row in result.rows] == [8, 2, 3] and result.method == method
    assert result.float_accuracy == pytest.approx(66 / 96)
    for row in result.rows:
        snn = pcsnn.convert(net, row.timesteps, calibration=x.split(20), method=method)
        with pcsnn.record(snn) as record:
            out = snn(x)
        expected = net(x).detach()
        counts = torch.cat([value.flatten() for value in record.counts.values()]).double()
        hits = sum(int(out[i].argmax()) == int(labels[i]) for i in range(96))
        same = sum(int(out[i].argmax()) == int(expected[i].argmax()) for i in range(96))
        assert (row.accuracy, row.fidelity) == (hits / 96, same / 96)
        assert row.logit_error == pytest.approx(float((out - expected).norm() / expected.norm()), rel=1e-5)
        assert row.spikes_per_neuron == pytest.approx(float(counts.mean()), rel=1e-12)
        assert row.method == snn.report.method


def test_a_lossless_sweep():
    net = randomise(nn.Sequential(conv(), nn.BatchNorm2d(4), QCFS(4), conv(4, 5), nn.BatchNorm2d(5)))
    first, *lossless = sweep(net, images(), [3, 4, 12], "none").rows
    assert first.logit_error > 0.01
    for row in lossless:
        assert (row.fidelity, row.logit_error, row.accuracy) == (1, 0, None)
    assert [row.method for row in sweep(net, images(), [3, 4]).rows] == ["light", "none"]


def test_methods_convert_as_often_as_they_must(monkeypatch):
    module = sys.modules["pcsnn.analysis.sweep"]
    calls = []
    monkeypatch.setattr(module, "convert",
                        lambda net, value, **named: calls.append(value) or pcsnn.convert(net, value, **named))
    for method, expected in (("max", [2]), ("paper", [2, 5]), ("auto", [2, 5])):
        calls.clear()
        assert [row.timesteps for row in sweep(two_layers(), data(), [2, 5], method).rows] == [2, 5]
        assert calls == expected


def test_calibration_data_of_its_own():
    net, x = two_layers(), data(96, 9)
    expected = net(x).detach()
    seen = sweep(net, x, [3, 4], "paper")
    for calibration in (data().split(32), iter(data().split(32)), data()):
        rows = sweep(net, x, [3, 4], "paper", calibration).rows
        for row in rows:
            out = pcsnn.convert(net, row.timesteps, calibration=data(), method="paper")(x)
            assert row.logit_error == pytest.approx(float((out - expected).norm() / expected.norm()), rel=1e-5)
        assert rows != seen.rows


@pytest.mark.parametrize("make", [
    lambda x, y: list(zip(x.split(32), y.split(32))), lambda x, y: zip(x.split(32), y.split(32)),
    lambda x, y: [((part,), label) for part, label in zip(x.split(32), y.split(32))],
    lambda x, y: [(x[:0], y[:0]), *zip(x.split(32), y.split(32))],
    lambda x, y: [(part, label, "more") for part, label in zip(x.split(32), y.split(32))],
    lambda x, y: DataLoader(TensorDataset(x, y), batch_size=32),
    lambda x, y: DataLoader(Stream(list(zip(x, y))), batch_size=32)],
    ids=["list", "iterator", "nested", "one empty", "more behind", "loader", "stream"])
def test_every_kind_of_labelled_data_gives_the_same(make):
    net = two_layers()
    labels = labelled(net)
    expected = sweep(net, data(), [2, 4], "max")
    result = sweep(net, make(data(), labels), [2, 4], "max")
    assert result.float_accuracy == pytest.approx(66 / 96) and expected.float_accuracy is None
    for row, other in zip(result.rows, expected.rows, strict=True):
        assert row.accuracy is not None and other.accuracy is None
        assert (row.fidelity, row.logit_error, row.spikes_per_neuron) == (other.fidelity, other.logit_error,
                                                                          other.spikes_per_neuron)


def test_two_inputs_with_labels():
    net = network(lambda s, x, y: s.last(torch.relu(s.one(x) + s.two(y))), one=nn.Linear(5, 6), two=nn.Linear(4, 6),
                  last=nn.Linear(6, 3))
    x, y = data(), data(96, 2)[:, :4]
    labels = randomise(net)(x, y).argmax(1)
    for item in ((x, y, labels), ((x, y), labels)):
        assert sweep(net, [item], [8], "max").float_accuracy == 1
    assert sweep(net, [(x, y)], [8], "max").float_accuracy is None


def test_decisions_of_every_pixel():
    net = randomise(nn.Sequential(conv(), nn.ReLU6(), conv(4, 5)))
    x = images()
    labels = net(x).argmax(1)
    labels[:, 0] = 7  # a row of eight: no class of this network
    result = sweep(network(lambda s, x: {"out": s.net(x), "aux": x}, net=net), [(x, labels)], [5], "none")
    assert result.float_accuracy == 7 / 8
    out = pcsnn.convert(net, 5, method="none")(x)
    assert result.rows[0].accuracy == float((out.argmax(1) == labels).double().mean())
    assert result.rows[0].fidelity == float((out.argmax(1) == net(x).argmax(1)).double().mean())


def test_options_of_the_conversion_are_handed_on():
    net = randomise(nn.Sequential(nn.Linear(5, 5), nn.ReLU6(), nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="cannot spike"):
        sweep(net, data(), [4], "none")
    assert sweep(net, data(), [64], "none", strict=False).rows[0].fidelity > 0.8


@pytest.mark.parametrize("change, error, words", [
    (dict(net="net"), TypeError, "net: expected the float network, a torch.nn.Module, got str"),
    (dict(timesteps=[]), ValueError, "timesteps: expected at least one, got none"),
    (dict(timesteps=4), TypeError, "timesteps: expected a sequence of integers, got int"),
    (dict(timesteps="48"), TypeError, "timesteps: expected a sequence of integers, got str"),
    (dict(timesteps=[4, 256]), ValueError, r"timesteps: expected a value in 1..255, got 256"),
    (dict(timesteps=[4, 0]), ValueError, r"timesteps: expected a value in 1..255, got 0"),
    (dict(timesteps=[4, 2.5]), TypeError, "timesteps: expected an integer, got float"),
    (dict(method="best"), ValueError, "method: expected one of auto, none, max, paper.*, got 'best'"),
    (dict(folding=True), TypeError, "options: expected those of pcsnn.convert .*got folding"),
    (dict(data=None), TypeError, "data: expected a tensor, or an iterable .*got NoneType"),
    (dict(data=[]), ValueError, "data: expected at least one batch with data, got none"),
    (dict(data=[data(), data() / 0]), ValueError, "data: expected finite values, got NaN or infinity in batch 1"),
    (dict(data=[(data(), "cat")]), TypeError, "data: expected labels as a tensor of integers, got str in batch 0"),
    (dict(data=[(data(), data()[:, 0])]), TypeError, "data: expected labels .*got torch.float32 in batch 0"),
    (dict(data=[(data(), torch.ones(5, dtype=torch.int64))]), ValueError,
     r"data: expected labels \(96,\) for outputs \(96, 3\), got \(5,\) in batch 0"),
    (dict(data=[(data(), torch.ones(96, dtype=torch.int64)), data()]), ValueError,
     "data: expected labels in every batch or in none, got them in 1 of 2"),
    (dict(calibration=7), TypeError, "calibration: expected a tensor, or an iterable .*got int"),
    (dict(calibration=[]), ValueError, "calibration: expected at least one batch"),
    (dict(net=nn.Sequential(nn.Linear(5, 1), nn.ReLU6())), ValueError,
     r"net: expected outputs \[N, classes, ...\] with at least 2 classes, got \(32, 1\)"),
    (dict(net=nn.Sequential(nn.Linear(5, 4), nn.ReLU6(), nn.Flatten(0))), ValueError,
     r"net: expected outputs \[N, classes, ...\] .*got \(128,\)"),
    (dict(net=network(lambda s, x: s.act(s.conv(x)).size(1), act=nn.ReLU6(), conv=nn.Linear(5, 4))), ValueError,
     "net: expected outputs .*got no tensor"),
])
def test_sweep_refuses(change, error, words, monkeypatch):
    monkeypatch.setattr(sys.modules["pcsnn.analysis.sweep"], "_evaluate", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(error, match=words):
        sweep(**(dict(net=two_layers(), data=data(), timesteps=[4], method="max") | change))


def test_sweep_refuses_a_network_that_overflows():
    net = two_layers()
    net[4].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="net: its output reaches NaN or infinity in batch 0 of data"):
        sweep(net, data(), [4])


# Tables and pictures


def results():
    net = two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    return layer_errors(net, snn, data()), sweep(net, [(data(), labelled(net))], [2, 8, 4], "max")


def test_tables():
    errors, result = results()
    lines = str(errors).splitlines()
    assert lines[0].split() == ["layer", "current", "rate", "clipping", "rounding", "propagated", "dead", "saturated"]
    assert set(lines[1]) == {"-", " "} and lines[-1].endswith("method max, T = 4") and len(lines) == 3 + 2
    for line, row in zip(lines[2:], errors.rows):
        assert line.split() == [row.name, *(f"{getattr(row, name):.4f}" for name in ERRORS),
                                f"{100 * row.dead:.1f}", "%", f"{100 * row.saturated:.1f}", "%"]
    lines = str(result).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == ["2", "8", "4"]
    row = result.rows[1]
    assert lines[3].split() == ["8", f"{100 * row.accuracy:.2f}", "%", f"{100 * row.fidelity:.2f}", "%",
                                f"{row.logit_error:.4f}", f"{row.spikes_per_neuron:.3f}", "max"]
    assert lines[-1] == "float accuracy 68.75 %; method max"
    without = str(sweep(two_layers(), data(), [4], "max")).splitlines()
    assert without[2].split()[:2] == ["4", "-"] and without[-1] == "float accuracy -; method max"


def lines_of(figure):
    return {line.get_label(): list(line.get_ydata()) for axes in figure.axes for line in axes.get_lines()}


def test_pictures(tmp_path):
    errors, result = results()
    figure = errors.plot(tmp_path / "layers.png")
    drawn = lines_of(figure)
    assert all(drawn[name] == [getattr(row, name) for row in errors.rows] for name in ERRORS)
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["1", "3"]
    drawn = lines_of(result.plot(tmp_path / "sweep.png"))
    rows = [result.rows[0], result.rows[2], result.rows[1]]  # by T
    assert drawn["accuracy"] == [100 * row.accuracy for row in rows]
    assert drawn["fidelity"] == [100 * row.fidelity for row in rows]
    for name in ("layers.png", "sweep.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    without = sweep(two_layers(), data(), [4], "max").plot()
    assert "accuracy" not in lines_of(without) and "fidelity" in lines_of(without)


def test_pictures_need_an_extra(monkeypatch):
    errors, result = results()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for drawn in (errors, result):
        with pytest.raises(ImportError, match=r"plots need matplotlib, the extra \[plots\]"):
            drawn.plot()
