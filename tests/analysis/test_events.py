"""Spikes as lists of events, and as data of NIR."""

import sys

import pytest
import torch
from spike_cases import every_count, recorded
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import analysis


def dense(events, like):
    """Trains of the shape of `like` from rows of events, with what the last column sends where there is one more."""
    made = torch.zeros(like.shape, dtype=torch.int64)
    valued = events.shape[1] > like.dim()
    made[tuple(events.T[: like.dim()])] = events[:, -1] if valued else 1
    return made


def signed_recording(timesteps, spike_levels):
    (x,) = inputs("mlp")
    snn = pcsnn.convert(
        build("mlp", nn.SiLU), timesteps, calibration=x, method="max", signed=True, spike_levels=spike_levels
    )
    with pcsnn.record(snn) as rec:
        snn(x)
    return rec


@pytest.mark.parametrize("timesteps", (1, 7, 255))
def test_events_are_the_trains(timesteps):
    rec = recorded(timesteps)
    order = analysis.random_order(timesteps, 3)
    for layer, counts in rec.counts.items():
        for one in (None, order):
            events, trains = rec.events(layer, one), rec.spikes(layer, one)
            assert events.dtype == torch.int64 and events.shape == (int(counts.sum()), 1 + counts.dim())
            assert torch.equal(dense(events, trains), trains.to(torch.int64)) and len(events)
            assert events.tolist() == sorted(events.tolist())


def test_columns_of_images_are_step_sample_channel_row_and_column():
    rec = recorded(5)
    layer = next(name for name, counts in rec.counts.items() if counts.dim() == 4)
    spikes = rec.spikes(layer)
    for t, n, c, y, x in rec.events(layer)[:50].tolist():
        assert spikes[t, n, c, y, x]


def test_samples_keep_their_numbers():
    rec = recorded(4, batch=5)
    for layer in rec.counts:
        every = rec.events(layer)
        for samples in (slice(1, 3), slice(-2, None), slice(None, None, 2), slice(5, 9)):
            numbers = torch.arange(5)[samples]
            assert torch.equal(rec.events(layer, samples=samples), every[torch.isin(every[:, 1], numbers)])
        with pytest.raises(TypeError, match="samples: expected a slice, got int"):
            rec.events(layer, samples=2)
    with pytest.raises(KeyError, match="layer: expected one of"):
        rec.events("none")


@pytest.mark.parametrize("timesteps, spike_levels", [(2, 15), (3, 2), (1, 6)])
@pytest.mark.parametrize("signed", [False, True])
def test_what_is_sent_is_the_last_column(timesteps, spike_levels, signed):
    if signed:
        rec = signed_recording(timesteps, spike_levels)
    else:
        x = inputs("residual")
        snn = pcsnn.convert(
            build("residual", nn.ReLU), timesteps, spike_levels=spike_levels, calibration=[x], method="max"
        )
        with pcsnn.record(snn) as rec:
            snn(*x)
    for layer, counts in rec.counts.items():
        events, trains = rec.events(layer), rec.spikes(layer)
        assert events.shape[1] == 2 + counts.dim() and (events[:, -1] != 0).all()
        assert torch.equal(dense(events, trains), trains.to(torch.int64))


def test_layers_that_never_fire_have_no_events():
    net = nn.Sequential(nn.Linear(4, 3), pcsnn.nn.QCFS(4, 1.0), nn.Linear(3, 2)).eval()
    nn.init.constant_(net[0].weight, 0.0)
    nn.init.constant_(net[0].bias, -1.0)
    snn = pcsnn.convert(net, 4)
    with pcsnn.record(snn) as rec:
        snn(torch.rand(2, 4))
    assert rec.events("1").shape == (0, 3)


# Data of NIR


@pytest.mark.parametrize("timesteps", (1, 7))
def test_data_of_nir_have_the_trains(timesteps, tmp_path):
    nir = pytest.importorskip("nir", reason="pip install nir")
    rec = recorded(timesteps)
    order = analysis.random_order(timesteps, 5)
    for dt in (1.0, 1e-3):
        data = rec.nir_data(order=order, dt=dt)
        assert isinstance(data, nir.NIRGraphData)
        for layer, counts in rec.counts.items():
            events = data.nodes[layer.replace(".", "_")].observables["spikes"]
            assert type(events) is nir.EventData and events.n_neurons == counts[0].numel()
            assert events.t_max == timesteps * dt and (events.idx == -1).sum() == (events.time == float("inf")).sum()
            if dt == 1.0:
                gridded = torch.from_numpy(events.to_time_gridded(dt).data)
                assert torch.equal(gridded.transpose(0, 1), rec.spikes(layer, order).flatten(2))
    nir.write_data(tmp_path / "spikes.h5", data)
    again = nir.read_data(tmp_path / "spikes.h5")
    assert again.nodes.keys() == data.nodes.keys()


def test_data_of_nir_name_the_nodes_of_the_graph():
    nir = pytest.importorskip("nir", reason="pip install nir")
    x = inputs("nested")[0]
    snn = pcsnn.convert(build("nested"), 4)
    with pcsnn.record(snn) as rec:
        snn(x)
    graph = pcsnn.exchange.to_nir(snn, x)
    data = rec.nir_data()
    assert data.nodes.keys() == {name for name, node in graph.nodes.items() if isinstance(node, nir.IF)}
    for name, node in data.nodes.items():
        assert node.observables["spikes"].n_neurons == graph.nodes[name].v_threshold.size
    (some,) = list(rec.counts)[:1]
    assert list(rec.nir_data([some]).nodes) == [some.replace(".", "_")]


def test_values_of_nir_are_what_is_sent():
    nir = pytest.importorskip("nir", reason="pip install nir")
    rec = signed_recording(3, 4)
    for layer, node in rec.nir_data().nodes.items():
        events = node.observables["spikes"]
        assert type(events) is nir.ValuedEventData
        gridded = torch.from_numpy(events.to_time_gridded(1.0).data)
        assert torch.equal(gridded.transpose(0, 1), rec.spikes(layer).flatten(2).double())


def test_bad_arguments_of_nir_data(monkeypatch):
    recording, _ = every_count(3)
    for dt, error in ((0.0, ValueError), (-1.0, ValueError), ("1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match="dt: expected"):
            recording.nir_data(dt=dt)
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match="nir_data needs the package nir: pip install nir"):
        recording.nir_data()
