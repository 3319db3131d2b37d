"""Networks whose time-steps send integers 0..D: under time collapse those of T D binary time-steps (22)."""

import pytest
import torch
from tiny_networks import LEVELS, NETWORKS, build, inputs, one_thread  # noqa: F401 (a fixture)
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.nn import CollapsedNeuron, SignedNeuron

SHAPES = [(2, 15), (1, 6), (4, 3), (3, 2)]


def pair(name, timesteps, spike_levels, **options):
    """A network at (T, D), the one at T D binary time-steps, and inputs of both."""
    x = inputs(name)
    options.setdefault("calibration", [x])
    several = pcsnn.convert(build(name, nn.ReLU), timesteps, spike_levels=spike_levels, progress=False, **options)
    binary = pcsnn.convert(build(name, nn.ReLU), timesteps * spike_levels, progress=False, **options)
    return several, binary, x


def counts(snn, x):
    with pcsnn.record(snn) as record:
        out = snn(*x)
    return record.counts, out


@pytest.mark.parametrize("method", ["max", "paper", "quick", "light"])
@pytest.mark.parametrize("timesteps, spike_levels", SHAPES)
def test_every_method_gives_the_network_of_as_many_binary_steps(timesteps, spike_levels, method):
    if method == "light":
        method = pcsnn.calibration.METHODS["light"].with_options(steps=3)
    several, binary, x = pair("residual", timesteps, spike_levels, method=method)
    assert (several.timesteps, several.spike_levels) == (timesteps, spike_levels)
    for (fired, out), (expected, other) in [(counts(several, x), counts(binary, x))]:
        assert torch.equal(out, other)
        assert fired.keys() == expected.keys()
        assert all(torch.equal(fired[name], expected[name]) for name in fired)
        assert max(count.max() for count in fired.values()) <= timesteps * spike_levels


@pytest.mark.parametrize("name", NETWORKS)
def test_qcfs_is_lossless_where_its_levels_divide_the_full_count(name):
    net, x = build(name), inputs(name)
    assert LEVELS == 4
    snn = pcsnn.convert(net, 2, spike_levels=2, strict=False)
    other = pcsnn.convert(net, 4, strict=False)
    lossless = pcsnn.convert(net, 6, spike_levels=2, strict=False)  # T alone is no multiple of L
    for several, binary in ((snn, other), (lossless, pcsnn.convert(net, 12, strict=False))):
        for one, two in zip(tree_leaves(several(*x)), tree_leaves(binary(*x)), strict=True):
            assert torch.equal(one, two)
    assert "lossless" in str(lossless.report)


def test_what_qcfs_cannot_do_is_said_in_full_counts():
    with pytest.raises(ValueError, match="cannot be lossless at T D = 6"):
        pcsnn.convert(build("residual", lambda: pcsnn.nn.QCFS(LEVELS)), 2, spike_levels=3, method="light")


@pytest.mark.parametrize("name", ["residual", "tokens", "broadcast_sum"])
def test_signed_neurons_have_as_many_levels(name):
    x = inputs(name)
    one = pcsnn.convert(build(name, nn.GELU), 3, calibration=[x], method="quick", signed=True, spike_levels=5)
    two = pcsnn.convert(build(name, nn.GELU), 15, calibration=[x], method="quick", signed=True)
    assert any(isinstance(neuron, SignedNeuron) for _, neuron in one.neurons())
    assert torch.equal(one(*x), two(*x))


@pytest.mark.parametrize("value, error", [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError)])
def test_spike_levels_are_integers_from_one_up(value, error):
    for make in (
        lambda: pcsnn.convert(build("residual"), 4, spike_levels=value),
        lambda: CollapsedNeuron(1.0, 4, spike_levels=value),
        lambda: SignedNeuron("gelu", 4, amplitude=2.0, lowest=-1.0, spike_levels=value),
        lambda: pcsnn.set_timesteps(pcsnn.convert(build("residual"), 4), 4, value),
    ):
        with pytest.raises(error, match="spike_levels"):
            make()


def test_a_full_count_fits_a_byte():
    for timesteps, spike_levels, most in ((2, 128, 127), (17, 16, 15), (255, 2, 1)):
        with pytest.raises(ValueError, match=f"at most {most} at T = {timesteps}, got {spike_levels}"):
            CollapsedNeuron(1.0, timesteps, spike_levels=spike_levels)
    assert CollapsedNeuron(1.0, 17, spike_levels=15).full_count == 255


def test_set_timesteps_keeps_or_changes_the_levels_of_a_spike():
    several, binary, x = pair("residual", 2, 3, method="max")
    pcsnn.set_timesteps(several, 5)
    assert (several.timesteps, several.spike_levels) == (5, 3)
    assert torch.equal(several(*x), pcsnn.set_timesteps(binary, 15)(*x))
    pcsnn.set_timesteps(several, 3, 4)
    assert torch.equal(several(*x), pcsnn.set_timesteps(binary, 12)(*x))
    assert str(several.report).endswith("T = 3, D = 4")
    with pytest.raises(ValueError, match="spike_levels"):
        pcsnn.set_timesteps(several, 100)
    assert (several.timesteps, several.spike_levels) == (3, 4)
    assert torch.equal(several(*x), binary(*x))


def test_calibrated_networks_warn_where_the_full_count_changes(recwarn):
    several, _, _ = pair("residual", 2, 3, method="quick")
    pcsnn.set_timesteps(several, 3, 2)
    assert not [warning for warning in recwarn if "calibrated" in str(warning.message)]
    with pytest.warns(UserWarning, match="calibrated at T D = 6; calibrate anew for T D = 9"):
        pcsnn.set_timesteps(several, 3, 3)


def test_the_worth_of_a_spike_is_that_of_value_one():
    neuron = CollapsedNeuron(torch.tensor([0.8, 1.5]), 4, spike_levels=3, amplitude=torch.tensor([0.9, 1.2]))
    assert neuron.spike_range == (0, 3) and neuron.full_count == 12
    assert torch.allclose(neuron.spike, torch.tensor([0.3, 0.4]))
    least, most = neuron.range()
    assert torch.equal(least, torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(most.float(), torch.tensor([0.9, 1.2]))
    trains = neuron.expand(torch.tensor([[5, 12]], dtype=torch.uint8))
    assert trains.dtype == torch.uint8 and trains[:, 0].tolist() == [[0, 3], [0, 3], [2, 3], [3, 3]]
    rates = neuron.rates_of(torch.tensor([[5, 12]], dtype=torch.uint8))
    assert torch.allclose(trains.float().mean(0) * neuron.spike, rates)
