"""Converted and optimised networks on a device that is pretended (gpu_free.other_device): no tensors of two devices
meet, what is made is where the network is, and results are the CPU's bit for bit."""

import copy

import pytest
import torch
from few_steps import few_steps
from gpu_free.other_device import DEVICE, assert_same, assert_there, pretended, there
from tiny_networks import (
    IMAGE,
    LEVELS,
    NETWORKS,
    build,
    conv,
    inputs,
    network,
    one_thread,  # noqa: F401
    randomise,
)
from torch import nn

import pcsnn
from pcsnn.calibration import signed
from pcsnn.nn import QCFS
from pcsnn.operators import dispatch

T = 2 * LEVELS
WEIGHTS = ("float32", "bfloat16", "int8")


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


def ran(snn, x):
    with torch.no_grad(), pcsnn.record(snn) as recording:
        out = snn(*x)
    return out, recording.counts, recording.rates()


def assert_same_state(far, near):
    assert far.state_dict().keys() == near.state_dict().keys()
    assert_same([far.state_dict()[name] for name in near.state_dict()], list(near.state_dict().values()))


def assert_runs_alike(far, near, x):
    """A network there and one on the CPU: where their tensors are, their state, reports, outputs, counts and rates."""
    assert_there(far)
    assert_same_state(far, near)
    assert str(far.report) == str(near.report)
    assert_same(ran(far, there(x)), ran(near, x))


def assert_optimises_alike(far, near, x, weights, **options):
    """What the two become, in half of the forms at another T too."""
    fused = pcsnn.optimize(near, weights, example_inputs=x, **options)
    far = pcsnn.optimize(far, weights, example_inputs=x if weights == "bfloat16" else there(x), **options)
    assert_runs_alike(far, fused, x)
    if options or weights == "bfloat16":
        assert_runs_alike(pcsnn.set_timesteps(far, T - 1), pcsnn.set_timesteps(fused, T - 1), x)


@pytest.mark.parametrize("name", NETWORKS)
def test_learned_thresholds(name):
    net, x = build(name), inputs(name)
    near, far = pcsnn.convert(net, T), pcsnn.convert(there(net), T)
    assert_runs_alike(far, near, x)
    for weights in WEIGHTS:
        assert_optimises_alike(far, near, x, weights)
    assert_optimises_alike(far, near, x, "int8", first_last=True)
    assert_runs_alike(pcsnn.set_timesteps(far, T - 1), pcsnn.set_timesteps(near, T - 1), x)


METHODS = ("max", "paper", "quick", "light", "advanced")
SUBSET = (
    "mlp",
    "tokens",
    "depthwise",
    "transposed",
    "conv1d",
    "conv_bn",
    "linear_bn",
    "residual",
    "cat",
    "attention",
    "average_pools",
    "max_pools",
    "two_inputs",
    "tuple_output",
)
SIGNED = {"leaky": nn.LeakyReLU, "prelu": lambda: nn.PReLU(4, 0.2), "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU}


@pytest.fixture
def quick_calibration(monkeypatch):
    """Of the gradient, which both compute by the same code; and few amplitudes to try."""
    monkeypatch.setattr(signed, "AMPLITUDES", signed.AMPLITUDES[::9])
    monkeypatch.setattr(dispatch, "runs_cpp", lambda tensor: False)
    with few_steps(3):
        yield


def calibrated(net, data, method, **options):
    return pcsnn.convert(net, T, method=method, calibration=[data], progress=False, **options)


def assert_calibrates_alike(net, data, x, method, **options):
    """The two conversions."""
    near, far = calibrated(net, data, method, **options), calibrated(there(net), there(data), method, **options)
    assert_runs_alike(far, near, x)
    return far, near


@pytest.mark.parametrize(
    "name, method", [(name, method) for method in METHODS for name in (SUBSET if method == "quick" else SUBSET[::4])]
)
def test_calibrated(name, method, quick_calibration):
    x = inputs(name)
    far, near = assert_calibrates_alike(build(name, nn.ReLU), inputs(name, batch=12, seed=2), x, method)
    for weights in WEIGHTS if method == "quick" else ("int8",):
        assert_optimises_alike(far, near, x, weights)


@pytest.mark.parametrize("method", METHODS)
def test_data_of_the_other_device(method, quick_calibration):
    net, data = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=12)
    near = calibrated(net, data, method)
    assert_same_state(calibrated(there(net), data, method), near)
    assert_same_state(there(calibrated(net, there(data), method)), near)


