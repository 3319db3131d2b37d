"""The pictures of recordings show what was recorded."""

import pytest
import torch
from spike_cases import every_count, recorded
from tiny_networks import LEVELS, build, one_thread  # noqa: F401

import pcsnn
from pcsnn import analysis

pytest.importorskip("matplotlib")


def ticks(axes):
    """{(neuron, time-step from 0)} of the marks in one raster."""
    marks = (segment.T for marks in axes.collections for segment in marks.get_segments())
    return {(round(float(y.mean())), round(float(x[0])) - 1) for x, y in marks}


def test_raster_shows_the_trains(tmp_path):
    recording = recorded(9)
    neurons, order = [0, 9, 100, 255], analysis.random_order(9, 1)
    figure = analysis.plot_raster(recording, "last", tmp_path / "raster.png", sample=1, neurons=neurons, order=order)
    assert (tmp_path / "raster.png").stat().st_size > 1000
    axes = figure.axes
    for one, places in zip(axes, (None, order), strict=True):
        fired = recording.spikes("last", places, neurons)[:, 1].T.nonzero().tolist()
        assert fired and ticks(one) == set(map(tuple, fired))
    assert ticks(axes[0]) != ticks(axes[1])
    assert [one.get_title() for one in axes] == ["sorted", "shuffled"]


@pytest.mark.parametrize("neurons, shown", [(64, 64), (1000, 256), (slice(0, 5), 5)])
def test_raster_of_so_many_neurons(neurons, shown):
    figure = analysis.plot_raster(recorded(), "act", None, neurons=neurons)
    (axes,) = figure.axes
    assert axes.get_ylim() == (shown - 0.5, -0.5) and f"{shown} of 256 neurons" in figure.get_suptitle()


def test_raster_of_a_layer_that_is_silent(tmp_path):
    recording, _ = every_count(3)
    recording._parts["1"][:] = [torch.zeros(1, 4, dtype=torch.uint8)]
    analysis.plot_raster(recording, "1", tmp_path / "raster.svg", order={"1": torch.arange(3)})
    assert (tmp_path / "raster.svg").stat().st_size > 1000


def test_histograms(tmp_path):
    recording = recorded(7)
    figure = analysis.plot_histograms(recording, tmp_path / "histograms.png")
    for axes, layer in zip(figure.axes, recording.counts):
        histogram = recording.histogram(layer).double()
        assert axes.get_title() == layer
        assert [bar.get_height() for bar in axes.patches] == pytest.approx((100 * histogram / histogram.sum()).tolist())
    assert len(analysis.plot_histograms(recording, None, ["last"]).axes) == 1
    assert (tmp_path / "histograms.png").stat().st_size > 1000


def test_rates(tmp_path):
    recording = recorded(7)
    rows = recording.summary()
    rate, sparsity, ends = analysis.plot_rates(recording, tmp_path / "rates.png").axes
    assert [bar.get_height() for bar in rate.patches] == [row.rate for row in rows]
    assert [bar.get_height() for bar in sparsity.patches] == [100 * row.sparsity for row in rows]
    assert [bar.get_height() for bar in ends.patches] == pytest.approx(
        [100 * row.silent / row.neurons for row in rows] + [100 * row.saturated for row in rows]
    )
    assert [label.get_text() for label in ends.get_xticklabels()] == ["act", "last"]
    assert (tmp_path / "rates.png").stat().st_size > 1000


@pytest.mark.parametrize("channels, shown", [(16, 4), (3, 3), (1, 1)])
def test_rate_maps(tmp_path, channels, shown):
    recording = recorded(7)
    figure = analysis.plot_rate_maps(recording, "act", tmp_path / "maps.png", sample=2, channels=channels)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == shown and (tmp_path / "maps.png").stat().st_size > 1000
    for channel, image in enumerate(images):
        expected = recording.counts["act"][2, channel].double() / 7
        assert torch.equal(torch.as_tensor(image.get_array().data), expected) and image.get_clim() == (0, 1)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda r, a: a.plot_raster(r, "other", None), KeyError, "layer: expected one of act, last"),
        (lambda r, a: a.plot_raster(r, "act", None, sample=3), ValueError, r"sample: expected a value in 0..2, got 3"),
        (lambda r, a: a.plot_raster(r, "act", None, neurons=0), ValueError, "neurons: expected a value in 1.."),
        (
            lambda r, a: a.plot_raster(r, "act", None, neurons=[999]),
            ValueError,
            "neurons: expected indices of 256 neurons",
        ),
        (
            lambda r, a: a.plot_raster(r, "act", None, order=torch.arange(3)),
            ValueError,
            "order: expected a permutation of 0..8",
        ),
        (lambda r, a: a.plot_histograms(r, None, ["other"]), KeyError, "layer: expected one of act, last"),
        (lambda r, a: a.plot_histograms(r, None, []), ValueError, "layers: expected at least one, got none"),
        (lambda r, a: a.plot_rate_maps(r, "act", None, channels=0), ValueError, "channels: expected a value in 1.."),
        (
            lambda r, a: a.plot_rate_maps(r, "act", None, sample=-1),
            ValueError,
            r"sample: expected a value in 0..2, got -1",
        ),
    ],
)
def test_plots_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call(recorded(), analysis)


def test_rate_maps_need_images():
    recording = recorded(name="tokens")
    layer = next(iter(recording.counts))
    words = rf"layer: expected one with counts \[N, C, H, W\], got {layer} with counts of 3 dimensions"
    with pytest.raises(ValueError, match=words):
        analysis.plot_rate_maps(recording, layer, None)


def test_nothing_has_run():
    snn = pcsnn.convert(build("residual"), LEVELS)
    with pcsnn.record(snn) as recording:
        for call in (analysis.plot_rates, analysis.plot_histograms):
            with pytest.raises(RuntimeError, match="recording: nothing has run yet"):
                call(recording, None)
