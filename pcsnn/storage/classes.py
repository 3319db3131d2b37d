"""The module classes that a network file may name, and the arguments that each may have, with their types and bounds.

Sizes are bounded by the tensors that must fit them; the bounds here are on what no tensor shows: strides, padding,
sizes of outputs.
"""

import math

from torch import nn

import pcsnn.nn
from pcsnn.levels.activations import kinds
from pcsnn.nn.synapses import LAYERS
from pcsnn.storage.values import is_whole

MOST = 2**31 - 1  # any size; the tensors of the file must have it
MOST_STEP = 2**15  # strides, dilations, kernels
MOST_PADDED = 2**24  # positions that padding may add to a layer's input
MOST_GROWTH = 2**18  # how many times as large an upsampling or a transposed convolution may make its input
MOST_OUT = 2**26  # elements of a channel, where an argument says how many


def is_flag(value):
    return isinstance(value, bool)


def number(value):
    return is_whole(value) or isinstance(value, float)


def whole(low, high=MOST):
    return lambda value: is_whole(value) and low <= value <= high


def choice(*texts):
    return lambda value: isinstance(value, str) and value in texts


def optional(check):
    return lambda value: value is None or check(value)


def either(*checks):
    return lambda value: any(check(value) for check in checks)


def _items(value, repeated):
    """The numbers of an argument that is one number for `repeated` dimensions, or one for each."""
    return value if isinstance(value, (tuple, list)) else (value,) * repeated


def wholes(low, high=MOST, product=None):
    """One integer in low..high or a few, whose absolute values (those above 0) have at most this product.

    None may be among the few: as it was.
    """

    def check(value):
        items = _items(value, 2)
        if not 1 <= len(items) <= 8 or not all(
            is_whole(item) and low <= item <= high for item in items if item is not None
        ):
            return False
        return product is None or math.prod(max(abs(item or 1), 1) for item in items) <= product

    return check


def _pads(value):
    """Padding of a convolution or pool, one number or one for each dimension."""
    items = _items(value, 3)
    return (
        1 <= len(items) <= 3
        and all(is_whole(item) and 0 <= item for item in items)
        and math.prod(2 * item + 1 for item in items) <= MOST_PADDED
    )


def _borders(value):
    """Padding of a padding layer: one number, or two for each dimension."""
    items = _items(value, 6)
    if (
        not 2 <= len(items) <= 6
        or len(items) % 2
        or not all(is_whole(item) and abs(item) <= MOST_PADDED for item in items)
    ):
        return False
    return math.prod(abs(low) + abs(high) + 1 for low, high in zip(items[::2], items[1::2])) <= MOST_PADDED


def _scales(value):
    items = _items(value, 3)
    return (
        1 <= len(items) <= 3
        and all(number(item) and 0 < item <= MOST_GROWTH for item in items)
        and math.prod(items) <= MOST_GROWTH
    )


is_size, _steps = whole(0), wholes(1, MOST_STEP)
_sizes, _kernel = wholes(1), wholes(1, MOST_STEP)
_outputs = optional(wholes(1, MOST, MOST_OUT))
_mode = choice("nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact")
_level = whole(1, 255)

_LINEAR = dict(in_features=is_size, out_features=is_size, bias=is_flag)
_CONV = dict(
    in_channels=is_size,
    out_channels=is_size,
    kernel_size=_kernel,
    stride=_steps,
    padding=either(_pads, choice("same", "valid")),
    dilation=_steps,
    groups=whole(1),
    bias=is_flag,
    padding_mode=choice("zeros", "reflect", "replicate", "circular"),
)
_TRANSPOSED = {
    **_CONV,
    "stride": wholes(1, MOST_STEP, MOST_GROWTH),
    "padding": _pads,
    "output_padding": wholes(0, MOST_STEP),
    "padding_mode": choice("zeros"),
}
_NORM = dict(
    num_features=is_size,
    eps=number,
    momentum=optional(number),
    affine=is_flag,
    track_running_stats=is_flag,
    bias=is_flag,
)
_POOL = dict(kernel_size=_kernel, stride=optional(_steps), padding=_pads, ceil_mode=is_flag)
_MEAN = {**_POOL, "count_include_pad": is_flag}
_DIVIDED = {**_MEAN, "divisor_override": optional(whole(1))}
_MAX = {**_POOL, "dilation": _steps, "return_indices": is_flag}
_FOLD = dict(kernel_size=_kernel, dilation=_steps, padding=_pads, stride=_steps)
_RNN = dict(
    input_size=is_size,
    hidden_size=is_size,
    num_layers=whole(1, 2**10),
    bias=is_flag,
    batch_first=is_flag,
    dropout=number,
    bidirectional=is_flag,
)
_CELL = dict(input_size=is_size, hidden_size=is_size, bias=is_flag)
_NONLINEARITY = dict(nonlinearity=choice("tanh", "relu"))
_DIM = dict(dim=optional(whole(-64, 64)))

