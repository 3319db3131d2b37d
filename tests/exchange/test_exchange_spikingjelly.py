"""Networks of SpikingJelly: what is read fires as they do. With its classes where installed, and stand-ins for them."""

import importlib.util
from types import SimpleNamespace

import pytest
import spikingjelly_stand_ins as stand_ins
import torch
from tiny_networks import one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange import read_spikingjelly, replace_if_nodes

T = 8
INSTALLED = all(importlib.util.find_spec(name) for name in ("spikingjelly", "loguru", "requests"))


@pytest.fixture(scope="module", params=["stand-ins", "spikingjelly"])
def sj(request):
    """neuron, layer, modules, set_step_mode, reset_net."""
    if request.param == "stand-ins":
        return SimpleNamespace(
            neuron=stand_ins,
            layer=stand_ins,
            modules=stand_ins,
            set_step_mode=stand_ins.set_step_mode,
            reset_net=stand_ins.reset_net,
        )
    if not INSTALLED:
        pytest.skip("SpikingJelly, loguru and requests are not installed")
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.ann2snn import modules

    return SimpleNamespace(
        neuron=neuron,
        layer=layer,
        modules=modules,
        set_step_mode=functional.set_step_mode,
        reset_net=functional.reset_net,
    )


class Net(nn.Module):
    """The form of its tutorials: images repeated over T steps, rates out."""

    def __init__(self, sj, node, steps=T):
        super().__init__()
        self.steps = steps
        self.conv_fc = nn.Sequential(
            sj.layer.Conv2d(1, 4, 3, padding=1, bias=False),
            sj.layer.BatchNorm2d(4),
            node(),
            sj.layer.MaxPool2d(2, 2),
            sj.layer.Conv2d(4, 4, 3, padding=1),
            node(),
            sj.layer.Flatten(),
            sj.layer.Linear(64, 10),
            sj.layer.Dropout(),
            node(),
            sj.layer.VotingLayer(2),
        )

    def forward(self, x):
        return self.conv_fc(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)


def net(sj, mode="m", node=None):
    made = randomise(Net(sj, node or (lambda: sj.neuron.IFNode(v_threshold=0.75, v_reset=None))))
    sj.set_step_mode(made, mode)
    return made


def images(count=3):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_a_multi_step_network_fires_as_before(sj):
    source, x = net(sj), images()
    snn = pcsnn.convert(source, T)
    kinds = [row.kind for row in snn.report.rows]
    assert kinds.count("spiking") == 3 and "analog" not in kinds and snn.report.method == "none"
    assert "threshold 0.75, starting at rest" in str(snn.report)
    sj.reset_net(source)
    out = source(x)
    assert out.any() and torch.equal(pcsnn.baselines.serial(snn)(x), out)
    with pcsnn.record(snn) as record:
        snn(x)
    sj.reset_net(source)
    first = source.conv_fc[:3](x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).sum(0)
    assert (
        torch.equal(record.counts["conv_fc.2"].float(), first) and first.unique().numel() > 3
    )  # the same current at every step


@torch.no_grad()
def test_inputs_over_time_become_their_mean(sj):
    source, x = net(sj).conv_fc, torch.randn(T, 2, 1, 8, 8)
    snn = pcsnn.convert(source, T)
    assert torch.equal(snn(x.mean(0)), pcsnn.convert(net(sj), T)(x.mean(0)))
    single = net(sj, "s").conv_fc
    assert torch.equal(pcsnn.convert(single, T)(x.mean(0)), snn(x.mean(0)))


@torch.no_grad()
@pytest.mark.parametrize("shift", [0.0, 0.5, None])
def test_thresholds_and_potentials_are_kept(sj, shift):
    """Dyadic currents and thresholds: every sum is exact, ties included."""
    for node, first in (
        (sj.neuron.IFNode(v_threshold=0.5, v_reset=None), 0.0),
        (sj.neuron.HalfThresholdIFNode(1.5), 0.5),
    ):
        linear = sj.layer.Linear(64, 64, bias=False)
        linear.weight.copy_(torch.eye(64))
        source = nn.Sequential(linear, node)
        expected = node.v_threshold * (first if shift is None else shift)
        x = (torch.arange(-32, 32) / 16).repeat(2, 1)
        for steps in (1, 4, 7, T):
            snn = pcsnn.convert(read_spikingjelly(source, shift=shift), steps)
            ((_, neuron),) = snn.neurons()
            v, count = torch.full_like(x, expected), torch.zeros_like(x)
            for _ in range(steps):
                v = v + x
                count += v >= node.v_threshold
                v = v - (v >= node.v_threshold) * node.v_threshold
            assert torch.equal(neuron.counts(x).float(), count), (steps, node)
            assert torch.equal(snn(x), count / steps) or steps == 7
            assert torch.equal(
                pcsnn.set_timesteps(pcsnn.convert(read_spikingjelly(source, shift=shift), 3), steps)(x), snn(x)
            )


