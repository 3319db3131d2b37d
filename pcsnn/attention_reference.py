"""Attention without softmax in plain torch, in three forms of one meaning (20): the oracle of its tests.

Shapes: T time-steps, N batch, M queries, S keys; features lie last, those of a head side by side: H heads of D features in queries
and keys, of E in values. `levels` [T] or [H * D, T] on the mean current of the queries; `scale` [] or [H * D], what a spike is
worth, times what the products are to be scaled by.
"""

import torch

from pcsnn import reference


def split_heads(x, heads):
    """[..., tokens, heads * width] -> [..., heads, tokens, width]."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(-3, -2)


def join_heads(x):
    """[..., heads, tokens, width] -> [..., tokens, heads * width]."""
    return x.transpose(-3, -2).flatten(-2)


def products(query, key, value, heads, causal):
    """(Q K^T) V head by head; causal: query i sees keys 0..i. A sum begins at +0: one of zeros alone is +0."""
    query, key, value = (split_heads(x, heads) for x in (query, key, value))
    scores = query @ key.transpose(-2, -1)
    return join_heads((scores.tril() if causal else scores) @ value) + 0.0


def time_average(x):
    """[T, ...] -> [...], summed in time order in float32 (float64 stays)."""
    total = torch.zeros(x.shape[1:], dtype=reference.compute_dtype(x), device=x.device)
    for step in x.unbind(0):
        total = total + step.to(total.dtype)
    return (total / len(x)).to(x.dtype)


def spikes(query, levels, scale):
    """Currents [T, N, M, H * D] -> sorted spikes, times scale."""
    return reference.fire_spikes(query.flatten(1, 2), levels, scale, query.dtype).view(query.shape)


def spiking_attention(query, key, value, levels, scale, heads, causal, repeat):
    """Collapsed: mean current [N, M, H * D], key [N, S, H * D], value [N, S, H * E] -> [N, M, H * E], all averages over time.

    Products and sums are float32 (float64 stays); rates, as everywhere, are rounded to the dtype of the current.
    """
    rates = reference.fire_rates(query.flatten(0, 1), levels, scale, repeat=max(repeat, 1)).view(query.shape)
    precise = reference.compute_dtype(query)
    return products(rates.to(precise), key.to(precise), value.to(precise), heads, causal).to(query.dtype)


def step_by_step(query, key, value, levels, scale, heads, causal):
    """O(T): currents [T, N, ...] -> [T, N, M, H * E]; K and V averaged first, then one attention a step."""
    key, value = time_average(key), time_average(value)
    return torch.stack([products(step, key, value, heads, causal) for step in spikes(query, levels, scale).unbind(0)])


def every_pair_of_steps(query, key, value, levels, scale, heads, causal):
    """O(T^2): the same without averages, each step of Q by each step of K and what that gives by each step of V."""
    steps = len(query)
    keys, values = (split_heads(x, heads).unbind(0) for x in (key, value))
    out = []
    for spike in split_heads(spikes(query, levels, scale), heads).unbind(0):
        scores = sum(spike @ step.transpose(-2, -1) for step in keys) / steps
        scores = scores.tril() if causal else scores
        out.append(join_heads(sum(scores @ step for step in values) / steps))
    return torch.stack(out)
