"""Operators of pcsnn on counts as operators of ONNX: for torch.onnx.export, which calls these functions on symbols."""

import torch


def translations():
    """{operator of pcsnn: function that writes it}. ImportError where onnxscript is missing."""
    from onnxscript import opset18 as op

    def conv2d(counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, *rest):
        return op.ConvInteger(
            counts, weight, strides=list(stride), pads=list(padding) * 2, dilations=list(dilation), group=groups
        )

    def linear(counts, weight, *rest):
        return op.MatMulInteger(counts, op.Transpose(weight, perm=[1, 0]))

    def max_pool(counts, kernel, stride, padding, dilation, sizes):
        largest, _places = op.MaxPool(
            counts,
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=_pads(counts, kernel, stride, padding, dilation, sizes),
            dilations=list(dilation),
        )
        return largest

    def sum_pool(counts, kernel, stride, padding, dilation, sizes):
        """Means times the area are whole numbers but for rounding."""
        means = op.AveragePool(
            op.Cast(counts, to=1),
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=_pads(counts, kernel, stride, padding, dilation, sizes),
            count_include_pad=1,
        )
        area = op.Constant(value_float=float(kernel[0] * kernel[1]))
        return op.Cast(op.Round(op.Mul(means, area)), to=2)

    operators = torch.ops.pcsnn
    return {
        operators.conv2d_fire.default: conv2d,
        operators.linear_fire.default: linear,
        operators.max_pool2d.default: max_pool,
        operators.sum_pool2d.default: sum_pool,
    }


def _pads(counts, kernel, stride, padding, dilation, sizes):
    """Padding before and behind, so that windows laid from the front give these sizes."""
    ends = [
        max(0, (size - 1) * step + spread * (taps - 1) + 1 - length - pad)
        for size, step, spread, taps, length, pad in zip(
            sizes, stride, dilation, kernel, tuple(counts.shape)[2:], padding
        )
    ]
    return [*padding, *ends]
