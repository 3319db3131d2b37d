"""Exchange of networks with spikes of several levels (22): the same rates, or a refusal that says why."""

import sys

import pytest
import torch
from test_exchange_spikingjelly import images, net, sj  # noqa: F401
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.exchange import load_qcfs_checkpoint, qcfs_state_dict, read_spikingjelly, replace_if_nodes, to_qcfs
from pcsnn.nn import DAQCFS, QCFS

STEPS = [(1, 12), (2, 6), (4, 3), (3, 4)]  # T and D, of the same T D


def same(one, other):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


# Training


@pytest.mark.parametrize("timesteps, several", STEPS)
@pytest.mark.parametrize("name", ["residual", "cat", "average_pools", "depthwise", "attention", "mlp"])
def test_back_to_training_and_converted_again(name, timesteps, several):
    x = inputs(name, batch=12)
    for activation, method in ((nn.ReLU, "quick"), (nn.ReLU, "paper"), (lambda: QCFS(LEVELS), "none")):
        data = {} if method == "none" else {"calibration": [x]}
        snn = pcsnn.convert(
            build(name, activation), timesteps, method=method, spike_levels=several, progress=False, **data
        )
        trainable = to_qcfs(snn)
        assert same(trainable(*x), snn(*x))
        levels = {module.levels for module in trainable.modules() if isinstance(module, (QCFS, DAQCFS))}
        assert levels == {LEVELS if method == "none" else 12}
        again = pcsnn.convert(trainable, timesteps, spike_levels=several)
        assert again.report.method == "none" and same(again(*x), snn(*x))
        assert (again.timesteps, again.spike_levels) == (timesteps, several)
        assert same(pcsnn.convert(trainable, 12)(*x), snn(*x))
        with pytest.raises(ValueError, match=r"calibration: expected data for .*cannot be lossless at T D = 10\)"):
            pcsnn.convert(trainable, 5, spike_levels=2)


def test_weights_and_thresholds_learn():
    (x,) = inputs("conv_bn", batch=16)
    snn = pcsnn.convert(build("conv_bn", nn.ReLU), 2, calibration=[x], method="quick", spike_levels=5, progress=False)
    net = to_qcfs(snn)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimiser = torch.optim.SGD(net.parameters(), 1e-3)
    net(x).square().sum().backward()
    optimiser.step()
    moved = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.rpartition(".")[2] for name in moved} >= {"weight", "threshold", "amplitude", "bend"}
    assert torch.equal(pcsnn.convert(net, 2, spike_levels=5)(x), net(x))


def test_published_checkpoints_are_lossless_wherever_their_level_count_divides_all_levels():
    source = build("convolutions", lambda: QCFS(6))
    model = load_qcfs_checkpoint(qcfs_state_dict(source), build("convolutions", nn.ReLU), levels=6)
    (x,) = inputs("convolutions")
    for timesteps, several in ((2, 3), (1, 6), (4, 3), (6, 2)):
        snn = pcsnn.convert(model, timesteps, spike_levels=several)
        assert snn.report.method == "none" and torch.equal(snn(x), source(x))


# SpikingJelly


@torch.no_grad()
@pytest.mark.parametrize("timesteps, several", STEPS)
def test_networks_of_if_nodes_have_the_rates_of_all_levels(sj, timesteps, several):
    source, x = net(sj), images()
    for shift in (None, 0.5):
        read = read_spikingjelly(source, shift=shift)
        snn = pcsnn.convert(read, timesteps, spike_levels=several)
        assert torch.equal(snn(x), pcsnn.convert(read, 12)(x)) and snn.spike_levels == several
        assert snn(x).any()


@torch.no_grad()
def test_parallel_neurons_in_spikingjelly_send_parts_of_a_spike(sj):
    source, x = net(sj), images()
    for timesteps, several in STEPS:
        made = replace_if_nodes(source, timesteps, spike_levels=several)
        made.steps = timesteps
        steps = x.unsqueeze(0).repeat(timesteps, 1, 1, 1, 1)
        spikes = made.conv_fc[:3](steps) * several
        assert len(spikes) == timesteps and set(spikes.round().unique().tolist()) == set(map(float, range(several + 1)))
        assert (spikes - spikes.round()).abs().max() < 1e-6
        binary = replace_if_nodes(source, 12).conv_fc[:3](x.unsqueeze(0).repeat(12, 1, 1, 1, 1))
        assert torch.equal(spikes.round().sum(0), binary.sum(0))  # the same counts in T steps as in T D
        torch.testing.assert_close(made(x), pcsnn.convert(source, timesteps, spike_levels=several)(x))
    half = replace_if_nodes(source, 4, shift=0.5, spike_levels=3)
    assert half.conv_fc[2].shift == 0.5 and half.conv_fc[2].spike_levels == 3


def test_refusals_of_spikingjelly(sj):
    for several, error in ((0, ValueError), (32, ValueError), ("2", TypeError), (True, TypeError), (1.5, TypeError)):
        with pytest.raises(error, match="spike_levels: expected"):
            replace_if_nodes(net(sj), 8, spike_levels=several)
        with pytest.raises(error, match="spike_levels: expected"):
            pcsnn.convert(net(sj), 8, spike_levels=several)


# NIR


def test_graphs_of_nir_hold_binary_spikes_alone():
    pytest.importorskip("nir", reason="pip install nir")
    (x,) = inputs("convolutions", torch.float64)
    snn = pcsnn.convert(build("convolutions", dtype=torch.float64), 4, spike_levels=3)
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=r"snn: expected binary spikes, spike_levels = 1, as IF nodes of NIR send, got 3; "
        r"pcsnn.set_timesteps\(snn, 12, 1\) has the same rates",
    ):
        pcsnn.exchange.to_nir(snn, x)
    assert same(before, dict(snn.state_dict())) and snn.spike_levels == 3
    out = snn(x)
    graph = pcsnn.exchange.to_nir(pcsnn.set_timesteps(snn, 12, 1), x)
    assert graph.metadata["timesteps"] == 12
    read = pcsnn.exchange.read_nir(graph, dtype=torch.float64)
    torch.testing.assert_close(pcsnn.convert(read, 12)(x), out)
    assert torch.equal(pcsnn.convert(read, 4, spike_levels=3)(x), pcsnn.convert(read, 12)(x))


def test_a_network_that_nir_cannot_hold_is_refused_before_the_package_is_looked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    snn = pcsnn.convert(build("conv_bn"), 4, spike_levels=2)
    with pytest.raises(ValueError, match="snn: expected binary spikes"):
        pcsnn.exchange.to_nir(snn, inputs("conv_bn")[0])
