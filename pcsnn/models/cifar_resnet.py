"""ResNet-20/32/44/56 for small images, with parameter-free shortcuts.

Source: "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2, option A; key names as published in
akamaster/pytorch_resnet_cifar10.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import nn

from pcsnn.models.initialise import he_normal


class SubsampledShortcut(nn.Module):
    """Every `stride`-th pixel, new channels filled with zeros on both sides: [N, C, H, W] -> [N, C + 2 * new, ...]."""

    def __init__(self, stride, new):
        super().__init__()
        self.stride, self.new = stride, new

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))


class Block(nn.Module):
    def __init__(self, in_channels, channels, stride, activation):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = SubsampledShortcut(stride, (channels - in_channels) // 2)
        self.relu2 = activation()

    def forward(self, x):
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of `blocks` two-convolution blocks with 16, 32 and 64 channels: depth 6 * blocks + 2.

    Shape: [N, in_channels, H, W] to [N, num_classes]; published weights are for 32x32.
    """

    def __init__(self, blocks, *, in_channels=3, num_classes=10, activation=nn.ReLU):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = activation()
        self.layer1 = _stage(16, 16, blocks, 1, activation)
        self.layer2 = _stage(16, 32, blocks, 2, activation)
        self.layer3 = _stage(32, 64, blocks, 2, activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        he_normal(self)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))


def _stage(in_channels, channels, blocks, stride, activation):
    first = Block(in_channels, channels, stride, activation)
    return nn.Sequential(first, *[Block(channels, channels, 1, activation) for _ in range(blocks - 1)])


def cifar_resnet20(
    *, in_channels: int = 3, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> CifarResNet:
    """CIFAR ResNet-20; see `CifarResNet`."""
    return CifarResNet(3, in_channels=in_channels, num_classes=num_classes, activation=activation)


def cifar_resnet32(
    *, in_channels: int = 3, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> CifarResNet:
    """CIFAR ResNet-32; see `CifarResNet`."""
    return CifarResNet(5, in_channels=in_channels, num_classes=num_classes, activation=activation)


def cifar_resnet44(
    *, in_channels: int = 3, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> CifarResNet:
    """CIFAR ResNet-44; see `CifarResNet`."""
    return CifarResNet(7, in_channels=in_channels, num_classes=num_classes, activation=activation)


def cifar_resnet56(
    *, in_channels: int = 3, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> CifarResNet:
    """CIFAR ResNet-56; see `CifarResNet`."""
    return CifarResNet(9, in_channels=in_channels, num_classes=num_classes, activation=activation)
