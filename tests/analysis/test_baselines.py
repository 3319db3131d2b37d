"""Serial IF and the paper's packed form against the collapsed network, with the same weights."""

import copy

import pytest
import torch
from tiny_networks import LEVELS, NETWORKS, build, inputs, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.baselines.packed_network import PackedNeuron
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.nn import QCFS


def packed_counts(network, x):
    """Spike counts of every call of a packed neuron, in execution order, and the output."""
    counts, hooks = [], []
    for module in network.modules():
        if isinstance(module, PackedNeuron):
            hooks.append(
                module.register_forward_hook(
                    lambda module, arguments, output: counts.append(
                        (output.unflatten(0, (module.timesteps, -1)) != 0).sum(0)
                    )
                )
            )
    out = network(*x)
    for hook in hooks:
        hook.remove()
    return counts, out


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: QCFS(LEVELS)], ids=["relu", "qcfs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_packed_equals_collapsed_in_float64(name, activation):
    x = inputs(name, torch.float64)
    calibration = [inputs(name, torch.float64, 16, seed=5)]
    snn = pcsnn.convert(build(name, activation, torch.float64), 7, calibration=calibration, method="paper")
    with pcsnn.record(snn) as record:
        out = snn(*x)
    assert any(counts.any() for counts in record.counts.values())
    counts, expected = packed_counts(pcsnn.baselines.packed(snn), x)
    for (layer, collapsed), stepwise in zip(record.counts.items(), counts, strict=True):
        assert torch.equal(collapsed.long(), stepwise), layer
    for one, two in zip(tree_leaves(out), tree_leaves(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["residual", "conv1d", "max_pools"])
def test_packed_agrees_in_float32(name):
    net, x = build(name), inputs(name)
    snn = pcsnn.convert(net, LEVELS)
    torch.testing.assert_close(pcsnn.baselines.packed(snn)(*x), snn(*x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("timesteps", [1, 4, 12, 255])
def test_one_layer_under_constant_current_is_equal_in_all_three_forms(timesteps):
    net = randomise(nn.Sequential(nn.Linear(6, 9), QCFS(timesteps))).double()
    x = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    snn = pcsnn.convert(net, timesteps)
    theta = net[1].threshold.item()
    rates = [form(x) for form in (snn, pcsnn.baselines.packed(snn), pcsnn.baselines.serial(snn))]
    counts = [(rate * timesteps / theta).round() for rate in rates]
    assert torch.equal(counts[0], counts[1]) and torch.equal(counts[0], counts[2])
    assert counts[0].max() > 0 and (counts[0] == 0).any()
    torch.testing.assert_close(rates[1], rates[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(rates[2], rates[0], rtol=1e-12, atol=0)


def if_by_hand(z, theta, timesteps):
    """Soft-reset IF from theta / 2, one neuron after another."""
    out = []
    for current in z.flatten().tolist():
        v, fired = theta / 2, 0
        for _ in range(timesteps):
            v += current
            if v >= theta:
                v, fired = v - theta, fired + 1
        out.append(fired)
    return torch.tensor(out).reshape(z.shape)


def test_serial_is_soft_reset_if_from_half_a_threshold():
    neuron, z = SerialIF(1.25), torch.randn(50, dtype=torch.float64) * 2
    fired = sum(neuron(z) for _ in range(9)) / 1.25
    assert torch.equal(fired.round().long(), if_by_hand(z, 1.25, 9))
    neuron.reset()
    assert torch.equal(neuron(z), (z + 0.625 >= 1.25) * 1.25)


def test_serial_shows_its_unevenness_error_in_deeper_layers():
    net = randomise(
        nn.Sequential(nn.Linear(6, 32), QCFS(4), nn.Linear(32, 32), QCFS(4), nn.Linear(32, 32), QCFS(4)), seed=3
    )
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    snn = pcsnn.convert(net, 4)
    assert torch.equal(snn(x), net(x))
    assert ((pcsnn.baselines.serial(snn)(x) - net(x)).abs() > 0.01).float().mean() > 0.02


def test_serial_starts_anew_at_every_call():
    snn = pcsnn.convert(build("residual"), LEVELS)
    serial, (x,) = pcsnn.baselines.serial(snn), inputs("residual")
    assert torch.equal(serial(x), serial(x))
    assert serial(x[:1]).shape == (1, 4, 8, 8)


def test_serial_applies_offset_and_amplitude():
    neuron = SerialIF(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([3.0, 4.0]))
    z = torch.tensor([[0.0, 1.0]])
    assert [neuron(z).tolist() for _ in range(2)] == [[[3.0, 4.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize("make", [pcsnn.baselines.serial, pcsnn.baselines.packed], ids=["serial", "packed"])
class TestBoth:
    def test_weights_are_shared(self, make):
        snn = pcsnn.convert(build("learned_constants"), LEVELS)
        other = make(snn)
        own = {
            key: value.data_ptr()
            for key, value in snn.network.state_dict().items()
            if not hasattr(snn.network.get_submodule(key.rpartition(".")[0]), "levels")
        }
        assert own.keys() == {"conv.weight", "conv.bias", "second.weight", "second.bias", "gate", "bias"}
        shared = other.network.state_dict()
        assert {key: shared[key].data_ptr() for key in own} == own
        for key in own:
            assert any(key == name for name, _ in [*other.network.named_parameters(), *other.network.named_buffers()])

    def test_the_spiking_network_stays_as_it_was(self, make):
        snn, x = pcsnn.convert(build("residual"), LEVELS), inputs("residual")
        expected, state = snn(*x), copy.deepcopy(snn.state_dict())
        other = make(snn)
        other(*x)
        other.train()
        assert not any(module.training for module in [*snn.modules(), *other.modules()])
        assert torch.equal(snn(*x), expected)
        assert all(torch.equal(value, state[key]) for key, value in snn.state_dict().items())
        assert other.timesteps == LEVELS

    def test_a_later_set_timesteps_leaves_it_alone(self, make):
        snn, x = pcsnn.convert(build("residual"), LEVELS), inputs("residual")
        other = make(snn)
        before = other(*x)
        pcsnn.set_timesteps(snn, 9)
        assert torch.equal(other(*x), before) and other.timesteps == LEVELS

    def test_silent_channels_give_no_nan(self, make):
        net = build("conv_bn", nn.ReLU)
        net[1].weight.data[1] = 0
        net[1].bias.data[1] = -1
        snn = pcsnn.convert(net, 5, calibration=inputs("conv_bn")[0], method="paper")
        assert (snn.network.get_submodule("2").threshold == torch.inf).any()
        assert make(snn)(*inputs("conv_bn")).isfinite().all()

    @pytest.mark.parametrize("name", ["residual", "two_inputs", "tokens", "tuple_output", "dict_output"])
    def test_empty_batches_and_nested_outputs(self, make, name):
        snn, x = pcsnn.convert(build(name), LEVELS), inputs(name)
        other = make(snn)
        for batch in (3, 1, 0):
            for one, two in zip(
                tree_leaves(other(*(value[:batch] for value in x))), tree_leaves(snn(*(value[:batch] for value in x)))
            ):
                assert one.shape == two.shape and one.dtype == two.dtype

    def test_named_inputs(self, make):
        snn = pcsnn.convert(build("two_inputs"), LEVELS)
        x, y = inputs("two_inputs")
        assert torch.equal(make(snn)(y=y, x=x), make(snn)(x, y))

    @pytest.mark.parametrize("wrong", [nn.Linear(2, 2), None, "snn"])
    def test_other_things_are_refused(self, make, wrong):
        with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
            make(wrong)

    def test_analog_operations_are_refused(self, make):
        snn = pcsnn.convert(nn.Sequential(nn.Linear(4, 4), QCFS(4), nn.Linear(4, 4), nn.GELU()), 4, strict=False)
        with pytest.raises(ValueError, match="3 is analog"):
            make(snn)

    def test_loaded_networks(self, make, tmp_path):
        snn, x = pcsnn.convert(build("residual"), LEVELS), inputs("residual")
        pcsnn.save(snn, tmp_path / "net.safetensors")
        assert torch.equal(make(pcsnn.load(tmp_path / "net.safetensors"))(*x), make(snn)(*x))
