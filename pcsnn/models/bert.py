"""BERT's encoder with the keys of its published weights.

Source: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (NAACL 2019, arXiv
1810.04805); MiniLM (arXiv 2002.10957) is one of fewer and narrower layers.
"""

from collections.abc import Callable

import torch
from torch import nn

_HIDDEN = -1e9  # score of a place that is padding


class _Output(nn.Module):
    """A linear layer, a residual sum and a layer norm."""

    def __init__(self, inside, outside):
        super().__init__()
        self.dense = nn.Linear(inside, outside)
        self.LayerNorm = nn.LayerNorm(outside, eps=1e-12)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class _Projections(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))


class _Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.add_module("self", _Projections(width))
        self.output = _Output(width, width)

    def _split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, hidden):
        projections = self.self
        query, key, value = (self._split(part(x)) for part in (projections.query, projections.key, projections.value))
        shares = torch.softmax(query @ key.transpose(-2, -1) * self.scale + hidden, -1)
        return self.output((shares @ value).transpose(1, 2).flatten(2), x)


class _Intermediate(nn.Module):
    def __init__(self, width, intermediate, activation):
        super().__init__()
        self.dense, self.activation = nn.Linear(width, intermediate), activation()

    def forward(self, x):
        return self.activation(self.dense(x))


class _Layer(nn.Module):
    def __init__(self, width, heads, intermediate, activation):
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = _Intermediate(width, intermediate, activation)
        self.output = _Output(intermediate, width)

    def forward(self, x, hidden):
        x = self.attention(x, hidden)
        return self.output(self.intermediate(x), x)


class _Embeddings(nn.Module):
    def __init__(self, vocabulary, positions, width):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, tokens):
        places = self.position_embeddings.weight[: tokens.shape[1]]
        return self.LayerNorm(self.word_embeddings(tokens) + places + self.token_type_embeddings.weight[0])


class BertEncoder(nn.Module):
    """Token embeddings and transformer layers with softmax attention, layer norm and `activation` (GELU as published).

    Shape: tokens int64 [N, S], mask [N, S] of 1 for tokens and 0 for padding, to features [N, S, width].
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        intermediate: int,
        *,
        vocabulary: int = 30522,
        positions: int = 512,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: expected a divisor of {width} features, got {heads}")
        self.embeddings = _Embeddings(vocabulary, positions, width)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(width, heads, intermediate, activation) for _ in range(layers))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = ((1.0 - mask) * _HIDDEN)[:, None, None]
        x = self.embeddings(tokens)
        for layer in self.encoder.layer:
            x = layer(x, hidden)
        return x


def minilm_l6(*, activation: Callable[[], nn.Module] = nn.GELU) -> BertEncoder:
    """The text encoder of all-MiniLM-L6-v2: 6 layers of 384 features, 12 heads, 22.7 million parameters."""
    return BertEncoder(6, 384, 12, 1536, activation=activation)
