"""Networks that learn after conversion: gradients of converted networks, and the way to trainable ones and back."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import NETWORKS, build, inputs, one_thread  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.nn import DAQCFS, QCFS, CollapsedNeuron, SignedNeuron
from pcsnn.tensors.arithmetic import per_channel

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def same(one, other):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


def small():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    ).eval()


def task():
    """Images [96, 2, 8, 8] and labels [96] that a linear function of their means nearly tells."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (96,), generator=generator)
    images = torch.randn(96, 2, 8, 8, generator=generator)
    images[:, 0] += labels.view(-1, 1, 1) - 1.0
    return images, labels


def train(net, images, labels, steps=25, rate=3e-3):
    optimiser = torch.optim.Adam([parameter for parameter in net.parameters() if parameter.requires_grad], rate)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


# There and back


@pytest.mark.parametrize("method, timesteps", [("light", 4), ("light", 20), ("max", 6), ("paper", 3)])
def test_fine_tuning_after_conversion(method, timesteps, tmp_path):
    images, labels = task()
    snn = pcsnn.convert(small(), timesteps, calibration=images, method=method, progress=False)
    net = pcsnn.exchange.to_qcfs(snn)
    assert torch.equal(net(images), snn(images)) and same(pcsnn.convert(net, timesteps)(images), snn(images))
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    losses = train(net, images, labels)
    assert losses[-1] < 0.8 * losses[0]
    still = [name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])]
    assert not still  # thresholds, shifts, amplitudes and levels learn beside the weights
    again = pcsnn.convert(net, timesteps)
    assert again.report.method == "none" and torch.equal(again(images), net(images))
    pcsnn.save(again, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(images), net(images))
    packed = pcsnn.baselines.packed(copy.deepcopy(again).double())(images.double())
    torch.testing.assert_close(packed.float(), net(images), rtol=1e-3, atol=1e-4)


def test_weights_learn_in_the_spiking_network_itself():
    images, labels = task()
    snn = pcsnn.convert(small(), 4, calibration=images, method="quick", progress=False)
    buffers = {name: buffer.clone() for name, buffer in snn.named_buffers()}
    before = snn(images)
    losses = train(snn.requires_grad_(True), images, labels)
    assert losses[-1] < 0.8 * losses[0] and not torch.equal(snn(images), before)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in snn.named_buffers())
    out = snn(images)
    snn.requires_grad_(False)
    assert torch.equal(snn(images), out.detach())  # in place, fused with branches, and yet the same


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_all_kinds_of_networks_come_back(name):
    """Uneven levels per channel, shifts and amplitudes, and learned thresholds of L = 4 at T = 8."""
    x = inputs(name)
    for activation, method, timesteps in ((nn.ReLU, "quick", 5), (nn.ReLU, "paper", 20), (None, "none", 8)):
        net = build(name, activation) if activation else build(name)
        data = {} if method == "none" else {"calibration": [x]}
        snn = pcsnn.convert(net, timesteps, method=method, progress=False, **data)
        trainable = pcsnn.exchange.to_qcfs(snn)
        assert same(trainable(*x), snn(*x))
        again = pcsnn.convert(trainable, timesteps)
        assert again.report.method == "none" and same(again(*x), snn(*x))
        for (_, one), (_, other) in zip(snn.neurons(), again.neurons(), strict=True):
            assert torch.equal(one.levels, other.levels) or (one.levels == torch.inf).any()
        sum(value.float().sum() for value in tree_leaves(trainable(*x)) if value.is_floating_point()).backward()
        gradients = [parameter.grad for parameter in trainable.parameters() if parameter.grad is not None]
        assert all(value.isfinite().all() for value in gradients) and any(value.any() for value in gradients)


def test_which_activation_stands_for_a_neuron():
    images = task()[0]
    kinds = {}
    for method, timesteps in (("max", 4), ("quick", 4), ("quick", 20)):
        snn = pcsnn.convert(small(), timesteps, calibration=images, method=method, progress=False)
        found = [module for module in pcsnn.exchange.to_qcfs(snn).modules() if isinstance(module, (QCFS, DAQCFS))]
        assert all(type(module) is DAQCFS and module.threshold.shape == (6,) for module in found)
        kinds[method, timesteps] = [module.bend is None for module in found]
    assert list(kinds.values()) == [[True] * 2, [False] * 2, [True] * 2]
    qcfs = nn.Sequential(nn.Linear(3, 4), QCFS(4, 1.5), nn.Linear(4, 2)).eval()
    for timesteps, levels in ((4, 4), (8, 4), (6, 6)):
        found = pcsnn.exchange.to_qcfs(pcsnn.convert(qcfs, timesteps, method="none")).get_submodule("1")
        assert type(found) is QCFS and found.levels == levels and found.threshold == 1.5


