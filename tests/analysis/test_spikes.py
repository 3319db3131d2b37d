"""What recordings make of counts: trains, bits, steps, summaries."""

import dataclasses

import pytest
import torch
from spike_cases import every_count, recorded
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch import fx, nn

import pcsnn
from pcsnn import analysis, reference
from pcsnn.network.network import SpikingNetwork
from pcsnn.network.report import Report
from pcsnn.nn import SpikingAttention

ODD = (1, 7, 8, 9, 255)


@pytest.fixture(scope="module", params=ODD)
def recording(request):
    return recorded(request.param)


def orders_of(recording):
    timesteps = recording.timesteps
    one = analysis.random_order(timesteps, 3)
    return [None, one, one.flip(0), analysis.random_order(timesteps, 4, recording.counts)]


def of(order, layer):
    return order[layer] if isinstance(order, dict) else order


def test_spikes_bits_and_steps_are_those_of_the_reference(recording):
    for order in orders_of(recording):
        steps = list(recording.steps(order=order))
        assert len(steps) == recording.timesteps
        for layer, counts in recording.counts.items():
            expected = reference.expand_spikes(counts, recording.timesteps, of(order, layer), torch.bool)
            assert expected.any() and not expected.all()
            assert torch.equal(recording.spikes(layer, order), expected)
            for step, spikes in zip(steps, expected):
                assert list(step) == list(recording.counts) and step[layer].dtype == torch.bool
                assert torch.equal(step[layer], spikes)
            packed = recording.packed(layer, order)
            assert packed.dtype == torch.uint8 and packed.shape == (-(-recording.timesteps // 8), *counts.shape)
            for step, spikes in enumerate(expected):
                assert torch.equal((packed[step // 8] >> step % 8) & 1, spikes.to(torch.uint8))
            assert torch.equal(analysis.unpack_spikes(packed, recording.timesteps), expected)
            assert torch.equal(analysis.pack_spikes(expected), packed)


@pytest.mark.parametrize("timesteps", ODD)
def test_every_count_is_packed(timesteps):
    recording, counts = every_count(timesteps)
    assert set(counts.flatten().tolist()) == set(range(timesteps + 1))
    for order in (None, analysis.random_order(timesteps)):
        expected = reference.expand_spikes(counts, timesteps, order, torch.bool)
        packed = recording.packed("1", order)
        assert torch.equal(analysis.unpack_spikes(packed, timesteps), expected)
        assert torch.equal(torch.stack([step["1"] for step in recording.steps(order=order)]), expected)
        assert not timesteps % 8 or not (packed[-1] >> timesteps % 8).any()


@pytest.mark.parametrize(
    "neurons",
    [
        torch.tensor([5, 0, 255, 5]),
        torch.tensor([7], dtype=torch.int32),
        [3, 200, -1],
        slice(10, 60, 7),
        slice(None, None, -100),
        range(4, 9),
        slice(3, 3),
        [],
        slice(-2, None),
    ],
    ids=str,
)
def test_only_the_neurons_asked_for_are_expanded(neurons, recording):
    flat = recording.counts["last"].flatten(1)
    places = list(range(256))[neurons] if isinstance(neurons, slice) else list(neurons)
    expected = flat[:, torch.tensor(places, dtype=torch.int64)]
    for order in (None, analysis.random_order(recording.timesteps)):
        spikes = recording.spikes("last", order, neurons)
        assert spikes.dtype == torch.bool and spikes.shape == (recording.timesteps, 3, len(places))
        assert torch.equal(spikes, reference.expand_spikes(expected, recording.timesteps, order, torch.bool))


def test_neurons_of_channels_last_counts():
    snn = pcsnn.convert(build("convolutions"), LEVELS, fold=True)
    fast = pcsnn.optimize(snn)
    with pcsnn.record(fast) as recording:
        fast(*inputs("convolutions"))
    counts = recording.counts["1"]
    assert not counts.is_contiguous()
    assert torch.equal(recording.spikes("1", neurons=slice(None)).sum(0), counts.flatten(1).long())


@pytest.mark.parametrize(
    "neurons, error, words",
    [
        ([256], ValueError, r"neurons: expected indices of 256 neurons, got 256..256"),
        (torch.tensor([-257, 3]), ValueError, r"neurons: expected indices of 256 neurons, got -257..3"),
        ([1.5], TypeError, "neurons: expected integers, got float"),
        ([True], TypeError, "neurons: expected integers, got bool"),
        (torch.ones(256, dtype=torch.bool), TypeError, "neurons: expected dtype torch.int64"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, r"neurons: expected indices \[len\], got shape \(2, 2\)"),
        ("all", TypeError, "neurons: expected a tensor, a list, a range or a slice of indices, got str"),
    ],
)
def test_neurons_that_are_refused(neurons, error, words):
    with pytest.raises(error, match=words):
        recorded().spikes("last", neurons=neurons)


def test_orders_that_are_refused():
    recording = recorded()
    for call in (recording.spikes, recording.packed, lambda layer, order: recording.steps([layer], order)):
        for wrong in (torch.zeros(9, dtype=torch.int64), torch.arange(8), torch.arange(1, 10)):
            with pytest.raises(ValueError, match="order: expected a permutation of 0..8"):
                call("last", wrong)
        with pytest.raises(ValueError, match="order: expected an order for last, got orders for 'act'"):
            call("last", {"act": torch.arange(9)})
        with pytest.raises(TypeError, match="order: "):
            call("last", list(range(9)))
        with pytest.raises(KeyError, match="layer: expected one of act, last, got 'other'"):
            call("other", None)


def test_steps_of_some_layers():
    recording = recorded()
    assert [list(step) for step in recording.steps(["last"])] == [["last"]] * 9
    steps = recording.steps(["last", "act"])
    assert list(next(steps)) == ["last", "act"] and len(list(steps)) == 8


@pytest.mark.parametrize("timesteps", ODD)
def test_random_orders(timesteps):
    orders = analysis.random_order(timesteps, 7, ["a", "b", "c"])
    assert list(orders) == ["a", "b", "c"]
    for order in (*orders.values(), analysis.random_order(timesteps, 7)):
        assert order.dtype == torch.int64 and torch.equal(order.sort().values, torch.arange(timesteps))
    assert torch.equal(analysis.random_order(timesteps, 7), analysis.random_order(timesteps, 7))
    different = {tuple(order.tolist()) for order in (*orders.values(), analysis.random_order(timesteps, 8))}
    assert timesteps < 9 or len(different) == 4


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: analysis.random_order(0), ValueError, r"timesteps: expected a value in 1..255, got 0"),
        (lambda: analysis.random_order(8, -1), ValueError, "seed: expected a value in 0.."),
        (lambda: analysis.random_order(8, 1.0), TypeError, "seed: expected an integer"),
        (lambda: analysis.pack_spikes(torch.ones(3, 2)), TypeError, "spikes: expected dtype torch.bool"),
        (
            lambda: analysis.pack_spikes(torch.ones(256, 2, dtype=torch.bool)),
            ValueError,
            "time-steps: expected a value in 1..255, got 256",
        ),
        (lambda: analysis.unpack_spikes(torch.ones(2, 3), 9), TypeError, "packed: expected dtype torch.uint8"),
        (
            lambda: analysis.unpack_spikes(torch.ones(2, 3, dtype=torch.uint8), 8),
            ValueError,
            r"packed: expected 1 bytes a neuron for 8 time-steps, got shape \(2, 3\)",
        ),
        (
            lambda: analysis.unpack_spikes(torch.full((1, 3), 8, dtype=torch.uint8), 3),
            ValueError,
            "packed: expected bits of 3 time-steps, got spikes beyond them",
        ),
        (
            lambda: analysis.unpack_spikes(torch.ones(1, 3, dtype=torch.uint8), 0),
            ValueError,
            "timesteps: expected a value in 1..255",
        ),
    ],
)
def test_trains_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()


def by_brute_force(recording, layer):
    """The figures of a LayerSpikes from whole trains."""
    spikes = recording.spikes(layer)
    timesteps, samples = spikes.shape[:2]
    flat = spikes.reshape(timesteps, samples, -1)
    return dict(
        samples=samples,
        neurons=flat.shape[2],
        spikes=int(spikes.sum()),
        rate=float(spikes.double().mean()),
        sparsity=float((~spikes).double().mean()),
        silent=sum(not flat[:, :, i].any() for i in range(flat.shape[2])),
        saturated=float(flat.all(0).double().mean()),
    )


def test_summary_and_histogram_by_brute_force(recording):
    assert [row.name for row in recording.summary()] == list(recording.counts)
    rows = recording.summary()
    for row in rows:
        found, expected = dataclasses.asdict(row), by_brute_force(recording, row.name)
        assert found.pop("name") == row.name and found == pytest.approx(expected, rel=1e-12)
        histogram = recording.histogram(row.name)
        assert histogram.dtype == torch.int64 and histogram.shape == (recording.timesteps + 1,)
        counts = recording.counts[row.name]
        assert histogram.tolist() == [int((counts == k).sum()) for k in range(recording.timesteps + 1)]
    assert any(row.silent for row in rows) and any(row.saturated for row in rows)
    *_, last, footer = recording.table().splitlines()
    together = torch.cat([recording.spikes(row.name).flatten() for row in rows]).double()
    assert last.split()[:4] == [
        "all",
        f"{sum(row.neurons for row in rows):,}",
        f"{float(together.mean()):.4f}",
        f"{100 * float(1 - together.mean()):.2f}",
    ]
    full = torch.cat([(recording.counts[row.name] == recording.timesteps).flatten() for row in rows]).double().mean()
    assert last.split()[5:] == [f"{sum(row.silent for row in rows):,}", f"{100 * float(full):.2f}", "%"]
    assert footer.endswith(f"T = {recording.timesteps}, 3 samples")


def test_a_neuron_is_silent_only_if_it_is_in_every_sample():
    recording, _ = every_count(2)
    recording._parts["1"][:] = [
        torch.tensor([[[0, 0, 2], [0, 1, 2]]], dtype=torch.uint8),
        torch.tensor([[[0, 1, 2], [0, 0, 0]]], dtype=torch.uint8),
    ]
    (row,) = recording.summary()
    assert (row.silent, row.spikes, row.saturated) == (2, 8, 3 / 12)
    assert (row.rate, row.sparsity) == (8 / 24, 16 / 24)


def test_an_empty_batch_has_no_summary():
    snn = pcsnn.convert(build("residual"), LEVELS)
    with pcsnn.record(snn) as recording:
        snn(inputs("residual")[0][:0])
    assert recording.spikes("last").shape == (LEVELS, 0, 4, 8, 8) and recording.packed("last").shape == (1, 0, 4, 8, 8)
    assert recording.histogram("last").tolist() == [0] * 5
    with pytest.raises(RuntimeError, match=r"layer: act ran on empty batches only, shape \(0, 4, 8, 8\)"):
        recording.summary()


def test_spiking_attention_is_recorded():
    threshold = torch.tensor([0.5, 0.7, 1.1, 0.9, 0.6, 0.8])
    graph = fx.Graph()
    query, key, value = (graph.placeholder(name) for name in ("query", "key", "value"))
    graph.output(graph.call_module("attention", (query, key, value)))
    parts = nn.ModuleDict({"attention": SpikingAttention(2, threshold, 7)})
    snn = SpikingNetwork(fx.GraphModule(parts, graph), Report("none", 7))
    x = [torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    expected = parts["attention"](*x)
    with pcsnn.record(snn) as recording:
        assert torch.equal(snn(*x), expected)
    counts = recording.counts["attention"]
    assert torch.equal(counts, parts["attention"].counts(x[0])) and 0 < counts.max() and counts.shape == (2, 5, 6)
    assert torch.equal(recording.rates()["attention"], counts * (threshold / 7))
    assert recording.spikes("attention").shape == (7, 2, 5, 6) and recording.summary()[0].neurons == 30
