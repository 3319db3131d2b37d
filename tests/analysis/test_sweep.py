"""Sweeps over T, against hand computations."""

import pytest
import torch
from analysis_cases import Stream, data, images, labelled, two_layers
from tiny_networks import conv, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pcsnn
from pcsnn.analysis import sweep
from pcsnn.analysis.quality import sweeps
from pcsnn.nn import QCFS


@pytest.mark.parametrize("method", ["max", "paper", "auto"])
@pytest.mark.parametrize("activation", [nn.ReLU, lambda: QCFS(4)], ids=["relu", "qcfs"])
@pytest.mark.quick(2)
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
    module = sweeps
    calls = []
    monkeypatch.setattr(
        module, "convert", lambda net, value, **named: calls.append(value) or pcsnn.convert(net, value, **named)
    )
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


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: list(zip(x.split(32), y.split(32))),
        lambda x, y: zip(x.split(32), y.split(32)),
        lambda x, y: [((part,), label) for part, label in zip(x.split(32), y.split(32))],
        lambda x, y: [(x[:0], y[:0]), *zip(x.split(32), y.split(32))],
        lambda x, y: [(part, label, "more") for part, label in zip(x.split(32), y.split(32))],
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=32),
        lambda x, y: DataLoader(Stream(list(zip(x, y))), batch_size=32),
    ],
    ids=["list", "iterator", "nested", "one empty", "more behind", "loader", "stream"],
)
def test_every_kind_of_labelled_data_gives_the_same(make):
    net = two_layers()
    labels = labelled(net)
    expected = sweep(net, data(), [2, 4], "max")
    result = sweep(net, make(data(), labels), [2, 4], "max")
    assert result.float_accuracy == pytest.approx(66 / 96) and expected.float_accuracy is None
    for row, other in zip(result.rows, expected.rows, strict=True):
        assert row.accuracy is not None and other.accuracy is None
        assert (row.fidelity, row.logit_error, row.spikes_per_neuron) == (
            other.fidelity,
            other.logit_error,
            other.spikes_per_neuron,
        )


def test_two_inputs_with_labels():
    net = network(
        lambda s, x, y: s.last(torch.relu(s.one(x) + s.two(y))),
        one=nn.Linear(5, 6),
        two=nn.Linear(4, 6),
        last=nn.Linear(6, 3),
    )
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


ONE = nn.Sequential(nn.Linear(5, 8), nn.ReLU6(), nn.Linear(8, 1))
LABELS = {  # of one logit, in the forms that binary classifiers are trained with
    "integers": lambda y: y,
    "floats": torch.Tensor.float,
    "truths": torch.Tensor.bool,
    "column": lambda y: y[:, None],
    "column of floats": lambda y: y[:, None].float(),
}


@pytest.mark.parametrize("tail", [nn.Identity, lambda: nn.Flatten(0)], ids=["[N, 1]", "[N]"])
@pytest.mark.parametrize("form", LABELS)
def test_one_logit_decides_by_its_sign(tail, form):
    net, x = nn.Sequential(*randomise(ONE), tail()), data()
    logits = net(x).detach().flatten()
    labels = (logits > logits.median()).long()
    given = LABELS[form](labels)
    if given.dim() == 2 and net(x).dim() == 1:
        given = given[:, 0]
    result = sweep(net, [(x[:50], given[:50]), (x[50:], given[50:])], [5], "none")
    snn = pcsnn.convert(net, 5, method="none")
    out = snn(x).flatten()
    row = result.rows[0]
    assert 0.2 < result.float_accuracy < 1 and result.float_accuracy == ((logits > 0) == labels).double().mean().item()
    assert row.accuracy == ((out > 0) == labels).double().mean().item()
    assert row.fidelity == ((out > 0) == (logits > 0)).double().mean().item()
    assert row.logit_error == pytest.approx(float((out - logits).norm() / logits.norm()), rel=1e-5)
    evaluated = pcsnn.analysis.evaluate(snn, [(x, given)], progress=False)
    assert (evaluated.accuracy, evaluated.decisions) == (row.accuracy, 96)


def test_one_logit_for_every_pixel_with_void_labels():
    net = randomise(nn.Sequential(conv(), nn.ReLU6(), conv(4, 1)))
    x = images()
    labels = (net(x) > 0).long()
    labels[:, :, 0] = 255
    for given in (labels, labels[:, 0], labels.float()):
        assert sweep(net, [(x, given)], [5], "none", ignore=255).float_accuracy == 1


def test_a_regression_is_measured_without_labels():
    for net in (randomise(ONE), randomise(nn.Sequential(nn.Linear(5, 8), nn.ReLU6(), nn.Linear(8, 4)))):
        row = sweep(net, data(), [8], "none").rows[0]
        out, expected = pcsnn.convert(net, 8, method="none")(data()), net(data()).detach()
        assert row.logit_error == pytest.approx(float((out - expected).norm() / expected.norm()), rel=1e-5)
        assert row.accuracy is None


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(net="net"), TypeError, "model: expected the float network, a torch.nn.Module, got str"),
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
        (
            dict(data=[(data(), torch.ones(5, dtype=torch.int64))]),
            ValueError,
            r"data: expected labels \(96,\) for outputs \(96, 3\), got \(5,\) in batch 0",
        ),
        (
            dict(data=[(data(), torch.ones(96, dtype=torch.int64)), data()]),
            ValueError,
            "data: expected labels in every batch or in none, got them in 1 of 2",
        ),
        (dict(calibration=7), TypeError, "calibration: expected a tensor, or an iterable .*got int"),
        (dict(calibration=[]), ValueError, "calibration: expected at least one batch"),
        (
            dict(net=ONE, data=[(data(), data()[:, :1])]),
            TypeError,
            "data: expected labels as a tensor of integers, got torch.float32 in batch 0; "
            "a regression is measured without",
        ),
        (
            dict(net=ONE, data=[(data(), torch.arange(96))]),
            ValueError,
            r"data: expected labels 0 and 1 for outputs \(96, 1\) of one logit, got others in batch 0",
        ),
        (
            dict(net=ONE, data=[(data(), torch.ones(96, 2, dtype=torch.int64))]),
            ValueError,
            r"data: expected labels \(96,\) for outputs \(96, 1\), got \(96, 2\) in batch 0",
        ),
        (
            dict(net=nn.Sequential(nn.Linear(5, 4), nn.ReLU6(), nn.Flatten(0))),
            ValueError,
            r"model: expected outputs \[N, classes, ...\] .*got \(128,\)",
        ),
        (
            dict(net=network(lambda s, x: s.act(s.conv(x)).size(1), act=nn.ReLU6(), conv=nn.Linear(5, 4))),
            ValueError,
            "model: expected outputs .*got no tensor",
        ),
    ],
)
def test_sweep_refuses(change, error, words, monkeypatch):
    monkeypatch.setattr(sweeps, "_evaluate", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(error, match=words):
        sweep(**(dict(net=two_layers(), data=data(), timesteps=[4], method="max") | change))


def test_sweep_refuses_a_network_that_overflows():
    net = two_layers()
    net[4].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="model: its output reaches NaN or infinity in batch 0 of data"):
        sweep(net, data(), [4])


def test_the_float_network_may_be_named_as_formerly():
    net, x = two_layers(), data()
    assert sweep(net=net, data=x, timesteps=[3], method="max") == sweep(model=net, data=x, timesteps=[3], method="max")
    with pytest.raises(TypeError, match="net: is the older name of model; expected one of them, got both"):
        sweep(model=net, net=net, data=x)
