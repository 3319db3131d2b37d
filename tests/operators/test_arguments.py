"""Malformed input of every public function: an error that names the argument, and nothing computed or overwritten."""

import math

import pytest
import torch

from pcsnn import functional
from pcsnn.levels.spacing import level_spacing
from pcsnn.operators import dispatch
from pcsnn.tensors import checks

CURRENT = torch.linspace(-1, 3, 24).reshape(2, 3, 4)
STEPS = CURRENT.expand(4, 2, 3, 4)
COUNTS = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
LEVELS = functional.levels(1.0, 4)
FALLING = LEVELS.flip(0)
GRADIENT = CURRENT.clone().requires_grad_()

counts, rates = functional.fire_counts, functional.fire_rates
spikes, expand = functional.fire_spikes, functional.expand_spikes
ONE_A_ROW = torch.ones(3)

MEAN_ARGUMENTS = [  # of fire_counts and fire_rates: current, levels, residual, residual_scale
    ((None, LEVELS, None, None), TypeError, "current"),
    ((CURRENT.int(), LEVELS, None, None), TypeError, "current"),
    ((CURRENT.to(torch.complex64), LEVELS, None, None), TypeError, "current"),
    ((torch.tensor(1.0), LEVELS, None, None), ValueError, "current"),
    ((CURRENT, [0.1, 0.2], None, None), TypeError, "levels"),
    ((CURRENT, LEVELS.double(), None, None), TypeError, "levels"),
    ((CURRENT, LEVELS.half(), None, None), TypeError, "levels"),
    ((CURRENT, torch.tensor(1.0), None, None), ValueError, "levels"),
    ((CURRENT, LEVELS.expand(2, 3, 4), None, None), ValueError, "levels"),
    ((CURRENT, LEVELS.expand(2, 4), None, None), ValueError, "levels"),
    ((CURRENT[0, 0], LEVELS.expand(4, 4), None, None), ValueError, "levels"),
    ((CURRENT, torch.arange(256.0), None, None), ValueError, "levels"),
    ((CURRENT, torch.zeros(0), None, None), ValueError, "levels"),
    ((CURRENT, FALLING, None, None), ValueError, "levels"),
    ((CURRENT, torch.tensor([0.0, math.nan]), None, None), ValueError, "levels"),
    ((CURRENT, LEVELS, [1.0], None), TypeError, "residual"),
    ((CURRENT, LEVELS, [1.0], 0.5), TypeError, "residual"),
    ((CURRENT, LEVELS, CURRENT.half(), None), TypeError, "residual"),
    ((CURRENT, LEVELS, CURRENT[:1], None), ValueError, "residual"),
    ((CURRENT, LEVELS, COUNTS, None), ValueError, "residual_scale"),
    ((CURRENT, LEVELS, CURRENT, 0.5), ValueError, "residual_scale"),
    ((CURRENT, LEVELS, None, 0.5), ValueError, "residual_scale"),
    ((CURRENT, LEVELS, COUNTS, "0.5"), TypeError, "residual_scale"),
    ((CURRENT, LEVELS, COUNTS, math.nan), ValueError, "residual_scale"),
    ((CURRENT, LEVELS, COUNTS, torch.ones(4)), ValueError, "residual_scale"),
    ((CURRENT, LEVELS, COUNTS, torch.ones(3, 1)), ValueError, "residual_scale"),
    ((CURRENT, LEVELS, COUNTS, torch.ones(3).int()), TypeError, "residual_scale"),
    ((GRADIENT, LEVELS, None, None), RuntimeError, "current"),
    ((CURRENT, LEVELS, GRADIENT, None), RuntimeError, "residual"),
    ((CURRENT, LEVELS.to("meta"), None, None), ValueError, "levels"),
    ((CURRENT, LEVELS, CURRENT.to("meta"), None), ValueError, "residual"),
]


@pytest.mark.parametrize("arguments, error, name", MEAN_ARGUMENTS)
def test_mean_current(arguments, error, name, forbid_operators):
    current, levels, residual, residual_scale = arguments
    with pytest.raises(error, match=name):
        counts(current, levels, residual, residual_scale)
    with pytest.raises(error, match=name):
        rates(current, levels, 0.25, residual, residual_scale)
    before = current.clone() if isinstance(current, torch.Tensor) else current
    with pytest.raises(error, match=name):
        rates(current, levels, 0.25, residual, residual_scale, inplace=True)
    assert before is current or torch.equal(before, current)