@pytest.mark.parametrize("kind, method", [*((kind, "max") for kind in SIGNED), ("prelu", "quick"), ("elu", "light")])
def test_signed(kind, method, quick_calibration):
    net = randomise(nn.Sequential(conv(), SIGNED[kind](), conv(4, 4), nn.ReLU(), conv(4, 4), SIGNED[kind]()))
    x, data = ((torch.randn(size, *IMAGE, generator=torch.Generator().manual_seed(size)),) for size in (3, 12))
    far, near = assert_calibrates_alike(net, data, x, method, signed=True)
    for weights in ("float32", "int8"):
        assert_optimises_alike(far, near, x, weights)


def test_staircases_of_another_t(quick_calibration):
    """QCFS whose L does not divide T are calibrated; one channel never fires."""
    net = build("conv_bn", lambda: QCFS(3))
    net[1].weight.data[0], net[1].bias.data[0] = 0, -1
    x = inputs("conv_bn")
    for method in ("max", "quick"):
        far, near = assert_calibrates_alike(net, inputs("conv_bn", batch=12), x, method)
        assert_optimises_alike(far, near, x, "int8")


def test_hybrids():
    """Operations that stay analog, and tensors that a network makes for itself."""

    def forward(s, x):
        x = s.act(s.conv(x))
        mask = torch.ones_like(x) * s.weights
        x = torch.softmax(x * mask, 1) + x.new_zeros(x.size(0), 1, 1, 1)
        return s.last(s.second(s.norm(x)).to(x.device))

    parts = dict(conv=conv(), act=QCFS(LEVELS), second=conv(4, 4), last=QCFS(LEVELS), norm=nn.GroupNorm(2, 4))
    net = randomise(network(forward, weights=torch.rand(4, 1, 1), **parts))
    x = (torch.randn(3, *IMAGE),)
    near, far = (pcsnn.convert(one, T, strict=False) for one in (net, there(net)))
    assert_runs_alike(far, near, x)
    for weights in WEIGHTS:
        assert_optimises_alike(far, near, x, weights)


FORMS = {
    "converted": lambda snn, x: snn,
    "float32": lambda snn, x: pcsnn.optimize(snn),
    "int8": lambda snn, x: pcsnn.optimize(snn, "int8", example_inputs=x, first_last=True),
}


@pytest.fixture(params=FORMS)
def pair(request):
    """(a network there, the same on the CPU, inputs)."""
    data = inputs("residual", batch=12)
    near = pcsnn.convert(build("residual", nn.ReLU), T, method="quick", calibration=[data], progress=False)
    near = FORMS[request.param](near, data[0])
    return there(near), near, inputs("residual")


def test_moving(pair):
    far, near, x = pair
    assert_runs_alike(far, near, x)
    assert_runs_alike(copy.deepcopy(far), near, x)
    back = copy.deepcopy(far).cpu()
    assert torch.equal(back(*x), near(*x))
    assert_runs_alike(back.cuda(), near, x)
    pcsnn.set_timesteps(far, 5)
    assert_runs_alike(far, there(pcsnn.set_timesteps(near, 5)).cpu(), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casting(pair, dtype):
    far, near, x = pair
    x = tuple(part.to(dtype) for part in x) if next(near.parameters(), x[0]).dtype == torch.float32 else x
    far, near = far.to(dtype), near.to(dtype)
    assert_there(far)
    assert_same_state(far, near)
    try:
        expected = ran(near, x)
    except (RuntimeError, TypeError) as error:  # layers of one dtype beside others of another
        with pytest.raises(type(error)):
            ran(far, there(x))
    else:
        assert_same(ran(far, there(x)), expected)


def test_files(pair, tmp_path):
    far, near, x = pair
    pcsnn.save(far, tmp_path / "far")
    pcsnn.save(near, tmp_path / "near")
    assert (tmp_path / "far").read_bytes() == (tmp_path / "near").read_bytes()
    loaded = pcsnn.load(tmp_path / "far")
    assert torch.equal(loaded(*x), near(*x))
    assert_runs_alike(loaded.to(DEVICE), near, x)


def test_states(pair):
    """State dicts of either device load into networks of either."""
    far, near, x = pair
    state = near.state_dict()
    twin = pcsnn.set_timesteps(copy.deepcopy(far), 3)
    for source, target in ((state, far), (far.state_dict(), near), (far.state_dict(), pcsnn.set_timesteps(twin, T))):
        target.load_state_dict(source)
    assert_runs_alike(far, near, x)
    assert_runs_alike(twin, near, x)
