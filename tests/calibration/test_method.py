"""Calibration methods as records: found in their files, with options that a conversion may change."""

import dataclasses

import pytest
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.calibration import METHODS, Method, register
from pcsnn.calibration.layerwise import ADVANCED, LIGHT, QUICK
from pcsnn.nn import QCFS


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def thresholds(share):
    """A method that chooses shares of 1 as thresholds."""
    from pcsnn.calibration.places import Settings

    return lambda task: {place.name: Settings(share) for place in task.open}


@pytest.fixture
def registry():
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def test_methods_are_listed_by_what_they_compute():
    assert list(METHODS) == ["none", "max", "paper", "quick", "light", "advanced"]
    assert [name for name, method in METHODS.items() if not method.needs_data] == ["none"]
    assert [name for name, method in METHODS.items() if not method.depends_on_timesteps] == ["none", "max"]
    assert [name for name, method in METHODS.items() if method.seeded] == ["light", "advanced"]
    assert [name for name, method in METHODS.items() if not method.takes_signed] == ["paper"]


def test_other_options_leave_the_method_as_it_is():
    few = LIGHT.with_options(steps=2)
    assert few.options.steps == 2 and LIGHT.options.steps == 300 and METHODS["light"] is LIGHT
    assert dataclasses.replace(few, options=LIGHT.options) == LIGHT
    with pytest.raises(TypeError, match="momentum"):
        LIGHT.with_options(momentum=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        LIGHT.options.steps = 2


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("light", dict(steps=-1), ValueError, "^steps: expected a value in 0.*, got -1"),
        ("light", dict(steps=2.5), TypeError, "^steps: expected an integer, got float"),
        ("quick", dict(batch=0), ValueError, "^batch: expected a value in 1.*, got 0"),
        (
            "advanced",
            dict(learning_rate=0.0),
            ValueError,
            "^learning_rate: expected a value in 1e-09..1e\\+09, got 0.0",
        ),
        ("advanced", dict(temperature=float("nan")), ValueError, "^temperature: expected a finite number, got nan"),
        (
            "advanced",
            dict(learning_rate_beside_weights=0),
            ValueError,
            "^learning_rate_beside_weights: expected a value in 1e-09..1e\\+09, got 0",
        ),
        ("advanced", dict(fitting_copies=0), ValueError, "^fitting_copies: expected a value in 1.*, got 0"),
        ("light", dict(layer_loss_weight=-1), ValueError, "^layer_loss_weight: expected a value in 0..1e\\+09, got -1"),
        ("light", dict(mixed_share="all"), TypeError, "^mixed_share: expected a number, got str"),
        ("paper", dict(momentum=1.5), ValueError, "^momentum: expected a value in 0..1, got 1.5"),
        ("max", dict(steps=3), TypeError, "^options: expected none for method 'max', got steps"),
    ],
)
def test_options_out_of_range_are_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        METHODS[name].with_options(**options)


def test_a_conversion_takes_a_method_with_other_options():
    net, x = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=12)
    quick = pcsnn.convert(net, 4, calibration=[x], method="quick")
    assert same(pcsnn.convert(net, 4, calibration=[x], method=QUICK), quick)
    assert same(pcsnn.convert(net, 4, calibration=[x], method=LIGHT.with_options(steps=0)), quick)
    even = pcsnn.convert(net, 4, calibration=[x], method=QUICK.with_options(bend_levels=False))
    assert not same(even, quick) and even.report.method == "quick"


def test_a_step_without_weights_changes_none():
    net, x = build("conv_bn", nn.ReLU), inputs("conv_bn", batch=12)
    options = {"steps": 2, "mixed_share": 0.0}
    light, advanced = (
        pcsnn.convert(net, 4, calibration=[x], method=method.with_options(**options)) for method in (LIGHT, ADVANCED)
    )
    assert not same(light, advanced)
    fixed = ADVANCED.with_options(change_weights=False, **options)
    assert same(pcsnn.convert(net, 4, calibration=[x], method=fixed), light)


def test_a_registered_method_converts_by_its_name(registry):
    register(Method("half", thresholds(0.5), effort=2.5, needs_data=False, depends_on_timesteps=False))
    assert list(METHODS) == ["none", "max", "paper", "half", "quick", "light", "advanced"]
    snn = pcsnn.convert(build("conv_bn", nn.ReLU), 4, method="half")
    assert snn.report.method == "half" and {neuron.threshold.item() for _, neuron in snn.neurons()} == {0.5}
    sweep = pcsnn.analysis.sweep(build("conv_bn", nn.ReLU), inputs("conv_bn")[0], [2, 4], "half", progress=False)
    assert [row.method for row in sweep.rows] == ["half", "half"]
    for name in ("half", "auto"):
        with pytest.raises(ValueError, match=f"method: expected a name of its own, got '{name}'"):
            register(Method(name, thresholds(1.0), effort=0))


def test_what_is_exact_at_t_is_not_the_methods_to_choose():
    net = build("conv_bn", lambda: QCFS(2))
    chosen = []

    def choose(task):
        chosen.append([place.name for place in task.open])
        return {place.name: place.own() for place in task.open}

    method = Method("watched", choose, effort=0, needs_data=False)
    snn = pcsnn.convert(net, 4, method=method)
    assert same(snn, pcsnn.convert(net, 4, method="none"))
    pcsnn.convert(net, 3, method=method)
    pcsnn.convert(net, 4, method=dataclasses.replace(method, keeps_lossless=False))
    names = [name for name, _ in snn.neurons()]
    assert chosen == [[], names, names]
