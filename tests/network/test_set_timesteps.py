"""T and D of a converted network are changed together (22): what changes, what stays, and what is refused."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import LEVELS, NETWORKS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.nn import QCFS


def same(one, other):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


def signed(timesteps=12, spike_levels=1):
    net = randomise(nn.Sequential(conv(), nn.SiLU(), conv(4, 4), nn.LeakyReLU(0.1)))
    (x,) = inputs("conv_bn", batch=12)
    return pcsnn.convert(
        net, timesteps, calibration=x, method="max", signed=True, spike_levels=spike_levels, progress=False
    ), (x,)


def pooled():
    """An optimised network whose average pool adds up the counts of 16 neurons."""
    net = network(
        lambda s, x: s.last(torch.flatten(F.avg_pool2d(s.b(s.two(s.a(s.stem(x)))), 4), 1)),
        stem=conv(3, 16),
        two=conv(16, 16),
        a=QCFS(2),
        b=QCFS(2),
        last=nn.Linear(64, 3),
    )
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    snn = pcsnn.convert(randomise(net), 2, progress=False)
    return pcsnn.optimize(snn, "int8", example_inputs=x, first_last=False), (x,)


def state(snn):
    """All that set_timesteps may change."""
    layers = [
        (name, layer.neuron.timesteps, layer.neuron.spike_levels, layer.neuron.levels.clone())
        for name, layer in snn.neurons()
    ]
    tensors = {name: value.clone() for name, value in snn.named_buffers()}
    return copy.deepcopy(snn.report), layers, tensors


def unchanged(snn, before):
    report, layers, tensors = before
    now = state(snn)
    return (
        report == now[0]
        and same([layer[3] for layer in layers], [layer[3] for layer in now[1]])
        and ([layer[:3] for layer in layers] == [layer[:3] for layer in now[1]] and same(tensors, now[2]))
    )


@pytest.mark.filterwarnings("ignore:this network was calibrated")
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_has_the_rates_of_all_its_levels(name):
    x = inputs(name)
    for activation, method in ((nn.ReLU, "paper"), (None, "none")):
        net = build(name, activation) if activation else build(name)
        data = {} if method == "none" else {"calibration": [x]}
        snn = pcsnn.convert(net, 6, method=method, strict=False, progress=False, **data)
        for timesteps, several, named in ((2, 3, (3,)), (3, 3, ()), (4, 3, ()), (5, 1, (1,)), (1, 8, (8,))):
            assert pcsnn.set_timesteps(snn, timesteps, *named) is snn
            assert (snn.timesteps, snn.spike_levels) == (timesteps, several)
            found, rows = snn(*x), [row.became for row in snn.report.rows]
            binary = pcsnn.set_timesteps(copy.deepcopy(snn), timesteps * several, 1)
            assert same(found, binary(*x)) and rows == [row.became for row in binary.report.rows]
            fresh = pcsnn.convert(net, 6, method=method, strict=False, progress=False, **data)
            assert same(pcsnn.set_timesteps(fresh, timesteps * several)(*x), found)


def test_spikes_of_two_signs():
    snn, x = signed()
    out = snn(*x)
    for timesteps, several in ((4, 3), (3, 4), (12, 1), (1, 12)):
        pcsnn.set_timesteps(snn, timesteps, several)
        assert torch.equal(snn(*x), out) and torch.equal(signed(timesteps, several)[0](*x), out)
        assert {layer.neuron.spike_range for _, layer in snn.neurons()} == {(-several, several)}


@pytest.mark.parametrize(
    "timesteps, several, error, words",
    [
        (4, 0, ValueError, "spike_levels: expected a value in 1..255, got 0"),
        (4, 256, ValueError, "spike_levels: expected a value in 1..255, got 256"),
        (4, 64, ValueError, "spike_levels: expected at most 63 at T = 4, got 64.*T D is at most 255"),
        (4, True, TypeError, "spike_levels: expected an integer, got bool"),
        (4, "2", TypeError, "spike_levels: expected an integer, got str"),
        (4, 2.0, TypeError, "spike_levels: expected an integer, got float"),
        (0, 2, ValueError, "timesteps: expected a value in 1..255, got 0"),
        (256, 1, ValueError, "timesteps: expected a value in 1..255, got 256"),
        ("4", 2, TypeError, "timesteps: expected an integer, got str"),
        (200, None, ValueError, "spike_levels: expected at most 1 at T = 200, got 3"),
    ],
)
@pytest.mark.parametrize("form", [None, "float32", "int8"])
def test_nothing_changes_where_t_and_d_are_refused(form, timesteps, several, error, words):
    x = inputs("residual")
    snn = pcsnn.convert(build("residual"), 4, spike_levels=3, progress=False)
    snn = snn if form is None else pcsnn.optimize(snn, form)
    before, out = state(snn), snn(*x)
    with pytest.raises(error, match=words):
        pcsnn.set_timesteps(snn, timesteps, several)
    assert unchanged(snn, before) and torch.equal(snn(*x), out)
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
        pcsnn.set_timesteps(build("residual"), 4, 2)


def test_nothing_changes_where_one_layer_refuses():
    snn, x = signed()
    snn.network.get_submodule("3").amplitude.mul_(0.05)  # of the last layer, which is asked after others
    fused, images = pooled()
    for made, sample, timesteps, several, words in (
        (snn, x, 2, 2, "spikes for the least value of leaky_relu, more than T = 4"),
        (
            fused,
            images,
            3,
            7,
            "timesteps: expected at most 2 where average pooling adds up the counts of 16 neurons whose",
        ),
    ):
        before, out = state(made), made(*sample)
        with pytest.raises(ValueError, match=words):
            pcsnn.set_timesteps(made, timesteps, several)
        assert unchanged(made, before) and torch.equal(made(*sample), out)
    pcsnn.set_timesteps(fused, 3, 5)
    assert fused.spike_levels == 5


def test_a_layer_that_a_hand_changed_gets_the_d_of_the_network():
    snn, x = pcsnn.convert(build("residual"), 4, spike_levels=3), inputs("residual")
    expected = pcsnn.set_timesteps(copy.deepcopy(snn), 85)
    snn.network.get_submodule("last").set_timesteps(1, 255)
    pcsnn.set_timesteps(snn, 85)
    assert {layer.neuron.spike_levels for _, layer in snn.neurons()} == {3}
    assert torch.equal(snn(*x), expected(*x))


def test_the_warning_is_about_t_times_d():
    (x,) = inputs("conv_bn", batch=12)

    def converted(timesteps, several):
        return pcsnn.convert(
            build("conv_bn", nn.ReLU), timesteps, calibration=x, method="quick", spike_levels=several, progress=False
        )

    snn = converted(4, 3)
    assert snn.report.calibrated_for == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for timesteps, several in ((12, 1), (1, 12), (3, 4), (4, 3)):
            pcsnn.set_timesteps(snn, timesteps, several)
        assert snn.report.calibrated_for == 12
    for timesteps, several, words in (
        (8, 3, "calibrated at T D = 12; calibrate anew for T D = 24"),
        (3, None, "calibrated at T D = 12; calibrate anew for T D = 9"),
        (4, 1, "calibrated at T D = 12; calibrate anew for T D = 4"),
        (6, None, "calibrated at T = 12; calibrate anew for T = 6"),
    ):
        with pytest.warns(UserWarning, match=words):
            pcsnn.set_timesteps(snn, timesteps, several)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(pcsnn.set_timesteps(snn, 2, 6)(x), converted(2, 6)(x))


def test_rows_say_what_is_lossless_at_t_times_d():
    snn = pcsnn.convert(build("conv_bn", lambda: QCFS(6)), 2, spike_levels=3)

    def spiking():
        return [row.detail for row in snn.report.rows if row.kind == "spiking"]

    assert all(detail.endswith("QCFS L = 6: lossless") for detail in spiking()) and "T = 2, D = 3" in str(snn.report)
    pcsnn.set_timesteps(snn, 2, 2)
    assert all("QCFS L = 6: half shift, not lossless" in detail for detail in spiking())
    assert str(snn.report).endswith("method none, T = 2, D = 2")
    pcsnn.set_timesteps(snn, 3)
    assert all(detail.endswith("QCFS L = 6: lossless") for detail in spiking()) and snn.report.steps == "T = 3, D = 2"
    pcsnn.set_timesteps(snn, 6, 1)
    assert all(detail.endswith("QCFS L = 6: lossless") for detail in spiking()) and snn.report.steps == "T = 6"


def test_state_dicts_serve_every_t_and_d():
    net = build("residual")
    snn, x = pcsnn.convert(net, 4, spike_levels=3), inputs("residual")
    other = pcsnn.convert(build("residual"), LEVELS)
    other.load_state_dict(snn.state_dict())
    assert torch.equal(other(*x), net(*x)) and torch.equal(snn(*x), net(*x))
    copied = copy.deepcopy(snn)
    assert (copied.timesteps, copied.spike_levels) == (4, 3)
    pcsnn.set_timesteps(copied, 5, 2)
    assert snn.spike_levels == 3 and torch.equal(snn(*x), net(*x)) and not torch.equal(copied(*x), net(*x))
