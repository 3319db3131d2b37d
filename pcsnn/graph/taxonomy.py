"""What each operation does to a value that is an average over time.

A sum over time commutes with every linear operation (11), (12), so those are exact on rates. These tables say which
operations are linear, which only move elements, which pool a maximum, and which only look at shapes.
"""

import operator

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.nn import ChannelScale

TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED_CONVOLUTIONS)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
SYNAPSE_MODULES = (*CONVOLUTIONS, nn.Linear, *BATCH_NORMS)
LOOKUPS = (nn.Embedding,)
LINEAR_MODULES = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
    nn.Fold,
    ChannelScale,
)
PADDINGS = (
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.ConstantPad3d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
    nn.CircularPad1d,
    nn.CircularPad2d,
    nn.CircularPad3d,
)
MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold, *PADDINGS)
MAX_POOL_MODULES = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
POOL_MODULES = MAX_POOL_MODULES + LINEAR_MODULES[:6]
DROPPED_MODULES = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Identity,
)
DROPPED_FUNCTIONS = (
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
)

SYNAPSE_FUNCTIONS = {
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.linear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
}
LOOKUP_FUNCTIONS = {F.embedding, torch.embedding}
RANDOM = {
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "normal",
    "poisson",
    "multinomial",
    "dropout",
    "alpha_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "feature_dropout",
    "rrelu",
    "gumbel_softmax",
}
AVERAGE_POOL_FUNCTIONS = {
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    torch.avg_pool1d,
    torch.adaptive_avg_pool1d,
    torch.mean,
}
LINEAR_FUNCTIONS = AVERAGE_POOL_FUNCTIONS | {
    torch.sum,
    torch.neg,
    torch.negative,
    operator.neg,
    F.fold,
    torch.cumsum,
    torch.tril,
    torch.triu,
    torch.diff,
}
WINDOWED_MAX_POOLS = {
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
    torch.max_pool1d,
    torch.max_pool2d,
    torch.max_pool3d,
}
MAX_POOL_FUNCTIONS = WINDOWED_MAX_POOLS | {torch.amax}
INTERPOLATIONS = {F.interpolate, F.upsample}
ADDITIONS = {operator.add, operator.sub, torch.add, torch.sub, torch.subtract, torch.rsub}
MATRIX_PRODUCTS = {operator.matmul, torch.matmul, torch.mm, torch.bmm}
SCALINGS = {operator.mul, torch.mul, torch.multiply}
PRODUCTS = MATRIX_PRODUCTS | SCALINGS | {torch.einsum, torch.tensordot, torch.inner, torch.outer, torch.mv, torch.dot}
QUOTIENTS = {operator.truediv, torch.div, torch.divide, torch.true_divide}
JOINING_FUNCTIONS = {
    torch.cat,
    torch.concat,
    torch.concatenate,
    torch.stack,
    torch.hstack,
    torch.vstack,
    torch.dstack,
    torch.column_stack,
}
# the first argument is what they move; others that change over time are refused
MOVING_FUNCTIONS = JOINING_FUNCTIONS | {
    torch.swapdims,
    torch.moveaxis,
    torch.ravel,
    torch.rot90,
    torch.fliplr,
    torch.flipud,
    torch.take_along_dim,
    torch.gather,
    torch.diagonal,
    torch.atleast_1d,
    torch.atleast_2d,
    torch.atleast_3d,
    operator.getitem,
    torch.flatten,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.chunk,
    torch.split,
    torch.unbind,
    torch.narrow,
    torch.select,
    torch.index_select,
    torch.flip,
    torch.roll,
    torch.movedim,
    torch.t,
    torch.clone,
    torch.unflatten,
    torch.tile,
    torch.repeat_interleave,
    torch.broadcast_to,
    torch.swapaxes,
    torch.channel_shuffle,
    torch.pixel_shuffle,
    torch.pixel_unshuffle,
    F.pad,
    F.pixel_shuffle,
    F.pixel_unshuffle,
    F.channel_shuffle,
    F.unfold,
    torch.tensor_split,
    torch.detach,
}
SHAPE_FUNCTIONS = {torch.zeros_like, torch.ones_like, torch.full_like, torch.numel}
SHAPE_ATTRIBUTES = {"shape", "dtype", "device", "ndim"}
MOVING_ATTRIBUTES = {"T", "mT", "values", "indices"}  # the latter of what several tensors come back in
CASTS = {"to", "float", "double", "half", "bfloat16", "int", "long", "short", "bool", "char", "byte", "type", "type_as"}

# methods that are rewritten to the torch function of the same name, so that the tables above hold for both
FUNCTION_METHODS = {
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "mean",
    "sum",
    "cumsum",
    "matmul",
    "mm",
    "bmm",
    "amax",
    "relu",
    "clamp",
    "clamp_min",
    "clip",
    "sigmoid",
    "tanh",
    "tril",
    "triu",
    "masked_fill",
    "subtract",
    "multiply",
    "divide",
    "true_divide",
    "negative",
    "max",
    "maximum",
    "diff",
    "mv",
    "inner",
    "outer",
    "dot",
}
MOVING_METHODS = {
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "chunk",
    "split",
    "unbind",
    "narrow",
    "select",
    "index_select",
    "flip",
    "roll",
    "movedim",
    "t",
    "clone",
    "unflatten",
    "expand",
    "expand_as",
    "repeat",
    "repeat_interleave",
    "view_as",
    "reshape_as",
    "swapaxes",
    "tile",
    "detach",
    "cpu",
    "cuda",
    "swapdims",
    "moveaxis",
    "ravel",
    "rot90",
    "fliplr",
    "flipud",
    "take_along_dim",
    "gather",
    "diagonal",
    "unfold",
    "tensor_split",
    "broadcast_to",
}
SIZE_METHODS = {"size", "dim", "numel", "ndimension"}
SHAPE_METHODS = SIZE_METHODS | {"new_zeros", "new_ones", "new_full"}

# what may return a view of its input; an in-place operation on one side then changes the other
VIEWS = {
    "getitem",
    "getattr",
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "chunk",
    "split",
    "tensor_split",
    "unbind",
    "narrow",
    "select",
    "movedim",
    "t",
    "unflatten",
    "expand",
    "expand_as",
    "broadcast_to",
    "view_as",
    "reshape_as",
    "to",
    "float",
    "double",
    "type",
    "type_as",
    "swapaxes",
    "detach",
    "cpu",
    "cuda",
    "swapdims",
    "moveaxis",
    "ravel",
    "diagonal",
    "unfold",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
}
VIEW_MODULES = (nn.Flatten, nn.Unflatten)
SPLITS = {"chunk", "split", "tensor_split", "unbind"}  # their parts do not overlap

# in-place form -> what it computes; assignments to slices have none and are refused
IN_PLACE_FUNCTIONS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    F.relu_: F.relu,
    F.hardtanh_: F.hardtanh,
    torch.clamp_: torch.clamp,
    torch.clamp_min_: torch.clamp_min,
    F.leaky_relu_: F.leaky_relu,
    F.elu_: F.elu,
    torch.sigmoid_: torch.sigmoid,
    torch.tanh_: torch.tanh,
}


def name(target):
    """The name of a method or function."""
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def is_nearest(mode):
    """Whether an interpolation mode only copies elements; all others are linear combinations."""
    return mode in ("nearest", "nearest-exact")
