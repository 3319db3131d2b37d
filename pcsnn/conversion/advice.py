"""What to do about an operation that cannot spike, by kind."""

from pcsnn.graph import activations
from pcsnn.graph.places import argument

_KEEP = "or keep it analog, applied to averages over time, with strict=False"
_ACTIVATIONS = {
    "Softplus",
    "softplus",
    "Softsign",
    "softsign",
    "Tanhshrink",
    "tanhshrink",
    "Hardshrink",
    "hardshrink",
    "Softshrink",
    "softshrink",
    "LogSigmoid",
    "logsigmoid",
    "Threshold",
    "threshold",
    "GLU",
    "glu",
    "Hardtanh",
    "hardtanh",
    "clamp",
    "clamp_max",
    "clamp_min",
    "minimum",
    "where",
    "abs",
    "pow",
    "square",
}
_GATES = {"sigmoid", "Sigmoid", "Hardsigmoid", "hardsigmoid", "Tanh", "tanh"}
_ATTENTION = {
    "Softmax",
    "Softmax2d",
    "softmax",
    "_softmax",
    "MultiheadAttention",
    "multi_head_attention_forward",
    "scaled_dot_product_attention",
    "TransformerEncoderLayer",
    "TransformerEncoder",
    "TransformerDecoderLayer",
    "TransformerDecoder",
    "Transformer",
}
_OUTPUTS = {"LogSoftmax", "log_softmax", "Softmin", "softmin", "argmax", "argmin", "topk", "sort", "argsort"}
_NORMS = {
    "LayerNorm",
    "layer_norm",
    "GroupNorm",
    "group_norm",
    "RMSNorm",
    "rms_norm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "instance_norm",
    "LocalResponseNorm",
    "local_response_norm",
    "normalize",
    "CrossMapLRN2d",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "rsqrt",
    "norm",
    "vector_norm",
}
_RECURRENT = {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"}
_STEPS = {"floor", "round", "ceil", "trunc", "fix", "sign", "heaviside", "frac"}
_UNPOOLED = {"MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d"}
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne", "logical_and", "logical_or", "logical_not", "isnan"}
_OVERWRITES = {
    "setitem",
    "index_put",
    "scatter",
    "index_add",
    "index_copy",
    "masked_scatter",
    "index_fill",
    "scatter_add",
}


def advice(node, name, modules):
    """Cause and one thing to do, for the report and the error that names the line of a node."""
    if "advice" in node.meta:
        return node.meta["advice"]
    if "dropout" in name.lower():
        return _dropout(node, name, modules)
    if "pool" in name.lower() or name in ("max", "min"):
        return _pool(node, name, modules)
    differs = activations.mismatch(node, modules)
    if differs is not None:
        return f"{name} {differs}, {_KEEP}"
    for names, text in (
        (
            activations.names(),
            f"goes below zero; convert it with signed=True, put a ReLU or pcsnn.nn.QCFS in its place and "
            f"train on, {_KEEP}",
        ),
        (
            _ATTENTION,
            "divides activations by one another inside the network; use attention without softmax, "
            "written out as matrix products "
            f"of Q, K and V, {_KEEP}",
        ),
        (
            _OUTPUTS,
            f"belongs behind the last layer: take it out of the model and apply it to the network's result, {_KEEP}",
        ),
        (
            _GATES,
            "is not linear; behind the last layer it may stand, as a gate it makes a product of two "
            "activations: train without the "
            f"gate, {_KEEP}",
        ),
        (
            _NORMS,
            f"divides by a statistic of the activations; normalise with batch norm, which is linear in "
            f"evaluation, {_KEEP}",
        ),
        (
            _RECURRENT,
            "feeds its own state back through sigmoids and tanh, which the average over time does not "
            "pass; convert the parts before "
            f"and behind it, {_KEEP}",
        ),
        (
            _STEPS,
            "makes a staircase of a form that is not known; the activation of the QCFS papers is "
            "pcsnn.nn.QCFS(levels), whose trained "
            f"checkpoints pcsnn.exchange.load_qcfs_checkpoint reads: put that module there, {_KEEP}",
        ),
        (
            _UNPOOLED,
            f"puts values where another layer had its maxima; upsample with nn.Upsample or a transposed "
            f"convolution, {_KEEP}",
        ),
        (
            _COMPARISONS,
            "decides by the values of activations, which the average over time does not pass; write "
            "what it selects as ReLU, "
            f"clamp, maximum or torch.where with constant bounds, {_KEEP}",
        ),
        (
            _OVERWRITES,
            f"overwrites parts of a tensor; write it as torch.cat, F.pad or torch.where of its parts, {_KEEP}",
        ),
        (
            _ACTIVATIONS,
            "is not linear, and clips other than at zero from below; ReLU, clamp(0, bound) and "
            "pcsnn.nn.QCFS spike, and with "
            f"signed=True leaky and smooth ones: put one of these there and train on, {_KEEP}",
        ),
    ):
        if name in names:
            return f"{name} {text}"
    what = type(modules[node.target]).__name__ if node.op == "call_module" else name
    if node.op == "call_module" and not _is_torch(modules[node.target]):
        return (
            f"{what} is a module that is not looked into, and not known to be linear; write it with layers of "
            f"torch.nn, {_KEEP}"
        )
    return (
        f"{what} is not known to be linear in what it reads, so it may not commute with the average over time; "
        f"write it as sums, products "
        f"with constants, concatenations and permutations if it is linear, {_KEEP}"
    )


def _is_torch(module):
    return type(module).__module__.startswith("torch.")


def _dropout(node, name, modules):
    rate = modules[node.target].p if node.op == "call_module" else argument(node, 1, "p", 0.5)
    if node.op == "call_function":
        return (
            f"{name} is called without training=self.training, so it drops values at random (p = {rate}) in "
            f"evaluation too; write "
            f"{name}(x, {rate}, training=self.training), which evaluation switches off, {_KEEP}"
        )
    return f"{name} drops values at random in evaluation too (p = {rate}); use nn.Dropout, {_KEEP}"


def _pool(node, name, modules):
    if name in _UNPOOLED:
        return (
            f"{name} puts values where another layer had its maxima; upsample with nn.Upsample or a transposed "
            f"convolution, {_KEEP}"
        )
    if "lp_pool" in name or name.startswith("LPPool"):
        return (
            f"{name} of a norm other than 1 takes powers of activations; norm_type=1 is a sum, average pooling is "
            f"linear, {_KEEP}"
        )
    if name in ("max", "min") or "max" in name.lower():
        return (
            f"{name} returns the places of its maxima, and they are read: they depend on values at one time; "
            f"upsample without them "
            f"(nn.Upsample, a transposed convolution), {_KEEP}"
        )
    return f"{name} is no average or maximum over fixed windows; use nn.AvgPool2d or nn.MaxPool2d, {_KEEP}"
