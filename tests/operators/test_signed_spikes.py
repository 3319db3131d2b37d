"""Recordings, pictures and shuffled trains of neurons whose spikes have two signs."""

import dataclasses
import functools

import pytest
import torch
from tiny_networks import network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import analysis

STEEP = functools.partial(nn.LeakyReLU, 0.4)  # steep enough for negative spikes
DATA = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def converted(activation=nn.SiLU, timesteps=13):
    """A signed layer, a residual sum, and a layer without signs."""
    net = network(
        lambda s, x: s.last(s.relu(s.second(s.act(s.first(x))) + s.first(x)).flatten(1)),
        act=activation(),
        relu=nn.ReLU(),
        first=nn.Conv2d(3, 4, 3),
        second=nn.Conv2d(4, 4, 3, padding=1),
        last=nn.Linear(64, 5),
    )
    return pcsnn.convert(randomise(net), timesteps, calibration=DATA, method="max", signed=True, progress=False)


@pytest.fixture(params=[nn.SiLU, STEEP, nn.GELU])
def recorded(request):
    snn = converted(request.param)
    with pcsnn.record(snn) as recording:
        snn(DATA)
    return snn, recording


def test_trains_are_those_of_the_reference(recorded):
    snn, recording = recorded
    neuron, counts = dict(snn.neurons())["act"], recording.counts["act"]
    total = neuron.balance(counts)
    places = torch.arange(13, 0, -1).view(-1, 1, 1, 1, 1)  # sorted: the last |total| of 13 steps
    expected = ((places <= total.abs()) * total.sign()).to(torch.int8)
    assert set(expected.flatten().tolist()) == {-1, 0, 1}
    assert torch.equal(expected.sum(0), neuron.balance(counts).long())
    for order in (None, analysis.random_order(13, 1), analysis.random_order(13, 1, recording.counts)):
        places = order["act"] if isinstance(order, dict) else order
        wanted = expected if places is None else expected[places]
        spikes = recording.spikes("act", order)
        assert spikes.dtype == torch.int8 and torch.equal(spikes, wanted)
        assert torch.equal(recording.spikes("act", order, [3, -1], slice(1, 3)), wanted.flatten(2)[:, 1:3, [3, -1]])
        steps = list(recording.steps(order=order))
        assert torch.equal(torch.stack([step["act"] for step in steps]), wanted)
        assert {step["relu"].dtype for step in steps} == {torch.bool}
    rates = expected.sum(0) * neuron.scale.view(-1, 1, 1)
    torch.testing.assert_close(rates, recording.rates()["act"], rtol=1e-6, atol=0)


def test_spikes_of_either_sign_are_counted(recorded):
    _, recording = recorded
    trains = recording.spikes("act")
    fired = (trains != 0).sum(0)
    counted = recording.spike_counts("act")
    assert counted.dtype == torch.uint8 and torch.equal(counted.long(), fired)
    assert torch.equal(recording.spike_counts("relu"), recording.counts["relu"])
    assert recording.histogram("act").tolist() == [int((fired == k).sum()) for k in range(14)]
    row = dataclasses.asdict(recording.summary()[0])
    assert row == dict(
        name="act",
        samples=4,
        neurons=64,
        spikes=int(fired.sum()),
        rate=int(fired.sum()) / trains.numel(),
        sparsity=int((trains == 0).sum()) / trains.numel(),
        silent=int((fired == 0).all(0).sum()),
        saturated=int((fired == 13).sum()) / fired.numel(),
    )


def test_what_signed_neurons_refuse(recorded):
    snn, recording = recorded
    with pytest.raises(ValueError, match="layer: act has spikes of two signs, which do not fit into bits"):
        recording.packed("act")
    for call in (recording.spikes, lambda layer, order: recording.steps([layer], order)):
        with pytest.raises(ValueError, match="order: expected a permutation of 0..12"):
            call("act", torch.zeros(13, dtype=torch.int64))
    with pytest.raises(TypeError, match="samples: expected a slice, got int"):
        recording.spikes("act", samples=0)
    pcsnn.set_timesteps(snn, 16)
    for call in (recording.spikes, recording.spike_counts, recording.histogram):
        with pytest.raises(RuntimeError, match="layer: act was recorded at T = 13, and has T = 16 by now"):
            call("act")
    assert recording.spikes("relu").shape == (13, 4, 4, 4, 4)


@pytest.mark.parametrize("activation", [nn.SiLU, STEEP, nn.GELU])
def test_shuffled_trains_change_nothing(activation):
    snn = converted(activation)
    result = analysis.check_shuffle(snn, DATA, seed=1)
    assert result.same
    assert [(row.name, row.counted, row.different) for row in result.rows] == [("act", 256, 0), ("relu", 256, 0)]


def test_a_tampered_signed_count_is_found():
    snn = converted()
    neuron = dict(snn.neurons())["act"]
    neuron.counts = lambda *arguments: type(neuron).counts(neuron, *arguments).clamp(max=neuron.levels.shape[-1] - 2)
    result = analysis.check_shuffle(snn, DATA)
    assert not result.same and result.rows[0].different > 0 and result.rows[0].largest in (1, 2)


def test_negative_spikes_are_red(recorded, tmp_path):
    pytest.importorskip("matplotlib")
    _, recording = recorded
    figure = analysis.plot_raster(recording, "act", tmp_path / "raster.png", neurons=64)
    positive, negative = figure.axes[0].collections
    trains = recording.spikes("act", samples=slice(0, 1))
    assert len(positive.get_segments()) == int((trains == 1).sum()) > 0
    assert len(negative.get_segments()) == int((trains == -1).sum()) > 0
    assert negative.get_color()[0][0] > 0.5 and (tmp_path / "raster.png").stat().st_size > 1000