_NN = {
    "Linear": _LINEAR,
    "Bilinear": dict(in1_features=is_size, in2_features=is_size, out_features=is_size, bias=is_flag),
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _CONV),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _TRANSPOSED),
    **dict.fromkeys(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _NORM
    ),
    "SyncBatchNorm": {**_NORM, "process_group": lambda value: value is None},
    "GroupNorm": dict(num_groups=whole(1), num_channels=is_size, eps=number, affine=is_flag, bias=is_flag),
    "LayerNorm": dict(normalized_shape=_sizes, eps=number, elementwise_affine=is_flag, bias=is_flag),
    "RMSNorm": dict(normalized_shape=_sizes, eps=optional(number), elementwise_affine=is_flag),
    "LocalResponseNorm": dict(size=whole(1, MOST_STEP), alpha=number, beta=number, k=number),
    "AvgPool1d": _MEAN,
    "AvgPool2d": _DIVIDED,
    "AvgPool3d": _DIVIDED,
    **dict.fromkeys(("MaxPool1d", "MaxPool2d", "MaxPool3d"), _MAX),
    **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"), dict(output_size=_outputs)),
    **dict.fromkeys(
        ("AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"),
        dict(output_size=_outputs, return_indices=is_flag),
    ),
    **dict.fromkeys(
        ("LPPool1d", "LPPool2d"),
        dict(norm_type=number, kernel_size=_kernel, stride=optional(_steps), ceil_mode=is_flag),
    ),
    "Upsample": dict(
        size=_outputs,
        scale_factor=optional(_scales),
        mode=_mode,
        align_corners=optional(is_flag),
        recompute_scale_factor=optional(is_flag),
    ),
    **dict.fromkeys(
        ("UpsamplingNearest2d", "UpsamplingBilinear2d"), dict(size=_outputs, scale_factor=optional(_scales))
    ),
    "Fold": dict(output_size=_outputs, **_FOLD),
    "Unfold": _FOLD,
    "Flatten": dict(start_dim=whole(-64, 64), end_dim=whole(-64, 64)),
    "Unflatten": dict(dim=whole(-64, 64), unflattened_size=wholes(-1)),
    "PixelShuffle": dict(upscale_factor=whole(1, MOST_STEP)),
    "PixelUnshuffle": dict(downscale_factor=whole(1, MOST_STEP)),
    "ChannelShuffle": dict(groups=whole(1)),
    **{
        f"{kind}Pad{n}d": dict(padding=_borders)
        for kind in ("Zero", "Reflection", "Replication", "Circular")
        for n in (1, 2, 3)
    },
    **{f"ConstantPad{n}d": dict(padding=_borders, value=number) for n in (1, 2, 3)},
    **dict.fromkeys(
        (
            "ReLU",
            "ReLU6",
            "SELU",
            "SiLU",
            "Mish",
            "Hardswish",
            "Hardsigmoid",
            "Tanhshrink",
            "Softsign",
            "Sigmoid",
            "Tanh",
            "LogSigmoid",
            "Softmax2d",
            "Identity",
        ),
        {},
    ),
    "Hardtanh": dict(min_val=number, max_val=number),
    "LeakyReLU": dict(negative_slope=number),
    "PReLU": dict(num_parameters=is_size, init=number),
    "RReLU": dict(lower=number, upper=number),
    **dict.fromkeys(("ELU", "CELU"), dict(alpha=number)),
    "GELU": dict(approximate=choice("none", "tanh")),
    **dict.fromkeys(("Hardshrink", "Softshrink"), dict(lambd=number)),
    "Softplus": dict(beta=number, threshold=number),
    "Threshold": dict(threshold=number, value=number),
    **dict.fromkeys(("GLU", "Softmax", "Softmin", "LogSoftmax"), _DIM),
    **dict.fromkeys(
        ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"), dict(p=number)
    ),
    "CosineSimilarity": dict(dim=whole(-64, 64), eps=number),
    "PairwiseDistance": dict(p=number, eps=number, keepdim=is_flag),
    "Embedding": dict(
        num_embeddings=is_size,
        embedding_dim=is_size,
        padding_idx=optional(whole(-MOST)),
        max_norm=optional(number),
        norm_type=number,
        scale_grad_by_freq=is_flag,
        sparse=is_flag,
    ),
    "LSTM": {**_RNN, "proj_size": is_size},
    "GRU": _RNN,
    "RNN": {**_RNN, **_NONLINEARITY},
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "RNNCell": {**_CELL, **_NONLINEARITY},
    "MultiheadAttention": dict(
        embed_dim=is_size,
        num_heads=whole(1),
        dropout=number,
        bias=is_flag,
        add_bias_kv=is_flag,
        add_zero_attn=is_flag,
        kdim=is_size,
        vdim=is_size,
        batch_first=is_flag,
    ),
    "TransformerEncoderLayer": dict(
        d_model=is_size,
        nhead=whole(1),
        dim_feedforward=is_size,
        dropout=number,
        activation=choice("relu", "gelu"),
        layer_norm_eps=number,
        batch_first=is_flag,
        norm_first=is_flag,
        bias=is_flag,
    ),
}

