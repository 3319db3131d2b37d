"""Fused layers, and layers of counts, made by hand or from a file: arguments that do not fit are named at once."""

import pytest
import torch

from pcsnn import nn

W4, W2, S = torch.ones(4, 2, 3, 3), torch.ones(4, 6), torch.ones(4)
BYTES4, BYTES2 = W4.to(torch.int8), W2.to(torch.int8)


def conv(weight=W4, timesteps=4, **options):
    return nn.SpikingConv2d(weight, timesteps, **{"threshold": 1.0, **options})


def synaptic(weight=W4, timesteps=4, **options):
    return nn.SynapticConv2d(weight, timesteps, **options)


BAD = {
    "stride 0": (lambda: conv(stride=0), ValueError, "stride"),
    "stride of three": (lambda: conv(stride=(1, 1, 1)), ValueError, "stride"),
    "stride text": (lambda: conv(stride="2"), TypeError, "stride"),
    "stride bool": (lambda: conv(stride=True), TypeError, "stride"),
    "stride None": (lambda: conv(stride=None), TypeError, "stride"),
    "stride float": (lambda: conv(stride=(1.0, 1)), TypeError, "stride"),
    "stride enormous": (lambda: conv(stride=2**40), ValueError, "stride"),
    "padding below zero": (lambda: conv(padding=(0, -1)), ValueError, "padding"),
    "padding enormous": (lambda: conv(padding=(1, 2**63 - 1)), ValueError, "padding"),
    "dilation": (lambda: conv(dilation=0), ValueError, "dilation"),
    "groups": (lambda: conv(groups=3), ValueError, "weight"),
    "groups 0": (lambda: conv(groups=0), ValueError, "groups"),
    "groups float": (lambda: conv(groups=1.0), TypeError, "groups"),
    "synaptic stride": (lambda: synaptic(stride=(0, 1)), ValueError, "stride"),
    "synaptic padding": (lambda: synaptic(padding=-1), ValueError, "padding"),
    "weight type": (lambda: conv(weight=[1.0]), TypeError, "weight"),
    "weight dtype": (lambda: conv(weight=W4.double()), TypeError, "weight"),
    "weight dimensions": (lambda: conv(weight=W2), ValueError, "weight"),
    "weight empty": (lambda: conv(weight=W4[:, :0]), ValueError, "weight"),
    "linear weight": (lambda: nn.SpikingLinear(W4, 4, threshold=1.0), ValueError, "weight"),
    "int8 without scale": (lambda: conv(weight=BYTES4), ValueError, "weight_scale"),
    "int8 scale shape": (lambda: conv(weight=BYTES4, weight_scale=torch.ones(3)), ValueError, "weight_scale"),
    "int8 scale type": (lambda: conv(weight=BYTES4, weight_scale=1.0), TypeError, "weight_scale"),
    "int8 linear without scale": (lambda: nn.SynapticLinear(BYTES2, 4), ValueError, "weight_scale"),
    "bias shape": (lambda: conv(bias=torch.ones(3)), ValueError, "bias"),
    "bias dtype": (lambda: conv(bias=torch.ones(4).int()), TypeError, "bias"),
    "synaptic bias": (lambda: synaptic(bias=torch.ones(4, 1)), ValueError, "bias"),
    "thresholds": (lambda: conv(threshold=torch.ones(3)), ValueError, "threshold"),
    "offsets": (lambda: conv(offset=torch.ones(5)), ValueError, "offset"),
    "amplitudes": (lambda: conv(amplitude=torch.ones(5)), ValueError, "amplitude"),
    "bends": (lambda: conv(bend=torch.zeros(3, 4)), ValueError, "bend"),
    "timesteps": (lambda: conv(timesteps=256), ValueError, "timesteps"),
    "timesteps 0": (lambda: synaptic(timesteps=0), ValueError, "timesteps"),
    "counted": (lambda: conv(counted="yes"), TypeError, "counted"),
    "input_levels": (lambda: conv(input_levels=0), ValueError, "input_levels"),
    "input_levels type": (lambda: synaptic(input_levels=2.0), TypeError, "input_levels"),
    "input_area": (lambda: conv(input_area=-4), ValueError, "input_area"),
    "input_area None": (lambda: conv(input_area=None), TypeError, "input_area"),
    "counts beyond a byte": (lambda: conv(input_area=64), ValueError, "timesteps"),
    "synaptic counts beyond a byte": (lambda: synaptic(input_area=100), ValueError, "timesteps"),
    "fixed_steps": (lambda: conv(fixed_steps=256), ValueError, "fixed_steps"),
    "residual_levels": (lambda: conv(residual_levels=-1), ValueError, "residual_levels"),
    "residual_area": (lambda: conv(residual_area=0), ValueError, "residual_area"),
    "residual_worth": (lambda: conv(residual_worth=torch.ones(3)), ValueError, "residual_worth"),
    "residual_worth type": (lambda: conv(residual_worth=1.0), TypeError, "residual_worth"),
    "emits": (lambda: conv(emits="spikes"), ValueError, "emits"),
    "sum pool kernel": (lambda: nn.CountSumPool2d(0), ValueError, "kernel_size"),
    "sum pool stride": (lambda: nn.CountSumPool2d(2, stride=2**40), ValueError, "stride"),
    "sum pool padding": (lambda: nn.CountSumPool2d(2, padding=-1), ValueError, "padding"),
    "sum pool size": (lambda: nn.CountSumPool2d(2, input_size=(4, 0)), ValueError, "input_size"),
    "pixels padding": (lambda: nn.PixelCounts(S, S, padding=2**40), ValueError, "padding"),
    "pixels worth": (lambda: nn.PixelCounts(S, torch.ones(3)), ValueError, "worth"),
    "rates worth": (lambda: nn.Rates(torch.ones(2, 2), 4), ValueError, "worth"),
    "rates area": (lambda: nn.Rates(S, 4, area=0), ValueError, "area"),
    "rates levels": (lambda: nn.Rates(S, 4, quantization_levels=0), ValueError, "quantization_levels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, error, name = BAD[case]
    with pytest.raises(error, match=f"^{name}: expected"):
        make()


def test_good_arguments():
    x = torch.randint(0, 5, (2, 2, 9, 9), dtype=torch.uint8)
    for options in (
        {},
        {"stride": 2, "padding": (1, 0), "dilation": [2, 1]},
        {"groups": 1, "bias": S, "threshold": S, "offset": S},
        {"bend": torch.zeros(4, 4)},
        {"input_levels": 2, "input_area": 3, "residual_worth": torch.tensor(0.5)},
    ):
        for kind in (W4, W4.bfloat16(), BYTES4):
            layer = conv(weight=kind, weight_scale=S if kind is BYTES4 else None, **options)
            assert layer(x).shape == layer._shape(x) and layer.stride == ((2, 2) if "stride" in options else (1, 1))
    layer = synaptic(stride=(1, 2))
    assert layer.configuration()["stride"] == (1, 2) and layer(x).shape == (2, 4, 7, 4)


def test_a_geometry_changed_by_hand_is_refused_where_it_is_used():
    layer = conv()
    x = torch.zeros(1, 2, 9, 9, dtype=torch.uint8)
    for stride in ((0, 1), (2**40, 1), (1,)):
        layer.stride = stride
        with pytest.raises((ValueError, RuntimeError, ZeroDivisionError)):
            layer(x)
