"""Spiking attention without softmax, collapsed over time. The name is that of `pcsnn.functional`."""

import torch
from torch import Tensor

from pcsnn.cpu import attention
from pcsnn.levels.spacing import Spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks


def _check_tensors(query, key, value, levels, scale, heads, causal):
    """The tensors of `spiking_attention`."""
    arguments.attention(query, key, value, heads, causal)
    if query.dim() != 3:
        raise ValueError(f"query: expected [N, M, H * D], got shape {tuple(query.shape)}")
    channels = 1, query.shape[-1]
    checks.level_table(levels, channels, query.dtype)
    checks.per_layer_or_channel("scale", scale, channels, arguments.VALUE_DTYPES)
    checks.same_device(query=query, key=key, value=value, levels=levels, scale=scale)


def _check(query, key, value, levels, scale, heads, causal, repeat, line=None, reach=0):
    _check_tensors(query, key, value, levels, scale, heads, causal)
    arguments.spaced(levels, repeat, line, reach)


dispatch.define(
    "spiking_attention(Tensor query, Tensor key, Tensor value, Tensor levels, Tensor scale, int heads, bool causal, "
    "int repeat, Tensor? line=None, int reach=0) -> Tensor",
    _check,
    out=lambda query, key, value, *_: query.new_empty((*query.shape[:-1], value.shape[-1])),
    cpu=attention.spiking_attention,
)


def spiking_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    levels: Tensor,
    *,
    scale: Tensor | float,
    heads: int = 1,
    causal: bool = False,
    repeat: int | None = None,
    spacing: Spacing | None = None,
) -> Tensor:
    """Attention without softmax of spiking queries, averaged over time, in one operation (20).

    Equal to (fire_rates(query, levels, scale) key^T) value head by head, where channels are the features; on a GPU
    neither spikes nor rates of the queries nor the scores are ever in memory.

    Args:
        query: mean current [N, M, H * D], float32, float16, bfloat16 or (on the CPU) float64; the features of a head
            lie side by side.
        key: average over time [N, S, H * D] of that dtype.
        value: average over time [N, S, H * E] of that dtype.
        levels: ascending, float32 [T] or [H * D, T] on the mean current of the queries.
        scale: what one distinct level is worth, times any factor of the products: a number or a float32 tensor []
            or [H * D].
        heads: H.
        causal: query i sees keys 0..i only; M must be S.
        repeat, spacing: as in `fire_rates`.

    Returns:
        [N, M, H * E] of the dtype of query. Sums are float32, of products of full float32 operands, or of half
        precision ones: there scores are rounded to that dtype on a GPU, and stay float32 on the CPU.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit; on a GPU float64, or D > 256.
        RuntimeError: an input requires a gradient.
    """
    if not isinstance(scale, torch.Tensor):
        checks.number("scale", scale)
        scale = torch.tensor(float(scale), dtype=torch.float32, device=checks.device_of(query))
    _check_tensors(query, key, value, levels, scale, heads, causal)
    checks.no_gradient(query=query, key=key, value=value)
    repeat, line, reach = spacing or spacing_of(levels, repeat, True)
    return dispatch.call("spiking_attention", query, key, value, levels, scale, heads, causal, repeat, line, reach)