@torch.no_grad()
def test_scalers_are_folded(sj):
    scale = torch.tensor([0.5, 2.0, 1.0, 4.0])
    source = randomise(
        nn.Sequential(
            sj.layer.Conv2d(1, 4, 3, padding=1),
            sj.modules.ChannelVoltageScaler(1 / scale),
            sj.neuron.IFNode(v_reset=None),
            sj.modules.ChannelVoltageScaler(scale),
            sj.layer.MaxPool2d(2),
            sj.layer.Conv2d(4, 4, 3),
            sj.modules.VoltageScaler(4.0),
            sj.neuron.HalfThresholdIFNode(),
            sj.modules.VoltageScaler(0.25),
            sj.layer.Flatten(),
            sj.layer.Linear(16, 3),
        )
    )
    for module, value in (
        (source[1], 1 / scale),
        (source[3], scale),
        (source[6], torch.tensor(4.0)),
        (source[8], torch.tensor(0.25)),
    ):
        module.scale = value
    x = images() * 4
    snn = pcsnn.convert(source, T)
    neurons = dict(snn.neurons())
    assert torch.equal(neurons["2"].threshold, scale) and torch.equal(neurons["2"].amplitude, scale)
    assert neurons["7"].threshold == 0.25 and neurons["7"].amplitude == 0.25
    assert not any(isinstance(module, pcsnn.nn.ChannelScale) for module in snn.modules())
    total = 0
    sj.reset_net(source)
    for _ in range(T):
        total = total + source(x)
    assert torch.equal(pcsnn.baselines.serial(snn)(x), total / T)
    lone = nn.Sequential(source[0], source[1], nn.ReLU(), source[5])
    assert "ChannelScale" in str(pcsnn.convert(lone, T, calibration=x, method="max").report)


