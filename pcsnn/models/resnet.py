"""ResNet-18/34/50/101 for large images, with torchvision's key names.

Source: "Deep Residual Learning for Image Recognition" (CVPR 2016); the stride of a bottleneck is at its 3x3
convolution, as in the weights that torchvision publishes.
"""

from collections.abc import Callable

from torch import nn

from pcsnn.models.initialise import he_normal


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels, channels, stride, activation, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(in_channels, channels, stride)
        self.relu2 = activation()

    def forward(self, x):
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels, channels, stride, activation, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = activation()
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _projection(in_channels, 4 * channels, stride)
        self.relu3 = activation()

    def forward(self, x):
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(out + self.downsample(x))


def _projection(in_channels, channels, stride):
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class Stages(nn.Module):
    """A ResNet without its classifier: stem and four stages of `blocks[i]` blocks of the class `block`.

    `dilated[i]`: stage i + 2 keeps its resolution, and its convolutions spread instead (arXiv 1706.05587). `widths`:
    channels of the stages, before the expansion of a block; the stem has widths[0].

    Shape: [N, in_channels, H, W] to the results of the last two stages; each undilated stage halves the resolution.
    """

    def __init__(
        self,
        block,
        blocks,
        *,
        in_channels=3,
        activation=nn.ReLU,
        widths=(64, 128, 256, 512),
        dilated=(False, False, False),
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = activation()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, dilation = widths[0], 1
        for i, (count, width, keep) in enumerate(zip(blocks, widths, (True, *dilated))):
            stride, spread = (1, 2 if i else 1) if keep else (2, 1)
            stage = _stage(block, before, width, count, stride, activation, dilation, dilation * spread)
            self.add_module(f"layer{i + 1}", stage)
            before, dilation = width * block.expansion, dilation * spread
        self.channels = tuple(width * block.expansion for width in widths)

    def stages(self, x):
        """The results of all four stages, the finest first."""
        first = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)

    def forward(self, x):
        return self.stages(x)[2:]


class ResNet(Stages):
    """Four stages of `blocks[i]` blocks of the class `block`.

    Shape: [N, in_channels, H, W] to [N, num_classes]; published weights are for 224x224.
    """

    def __init__(self, block, blocks, *, in_channels=3, num_classes=1000, activation=nn.ReLU):
        super().__init__(block, blocks, in_channels=in_channels, activation=activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels[-1], num_classes)
        he_normal(self)

    def forward(self, x):
        return self.fc(self.avgpool(super().forward(x)[1]).flatten(1))


def _stage(block, in_channels, channels, blocks, stride, activation, first_dilation, dilation):
    """The first block of a dilated stage still has the dilation of the stage before, as in torchvision."""
    first = block(in_channels, channels, stride, activation, first_dilation)
    rest = [block(channels * block.expansion, channels, 1, activation, dilation) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet18(*, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU) -> ResNet:
    """ResNet-18; see `ResNet`."""
    return ResNet(BasicBlock, (2, 2, 2, 2), in_channels=in_channels, num_classes=num_classes, activation=activation)


def resnet34(*, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU) -> ResNet:
    """ResNet-34; see `ResNet`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), in_channels=in_channels, num_classes=num_classes, activation=activation)


def resnet50(*, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU) -> ResNet:
    """ResNet-50; see `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), in_channels=in_channels, num_classes=num_classes, activation=activation)


def resnet101(
    *, in_channels: int = 3, num_classes: int = 1000, activation: Callable[[], nn.Module] = nn.ReLU
) -> ResNet:
    """ResNet-101; see `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), in_channels=in_channels, num_classes=num_classes, activation=activation)