_GEOMETRY = dict(stride=_steps, padding=_pads, dilation=_steps, groups=whole(1))
_NEURON = dict(timesteps=_level, quantization_levels=optional(_level), shift=number, spike_levels=_level)


def _known_kind(value):
    """Whether a text names an activation; ValueError for what may have been one where the file was written."""
    if value in kinds():
        return True
    if isinstance(value, str) and value.isidentifier() and len(value) <= 100:
        raise ValueError(
            f"path: its activation {value!r} is not known here: pcsnn.register_activation({value!r}, ...) with the "
            "formula that it had where the file was written, then load it again"
        )
    return False


def _sample(value):
    return isinstance(value, (tuple, list)) and len(value) <= 16 and all(map(number, value))


_READS = dict(timesteps=_level, input_levels=optional(_level), input_area=_level, input_spike_levels=_level)
_SPIKING = {
    **_NEURON,
    **_READS,
    "counted": is_flag,
    "fixed_steps": optional(_level),
    "residual_levels": optional(_level),
    "residual_area": _level,
    "residual_spike_levels": _level,
    "emits": choice("counts", "rates"),
}
_SYNAPTIC = {**_READS, "emits": choice("current", "values")}
_PCSNN = {
    "QCFS": dict(levels=_level),
    "ChannelScale": {},
    "TimeAverage": {},
    "CollapsedNeuron": {**_NEURON, "inplace": is_flag},
    "SignedNeuron": dict(kind=_known_kind, timesteps=_level, inplace=is_flag, sample=_sample, spike_levels=_level),
    "CountMaxPool2d": _MAX,
    "CountSumPool2d": dict(kernel_size=_kernel, stride=optional(_steps), padding=_pads, input_size=_outputs),
    "PixelCounts": dict(padding=_pads),
    "Rates": dict(timesteps=_level, quantization_levels=optional(_level), area=_level, spike_levels=_level),
}
for _kind, _layers in LAYERS.items():
    for _layer, _arguments in zip(_layers, (_SPIKING, _SYNAPTIC)):
        _PCSNN[_layer.__name__] = {**_arguments, **{name: _GEOMETRY[name] for name in _kind.GEOMETRY}}

CLASSES = {
    f"{prefix}.{name}": (vars(holder)[name], arguments)
    for prefix, holder, table in (("nn", nn, _NN), ("pcsnn.nn", pcsnn.nn, _PCSNN))
    for name, arguments in table.items()
}
CLASS_NAMES = {kind: name for name, (kind, _) in CLASSES.items()}

RECURRENT = (nn.LSTM,)  # returns nested tuples
SEVERAL = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.MultiheadAttention)  # return several tensors
PASSING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    pcsnn.nn.TimeAverage,
    pcsnn.nn.CountSumPool2d,
)  # may return what they are given, whatever it is
