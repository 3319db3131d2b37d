"""Conversions and converted networks do the same in whatever context they are called, and leave its state alone."""

import contextlib
import copy
import io
import random
import threading

import pytest
import torch
from few_steps import few_steps
from tiny_networks import build, conv, inputs, one_thread, randomise  # noqa: F401
from torch import nn
from torch.nn.utils import parametrizations, prune

import pcsnn
from pcsnn.calibration import least_squares, refine
from pcsnn.calibration.precision import widened
from pcsnn.conversion.tracing.trace import trace
from pcsnn.data import batches
from pcsnn.nn import QCFS

METHODS = ["max", "paper", "quick", "light", "advanced"]


@pytest.fixture(autouse=True)
def three_steps():
    with few_steps(3):
        yield


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "default float64": lambda: default_dtype(torch.float64),
    "default float16": lambda: default_dtype(torch.float16),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]) and not value.is_inference(), key


def convert(net, x, method, **options):
    return pcsnn.convert(net, 6, calibration=[x], method=method, progress=False, **options)


@pytest.fixture(scope="module")
def plain():
    """(network, inputs, method, options, its conversion in no context) of each kind."""
    found = []
    for method in METHODS:
        found.append((build("conv_bn", nn.ReLU), inputs("conv_bn", batch=12), method, {}))
    found.append((build("mlp", nn.LeakyReLU), inputs("mlp", batch=12), "light", {"signed": True}))
    found.append((build("mlp", nn.SiLU), inputs("mlp", batch=12), "max", {"signed": True}))
    found.append((build("mlp", nn.ReLU, torch.float64), inputs("mlp", torch.float64, 12), "light", {}))
    found.append((build("mlp", nn.ReLU6, torch.float16), inputs("mlp", torch.float16, 12), "advanced", {}))
    found.append((build("conv_bn", lambda: QCFS(3)), inputs("conv_bn", batch=12), "none", {}))
    with few_steps(3):
        return [(*case, convert(*case[:3], **case[3])) for case in found]


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_conversion_is_the_same_in_every_context(plain, context):
    for net, x, method, options, expected in plain:
        with CONTEXTS[context]():
            found = convert(net, x, method, **options)
            inside = found(*x)
        same(found.state_dict(), expected.state_dict())
        assert torch.equal(inside, expected(*x)) and inside.dtype == x[0].dtype


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_model_and_data_made_in_a_context(context):
    if context == "default device":
        pytest.skip("a model without values")
    with CONTEXTS[context]():
        net = randomise(
            nn.Sequential(nn.Linear(5, 6, dtype=torch.float32), nn.ReLU(), nn.Linear(6, 3, dtype=torch.float32))
        )
        x = torch.arange(200, dtype=torch.float32).view(40, 5).sin()
        found = [convert(net, (x,), method) for method in METHODS]
    for method, snn in zip(METHODS, found):
        same(snn.state_dict(), convert(copy.deepcopy(net), (x.clone(),), method).state_dict())


def test_generators_of_features():
    net, x = build("mlp", nn.ReLU), inputs("mlp", batch=12)[0]

    def data():
        with torch.inference_mode():
            for part in x.split(4):
                yield part + 0

    expected = pcsnn.convert(net, 6, calibration=list(x.split(4)), method="light", progress=False)
    for kind in (torch.no_grad, torch.inference_mode):
        decorated = kind()(lambda: (yield from x.split(4)))
        same(
            pcsnn.convert(net, 6, calibration=decorated(), method="light", progress=False).state_dict(),
            expected.state_dict(),
        )
    for method in METHODS:
        with pytest.raises(ValueError, match="calibration: .*leaves torch.inference_mode switched on"):
            pcsnn.convert(net, 6, calibration=data(), method=method, progress=False)
        assert not torch.is_inference_mode_enabled()


