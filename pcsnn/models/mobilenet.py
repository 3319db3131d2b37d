"""MobileNetV2 with torchvision's key names: depthwise convolutions, ReLU6, no activation on the sum of a residual.

Source: "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018, arXiv 1801.04381), table 2.
"""

from collections.abc import Callable

from torch import nn

from pcsnn.models.initialise import he_normal

# expansion, channels, blocks, stride of the first
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
SMALL = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 64, 2, 1))


def _conv_norm(inside, outside, kernel, stride, groups, activation):
    layers = [
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    ]
    return layers if activation is None else [*layers, activation()]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without activation; the input is added where shapes allow it."""

    def __init__(self, inside, outside, stride, expansion, activation):
        super().__init__()
        hidden = inside * expansion
        self.adds = stride == 1 and inside == outside
        layers = [nn.Sequential(*_conv_norm(inside, hidden, 1, 1, 1, activation))] if expansion > 1 else []
        layers.append(nn.Sequential(*_conv_norm(hidden, hidden, 3, stride, hidden, activation)))
        self.conv = nn.Sequential(*layers, *_conv_norm(hidden, outside, 1, 1, 1, None))

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """A stem of `stem` channels and stride `stride`, inverted residuals by `plan`, 1x1 convolution to `last` channels.

    Shape: [N, in_channels, H, W] to [N, num_classes].
    """

    def __init__(self, plan, stem, stride, last, *, in_channels, num_classes, activation):
        super().__init__()
        layers, inside = [nn.Sequential(*_conv_norm(in_channels, stem, 3, stride, 1, activation))], stem
        for expansion, outside, blocks, first in plan:
            for block in range(blocks):
                layers.append(InvertedResidual(inside, outside, first if block == 0 else 1, expansion, activation))
                inside = outside
        layers.append(nn.Sequential(*_conv_norm(inside, last, 1, 1, 1, activation)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        he_normal(self)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(
    *, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU6
) -> MobileNetV2:
    """MobileNetV2 of width 1; see `MobileNetV2`. Published weights are for 224x224."""
    return MobileNetV2(
        MOBILENET_V2, 32, 2, 1280, in_channels=in_channels, num_classes=num_classes, activation=activation
    )


def mobilenet_small(
    *, in_channels: int = 1, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU6
) -> MobileNetV2:
    """Seven inverted residuals for 28x28 images, 0.2 million parameters; see `MobileNetV2`."""
    return MobileNetV2(SMALL, 16, 1, 256, in_channels=in_channels, num_classes=num_classes, activation=activation)
