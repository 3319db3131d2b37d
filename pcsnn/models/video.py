"""R3D-18 for video, with torchvision's key names; a small one for a CPU.

Source: "A Closer Look at Spatiotemporal Convolutions for Action Recognition" (CVPR 2018).
"""

from collections.abc import Callable

import torch
from torch import nn

from pcsnn.models.initialise import he_normal


def _convolution(in_channels, channels, stride=1):
    return nn.Conv3d(in_channels, channels, 3, stride, 1, bias=False)


class VideoBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels, channels, stride, activation):
        super().__init__()
        self.conv1 = nn.Sequential(_convolution(in_channels, channels, stride), nn.BatchNorm3d(channels), activation())
        self.conv2 = nn.Sequential(_convolution(channels, channels), nn.BatchNorm3d(channels))
        self.relu = activation()
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm3d(channels)
            )

    def forward(self, x):
        return self.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class VideoResNet(nn.Module):
    """A ResNet whose convolutions go over time as well as space.

    Shape: [N, in_channels, frames, H, W] to [N, num_classes]; published weights are for 16 frames of 112x112.
    """

    def __init__(self, blocks, widths, *, in_channels=3, num_classes=400, activation=nn.ReLU):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, widths[0], (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(widths[0]),
            activation(),
        )
        before = widths[0]
        self._stages = len(blocks)
        for place, (count, width) in enumerate(zip(blocks, widths), 1):
            first = VideoBlock(before, width, 1 if place == 1 else 2, activation)
            rest = (VideoBlock(width, width, 1, activation) for _ in range(count - 1))
            self.add_module(f"layer{place}", nn.Sequential(first, *rest))
            before = width
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(before, num_classes)
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for place in range(1, self._stages + 1):
            x = getattr(self, f"layer{place}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def r3d_18(
    *, in_channels: int = 3, num_classes: int = 400, activation: Callable[[], nn.Module] = nn.ReLU
) -> VideoResNet:
    """R3D-18; see `VideoResNet`."""
    widths = (64, 128, 256, 512)
    return VideoResNet((2, 2, 2, 2), widths, in_channels=in_channels, num_classes=num_classes, activation=activation)


def r3d_small(
    *, in_channels: int = 3, num_classes: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> VideoResNet:
    """R3D with one block in each of three stages of 8, 16 and 32 channels; see `VideoResNet`."""
    return VideoResNet((1, 1, 1), (8, 16, 32), in_channels=in_channels, num_classes=num_classes, activation=activation)
