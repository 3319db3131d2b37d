"""A vision transformer without softmax and layer norm, built like Spikformer: all it does can spike or is linear.

Source of the structure: "Spikformer: When Spiking Neural Network Meets Transformer" (ICLR 2023, arXiv 2209.15425),
whose neurons are activations here.
"""

from collections.abc import Callable

from torch import nn

from pcsnn.models.initialise import he_normal


def _synapse(inside, outside, kernel=1, stride=1):
    return nn.Sequential(nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside))


class LinearAttention(nn.Module):
    """(Q K^T) V * scale over the places of an image, in heads; Q, K, V each a 1x1 convolution, batch norm, activation.

    Computed as Q (K^T V), which is the same and takes fewer operations while a head is narrower than there are places.
    Batch norm and an activation follow it, then a 1x1 convolution with those of its own.

    Shape: [N, C, H, W] to [N, C, H, W].
    """

    def __init__(self, channels, heads, scale, activation):
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: expected a divisor of {channels} channels, got {heads}")
        self.heads, self.width, self.scale = heads, channels // heads, scale
        self.query, self.key, self.value = (_synapse(channels, channels) for _ in range(3))
        self.query_activation, self.key_activation, self.value_activation = (activation() for _ in range(3))
        self.norm = nn.BatchNorm2d(channels)
        self.activation = activation()
        self.project = _synapse(channels, channels)
        self.project_activation = activation()

    def _split(self, x):
        """[N, C, H, W] -> [N, heads, H * W, C / heads]."""
        return x.flatten(2).unflatten(1, (self.heads, self.width)).transpose(-2, -1)

    def forward(self, x):
        query = self._split(self.query_activation(self.query(x)))
        key = self._split(self.key_activation(self.key(x)))
        value = self._split(self.value_activation(self.value(x)))
        out = query @ (key.transpose(-2, -1) @ value) * self.scale
        out = self.activation(self.norm(out.transpose(-2, -1).reshape(x.shape)))
        return self.project_activation(self.project(out))


class Perceptron(nn.Module):
    """Two 1x1 convolutions, each with batch norm and activation: every place by itself."""

    def __init__(self, channels, hidden, activation):
        super().__init__()
        self.expand, self.expand_activation = _synapse(channels, hidden), activation()
        self.project, self.project_activation = _synapse(hidden, channels), activation()

    def forward(self, x):
        return self.project_activation(self.project(self.expand_activation(self.expand(x))))


class LinearTransformer(nn.Module):
    """Patches of 4x4 pixels by two 3x3 convolutions of stride 2, a 3x3 convolution that tells places apart, `depth`
    blocks of linear attention and perceptron with residual sums, the average over all places, a linear layer.

    Shape: [N, in_channels, H, W] to [N, num_classes].
    """

    def __init__(self, channels, depth, heads, hidden, *, scale, in_channels, num_classes, activation):
        super().__init__()
        self.patches = nn.Sequential(
            _synapse(in_channels, channels // 2, 3, 2),
            activation(),
            _synapse(channels // 2, channels, 3, 2),
            activation(),
        )
        self.places = nn.Sequential(_synapse(channels, channels, 3), activation())
        self.attention = nn.ModuleList(LinearAttention(channels, heads, scale, activation) for _ in range(depth))
        self.perceptron = nn.ModuleList(Perceptron(channels, hidden, activation) for _ in range(depth))
        self.classifier = nn.Linear(channels, num_classes)
        he_normal(self)

    def forward(self, x):
        x = self.patches(x)
        x = x + self.places(x)
        for attention, perceptron in zip(self.attention, self.perceptron):
            x = x + attention(x)
            x = x + perceptron(x)
        return self.classifier(x.mean((2, 3)))


def linear_transformer_small(
    *, in_channels: int = 1, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> LinearTransformer:
    """Two blocks of 64 channels in 2 heads for 28x28 images (49 places), 0.1 million parameters."""
    return LinearTransformer(
        64, 2, 2, 128, scale=0.125, in_channels=in_channels, num_classes=num_classes, activation=activation
    )
