"""Attention without softmax on the CPU: rates by the extension, products by torch."""

import torch

from pcsnn.tensors.arithmetic import compute_dtype
from pcsnn.tensors.attention import attend


def spiking_attention(query, key, value, levels, scale, heads, causal, repeat, line=None, reach=0):
    """The operator on the CPU: rates by the extension, products by torch, in float32 for half precision."""
    rates = torch.ops.pcsnn.fire_rates(query.flatten(0, 1), levels, scale, None, None, repeat, 0, 0, line, reach).view(
        query.shape
    )
    precise = compute_dtype(query)
    return attend(rates.to(precise), key.to(precise), value.to(precise), heads, causal).to(query.dtype).contiguous()
