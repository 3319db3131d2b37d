"""Activations of one's own: registered, converted, saved, and refused."""

import copy
import math
import re
import threading

import pytest
import torch
import torch.nn.functional as F
from folders import ROOT
from tiny_networks import network, one_thread, randomise  # noqa: F401 (a fixture)
from torch import nn

import pcsnn
from pcsnn import baselines, functional
from pcsnn.analysis import layer_errors
from pcsnn.calibration.places import Place
from pcsnn.calibration.signed import covering, fit, from_range
from pcsnn.graph.written import KnownActivation
from pcsnn.levels import activations
from pcsnn.levels.activations import RISES, activation, kinds, row_of
from pcsnn.levels.signed import balance, signed_levels, signed_table

DATA = torch.randn(12, 3, 7, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(activations, "_table", activations._table)


def swish(x, beta=1.5):
    return x * torch.sigmoid(beta * x)


def _smooth(x):
    return x * torch.sigmoid(1.7 * x)


class Bump(nn.Module):
    """Falls, and then rises; every channel has a curve of its own."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("beta", torch.linspace(0.5, 2.0, channels))

    def forward(self, x):
        return x * torch.sigmoid(self.beta.view(1, -1, *[1] * (x.dim() - 2)) * x)


def celu(z, alpha):
    return torch.where(z < 0, alpha * torch.expm1(z.clamp_max(0) / alpha), z)


def softplus(z, beta):
    return F.softplus(z * beta) / beta


# name -> (arguments of register_activation, module)
OWN = {
    "Softplus": (("softplus", softplus), dict(module=nn.Softplus, parameter="beta"), lambda: nn.Softplus(2.5)),
    "Tanh": (("tanh", torch.tanh), dict(module=nn.Tanh, range=(-1, 1)), nn.Tanh),
    "Softsign": (("softsign", F.softsign), dict(module=nn.Softsign, range=(-1, 1)), nn.Softsign),
    "SELU": (("selu", F.selu), dict(module=nn.SELU), nn.SELU),
    "CELU": (("celu", celu), dict(module=nn.CELU, parameter="alpha"), lambda: nn.CELU(1.3)),
    "Hardtanh": (("hardtanh", F.hardtanh), dict(module=nn.Hardtanh), nn.Hardtanh),
    "LogSigmoid": (("logsigmoid", F.logsigmoid), dict(module=nn.LogSigmoid, range=(-math.inf, 0)), nn.LogSigmoid),
    "Bump": (("bump", swish), dict(module=Bump, parameter="beta"), lambda: Bump(4)),
}


def register(name):
    """Registers one of OWN; its kind."""
    arguments, named, _ = OWN[name]
    pcsnn.register_activation(*arguments, **named)
    return arguments[0]


def around(first, second=None):
    """Two convolutions with an activation behind each, a residual sum, and a classifier."""

    def forward(self, x):
        x = self.act1(self.conv1(x))
        return self.fc(self.act2(self.conv2(x) + x).mean((2, 3)))

    return randomise(
        network(
            forward,
            conv1=nn.Conv2d(3, 4, 3),
            act1=first,
            conv2=nn.Conv2d(4, 4, 3, padding=1),
            act2=second or copy.deepcopy(first),
            fc=nn.Linear(4, 3),
        )
    )


def converted(net, timesteps=32, method="max", data=DATA):
    return pcsnn.convert(net, timesteps, calibration=data, method=method, signed=True, progress=False)


@pytest.mark.parametrize("name", OWN)
def test_registered_activations_convert_and_save(name, tmp_path):
    net = around(OWN[name][2]())
    kind = register(name)
    with torch.no_grad():
        expected = net(DATA)
    errors = {}
    for timesteps in (4, 8, 16, 255):
        snn = converted(net, timesteps)
        assert [neuron.kind for _, neuron in snn.neurons()] == [kind, kind]
        errors[timesteps] = ((snn(DATA) - expected).norm() / (expected - expected.mean(0)).norm()).item()
    assert errors[255] < 0.03 and errors[255] < errors[16] / 3
    assert "signed" in str(snn.report) and [row.kind for row in snn.report.rows].count("spiking") == 2
    pcsnn.save(snn, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(DATA), snn(DATA))
    assert torch.equal(copy.deepcopy(snn)(DATA), snn(DATA))
    again = pcsnn.set_timesteps(snn, 16)(DATA)
    assert ((again - expected).norm() / (expected - expected.mean(0)).norm()).item() == pytest.approx(errors[16], rel=1)


@pytest.mark.parametrize("name", ("Softplus", "Tanh", "LogSigmoid", "Bump"))
def test_step_by_step_and_recorded_the_same(name):
    net = around(OWN[name][2]()).double()
    register(name)
    data = DATA.double()
    snn = converted(net, 12, data=data)
    torch.testing.assert_close(baselines.packed(snn)(data), snn(data), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="spikes of two signs"):
        baselines.serial(snn)
    with pcsnn.record(snn) as recording:
        snn(data)
    for layer, neuron in snn.neurons():
        assert torch.equal(recording.rates()[layer], neuron.rates_of(recording.counts[layer]))
        trains = recording.spikes(layer, pcsnn.analysis.random_order(12))
        assert torch.equal(trains.sum(0).int(), neuron.balance(recording.counts[layer]))
    rows = layer_errors(net, snn, data, progress=False).rows
    assert [row.name for row in rows] == ["act1", "act2"]
    with pytest.raises(ValueError, match="sign"):
        pcsnn.exchange.to_qcfs(snn)
    pytest.importorskip("nir")
    with pytest.raises(ValueError, match="act1 .SignedNeuron, .* has no form in NIR"):
        pcsnn.exchange.to_nir(snn, data)


@pytest.mark.parametrize("name", ("Softplus", "Tanh", "Bump"))
@pytest.mark.parametrize("timesteps", (1, 4, 32, 255))
def test_a_rate_is_the_formula_rounded_to_the_nearest_multiple(name, timesteps):
    kind = register(name)
    slope = 1.3 if row_of(kind).parameter else None
    lowest, highest = -4.0, 3.0
    quantum = covering(kind, slope, lowest, highest).item() / timesteps
    levels, turn, low, multiple = signed_table(kind, quantum, timesteps, lowest, slope)
    quantum *= multiple
    z = torch.linspace(lowest, highest, 5001, dtype=torch.float64)
    exact = activation(kind, z, slope)
    place = exact / quantum - 0.5
    clear = (place - place.round()).abs() > 1e-4
    counts = balance(functional.fire_counts(z, levels), turn, low)
    assert torch.equal(counts[clear], (exact / quantum).round().int()[clear])
    assert clear.sum() > 4900


def test_levels_above_what_a_formula_reaches_are_never_reached():
    register("Tanh")
    levels, turn, low = signed_levels("tanh", 0.25, 16, -3.0)
    assert (turn, low) == (0, 4) and levels[8:].isinf().all() and levels[:8].isfinite().all()
    rates = functional.fire_rates(torch.tensor([-1e30, 0.0, 1e30]), levels, 0.25, turn=turn, low=low)
    assert rates.tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ("Softplus", "Bump"))
def test_least_squares_are_closer_than_the_range(name):
    kind = register(name)
    slope = torch.tensor([0.5, 1.0, 2.0]) if row_of(kind).parameter else None
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    place = Place("act", KnownActivation(kind, slope), None)
    wanted = place.activation(z)
    found = [from_range(place, z.amin(0), z.amax(0)), fit(place, [z[:90], z[90:]], [wanted[:90], wanted[90:]], 6)]
    errors = [(settings.neuron(place, 6)(z) - wanted).square().sum().item() for settings in found]
    assert errors[1] < errors[0]


def test_half_precision_and_gradients():
    register("Bump")
    net = around(Bump(4)).to(torch.bfloat16)
    snn = converted(net, 32, data=DATA.bfloat16())
    x = DATA.bfloat16().requires_grad_()
    snn(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all() and x.grad.any()
    with torch.no_grad():
        expected = net(DATA.bfloat16()).float()
    assert (snn(DATA.bfloat16()).float() - expected).norm() < 0.2 * expected.norm()


# How a network may reach a function of one's own


def test_functions_are_one_step_however_forward_reaches_them():
    def inner(x):
        return x * torch.sigmoid(2 * x)

    class Reaches(nn.Module):
        still = staticmethod(_smooth)

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(6))
            self.activation = swish

        def helped(self, x):
            return _helper(x)

        def forward(self, x):
            x = swish(self.layers[0](x))
            x = swish(x=self.layers[1](x), beta=0.5)
            x = self.activation(self.layers[2](x), 2.0)
            x = self.still(self.layers[3](x))
            x = inner(self.layers[4](x))
            return self.layers[5](self.helped(x) + x)

    pcsnn.register_activation("swish", swish, function=swish, parameter="beta")
    pcsnn.register_activation("smooth", _smooth, function=_smooth)
    pcsnn.register_activation("inner", inner, function=inner)
    net, x = randomise(Reaches()), torch.randn(20, 5)
    before = dict(globals()), dict(vars(Reaches))
    snn = pcsnn.convert(net, 255, calibration=x, method="max", signed=True)
    neurons = [neuron for _, neuron in snn.neurons()]
    assert [neuron.kind for neuron in neurons] == ["swish", "swish", "swish", "smooth", "inner", "smooth"]
    assert [neuron.slope.item() for neuron in neurons[:3]] == [1.5, 0.5, 2.0]
    torch.testing.assert_close(snn(x), net(x), rtol=0.1, atol=0.1)
    assert (dict(globals()), dict(vars(Reaches))) == before and net.activation is swish


def _helper(x):
    return _smooth(x)


def test_parameters_of_the_network_are_read_by_functions():
    pcsnn.register_activation("swish", swish, function=swish, parameter="beta")
    net = network(lambda s, x: s.fc(swish(s.first(x), s.beta)), first=nn.Linear(5, 4), fc=nn.Linear(4, 2))
    net.beta = nn.Parameter(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    x = torch.randn(20, 5)
    snn = pcsnn.convert(randomise(net), 255, calibration=x, method="max", signed=True)
    assert torch.equal(dict(snn.neurons())["swish"].slope, net.beta)
    torch.testing.assert_close(snn(x), net(x), rtol=0.1, atol=0.05)


def test_a_function_that_cannot_be_kept_is_named():
    pcsnn.register_activation("hidden", _hidden, function=_hidden)
    hidden = [_hidden]
    net = randomise(network(lambda s, x: s.fc(hidden[0](s.first(x))), first=nn.Linear(5, 4), fc=nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="is within _hidden, a registered activation that was reached"):
        pcsnn.convert(net, 8, calibration=torch.randn(8, 5), method="max", signed=True)


def _hidden(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def test_without_signed_the_advice_names_it():
    register("Softplus")
    with pytest.raises(ValueError, match="Softplus takes spikes of two signs; convert it with signed=True"):
        pcsnn.convert(around(nn.Softplus()), 8, calibration=DATA, method="max")


def test_a_layer_that_computes_something_else_is_refused_with_the_difference():
    pcsnn.register_activation("softplus", F.softplus, module=nn.Softplus)
    assert [neuron.kind for _, neuron in converted(around(nn.Softplus())).neurons()] == ["softplus"] * 2
    with pytest.raises(ValueError, match="Softplus computes something else than its formula: at .* it gives"):
        converted(around(nn.Softplus(beta=3)))


def test_a_parameter_with_which_it_does_not_rise_last_is_refused():
    register("Bump")
    act = Bump(4)
    act.beta[2] = -0.5
    with pytest.raises(
        ValueError, match="Bump cannot spike with this beta: .* falls again after it rose .* beta = -0.5"
    ):
        converted(around(act))


def test_what_pcsnn_knew_of_a_class_stays_where_the_formula_is_another():
    register("Hardtanh")
    snn = converted(around(nn.Hardtanh(), nn.Hardtanh(-2.0, 2.0)))
    assert [type(neuron).__name__ for _, neuron in snn.neurons()] == ["SignedNeuron", "CollapsedNeuron"]


def test_max_pools_are_exact_behind_registered_activations():
    def pooled(act):
        return randomise(
            network(
                lambda s, x: s.fc(F.max_pool2d(s.act(s.conv(x)), 2).flatten(1)),
                conv=nn.Conv2d(3, 4, 3, padding=1),
                act=act,
                fc=nn.Linear(24, 5),
            )
        )

    register("Tanh"), register("Bump")
    x = DATA.double()
    for act in (nn.Tanh(), Bump(4)):
        snn = converted(pooled(act)).double()
        assert not [row for row in snn.report.rows if row.kind == "analog"]
        torch.testing.assert_close(pcsnn.baselines.packed(snn)(x), snn(x), rtol=1e-12, atol=1e-12)


# Files


def test_a_file_asks_for_the_kind_and_its_formula(tmp_path, monkeypatch):
    before = activations._table
    kind = register("Softplus")
    snn = converted(around(nn.Softplus()), 8)
    pcsnn.save(snn, tmp_path / "net.safetensors")
    monkeypatch.setattr(activations, "_table", before)
    with pytest.raises(ValueError, match=r"'softplus' is not known here: pcsnn.register_activation\('softplus', ...\)"):
        pcsnn.load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="kind: expected one of .* got 'softplus'"):
        pcsnn.set_timesteps(snn, 16)
    pcsnn.register_activation(kind, lambda z, beta: 2 * softplus(z, beta), module=nn.Softplus, parameter="beta")
    with pytest.raises(ValueError, match="'softplus' to be registered with the formula that the file was written with"):
        pcsnn.load(tmp_path / "net.safetensors")
    monkeypatch.setattr(activations, "_table", before)
    register("Softplus")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(DATA), snn(DATA))


# What is refused


REFUSED = {
    "a name with a space": (dict(kind="my act"), ValueError, "kind: expected a name"),
    "a name that is no text": (dict(kind=3), ValueError, "kind: expected a name"),
    "a kind of pcsnn": (dict(kind="silu"), ValueError, "kind: expected a new name, got 'silu'"),
    "a formula that is a number": (dict(formula=1.0), TypeError, "formula: expected a function of a tensor, got float"),
    "no module": (dict(module=None), ValueError, "module: expected a class, or a function"),
    "an instance": (dict(module=nn.Softplus()), TypeError, "module: expected a subclass of torch.nn.Module"),
    "nn.Module": (dict(module=nn.Module), TypeError, "module: expected a subclass of torch.nn.Module"),
    "a class of pcsnn": (dict(module=nn.SiLU), ValueError, "module: .* got SiLU, which is 'silu'"),
    "ReLU": (dict(module=nn.ReLU), ValueError, "module: expected a class of activations .* got ReLU"),
    "Linear": (dict(module=[nn.Softplus, nn.Linear]), ValueError, "module: expected a class of activations .* Linear"),
    "a function of pcsnn": (dict(function=F.gelu), ValueError, "function: .* got gelu, which is 'gelu'"),
    "relu": (dict(function=torch.relu), ValueError, "function: expected one that pcsnn does not know, got relu"),
    "a module as function": (dict(function=nn.Softplus()), TypeError, "function: expected a function of Python's"),
    "a parameter that is no name": (dict(parameter=2), ValueError, "parameter: expected the name"),
    "a default that is text": (dict(default="1"), TypeError, "default: expected a number, got str"),
    "a turn of what rises": (dict(turn=0.0), ValueError, "turn: expected None for a formula that only rises"),
    "a turn elsewhere": (
        dict(formula=F.silu, turn=-1.0),
        ValueError,
        "turn: expected where the formula is least, -1.278",
    ),
    "a turn and a parameter": (
        dict(formula=swish, parameter="beta", turn=-1.0),
        ValueError,
        "turn: expected None beside",
    ),
    "a range of one number": (dict(range=1.0), TypeError, "range: expected two numbers"),
    "a range upside down": (dict(range=(1, 0)), ValueError, "range: expected a least value below"),
    "a range that is left": (dict(range=(0, 5)), ValueError, "range: expected values of the formula within 0..5, got"),
    "rises before it falls": (dict(formula=lambda z: -F.silu(z)), ValueError, "rises and falls again between"),
    "falls after it rose": (
        dict(formula=lambda z: z.sin() + z / 2),
        ValueError,
        "formula: expected a function that only",
    ),
    "only falls": (dict(formula=lambda z: -z), ValueError, "formula: expected a function that rises, .* only falls"),
    "is constant": (dict(formula=lambda z: z * 0 + 1), ValueError, "is the same everywhere"),
    "infinite": (dict(formula=lambda z: z.exp().exp()), ValueError, "formula: expected finite values .* got inf"),
    "not a number": (dict(formula=torch.log1p), ValueError, "formula: expected finite values .* got nan"),
    "softmax": (dict(formula=lambda z: z.softmax(0)), ValueError, "function of each element by itself"),
    "a mean": (dict(formula=lambda z: z - z.mean()), ValueError, "function of each element by itself"),
    "random": (dict(formula=lambda z: z + torch.rand_like(z)), ValueError, "function of each element by itself"),
    "a sum": (dict(formula=lambda z: z.sum()), ValueError, r"shape and dtype of its argument.* got \(\)"),
    "another dtype": (dict(formula=lambda z: z.float()), ValueError, "dtype of its argument.* got .* torch.float32"),
    "always double": (dict(formula=lambda z: z.double()), ValueError, "dtype of its argument.* got .* torch.float64"),
    "a tuple": (dict(formula=lambda z: (z, z)), TypeError, "formula: expected a tensor as its result, got tuple"),
    "an error": (dict(formula=lambda z: z.nothing), ValueError, "formula: .* it raised AttributeError"),
    "another number of arguments": (dict(parameter="beta"), ValueError, "formula: .* it raised TypeError"),
    "writes over its input": (dict(formula=lambda z: z.data.add_(1) + z - z.data), ValueError, "writes over it"),
    "no gradient": (dict(formula=lambda z: z.detach() + 0), ValueError, "formula: .* autograd can follow"),
    "a gradient of NaN": (
        dict(formula=lambda z: torch.where(z > 0, z, (z * 20).exp() - 1)),
        ValueError,
        "formula: expected a finite gradient",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_before_anything_changes(case):
    given, error, words = REFUSED[case]
    arguments = dict(kind="softplus", formula=lambda z: F.softplus(z), module=nn.Softplus) | given
    before = kinds()
    with pytest.raises(error, match=words):
        pcsnn.register_activation(arguments.pop("kind"), arguments.pop("formula"), **arguments)
    assert kinds() == before


def test_nothing_is_registered_twice():
    register("Softplus")
    with pytest.raises(ValueError, match="kind: expected a new name, got 'softplus', which is known already"):
        register("Softplus")
    with pytest.raises(ValueError, match="module: .* got Softplus, which is 'softplus'"):
        pcsnn.register_activation("other", F.softplus, module=nn.Softplus)
    pcsnn.register_activation("tanh", torch.tanh, function=torch.tanh, turn=None)
    with pytest.raises(ValueError, match="function: .* got tanh, which is 'tanh'"):
        pcsnn.register_activation("other", torch.tanh, function=[F.softsign, torch.tanh])


def test_a_given_turn_is_taken():
    pcsnn.register_activation("mine", F.silu, function=_smooth, turn=-1.278464542761074)
    assert torch.equal(signed_levels("mine", 0.1, 32, -6.0)[0], signed_levels("silu", 0.1, 32, -6.0)[0])
    assert row_of("silu").turn == row_of("mine").turn and row_of("leaky_relu").turns(torch.ones(1, 1)).item() == RISES


def test_threads_register_at_once():
    failed = []

    def one(number):
        try:
            pcsnn.register_activation(f"kind_{number % 4}", torch.tanh, module=type("Tanh", (nn.Module,), {}))
        except ValueError:
            failed.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 8 and {f"kind_{number}" for number in range(4)} <= set(kinds())


def test_the_example_of_the_documentation_runs():
    page = (ROOT / "docs" / "signed.md").read_text().partition("## Your own activation")[2]
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"__name__": "example"}
    exec(code, names)
    assert [neuron.kind for _, neuron in names["snn"].neurons()] == ["softplus", "snake"]
