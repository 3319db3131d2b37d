"""The role of each operation of a network: what it does to a value that is an average over time.

A sum over time commutes with every linear operation (11), (12), so those are exact on rates. The tables below give each
layer, function, method and attribute its `Role`, once for all passes: conversion, counts of operations, NIR and fusion
look it up with `role`, and a new layer of torch is a word in one of them.
"""

import enum
import operator

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.nn import ChannelScale, CollapsedNeuron


class Role(enum.Enum):
    """What a node of a graph is."""

    SYNAPSE = enum.auto()  # a convolution or a linear layer
    NORM = enum.auto()  # batch norm
    LOOKUP = enum.auto()  # embedding
    NEURON = enum.auto()
    MAX_POOL = enum.auto()  # the maximum over a window or dimensions, without its places
    MAXIMUM = enum.auto()  # the larger of two values
    AVERAGE_POOL = enum.auto()
    MEAN = enum.auto()
    REDUCTION = enum.auto()  # sums within a value
    INTERPOLATION = enum.auto()
    SUM = enum.auto()
    DIFFERENCE = enum.auto()
    NEGATION = enum.auto()
    LINEAR = enum.auto()  # of no other role here
    MASK = enum.auto()  # zeros above or below a diagonal
    FILL = enum.auto()  # a value where a mask is true
    SCALE = enum.auto()  # a product element by element
    CHANNEL_SCALE = enum.auto()  # a number for each channel
    QUOTIENT = enum.auto()
    PRODUCT = enum.auto()  # of matrices and the like
    JOIN = enum.auto()  # along a dimension that is there
    STACK = enum.auto()
    SPLIT = enum.auto()  # into parts along a dimension
    INDEX = enum.auto()
    FLATTEN = enum.auto()
    RESHAPE = enum.auto()
    COPY = enum.auto()  # the same elements in the same places
    PAD = enum.auto()
    MOVE = enum.auto()  # any other move of elements
    ATTRIBUTE = enum.auto()
    CAST = enum.auto()
    SHAPE = enum.auto()  # sizes, and values made of sizes alone
    OTHER = enum.auto()


MOVES = {Role.JOIN, Role.STACK, Role.SPLIT, Role.INDEX, Role.FLATTEN, Role.RESHAPE, Role.COPY, Role.PAD, Role.MOVE}
ALWAYS_LINEAR = {  # in what changes over time
    Role.AVERAGE_POOL,
    Role.MEAN,
    Role.REDUCTION,
    Role.INTERPOLATION,
    Role.SUM,
    Role.DIFFERENCE,
    Role.NEGATION,
    Role.LINEAR,
    Role.MASK,
}
_DIMENSIONS = "1d 2d 3d"


def _in(home, names, endings=None):
    """What a package has of some names, or of each name with each ending."""
    endings = [""] if endings is None else endings.split()
    return {getattr(home, name + ending) for name in names.split() for ending in endings}


def _by_kind(table):
    """{role: kinds} as {kind: role}."""
    return {kind: role for role, kinds in table.items() for kind in kinds}


TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED_CONVOLUTIONS)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_MODULES = _by_kind(
    {
        Role.SYNAPSE: {*CONVOLUTIONS, nn.Linear},
        Role.NORM: BATCH_NORMS,
        Role.LOOKUP: {nn.Embedding},
        Role.NEURON: {CollapsedNeuron},
        Role.MAX_POOL: _in(nn, "MaxPool AdaptiveMaxPool", _DIMENSIONS),
        Role.AVERAGE_POOL: _in(nn, "AvgPool AdaptiveAvgPool", _DIMENSIONS),
        Role.REDUCTION: {nn.Fold},
        Role.INTERPOLATION: {nn.Upsample},
        Role.CHANNEL_SCALE: {ChannelScale},
        Role.FLATTEN: {nn.Flatten},
        Role.PAD: _in(nn, "ZeroPad ConstantPad ReflectionPad ReplicationPad CircularPad", _DIMENSIONS),
        Role.MOVE: _in(nn, "Unflatten PixelShuffle PixelUnshuffle ChannelShuffle Unfold"),
    }
)
WINDOWED_MAX_POOLS = _in(F, "max_pool adaptive_max_pool", _DIMENSIONS) | _in(torch, "max_pool", _DIMENSIONS)
MATRIX_PRODUCTS = {operator.matmul, torch.matmul, torch.mm, torch.bmm}
# of several values, the first argument is what a move moves; others that change over time are refused
FUNCTIONS = _by_kind(
    {
        Role.SYNAPSE: {F.linear}.union(*(_in(home, "conv conv_transpose", _DIMENSIONS) for home in (F, torch))),
        Role.NORM: {F.batch_norm},
        Role.LOOKUP: {F.embedding, torch.embedding},
        Role.MAX_POOL: {*WINDOWED_MAX_POOLS, torch.amax},
        Role.MAXIMUM: {torch.maximum},
        Role.AVERAGE_POOL: _in(F, "avg_pool adaptive_avg_pool", _DIMENSIONS)
        | _in(torch, "avg_pool1d adaptive_avg_pool1d"),
        Role.MEAN: {torch.mean},
        Role.REDUCTION: {torch.sum, torch.cumsum, F.fold},
        Role.INTERPOLATION: {F.interpolate, F.upsample},
        Role.SUM: {operator.add, torch.add},
        Role.DIFFERENCE: {operator.sub, torch.sub, torch.subtract, torch.rsub},
        Role.NEGATION: {operator.neg, torch.neg, torch.negative},
        Role.LINEAR: {torch.diff},
        Role.MASK: {torch.tril, torch.triu},
        Role.FILL: {torch.masked_fill},
        Role.SCALE: {operator.mul, torch.mul, torch.multiply},
        Role.QUOTIENT: {operator.truediv, torch.div, torch.divide, torch.true_divide},
        Role.PRODUCT: MATRIX_PRODUCTS | _in(torch, "einsum tensordot inner outer mv dot"),
        Role.JOIN: {torch.cat, torch.concat, torch.concatenate},
        Role.STACK: _in(torch, "stack hstack vstack dstack column_stack"),
        Role.SPLIT: _in(torch, "chunk split tensor_split"),
        Role.INDEX: {operator.getitem},
        Role.FLATTEN: {torch.flatten},
        Role.RESHAPE: {torch.reshape},
        Role.COPY: {torch.clone, torch.detach},
        Role.PAD: {F.pad},
        Role.MOVE: _in(
            torch,
            "swapdims moveaxis ravel rot90 fliplr flipud take_along_dim gather diagonal atleast_1d atleast_2d "
            "atleast_3d permute transpose squeeze unsqueeze unbind narrow select index_select flip roll movedim t "
            "unflatten tile repeat_interleave broadcast_to swapaxes channel_shuffle pixel_shuffle pixel_unshuffle",
        )
        | _in(F, "pixel_shuffle pixel_unshuffle channel_shuffle unfold"),
        Role.SHAPE: _in(torch, "zeros_like ones_like full_like numel"),
    }
)
# methods that are rewritten to the torch function of the same name, so that the table above holds for both
FUNCTION_METHODS = set(
    "add sub mul div neg mean sum cumsum matmul mm bmm amax relu clamp clamp_min clip sigmoid tanh tril triu "
    "masked_fill subtract multiply divide true_divide negative max maximum diff mv inner outer dot".split()
)
SIZE_METHODS = {"size", "dim", "numel", "ndimension"}
METHODS = {
    name: FUNCTIONS[getattr(torch, name)] for name in FUNCTION_METHODS if getattr(torch, name) in FUNCTIONS
} | _by_kind(
    {
        Role.SPLIT: {"chunk", "split", "tensor_split"},
        Role.FLATTEN: {"flatten"},
        Role.RESHAPE: {"view", "reshape", "view_as", "reshape_as"},
        Role.COPY: {"contiguous", "clone", "detach", "cpu", "cuda"},
        Role.MOVE: set(
            "permute transpose squeeze unsqueeze unbind narrow select index_select flip roll movedim t unflatten "
            "expand expand_as repeat repeat_interleave swapaxes tile swapdims moveaxis ravel rot90 fliplr flipud "
            "take_along_dim gather diagonal unfold broadcast_to".split()
        ),
        Role.CAST: set("to float double half bfloat16 int long short bool char byte type type_as".split()),
        Role.SHAPE: {*SIZE_METHODS, "new_zeros", "new_ones", "new_full"},
    }
)
SHAPE_ATTRIBUTES = {"shape", "dtype", "device", "ndim"}
MOVING_ATTRIBUTES = {"T", "mT", "values", "indices"}  # the latter of what several tensors come back in
DROPPED_MODULES = tuple(_in(nn, "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout Identity"))
DROPPED_FUNCTIONS = {torch.dropout} | _in(
    F, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
)
RANDOM = set(
    "rand_like randn_like randint_like bernoulli normal poisson multinomial dropout alpha_dropout dropout1d dropout2d "
    "dropout3d feature_alpha_dropout feature_dropout rrelu gumbel_softmax".split()
)
# what may return a view of its input; an in-place operation on one side then changes the other
VIEWS = set(
    "getitem getattr view reshape flatten permute transpose squeeze unsqueeze contiguous chunk split tensor_split "
    "unbind narrow select movedim t unflatten expand expand_as broadcast_to view_as reshape_as to float double type "
    "type_as swapaxes detach cpu cuda swapdims moveaxis ravel diagonal unfold atleast_1d atleast_2d atleast_3d".split()
)
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


def role(node, modules):
    """The Role of a node of a graph; `modules`: {name: module} of the network."""
    if node.op == "call_module":
        kinds = type(modules[node.target]).__mro__
        found = next((_MODULES[kind] for kind in kinds if kind in _MODULES), Role.OTHER)
    elif node.op == "call_method":
        found = METHODS.get(node.target, Role.OTHER)
    elif node.target is getattr:
        found = Role.SHAPE if node.args[1] in SHAPE_ATTRIBUTES else Role.ATTRIBUTE
    else:
        found = FUNCTIONS.get(node.target, Role.OTHER)
    if found is Role.MAX_POOL and gives_places(node, modules):
        return Role.OTHER
    return found


def gives_places(node, modules):
    """Whether a max pool returns the places of its maxima too."""
    if node.op == "call_module":
        return modules[node.target].return_indices
    return bool(node.kwargs.get("return_indices"))


def modules_of(*roles):
    """The classes of layers that have one of `roles`, for isinstance."""
    return tuple(kind for kind, own in _MODULES.items() if own in roles)


def functions_of(*roles):
    """The functions that have one of `roles`."""
    return {function for function, own in FUNCTIONS.items() if own in roles}


def name(target):
    """The name of a method or function."""
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def is_nearest(mode):
    """Whether an interpolation mode only copies elements; all others are linear combinations."""
    return mode in ("nearest", "nearest-exact")