def test_other_time_steps_are_calibrated_anew_or_kept():
    images = task()[0]
    even = pcsnn.exchange.to_qcfs(pcsnn.convert(small(), 4, calibration=images, method="paper", progress=False))
    uneven = pcsnn.exchange.to_qcfs(pcsnn.convert(small(), 4, calibration=images, method="quick", progress=False))
    assert torch.equal(pcsnn.convert(even, 12)(images), even(images))  # a multiple of even levels
    for net, timesteps in ((even, 6), (uneven, 12)):
        with pytest.raises(ValueError, match="calibration: expected data for method 'light'"):
            pcsnn.convert(net, timesteps)
        for method in ("max", "paper", "quick"):
            made = pcsnn.convert(net, timesteps, calibration=images, method=method, progress=False)
            error = (made(images) - net(images)).norm() / net(images).std() / len(images) ** 0.5
            assert error < 1.0, (method, error)


def test_networks_of_double_precision():
    images = task()[0].double()
    snn = pcsnn.convert(small().double(), 5, calibration=images, method="quick", progress=False)
    net = pcsnn.exchange.to_qcfs(snn)
    assert torch.equal(net(images), snn(images)) and torch.equal(pcsnn.convert(net, 5)(images), snn(images))
    assert torch.equal(net.double()(images), snn(images))


def test_what_is_left_alone_and_what_is_refused():
    images = task()[0]
    snn = pcsnn.convert(small(), 4, calibration=images, method="quick", progress=False)
    state = {name: value.clone() for name, value in snn.state_dict().items()}
    net = pcsnn.exchange.to_qcfs(snn)
    train(net, *task(), steps=2)
    assert all(torch.equal(value, state[name]) for name, value in snn.state_dict().items())
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
        pcsnn.exchange.to_qcfs(small())
    with pytest.raises(ValueError, match="snn: is optimised"):
        pcsnn.exchange.to_qcfs(pcsnn.optimize(snn))
    rows = torch.randn(9, 4)
    signed = pcsnn.convert(
        nn.Sequential(nn.Linear(4, 4), nn.SiLU()).eval(),
        16,
        calibration=rows,
        method="max",
        signed=True,
        progress=False,
    )
    with pytest.raises(ValueError, match=r"snn: 1 has spikes of two signs.*snn.requires_grad_\(True\)"):
        pcsnn.exchange.to_qcfs(signed)
    below = pcsnn.convert(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), 4, calibration=rows, method="max", progress=False
    )
    below.network.get_submodule("1").amplitude.neg_()
    with pytest.raises(ValueError, match="a spike of 1 is worth -.*expected at least zero"):
        pcsnn.exchange.to_qcfs(below)


def test_analog_layers_are_kept():
    net = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2), nn.Softmax(-1)
    ).eval()
    x = torch.randn(30, 4)
    snn = pcsnn.convert(net, 8, calibration=x, method="quick", strict=False, progress=False)
    trainable = pcsnn.exchange.to_qcfs(snn)
    assert torch.equal(trainable(x), snn(x))
    assert torch.equal(pcsnn.convert(trainable, 8, strict=False)(x), snn(x))


# The activation


