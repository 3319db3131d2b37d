"""VGG-16 with torchvision's key names, with and without batch norm, and a small VGG for 28x28 images.

Source: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015), configuration D.
"""

from collections.abc import Callable

from torch import nn

from pcsnn.models.initialise import he_normal

POOL = None
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL)
SMALL = (32, POOL, 64, 64, POOL, 128, 128, POOL)


def _features(plan, in_channels, batch_norm, activation):
    layers = []
    for channels in plan:
        if channels is POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(activation())
        in_channels = channels
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """3x3 convolutions after `plan` (POOL halves the image), adaptive average pool, linear layers of width `hidden`.

    Shape: [N, in_channels, H, W] to [N, num_classes].
    """

    def __init__(self, plan, pooled, hidden, *, batch_norm, in_channels, num_classes, activation):
        super().__init__()
        self.features = _features(plan, in_channels, batch_norm, activation)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        widths = (plan[-2] * pooled * pooled, *hidden)
        layers = []
        for inputs, outputs in zip(widths, hidden):
            layers += [nn.Linear(inputs, outputs), activation(), nn.Dropout(0.5)]
        self.classifier = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
        he_normal(self)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg16(*, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU) -> VGG:
    """VGG-16; see `VGG`. Published weights are for 224x224."""
    return VGG(
        VGG16,
        7,
        (4096, 4096),
        batch_norm=False,
        in_channels=in_channels,
        num_classes=num_classes,
        activation=activation,
    )


def vgg16_bn(*, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU) -> VGG:
    """VGG-16 with batch norm; see `VGG`. Published weights are for 224x224."""
    return VGG(
        VGG16, 7, (4096, 4096), batch_norm=True, in_channels=in_channels, num_classes=num_classes, activation=activation
    )


def vgg_small(*, in_channels: int = 1, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU) -> VGG:
    """Five convolutions with batch norm, three max pools and two linear layers, 0.6 million parameters; see `VGG`.

    Made for 28x28 images.
    """
    return VGG(
        SMALL, 3, (256,), batch_norm=True, in_channels=in_channels, num_classes=num_classes, activation=activation
    )
