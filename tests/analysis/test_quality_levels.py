"""Sweeps, errors of layers and evaluations where a time-step sends an integer 0..D (22)."""

import dataclasses
import pickle
import warnings

import pytest
import torch
from analysis_cases import data, labelled, two_layers
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.analysis import Evaluation, LayerErrors, Sweep, SweepRow, evaluate, layer_errors, sweep
from pcsnn.nn import QCFS


def rows_without_steps(result):
    return [dataclasses.replace(row, timesteps=0, spike_levels=0) for row in result.rows]


@pytest.mark.parametrize("method", ["max", "paper", "quick"])
def test_a_sweep_is_that_of_more_steps_of_binary_spikes(method):
    """Conversions once for all T, and one for each."""
    net, x = two_layers(), data()
    labels = labelled(net)
    batches = list(zip(x.split(20), labels.split(20)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        several = sweep(net, batches, [4, 1, 2], method, spike_levels=3, progress=False)
    binary = sweep(net, batches, [12, 3, 6], method, progress=False)
    assert [(row.timesteps, row.spike_levels) for row in several.rows] == [(4, 3), (1, 3), (2, 3)]
    assert [(row.timesteps, row.spike_levels) for row in binary.rows] == [(12, 1), (3, 1), (6, 1)]
    assert rows_without_steps(several) == rows_without_steps(binary)
    assert several.float_accuracy == binary.float_accuracy
    assert str(several).split()[:2] == ["T", "D"] and str(binary).split()[:2] == ["T", "accuracy"]


def test_the_method_of_a_sweep_follows_from_t_d():
    net = two_layers(lambda: QCFS(6))
    rows = sweep(net, data(), [1, 2, 4], spike_levels=3, progress=False).rows
    assert [row.method for row in rows] == ["light", "none", "none"]
    assert rows[0].logit_error > 0.01 > rows[1].logit_error == rows[2].logit_error == 0


@pytest.mark.parametrize(
    "spike_levels, error", [(100, ValueError), (0, ValueError), (1.5, TypeError), ("3", TypeError)]
)
def test_sweep_refuses_levels_before_it_runs(spike_levels, error):
    net = two_layers()
    net.register_forward_hook(lambda *_: pytest.fail("ran"))
    with pytest.raises(error, match="spike_levels: expected"):
        sweep(net, data(), [2, 4], "max", spike_levels=spike_levels)


def test_errors_of_layers_are_those_of_more_steps():
    net, x = two_layers(), data()
    several, binary = (
        layer_errors(
            net,
            pcsnn.convert(net, timesteps, calibration=x[:40], method="paper", spike_levels=levels),
            x,
            progress=False,
        )
        for timesteps, levels in ((2, 3), (6, 1))
    )
    assert several.rows == binary.rows and any(row.saturated > 0 for row in several.rows)
    assert (several.timesteps, several.spike_levels) == (2, 3)
    assert "T = 2, D = 3" in str(several) and str(binary).endswith("T = 6")


def test_evaluation_says_both():
    net, x = two_layers(), data()
    labels = labelled(net)
    results = []
    for timesteps, levels in ((2, 3), (6, 1)):
        snn = pcsnn.convert(net, timesteps, calibration=x[:40], method="paper", spike_levels=levels)
        results.append(evaluate(snn, [(x, labels)], spikes=True, progress=False))
    several, binary = results
    assert (several.timesteps, several.spike_levels) == (2, 3)
    assert str(several).startswith("96 images, T = 2, D = 3: accuracy ")
    assert str(binary).startswith("96 images, T = 6: accuracy ")
    assert dataclasses.replace(several, timesteps=6, spike_levels=1) == binary and sum(binary.spikes.values()) > 0


def test_results_of_earlier_versions_have_binary_spikes():
    older = [SweepRow(4, 0.5, 0.5, 0.1, 1.0, "max"), LayerErrors("max", 4), Evaluation(4, 2, 1, 2, 0.5)]
    for result in older:
        del result.__dict__["spike_levels"]
        again = pickle.loads(pickle.dumps(result))
        assert again.spike_levels == 1 and "D = " not in str(again)


def test_pictures_say_both(tmp_path):
    pytest.importorskip("matplotlib")
    net, x = two_layers(), data()
    result = sweep(net, x, [4, 2], "max", spike_levels=3, progress=False)
    axes = result.plot(tmp_path / "sweep.png").axes
    assert {one.get_xlabel() for one in axes} == {"time-steps T (D = 3)"}
    assert list(axes[1].get_lines()[0].get_xdata()) == [2, 4]
    both = Sweep("max", None, [*sweep(net, x, [6], "max", progress=False).rows, *result.rows[1:]])
    axes = both.plot().axes
    assert {one.get_xlabel() for one in axes} == {"spike levels D (T D = 6)"}
    assert list(axes[2].get_lines()[0].get_xdata()) == [1, 3]
    for levels, words in ((3, ("max, T = 2, D = 3", "count T D")), (1, ("max, T = 2", "count T"))):
        snn = pcsnn.convert(net, 2, calibration=x, method="max", spike_levels=levels)
        figure = layer_errors(net, snn, x, progress=False).plot()
        assert figure.get_suptitle() == words[0] and figure.axes[2].get_title().endswith(words[1])


def test_saturated_means_t_d():
    """A count of T is not full."""
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU6(), nn.Linear(4, 2)).requires_grad_(False)
    net[0].weight.zero_()
    net[0].bias.fill_(6.0 * 2 / 6)  # two of six levels: full at T = 2, were spikes binary
    snn = pcsnn.convert(net, 2, method="none", spike_levels=3)
    (row,) = layer_errors(net, snn, torch.randn(7, 5), progress=False).rows
    assert row.saturated == 0 and row.dead == 0
    net[0].bias.fill_(7.0)
    (row,) = layer_errors(net, pcsnn.convert(net, 2, method="none", spike_levels=3), torch.randn(7, 5)).rows
    assert row.saturated == 1
