"""Spiking attention without softmax, collapsed over time. The name is that of `pcsnn.functional`."""

import torch

from pcsnn import ops, validate
from pcsnn.spacing import spacing_of


def check_attention(query, key, value, heads, causal):
    """Shapes and dtypes of [..., M, H * D], [..., S, H * D], [..., S, H * E], with equal leading dimensions."""
    validate.integer("heads", heads, 1, 2**31 - 1)
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected True or False, got {causal!r}")
    validate.tensor("query", query, validate.CURRENT_DTYPES, 3)
    validate.tensor("key", key, (query.dtype,), 3)
    validate.tensor("value", value, (query.dtype,), 3)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.shape[-1] == 0 or x.shape[-1] % heads:
            raise ValueError(f"{name}: expected features (the last dimension) of {heads} heads, got shape {tuple(x.shape)}")
    if key.shape != (*query.shape[:-2], key.shape[-2], query.shape[-1]):
        raise ValueError(f"key: expected {tuple(query.shape[:-2])}, any number of tokens, {query.shape[-1]}; "
                         f"got shape {tuple(key.shape)}")
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(f"value: expected the tokens of key {tuple(key.shape[:-1])}, got shape {tuple(value.shape)}")
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(f"key: expected as many tokens as query has, {query.shape[-2]}, to be causal, got {key.shape[-2]}")


def spiking_attention(query, key, value, levels, *, scale, heads=1, causal=False, repeat=None, spacing=None):
    """Attention without softmax of spiking queries, averaged over time, in one operation (20).

    Equal to (fire_rates(query, levels, scale) key^T) value head by head, where channels are the features; on a GPU neither
    spikes nor rates of the queries nor the scores are ever in memory.

    Args:
        query: mean current [N, M, H * D], float32, float16, bfloat16 or (on the CPU) float64; the features of a head lie side
            by side.
        key: average over time [N, S, H * D] of that dtype.
        value: average over time [N, S, H * E] of that dtype.
        levels: ascending, float32 [T] or [H * D, T] on the mean current of the queries.
        scale: what one distinct level is worth, times any factor of the products: a number or a float32 tensor [] or [H * D].
        heads: H.
        causal: query i sees keys 0..i only; M must be S.
        repeat, spacing: as in `fire_rates`.

    Returns:
        [N, M, H * E] of the dtype of query. Sums are float32, of products of full float32 operands, or of half precision ones:
        there scores are rounded to that dtype on a GPU, and stay float32 on the CPU.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit; on a GPU float64, or D > 256.
        RuntimeError: an input requires a gradient.
    """
    check_attention(query, key, value, heads, causal)
    if query.dim() != 3:
        raise ValueError(f"query: expected [N, M, H * D], got shape {tuple(query.shape)}")
    if not isinstance(scale, torch.Tensor):
        validate.number("scale", scale)
        scale = torch.tensor(float(scale), dtype=torch.float32, device=query.device)
    channels = (1, query.shape[-1])
    validate.level_table(levels, channels, query.dtype)
    validate.per_layer_or_channel("scale", scale, channels, (torch.float32, torch.float64))
    validate.same_device(query=query, key=key, value=value, levels=levels, scale=scale)
    validate.no_gradient(query=query, key=key, value=value)
    repeat, line, reach = spacing or spacing_of(levels, repeat, True)
    return ops.call("spiking_attention", query, key, value, levels, scale, heads, causal, repeat, line, reach)
