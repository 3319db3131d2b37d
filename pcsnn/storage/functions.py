"""The functions, methods, attributes and keywords that a network file may name: what the converter and analog
operations need.

Written out, never looked up in torch: some of torch's functions write outside of their tensors, keep what memory held
before, run Python functions, draw random numbers or open files. What is missing here, `pcsnn.save` refuses by name.
"""

import builtins
import operator

import torch
import torch.nn.functional as F

_F = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear embedding one_hot
avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d lp_pool1d lp_pool2d
max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
interpolate upsample grid_sample affine_grid pad fold unfold pixel_shuffle pixel_unshuffle channel_shuffle
relu relu6 hardtanh leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardshrink softshrink
tanhshrink softplus softsign sigmoid tanh logsigmoid threshold glu softmax softmin log_softmax
batch_norm instance_norm layer_norm group_norm rms_norm local_response_norm normalize
dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
scaled_dot_product_attention cosine_similarity pairwise_distance
"""
_TORCH = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d bilinear embedding
avg_pool1d adaptive_avg_pool1d max_pool1d max_pool2d max_pool3d channel_shuffle pixel_shuffle pixel_unshuffle
add sub subtract rsub mul multiply div divide true_divide floor_divide remainder fmod neg negative positive reciprocal
matmul mm bmm mv dot vdot inner outer addmm addmv addbmm baddbmm einsum tensordot cross cdist
mean sum prod cumsum cumprod amax amin max min argmax argmin maximum minimum median std var std_mean var_mean norm
logsumexp topk sort argsort all any aminmax
cat concat concatenate stack hstack vstack dstack column_stack flatten reshape permute transpose swapaxes swapdims
squeeze unsqueeze chunk split unbind tensor_split narrow select index_select gather take_along_dim flip fliplr flipud
roll rot90 movedim moveaxis t clone detach unflatten ravel tile repeat_interleave broadcast_to broadcast_tensors
diagonal tril triu meshgrid numel atleast_1d atleast_2d atleast_3d
zeros ones full arange linspace zeros_like ones_like full_like
relu clamp clip clamp_min clamp_max sigmoid tanh softmax log_softmax prelu selu celu rrelu threshold hardshrink
exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow abs absolute sign floor ceil round trunc frac
sin cos tan asin acos atan atan2 arctan2 sinh cosh asinh acosh atanh erf erfc erfinv logit lerp addcmul addcdiv diff
eq ne lt le gt ge isnan isinf isfinite isclose logical_and logical_or logical_xor logical_not where masked_fill
nan_to_num batch_norm instance_norm layer_norm group_norm rms_norm dropout alpha_dropout feature_alpha_dropout
"""
_OPERATOR = "add sub mul truediv floordiv mod neg pos pow matmul getitem eq ne lt le gt ge and_ or_ xor invert"
_METHODS = """
view reshape flatten permute transpose squeeze unsqueeze contiguous chunk split unbind tensor_split narrow select
index_select gather take_along_dim flip fliplr flipud roll rot90 movedim moveaxis t clone unflatten ravel expand
expand_as repeat repeat_interleave view_as reshape_as swapaxes swapdims tile detach diagonal broadcast_to unfold
sum_to_size to float double half bfloat16 int long short char byte bool type type_as cpu cuda size dim numel ndimension
new_zeros new_ones new_full
add sub mul div neg subtract multiply divide true_divide floor_divide remainder fmod negative
reciprocal matmul mm bmm mv dot inner outer addmm baddbmm
mean sum prod cumsum cumprod amax amin max min argmax argmin maximum minimum median std var norm logsumexp topk sort
argsort all any relu clamp clip clamp_min clamp_max sigmoid tanh softmax log_softmax prelu hardshrink tril triu
masked_fill where exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow abs absolute sign floor ceil round trunc
frac sin cos tan asin acos atan atan2 sinh cosh erf erfc lerp addcmul addcdiv diff nan_to_num
eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_xor logical_not
"""
_KEYWORDS = """
input other weight bias stride padding dilation groups output_padding kernel_size ceil_mode count_include_pad
divisor_override output_size return_indices norm_type size scale_factor mode align_corners recompute_scale_factor
antialias pad value upscale_factor downscale_factor grid theta padding_mode inplace negative_slope alpha beta lower
upper approximate lambd threshold min_val max_val min max dim dim0 dim1 dims dtype keepdim running_mean running_var
training train momentum eps use_input_stats normalized_shape num_groups p k embedding_dim padding_idx max_norm
scale_grad_by_freq sparse num_classes query key attn_mask dropout_p is_causal scale enable_gqa x1 x2 tensors tensor
exponent rounding_mode unbiased correction largest sorted descending stable start end step steps length index indices
repeats shifts sizes shape start_dim end_dim split_size split_size_or_sections chunks sections split_sizes source
destination diagonal offset fill_value device layout memory_format non_blocking copy out equal_nan nan posinf neginf
rtol atol vec1 vec2 mat1 mat2 mat batch1 batch2 tensor1 tensor2 condition mask a b equation operands indexing axis axis0
axis1 _stacklevel output_ratio affine base decimals cudnn_enabled dimension x keepdims hx src src_mask
src_key_padding_mask key_padding_mask need_weights average_attn_weights residual current counts
"""

ATTRIBUTES = frozenset("shape dtype device ndim T mT values indices".split())
METHODS = frozenset(_METHODS.split())
KEYWORDS = frozenset(_KEYWORDS.split())
FUNCTIONS = {
    f"{prefix}.{name}": vars(holder)[name]
    for holder, prefix, names in ((F, "F", _F), (torch, "torch", _TORCH), (operator, "operator", _OPERATOR))
    for name in names.split()
} | {"getattr": builtins.getattr}
_FOUND = {function: name for name, function in reversed(FUNCTIONS.items())}  # F.conv2d is torch.conv2d: the first name

# what may make its result larger than what it reads, by numbers in the call
GROWING = frozenset(
    """
zeros ones full arange linspace new_zeros new_ones new_full expand broadcast_to repeat tile repeat_interleave
interpolate upsample pad one_hot fold unfold affine_grid adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d
""".split()
)
# of these, those that take sizes and nothing else behind what they read: no tensor, whose values are not known, may be
# a size
SIZED = GROWING - {
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "full",
    "new_full",
}
MAKES = frozenset("zeros ones full arange linspace".split())  # those that read no tensor at all
# what returns several tensors, always or where it is given a dimension
SEVERAL = frozenset(
    """
chunk split unbind tensor_split meshgrid broadcast_tensors std_mean var_mean aminmax topk sort
""".split()
)
SEVERAL_OVER_DIM = frozenset("max min median".split())


def function_name(function):
    """The name in files of a function; ValueError for those that a file may not name."""
    try:
        return _FOUND[function]
    except (KeyError, TypeError):
        raise ValueError(
            f"snn: cannot save a call of {_described(function)}: only functions of torch on a list, see "
            "docs/files.md; compute it outside of the network, or write it with others"
        ) from None


def _described(function):
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", None)
    return f"{module or 'torch'}.{name}" if name else repr(function)


def function(name):
    """The function of a name in a file."""
    if name not in FUNCTIONS:
        raise ValueError(f"path: names the function {name!r}, which is not allowed in a network file")
    return FUNCTIONS[name]