def curve(z, activation):
    """The transfer curve of an activation (C4) in plain differentiable torch, levels from its parameters."""
    steps = activation.levels
    at = torch.arange(1, steps + 1, dtype=torch.float64) - activation.shift
    theta, offset = activation.threshold.unsqueeze(-1), activation.offset.unsqueeze(-1)
    levels = at * theta / steps - offset
    if activation.bend is not None:
        levels = levels + activation.bend * theta
    fixed = levels.detach()
    first, last = (fixed[..., 1] - fixed[..., 0]) / 2, (fixed[..., -1] - fixed[..., -2]) / 2
    knots = torch.cat([(levels[..., 0] - first).unsqueeze(-1), levels, (levels[..., -1] + last).unsqueeze(-1)], -1)
    value, out = [0, *(k - 0.5 for k in range(1, steps + 1)), steps], 0
    for i in range(steps + 1):
        low, high = (per_channel(knots[..., j], z.dim()) for j in (i, i + 1))
        inside = (z >= low) & (z < high)
        out = out + torch.where(inside, value[i] + (z - low) / (high - low) * (value[i + 1] - value[i]), 0)
    return out * per_channel(activation.amplitude, z.dim()) / steps


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("uneven", [False, True])
def test_gradients_are_those_of_the_curve(channels, uneven):
    torch.manual_seed(len(channels) + 2 * uneven)
    bend = (torch.rand(*channels, 6) - 0.5) / 40 if uneven else None
    theta, offset, amplitude = torch.rand(channels) + 1, torch.rand(channels) / 4, torch.rand(channels) + 1
    made = DAQCFS(6, theta, offset=offset, amplitude=amplitude, bend=bend, shift=0.4).double()
    z = (torch.randn(40, 3, 5, dtype=torch.float64) * 1.5).requires_grad_()
    outside = torch.randn(z.shape, dtype=torch.float64)
    names = [name for name, _ in made.named_parameters() if name != "amplitude"]
    asked = [z, *(getattr(made, name) for name in names)]
    found = torch.autograd.grad(made(z), asked, outside)
    expected = torch.autograd.grad(curve(z, made), asked, outside)
    for name, one, other in zip(["z", *names], found, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=lambda words: f"{name}: {words}")
    (worth,) = torch.autograd.grad(made(z), [made.amplitude], outside)
    unit = (made(z) / per_channel(made.amplitude, 3) * outside).detach()
    torch.testing.assert_close(worth, unit.sum((0, 2)) if channels else unit.sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("theta", [1.5, [0.5, float("inf"), 2.0]])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_activation_is_its_neuron(dtype, theta, uneven):
    torch.manual_seed(0)
    theta = torch.tensor(theta)
    bend = (torch.rand(*theta.shape, 7) - 0.5) / 20 if uneven else None
    arguments = dict(offset=0.1, amplitude=theta.where(theta < torch.inf, 1.0) * 0.9, bend=bend, shift=0.3)
    made, neuron = DAQCFS(7, theta, **arguments), CollapsedNeuron(theta, 7, **arguments)
    z = (torch.randn(9, 3, 5) * 2).to(dtype)
    assert torch.equal(made(z), neuron(z)) or theta.dim()
    if theta.dim():
        assert torch.equal(made(z)[:, [0, 2]], neuron(z)[:, [0, 2]]) and not made(z)[:, 1].any()
    assert made(z).dtype == dtype and made(z[:0]).shape == (0, 3, 5)
    copied = copy.deepcopy(made)
    copied.load_state_dict(made.state_dict())
    assert torch.equal(copied(z), made(z))


def test_a_silent_channel_stays_silent_and_an_amplitude_below_zero_is_zero():
    made = DAQCFS(4, torch.tensor([1.0, torch.inf]))
    z = torch.full((3, 2), 5.0)
    optimiser = torch.optim.SGD(made.parameters(), 1.0)
    (-made(z).sum()).backward()
    optimiser.step()
    assert not made(z)[:, 1].any() and made.neuron()["threshold"][1] == torch.inf
    with torch.no_grad():
        made.amplitude[0] = -1
    assert not made(z).any() and not made.neuron()["amplitude"].any()


@pytest.mark.parametrize(
    "named, error, words",
    [
        (dict(levels=0), ValueError, "levels: expected a value in 1..255"),
        (dict(levels=2.0), TypeError, "levels: expected an integer"),
        (dict(threshold=0.0), ValueError, "threshold: expected values above zero"),
        (dict(threshold=torch.ones(2, 2)), ValueError, "threshold: expected a number or"),
        (dict(amplitude=-1.0), ValueError, "amplitude: expected values of at least zero"),
        (dict(offset=float("nan")), ValueError, "offset: expected finite values"),
        (dict(bend=torch.zeros(1, 2, 3)), ValueError, "bend: expected finite values"),
        (dict(threshold=torch.ones(3), offset=torch.zeros(2)), ValueError, r"one number of channels, got \[2, 3\]"),
        (dict(shift="0"), TypeError, "shift: expected a number"),
    ],
)
def test_bad_arguments_of_the_activation(named, error, words):
    with pytest.raises(error, match=words):
        DAQCFS(**({"levels": 4, "threshold": 1.0} | named))


def test_training_that_drives_a_threshold_to_zero_is_told_so():
    made = DAQCFS(4, 1.0)
    with torch.no_grad():
        made.threshold.zero_()
    for call in (lambda: made(torch.ones(2, 3)), lambda: pcsnn.convert(nn.Sequential(nn.Linear(3, 3), made), 4)):
        with pytest.raises(ValueError, match="threshold: expected values above zero, got 0"):
            call()
    with pytest.raises(TypeError, match="z: expected dtype"):
        DAQCFS(4, 1.0)(torch.ones(2, 3, dtype=torch.int64))


# Gradients of neurons


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels, timesteps", [(None, 7), (4, 8), (None, 1), (5, 255), (3, 8)])
def test_rates_are_the_same_with_a_gradient(dtype, levels, timesteps):
    torch.manual_seed(1)
    for theta in (torch.tensor(1.2), torch.tensor([0.5, torch.inf, 2.0])):
        neuron = CollapsedNeuron(theta, timesteps, quantization_levels=levels, offset=0.1, inplace=True)
        z, branch = (torch.randn(6, 3, 5).to(dtype) for _ in range(2))
        for residual in (None, branch, branch[:1]):
            expected = neuron(z.clone(), residual)
            asked = z.clone().requires_grad_()
            found = neuron(asked, residual)
            assert torch.equal(found, expected)
            found.sum().backward()
            assert asked.grad.isfinite().all() and asked.grad.any() and asked.grad.dtype == dtype
            assert torch.equal(asked.detach(), z)
    residual = branch.clone().requires_grad_()
    neuron(z, residual).sum().backward()
    assert residual.grad.any() and not residual.grad[:, 1].any()


def test_the_slope_of_repeated_levels_is_that_of_the_distinct_ones():
    """With L = 4 at T = 4 and T = 12 the same staircase, and so the same gradient."""
    found = []
    for timesteps in (4, 12):
        z = torch.linspace(-1, 2, 50).view(50, 1).requires_grad_()
        CollapsedNeuron(1.0, timesteps, quantization_levels=4)(z).sum().backward()
        found.append(z.grad)
    torch.testing.assert_close(*found)
    assert set(found[0].flatten().tolist()) == {0.0, 1.0}  # of QCFS, within 0..theta


@pytest.mark.parametrize(
    "kind, slope",
    [
        ("leaky_relu", 0.2),
        ("leaky_relu", torch.tensor([0.1, 0.5, -0.3])),
        ("elu", 1.0),
        ("gelu", None),
        ("gelu_tanh", None),
        ("silu", None),
        ("hardswish", None),
        ("mish", None),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_signed_neurons_pass_the_gradient_of_their_activation(kind, slope, dtype):
    torch.manual_seed(0)
    neuron = SignedNeuron(kind, 32, amplitude=4.0, lowest=-2.0, slope=slope)
    z = (torch.randn(50, 3, 2) * 3).to(dtype)
    asked = z.clone().requires_grad_()
    out = neuron(asked)
    assert torch.equal(out, neuron(z))
    out.sum().backward()
    smooth = z.float().requires_grad_()
    function = {
        "leaky_relu": lambda x: torch.where(x < 0, x * per_channel(torch.as_tensor(slope), 3), x),
        "elu": F.elu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "hardswish": F.hardswish,
        "mish": F.mish,
    }[kind]
    function(smooth).sum().backward()
    last = per_channel(neuron.levels[..., -1], 3)
    expected = torch.where((z.float() >= -2) & (z.float() <= last), smooth.grad, 0)
    torch.testing.assert_close(asked.grad.float(), expected, rtol=2e-2, atol=2e-2)


def test_signed_networks_and_inputs_learn():
    images, labels = task()
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    snn = pcsnn.convert(net, 32, calibration=images, method="max", signed=True, progress=False)
    losses = train(snn.requires_grad_(True), images, labels)
    assert losses[-1] < 0.9 * losses[0]
    snn.requires_grad_(False)
    asked = images.clone().requires_grad_()
    F.cross_entropy(snn(asked), labels).backward()
    assert asked.grad.any()


def test_what_has_no_gradient_says_what_has():
    images = task()[0]
    snn = pcsnn.optimize(pcsnn.convert(small(), 4, calibration=images, method="max", progress=False))
    with pytest.raises(RuntimeError, match="requires a gradient.*as pcsnn.convert makes them, before pcsnn.optimize"):
        snn(images.requires_grad_())


def test_more_time_steps_than_a_byte_holds():
    with pytest.raises(
        ValueError, match="timesteps: expected a value in 1..255, got 512: a spike count takes one byte"
    ):
        pcsnn.convert(small(), 512, calibration=task()[0])
    with pytest.raises(ValueError, match=r"timesteps: expected a value in 1..255, got 0$"):
        pcsnn.convert(small(), 0, calibration=task()[0])
