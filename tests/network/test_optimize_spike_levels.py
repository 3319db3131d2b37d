"""Optimised networks with spikes of several levels (22) are bit for bit those of T D time-steps of binary ones."""

import copy

import pytest
import torch
from test_optimize import WEIGHTS, averaging, pictures, wide
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.nn import QCFS, CountSumPool2d, Rates
from pcsnn.nn.synaptic import SynapseLayer

NAMES = [
    "residual",
    "residual_doubled",
    "three_branches",
    "cat",
    "cat_of_currents",
    "average_pools",
    "max_pools",
    "depthwise",
    "transposed",
    "attention",
    "two_inputs",
    "mlp",
    "tokens",
]
STEPS = [(4, 3), (1, 12)]


def same(one, other):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


def alike(several, binary, timesteps, spike_levels, *x):
    """That a network at T and D computes what one at T D and 1 does, layer by layer."""
    assert (several.timesteps, several.spike_levels) == (timesteps, spike_levels)
    assert same(several(*x), binary(*x))
    with pcsnn.record(several) as found, pcsnn.record(binary) as expected:
        several(*x)
        binary(*x)
    assert found.counts.keys() == expected.counts.keys() and same(dict(found.counts), dict(expected.counts))
    assert [row.detail for row in several.report.rows] == [row.detail for row in binary.report.rows]


def layers(fused):
    return [module for module in fused.network.modules() if isinstance(module, (SynapseLayer, Rates))]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_network(name, weights):
    x = inputs(name)
    for activation, method in ((nn.ReLU, "quick"), (nn.ReLU, "max"), (lambda: QCFS(LEVELS), "none")):
        data = {} if method == "none" else {"calibration": [inputs(name, batch=8)]}
        named = dict(method=method, strict=False, progress=False, **data)
        net = build(name, activation)
        binary = pcsnn.optimize(pcsnn.convert(net, 12, **named), weights)
        for timesteps, spike_levels in STEPS:
            snn = pcsnn.convert(net, timesteps, spike_levels=spike_levels, **named)
            alike(pcsnn.optimize(snn, weights), binary, timesteps, spike_levels, *x)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("activation", [nn.ReLU, lambda: QCFS(LEVELS), lambda: QCFS(12)], ids=["relu", "L4", "L12"])
@pytest.mark.parametrize("net", [wide, averaging])
def test_branches_pools_and_concatenations_of_counts(net, activation, weights):
    x = pictures(4)
    data = dict(calibration=pictures(8), method="max") if activation is nn.ReLU else dict(method="none")
    made = net(activation)
    binary = pcsnn.optimize(pcsnn.convert(made, 12, progress=False, **data), weights, example_inputs=x)
    for timesteps, spike_levels in STEPS:
        snn = pcsnn.convert(made, timesteps, spike_levels=spike_levels, progress=False, **data)
        fused = pcsnn.optimize(snn, weights, example_inputs=x)
        alike(fused, binary, timesteps, spike_levels, x)
        assert [type(layer) for layer in layers(fused)] == [type(layer) for layer in layers(binary)]
        if weights != "float32":
            counted = [layer for layer in layers(fused) if getattr(layer, "counted", False)]
            assert counted and all(layer.input_spike_levels == spike_levels for layer in counted)
        pools = [sum(isinstance(part, CountSumPool2d) for part in one.network.modules()) for one in (fused, binary)]
        assert pools[0] == pools[1]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_optimised_network_at_another_t_and_d(weights):
    x = pictures(4)
    snn = pcsnn.convert(wide(), 2, method="none", spike_levels=6, progress=False)
    fused = pcsnn.optimize(snn, weights, example_inputs=x)
    for timesteps, named in ((4, (3,)), (3, ()), (8, (1,)), (1, (255,)), (12, (1,)), (2, (2,))):
        pcsnn.set_timesteps(fused, timesteps, *named)
        full = timesteps * fused.spike_levels
        if full > 129 and weights == "int8":  # whose weights keep seven bits there, and eight where these were made
            continue
        again = pcsnn.set_timesteps(copy.deepcopy(snn), timesteps, fused.spike_levels)
        alike(
            fused,
            pcsnn.optimize(pcsnn.set_timesteps(again, full, 1), weights, example_inputs=x),
            timesteps,
            full // timesteps,
            x,
        )


def test_the_first_layer_in_int8_counts_pixels_whatever_d():
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(4))
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    x = images / 255
    options = dict(example_inputs=x, first_last=True)
    binary = pcsnn.optimize(pcsnn.convert(wide(), 12, progress=False), "int8", **options)
    fused = pcsnn.optimize(pcsnn.convert(wide(), 4, spike_levels=3, progress=False), "int8", **options)
    alike(fused, binary, 4, 3, x)
    alike(pcsnn.set_timesteps(fused, 2, 6), binary, 2, 6, x)
    alike(pcsnn.set_timesteps(fused, 12, 1), binary, 12, 1, x)
    pixels = [layer for layer in layers(fused) if getattr(layer, "fixed_steps", None)]
    assert len(pixels) == 1 and pixels[0].input_steps == 255


def test_the_reference_agrees():
    x = pictures(2)
    for weights in WEIGHTS:
        fused = pcsnn.optimize(pcsnn.convert(wide(), 4, spike_levels=3, progress=False), weights)
        found = fused(x)
        with pcsnn.use_backend("reference"):
            expected = fused(x)
        assert torch.equal(found, expected) if weights == "int8" else torch.allclose(found, expected, 1e-5, 1e-5)


def test_average_pools_whose_sums_pass_a_byte_say_t_and_d():
    x = pictures(2)
    data = dict(method="max", calibration=pictures(8), progress=False)
    snn = pcsnn.convert(averaging(nn.ReLU), 4, spike_levels=3, **data)
    fused = pcsnn.optimize(snn, "int8", example_inputs=x)
    with pytest.raises(
        ValueError, match=r"timesteps: expected at most \d+ where average pooling .* have 30 levels, got 8"
    ):
        pcsnn.set_timesteps(fused, 8, 30)
    alike(fused, pcsnn.optimize(pcsnn.convert(averaging(nn.ReLU), 12, **data), "int8", example_inputs=x), 4, 3, x)
    one = pcsnn.optimize(pcsnn.convert(averaging(nn.ReLU), 2, spike_levels=30, **data), "int8", example_inputs=x)
    alike(one, pcsnn.optimize(pcsnn.convert(averaging(nn.ReLU), 60, **data), "int8", example_inputs=x), 2, 30, x)