def test_networks_loaded_copied_and_changed_in_inference_mode(tmp_path):
    net, x = build("conv_bn", nn.ReLU), inputs("conv_bn")
    snn = convert(net, x, "max")
    pcsnn.save(snn, tmp_path / "snn.safetensors")
    with torch.inference_mode():
        loaded = pcsnn.load(tmp_path / "snn.safetensors")
        other = copy.deepcopy(snn)
        inside = [
            module(*x) for module in (loaded, other, pcsnn.optimize(copy.deepcopy(snn)), pcsnn.set_timesteps(loaded, 6))
        ]
    for value in (*inside, loaded(*x), other(*x)):
        torch.testing.assert_close(value, snn(*x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_optimised_networks_know_no_autocast(weights):
    snn = pcsnn.optimize(convert(build("conv_bn", nn.ReLU), inputs("conv_bn"), "max"), weights=weights)
    x = inputs("conv_bn")
    expected = snn(*x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(snn(*x), expected)


@pytest.mark.parametrize(
    "network_dtype, dtype",
    [
        (torch.float32, torch.float16),
        (torch.float32, torch.float64),
        (torch.float32, torch.uint8),
        (torch.float16, torch.float32),
    ],
)
def test_inputs_of_another_dtype_are_refused_by_name(network_dtype, dtype):
    snn = convert(build("mlp", nn.ReLU, network_dtype), inputs("mlp", network_dtype), "max")
    with pytest.raises(TypeError, match=f"inputs: expected {network_dtype}.*got {dtype}"):
        snn(torch.ones(2, 6).to(dtype))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=f"inputs: expected {network_dtype}"):
        snn(torch.ones(2, 6).to(dtype))


def test_data_that_require_a_gradient_are_data():
    net, x = build("mlp", nn.ReLU), inputs("mlp", batch=12)[0]
    same(convert(net, (x.clone().requires_grad_(),), "light").state_dict(), convert(net, (x,), "light").state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_the_caller_s_state_stays(method):
    net, x = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=12)[0]
    net.train()
    net(x).sum().backward()
    before, gradients = copy.deepcopy(net.state_dict()), [parameter.grad.clone() for parameter in net.parameters()]
    chance, python = torch.get_rng_state(), random.getstate()
    loader = torch.utils.data.DataLoader(x, batch_size=4, shuffle=True)
    pcsnn.convert(net, 6, calibration=loader, method=method, progress=False)
    assert torch.equal(torch.get_rng_state(), chance) and random.getstate() == python
    assert net.training and all(module.training for module in net.modules()) and torch.is_grad_enabled()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(net.parameters(), gradients))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_threads_convert_side_by_side_while_others_run():
    net, x = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=8)
    expected, output, wrong, done = convert(net, x, "quick").state_dict(), net(*x), [], threading.Event()

    def caught(call):
        try:
            call()
        except Exception as error:
            wrong.append(error)

    def run():
        while not done.is_set():
            caught(lambda: torch.testing.assert_close(net(*x), output, rtol=0, atol=0))

    threads = [
        threading.Thread(
            target=lambda: [caught(lambda: same(convert(net, x, "quick").state_dict(), expected)) for _ in range(3)]
        )
        for _ in range(3)
    ]
    runner = threading.Thread(target=run)
    for thread in (runner, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    runner.join()
    assert not wrong


# Half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_calibrated_as_well_as_float32(dtype, method):
    net = randomise(
        nn.Sequential(
            conv(),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            conv(4, 4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3, bias=False),
        )
    )
    x = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    half, expected = copy.deepcopy(net).to(dtype), net(x)
    with few_steps(15):
        error = (convert(net, (x,), method)(x) - expected).norm()
        snn = convert(half, (x.to(dtype),), method)
    found = snn(x.to(dtype))
    assert found.dtype == dtype and {parameter.dtype for parameter in snn.parameters()} == {dtype}
    rounding = (half(x.to(dtype)).float() - expected).norm()
    assert (found.float() - expected).norm() <= 1.25 * error + 2 * rounding


@pytest.mark.parametrize("method", METHODS)
def test_float16_that_overflows_is_refused(method):
    net = randomise(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))
    net[0].weight.data.mul_(3e4)
    with pytest.raises(ValueError, match="reaches NaN or infinity"):
        convert(net.half(), (torch.full((8, 5), 9.0).half(),), method)