@torch.no_grad()
def test_what_is_read_optimises_saves_and_calibrates(sj, tmp_path):
    source, x = net(sj), images()
    snn = pcsnn.convert(source, T, fold=True)
    fast = pcsnn.optimize(snn)
    torch.testing.assert_close(fast(x), snn(x))
    for made in (snn, fast):
        pcsnn.save(made, tmp_path / "net.safetensors")
        assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(x), made(x))
    mixed = nn.Sequential(source.conv_fc[:7], nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    sj.set_step_mode(mixed, "s")
    for method in ("max", "paper", "quick"):
        calibrated = pcsnn.convert(mixed, T, calibration=images(8), method=method, progress=False)
        thresholds = [neuron.threshold for _, neuron in calibrated.neurons()]
        assert thresholds[0] == thresholds[1] == 0.75 and [neuron.shift for _, neuron in calibrated.neurons()] == [
            0,
            0,
            0.5,
        ]
        assert calibrated(x).isfinite().all()


@torch.no_grad()
def test_parallel_neurons_take_the_place_of_if_nodes(sj):
    source, x = net(sj), images()
    made = replace_if_nodes(source, T)
    assert sum(isinstance(module, pcsnn.nn.ParallelSpikingNeuron) for module in made.modules()) == 3
    assert isinstance(source.conv_fc[2], sj.neuron.IFNode)
    sj.reset_net(made)
    steps = x.unsqueeze(0).repeat(T, 1, 1, 1, 1)
    spikes = made.conv_fc[:3](steps)
    assert spikes.shape == (T, 3, 4, 8, 8) and set(spikes.unique().tolist()) == {0.0, 1.0}
    sj.reset_net(source)
    assert torch.equal(spikes.sum(0), source.conv_fc[:3](steps).sum(0))
    torch.testing.assert_close(made(x), pcsnn.convert(source, T)(x))
    assert torch.equal(made.conv_fc(steps), made.conv_fc(steps))  # nothing is left over from the call before
    by_hand = net(sj, node=lambda: pcsnn.nn.ParallelSpikingNeuron(0.75, T, shift=0.0, amplitude=1.0))
    assert torch.equal(by_hand(x), made(x))
    half = replace_if_nodes(source, T, shift=0.5)
    assert half.conv_fc[2].shift == 0.5 and half(x).sum() > made(x).sum()


def test_a_potential_with_a_graph_behind_it_is_no_obstacle(sj):
    source = net(sj)
    source(images()).sum().backward() if sj.neuron is not stand_ins else source(images())
    assert not source.conv_fc[2].training
    assert pcsnn.convert(source, T)(images()).shape == (3, 5)
    assert replace_if_nodes(source, T) is not source


def test_other_neurons_and_layers_are_refused_by_name(sj):
    class Changed(sj.neuron.IFNode):
        def single_step_forward(self, x):
            return super().single_step_forward(x) * 2

    cases = [
        (sj.neuron.IFNode(), "conv_fc.2 is IFNode with hard reset"),
        (sj.neuron.LIFNode(v_reset=None), "conv_fc.2 is LIFNode"),
        (sj.neuron.ActivationAwareIFNode(), "conv_fc.2 is ActivationAwareIFNode"),
        (Changed(v_reset=None), "conv_fc.2 is Changed, which changes single_step_forward of IFNode"),
        (sj.neuron.IFNode(v_threshold=-1.0, v_reset=None), "v_threshold=-1.0"),
    ]
    for node, message in cases:
        for function in (lambda model: pcsnn.convert(model, T), lambda model: replace_if_nodes(model, T)):
            with pytest.raises(ValueError, match=message):
                function(net(sj, node=lambda: node))
    delayed = net(sj)
    delayed.conv_fc[1] = sj.layer.Delay(2) if sj.layer is not stand_ins else sj.layer.Delay()
    with pytest.raises(ValueError, match="conv_fc.1 is Delay of SpikingJelly, which pcsnn does not know"):
        pcsnn.convert(delayed, T)
    mixing = nn.Sequential(
        sj.layer.Linear(4, 4),
        sj.neuron.IFNode(v_reset=None),
        sj.modules.ChannelVoltageScaler(torch.arange(1.0, 5.0)),
        nn.Unflatten(1, (1, 4)),
        nn.MaxPool1d(2),
    )
    with pytest.raises(ValueError, match="max pool compares channels of 1 whose spikes are worth different values"):
        pcsnn.convert(mixing, T)


def _in_parts(s, x):
    """Its flattening and pooling as functions, as its own ResNets have them."""
    x = x.unsqueeze(0).repeat(s.steps, 1, 1, 1, 1)
    for place, layer in enumerate(s.conv_fc):
        x = torch.flatten(x, 2) if place == 6 else torch.cat([layer(x)], 2) * 1 if place == 4 else layer(x)
    return torch.mean(x, 0)


def test_what_is_done_to_time_is_understood_or_refused(sj):
    def variant(forward):
        made = net(sj)
        made.__class__ = type("Variant", (Net,), {"forward": forward})
        return made

    x = images()
    expected = pcsnn.convert(net(sj), T)(x)
    for forward in (
        lambda s, x: s.conv_fc(x.unsqueeze(0).expand(s.steps, -1, -1, -1, -1)).mean(dim=0),
        lambda s, x: s.conv_fc(x.repeat(s.steps, 1, 1, 1, 1)).mean(0),
        _in_parts,
        lambda s, x: s.conv_fc(x),
    ):
        assert torch.equal(pcsnn.convert(variant(forward), T)(x), expected)
    for forward, message in (
        (lambda s, x: s.conv_fc(x.unsqueeze(0).repeat(s.steps, 1, 1, 1, 1)).sum(0), "calls sum on"),
        (lambda s, x: s.conv_fc(x)[-1], "calls getitem on"),
        (lambda s, x: s.conv_fc(x).flatten(0, 1), "calls flatten over dimension 0"),
        (lambda s, x: torch.cat([s.conv_fc(x), s.conv_fc(x)], 1), "calls cat over dimension 1"),
        (lambda s, x: s.conv_fc(x.unsqueeze(0)) + x, "used without one too"),
    ):
        with pytest.raises(ValueError, match=message):
            pcsnn.convert(variant(forward), T)


def test_loops_over_time_are_refused_by_name(sj):
    """A node keeps its potential from call to call, so that each call of a loop is no neuron of its own."""

    def with_reset(s, x):
        sj.reset_net(s)
        return sum(s.conv_fc(x[:, t]) for t in range(3))

    def one_node_in_two_places(s, x):
        return s.conv_fc[2](s.conv_fc[4](s.conv_fc[2](s.conv_fc[0](x))))

    for forward in (
        lambda s, x: sum(s.conv_fc(x[:, t]) for t in range(3)) / 3,
        lambda s, x: sum(s.conv_fc(x) for t in range(3)),
        with_reset,
        one_node_in_two_places,
    ):
        made = net(sj, "s")
        made.__class__ = type("Variant", (Net,), {"forward": forward})
        with pytest.raises(
            ValueError,
            match=r"test_exchange_spikingjelly.py:\d+ calls conv_fc.2, a neuron that keeps its potential, "
            r"\d times in one forward: a loop over time",
        ):
            pcsnn.convert(made, T)
    once = net(sj, "s")
    once.__class__ = type("Variant", (Net,), {"forward": lambda s, x: sum(s.conv_fc(x[:, t]) for t in range(1))})
    x = images()
    assert torch.equal(pcsnn.convert(once, T)(x[:, None]), pcsnn.convert(net(sj), T)(x))


def test_bad_arguments(sj):
    for function in (read_spikingjelly, lambda model, **options: replace_if_nodes(model, T, **options)):
        with pytest.raises(TypeError, match="model: expected a torch.nn.Module, got int"):
            function(3)
        with pytest.raises(ValueError, match="expected a network with modules of SpikingJelly"):
            function(nn.Linear(2, 2))
        with pytest.raises(TypeError, match="shift: expected a number"):
            function(net(sj), shift="half")
    with pytest.raises(ValueError, match="conv_fc.2 is in single-step mode"):
        replace_if_nodes(net(sj, "s"), T)
    with pytest.raises(ValueError, match="timesteps"):
        replace_if_nodes(net(sj), 0)
    with pytest.raises(ValueError, match="expected IF nodes, got none"):
        replace_if_nodes(nn.Sequential(sj.layer.Linear(2, 2)), T)


@pytest.mark.skipif(not INSTALLED, reason="SpikingJelly, loguru and requests are not installed")
@pytest.mark.parametrize("options", [{}, {"channel_wise": True, "half_threshold": True}])
def test_what_its_converter_makes_is_read(options):
    from spikingjelly.activation_based import ann2snn, functional

    ann = randomise(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )
    x = images()
    source = ann2snn.Converter(recipe=ann2snn.RateCodingRecipe(dataloader=[x], **options)).convert(ann).eval()
    snn = pcsnn.convert(source, T)
    assert sum(row.kind == "spiking" for row in snn.report.rows) == 2
    with torch.no_grad():
        functional.reset_net(source)
        mean = sum(source(x) for _ in range(T)) / T
        torch.testing.assert_close(pcsnn.baselines.serial(snn)(x), mean)
        assert (snn(x) - ann(x)).abs().mean() <= (mean - ann(x)).abs().mean() + 0.05
        functional.set_step_mode(source, "m")
        assert torch.equal(pcsnn.convert(source, T)(x), snn(x))


class Flattening(nn.Module):
    """Functions of torch between its layers, for which SpikingJelly's converter puts a module of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool, self.linear = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(36, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.conv(x)))
        return self.linear(torch.flatten(torch.cat([x, x], 1)[:, 2:6], 1))


@pytest.mark.skipif(not INSTALLED, reason="SpikingJelly, loguru and requests are not installed")
def test_functions_of_torch_in_what_its_converter_makes_are_read():
    from spikingjelly.activation_based import ann2snn, functional

    x = images()
    recipe = ann2snn.RateCodingRecipe(dataloader=[x])
    source = ann2snn.Converter(recipe=recipe).convert(randomise(Flattening())).eval()
    assert any(type(module).__name__ == "_StepModeTensorOp" for module in source.modules())
    with torch.no_grad():
        functional.reset_net(source)
        mean = sum(source(x) for _ in range(T)) / T
    torch.testing.assert_close(pcsnn.baselines.serial(pcsnn.convert(source, T))(x), mean)
    functional.set_step_mode(source, "m")
    with pytest.raises(ValueError, match=r"step_mode_tensor_op_\d is .* in multi-step mode; expected .* single-step"):
        pcsnn.convert(source, T)