BAD_CALLS = {
    "scale: text": (lambda: rates(CURRENT, LEVELS, "1"), TypeError, "scale"),
    "scale: bool": (lambda: rates(CURRENT, LEVELS, True), TypeError, "scale"),
    "scale: inf": (lambda: rates(CURRENT, LEVELS, math.inf), ValueError, "scale"),
    "scale: channels": (lambda: rates(CURRENT, LEVELS, torch.ones(4)), ValueError, "scale"),
    "scale: shape": (lambda: rates(CURRENT, LEVELS, torch.ones(1, 3)), ValueError, "scale"),
    "scale: dtype": (lambda: rates(CURRENT, LEVELS, torch.ones(3).long()), TypeError, "scale"),
    "scale: device": (lambda: rates(CURRENT, LEVELS, torch.ones(3, device="meta")), ValueError, ".*scale on meta"),
    "repeat: rates": (lambda: rates(CURRENT, LEVELS, 1.0, repeat=3), ValueError, "repeat"),
    "repeat: negative": (lambda: rates(CURRENT, LEVELS, 1.0, repeat=-1), ValueError, "repeat"),
    "repeat: type": (lambda: rates(CURRENT, LEVELS, 1.0, repeat=1.0), TypeError, "repeat"),
    "repeat: counts": (lambda: counts(CURRENT, LEVELS, repeat=3), ValueError, "repeat"),
    "repeat: spikes": (lambda: spikes(STEPS, LEVELS, repeat=8), ValueError, "repeat"),
    "spikes: no tensor": (lambda: spikes(1.0, LEVELS), TypeError, "current"),
    "spikes: dtype": (lambda: spikes(STEPS.long(), LEVELS), TypeError, "current"),
    "spikes: dimensions": (lambda: spikes(CURRENT[0, 0], LEVELS), ValueError, "current"),
    "spikes: no steps": (lambda: spikes(STEPS[:0], LEVELS), ValueError, "current"),
    "spikes: 256 steps": (lambda: spikes(CURRENT[:1].expand(256, 3, 4), torch.arange(256.0)), ValueError, "current"),
    "spikes: steps": (lambda: spikes(STEPS[:3], LEVELS), ValueError, "levels"),
    "spikes: channels": (lambda: spikes(STEPS, LEVELS.expand(2, 4)), ValueError, "levels"),
    "spikes: falling": (lambda: spikes(STEPS, FALLING), ValueError, "levels"),
    "spikes: out_dtype": (lambda: spikes(STEPS, LEVELS, torch.int32), TypeError, "out_dtype"),
    "spikes: amplitude of bytes": (lambda: spikes(STEPS, LEVELS, torch.uint8, 1.0), TypeError, "out_dtype"),
    "spikes: amplitude type": (lambda: spikes(STEPS, LEVELS, torch.float32, "1"), TypeError, "amplitude"),
    "spikes: amplitude nan": (lambda: spikes(STEPS, LEVELS, torch.float32, math.nan), ValueError, "amplitude"),
    "spikes: amplitude channels": (lambda: spikes(STEPS, LEVELS, torch.half, ONE_A_ROW[:2]), ValueError, "amplitude"),
    "spikes: amplitude dtype": (lambda: spikes(STEPS, LEVELS, torch.half, ONE_A_ROW.half()), TypeError, "amplitude"),
    "spikes: gradient": (lambda: spikes(GRADIENT.expand(4, 2, 3, 4), LEVELS), RuntimeError, "current"),
    "spikes: device": (lambda: spikes(STEPS, LEVELS.to("meta")), ValueError, ".*levels on meta"),
    "spikes: D = 0": (lambda: spikes(STEPS, LEVELS, spike_levels=0), ValueError, "spike_levels"),
    "spikes: D = 1.0": (lambda: spikes(STEPS, LEVELS, spike_levels=1.0), TypeError, "spike_levels"),
    "spikes: D = True": (lambda: spikes(STEPS, LEVELS, spike_levels=True), TypeError, "spike_levels"),
    "spikes: D = 256": (lambda: spikes(STEPS[:1], LEVELS[:1], spike_levels=256), ValueError, "spike_levels"),
    "spikes: T D = 256": (
        lambda: spikes(STEPS, torch.arange(256.0), spike_levels=64),
        ValueError,
        "spike_levels: expected at most 63 at T = 4, got 64",
    ),
    "spikes: levels of T": (lambda: spikes(STEPS, LEVELS, spike_levels=2), ValueError, "levels: expected 8 levels, 2 "),
    "spikes: levels of T D": (lambda: spikes(STEPS[:2], LEVELS), ValueError, "levels: expected 2 levels, 1 "),
    "spikes: bool of D = 2": (lambda: spikes(STEPS[:2], LEVELS, torch.bool, spike_levels=2), TypeError, "out_dtype"),
    "expand: D = -1": (lambda: expand(COUNTS, 4, spike_levels=-1), ValueError, "spike_levels"),
    "expand: D = None": (lambda: expand(COUNTS, 4, spike_levels=None), TypeError, "spike_levels"),
    "expand: T D = 256": (lambda: expand(COUNTS, 2, spike_levels=128), ValueError, "spike_levels"),
    "expand: bool of D = 2": (lambda: expand(COUNTS, 4, None, torch.bool, None, 2), TypeError, "dtype"),
    "expand: no tensor": (lambda: expand([1, 2], 4), TypeError, "counts"),
    "expand: dtype": (lambda: expand(COUNTS.int(), 4), TypeError, "counts"),
    "expand: dimensions": (lambda: expand(COUNTS[0, 0, 0], 4), ValueError, "counts"),
    "expand: T = 0": (lambda: expand(COUNTS, 0), ValueError, "timesteps"),
    "expand: T = 256": (lambda: expand(COUNTS, 256), ValueError, "timesteps"),
    "expand: T = 4.0": (lambda: expand(COUNTS, 4.0), TypeError, "timesteps"),
    "expand: T = True": (lambda: expand(COUNTS, True), TypeError, "timesteps"),
    "expand: order type": (lambda: expand(COUNTS, 4, [0, 1, 2, 3]), TypeError, "order"),
    "expand: order dtype": (lambda: expand(COUNTS, 4, torch.arange(4).int()), TypeError, "order"),
    "expand: order short": (lambda: expand(COUNTS, 4, torch.arange(3)), ValueError, "order"),
    "expand: order twice": (lambda: expand(COUNTS, 4, torch.tensor([0, 1, 1, 3])), ValueError, "order"),
    "expand: order outside": (lambda: expand(COUNTS, 4, torch.tensor([1, 2, 3, 4])), ValueError, "order"),
    "expand: order shape": (lambda: expand(COUNTS, 4, torch.arange(4).reshape(2, 2)), ValueError, "order"),
    "expand: dtype out": (lambda: expand(COUNTS, 4, None, torch.int8), TypeError, "dtype"),
    "expand: amplitude of bool": (lambda: expand(COUNTS, 4, None, torch.bool, 1.0), TypeError, "dtype"),
    "expand: amplitude": (lambda: expand(COUNTS, 4, None, torch.half, torch.ones(2)), ValueError, "amplitude"),
    "levels: zero": (lambda: functional.levels(0.0, 4), ValueError, "threshold"),
    "levels: negative": (lambda: functional.levels(torch.tensor([1.0, -2.0]), 4), ValueError, "threshold.*channel 1"),
    "levels: nan": (lambda: functional.levels(math.nan, 4), ValueError, "threshold"),
    "levels: text": (lambda: functional.levels("1", 4), TypeError, "threshold"),
    "levels: integers": (lambda: functional.levels(torch.tensor([1, 2]), 4), TypeError, "threshold"),
    "levels: matrix": (lambda: functional.levels(torch.ones(2, 2), 4), ValueError, "threshold"),
    "levels: no channels": (lambda: functional.levels(torch.ones(0), 4), ValueError, "threshold"),
    "levels: T = 0": (lambda: functional.levels(1.0, 0), ValueError, "timesteps"),
    "levels: T = 256": (lambda: functional.levels(1.0, 256), ValueError, "timesteps"),
    "levels: T = 2.5": (lambda: functional.levels(1.0, 2.5), TypeError, "timesteps"),
    "levels: L = 0": (lambda: functional.levels(1.0, 4, quantization_levels=0), ValueError, "quantization_levels"),
    "levels: L = 2.0": (lambda: functional.levels(1.0, 4, quantization_levels=2.0), TypeError, "quantization_levels"),
    "levels: shift nan": (lambda: functional.levels(1.0, 4, shift=math.nan), ValueError, "shift"),
    "levels: shift text": (lambda: functional.levels(1.0, 4, shift="0"), TypeError, "shift"),
    "levels: offset inf": (lambda: functional.levels(1.0, 4, offset=math.inf), ValueError, "offset"),
    "levels: offset matrix": (lambda: functional.levels(1.0, 4, offset=torch.ones(2, 2)), ValueError, "offset"),
    "levels: offset channels": (lambda: functional.levels(ONE_A_ROW, 4, offset=ONE_A_ROW[:2]), ValueError, "offset"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_calls(case, forbid_operators):
    call, error, name = BAD_CALLS[case]
    with pytest.raises(error, match=f"^{name}"):
        call()


@pytest.fixture
def forbid_operators(monkeypatch):
    """Nothing may be computed before the arguments are checked."""

    def call(name, *arguments):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(dispatch, "call", call)


CHECKS = {
    "tensor type": (lambda: checks.tensor("x", 1.0), TypeError),
    "tensor dtype": (lambda: checks.tensor("x", CURRENT, (torch.uint8,)), TypeError),
    "tensor dimensions": (lambda: checks.tensor("x", CURRENT, min_dim=4), ValueError),
    "integer type": (lambda: checks.integer("x", 1.0, 0, 2), TypeError),
    "integer bool": (lambda: checks.integer("x", True, 0, 2), TypeError),
    "integer low": (lambda: checks.integer("x", -1, 0, 2), ValueError),
    "integer high": (lambda: checks.integer("x", 3, 0, 2), ValueError),
    "timesteps": (lambda: checks.timesteps(256, "x"), ValueError),
    "number type": (lambda: checks.number("x", "1"), TypeError),
    "number nan": (lambda: checks.number("x", math.nan), ValueError),
    "threshold": (lambda: checks.threshold(-1, "x"), ValueError),
    "same_device": (lambda: checks.same_device(x=CURRENT, y=CURRENT.to("meta")), ValueError),
    "no_gradient": (lambda: checks.no_gradient(x=GRADIENT), RuntimeError),
    "channels": (lambda: checks.channels("x", LEVELS, (2, 3)), ValueError),
    "channels of [N]": (lambda: checks.channels("x", LEVELS, (4,)), ValueError),
    "per_layer_or_channel": (lambda: checks.per_layer_or_channel("x", LEVELS, (2, 3), (torch.float32,)), ValueError),
}


@pytest.mark.parametrize("case", CHECKS)
def test_checks_name_the_argument(case):
    call, error = CHECKS[case]
    with pytest.raises(error, match=r"\bx\b"):
        call()


def test_level_spacing_is_what_a_search_relies_on():
    even = functional.levels(1.0, 12)
    staircase = functional.levels(torch.tensor([1.0, math.inf, 3.0]), 12, quantization_levels=4)
    assert level_spacing(even) == 1
    assert level_spacing(staircase) == 3
    assert level_spacing(torch.full((12,), 0.5)) == 12
    assert level_spacing(torch.full((2, 12), math.inf)) == 12
    assert level_spacing(torch.cat([even[:5], even[5:] + 0.01])) == 0
    assert level_spacing(even + 1e6) == 0
    assert level_spacing(torch.tensor([0.0, 0.0, 1.0])) == 0
    assert level_spacing(torch.tensor([-math.inf, 0.0])) == 0


def test_a_changed_level_table_is_checked_again():
    table = functional.levels(1.0, 4)
    assert counts(CURRENT, table).max() == 4
    table[1] = 5.0
    with pytest.raises(ValueError, match="^levels: expected ascending"):
        counts(CURRENT, table)


def test_backends_are_equal_and_checked():
    with dispatch.use_backend("reference"):
        expected = counts(CURRENT, LEVELS)
        assert dispatch.backend_info()["cpu"] == "reference"
    assert torch.equal(counts(CURRENT, LEVELS), expected)
    with dispatch.use_backend("c++"):
        assert torch.equal(counts(CURRENT, LEVELS), expected)
        with pytest.raises(RuntimeError, match="expected tensors on the CPU, got meta"):
            counts(CURRENT.to("meta"), LEVELS.to("meta"), repeat=1)
    with pytest.raises(ValueError, match="^name: expected one of reference, c\\+\\+, triton"):
        with dispatch.use_backend("cuda"):
            raise AssertionError("unknown backends are refused")
    info = dispatch.backend_info()
    assert info["forced"] is None and info["cpu"] == "c++" and info["c++"].startswith("built, ")


def test_a_forced_backend_ends_with_its_block():
    with pytest.raises(ZeroDivisionError):
        with dispatch.use_backend("reference"):
            1 / 0
    assert dispatch.backend_info()["forced"] is None
