"""Attention without softmax in plain torch, on any device; a causal product is made in chunks of tokens."""

import torch

from pcsnn.tensors.shapes import join_heads, keys_first, split_heads

CHUNK = 64  # queries of a causal product that are masked together; what lies before them is summed in a state [D, E]


def multiply(query, key, value, causal):
    """[..., M, D], [..., S, D], [..., S, E] -> [..., M, E]; leading dimensions broadcast.

    Without a mask the two products in the order of fewer multiplications; a causal one (Q K^T) masked, V within chunks of
    `CHUNK` tokens and Q (K^T V) with all before them.
    """
    if not causal:
        queries = query.shape[:-1].numel() // max(key.shape[:-2].numel(), 1)
        if keys_first(queries, *key.shape[-2:], value.shape[-1]):
            return query @ (key.transpose(-2, -1) @ value)
        return query @ key.transpose(-2, -1) @ value
    state, out = 0, []
    for q, k, v in zip(*(x.split(CHUNK, -2) for x in (query, key, value))):
        here = (q @ k.transpose(-2, -1)).tril() @ v
        out.append(here if not out else here + q @ state)
        state = state + k.transpose(-2, -1) @ v
    return torch.cat(out, -2) if out else query.new_zeros(*query.shape[:-1], value.shape[-1])


def attend(query, key, value, heads, causal):
    """`multiply` head by head: [..., M, H * D], [..., S, H * D], [..., S, H * E] -> [..., M, H * E].

    Sums begin at +0, so that no sum of zeros is -0, whatever the order of the products.
    """
    return join_heads(multiply(*(split_heads(x, heads) for x in (query, key, value)), causal)) + 0.0