def test_widened_gives_every_tensor_back():
    net = trace(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), QCFS(4)).half())
    before, code = copy.deepcopy(net.state_dict()), net.code
    with widened(net):
        assert {value.dtype for value in net.state_dict().values() if value.is_floating_point()} == {torch.float32}
    same(net.state_dict(), before)
    assert net.code == code


class Casting(nn.Module):
    """A network that spells out casts to half precision."""

    def __init__(self):
        super().__init__()
        self.one, self.act, self.two = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.two(self.act(self.one(x.to(torch.float16))).to(dtype=torch.float16))


@pytest.mark.parametrize("method", ["quick", "light", "advanced"])
def test_casts_to_half_precision_that_a_network_spells_out(method):
    net = randomise(Casting()).half()
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    snn = convert(net, (x,), method, strict=False)
    assert snn(x).dtype == torch.float16
    assert (snn(x) - net(x)).float().norm() < 0.5 * net(x).float().norm()


# Computed weights


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    ],
)
def test_advanced_takes_computed_weights_or_names_them(change):
    net = nn.Sequential(
        change(nn.Linear(5, 6)) or nn.Linear(5, 6), nn.ReLU(), change(nn.Linear(6, 3)) or nn.Linear(6, 3)
    ).eval()
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    net.requires_grad_(False)(x)
    try:
        snn = convert(net, (x,), "advanced")
    except ValueError as error:
        assert "remove_parametrizations" in str(error) and "prune.remove" in str(error)
    else:
        assert (snn(x) - net(x)).norm() < 0.5 * net(x).norm()


# Interruption


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_calibration_leaves_everything_as_it_was(method, error, monkeypatch):
    opened = []
    bars = batches
    tqdm = bars.tqdm

    def bar(*arguments, **named):
        opened.append(tqdm(*arguments, **named | {"disable": False, "file": io.StringIO()}))
        return opened[-1]

    monkeypatch.setattr(bars, "tqdm", bar)
    net, x = build("conv_bn", nn.ReLU).train(), inputs("conv_bn", batch=12)[0]
    before, threads = copy.deepcopy(net.state_dict()), torch.get_num_threads()
    broken = error("in the middle")

    class Data:
        reads = 0

        def __iter__(self):
            self.reads += 1
            yield x[:4]
            if self.reads > 1 or method in ("quick", "light", "advanced"):
                raise broken
            yield x[4:]

    with pytest.raises(error) as caught:
        pcsnn.convert(net, 6, calibration=Data(), method=method)
    assert caught.value is broken and all(bar.disable for bar in opened)  # tqdm disables what it has closed
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == threads and not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("method, where", [("quick", "fit"), ("light", "gradient"), ("advanced", "gradient")])
def test_an_interrupt_within_the_steps_closes_bars(method, where, monkeypatch):
    opened = []
    bars = batches
    tqdm = bars.tqdm
    monkeypatch.setattr(
        bars,
        "tqdm",
        lambda *arguments, **named: (
            opened.append(tqdm(*arguments, **named | {"disable": False, "file": io.StringIO()})) or opened[-1]
        ),
    )

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    if where == "fit":
        monkeypatch.setattr(least_squares, "fit", interrupt)
    else:
        monkeypatch.setattr(refine, "_divergence", interrupt)
    net, x = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=12)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(KeyboardInterrupt) as caught:
        pcsnn.convert(net, 6, calibration=[x], method=method)
    assert caught.value is not None and opened and all(bar.disable for bar in opened)
    same(net.state_dict(), before)
