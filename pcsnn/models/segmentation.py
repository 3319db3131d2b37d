"""FCN and DeepLabv3 on ResNets, for dense prediction, with torchvision's key names; small ones to train on a CPU.

Sources: "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015); "Rethinking Atrous Convolution for
Semantic Image Segmentation" (arXiv 1706.05587).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.models.initialise import he_normal
from pcsnn.models.resnet import BasicBlock, Bottleneck, Stages

LARGE = (False, True, True)  # the published backbones keep an eighth of the resolution
RESNET50, RESNET101 = ({"blocks": (3, 4, count, 3), "dilated": LARGE} for count in (6, 23))
SMALL = {
    "blocks": (2, 2, 2, 2),
    "widths": (24, 32, 48, 64),
    "dilated": (True, True, True),
}  # a quarter: thin objects stay


def _layer(in_channels, channels, kernel, activation, dilation=1):
    """Convolution, batch norm and activation; the resolution stays."""
    return [
        nn.Conv2d(in_channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        activation(),
    ]


class FCNHead(nn.Sequential):
    """[N, in_channels, h, w] to [N, num_classes, h, w]."""

    def __init__(self, in_channels, num_classes, activation):
        width = in_channels // 4
        super().__init__(*_layer(in_channels, width, 3, activation), nn.Dropout(0.1), nn.Conv2d(width, num_classes, 1))


class ASPPPooling(nn.Sequential):
    """The image-level branch: the mean over the image, a 1x1 convolution, and back to the size of the input."""

    def __init__(self, in_channels, channels, activation):
        super().__init__(nn.AdaptiveAvgPool2d(1), *_layer(in_channels, channels, 1, activation))

    def forward(self, x):
        return F.interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1 convolution, one 3x3 for each of `rates`, the image's mean, side by side.

    Shape: [N, in_channels, h, w] to [N, channels, h, w].
    """

    def __init__(self, in_channels, channels, rates, dropout, activation):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*_layer(in_channels, channels, 1, activation)),
                *(nn.Sequential(*_layer(in_channels, channels, 3, activation, rate)) for rate in rates),
                ASPPPooling(in_channels, channels, activation),
            ]
        )
        self.project = nn.Sequential(*_layer(len(self.convs) * channels, channels, 1, activation), nn.Dropout(dropout))

    def forward(self, x):
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


class DeepLabHead(nn.Sequential):
    """[N, in_channels, h, w] to [N, num_classes, h, w]."""

    def __init__(self, in_channels, num_classes, activation, channels=256, rates=(12, 24, 36), dropout=0.5):
        super().__init__(
            ASPP(in_channels, channels, rates, dropout, activation),
            *_layer(channels, channels, 3, activation),
            nn.Conv2d(channels, num_classes, 1),
        )


class Segmentation(nn.Module):
    """A dilated ResNet, a classifier of its last stage and, to train with, an auxiliary one of the stage before.

    Args:
        backbone: a `pcsnn.models.resnet.Stages`.
        classifier, aux_classifier: modules from features to classes at every place; aux_classifier may be None.

    Shape: [N, C, H, W] to {"out": [N, num_classes, H, W]}, and "aux" of that shape if there is an auxiliary classifier.
    Any H and W, but in training at least two values a channel for batch norm.
    """

    def __init__(self, backbone, classifier, aux_classifier=None):
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier
        he_normal(self)

    def forward(self, x):
        size = x.shape[-2:]
        third, last = self.backbone(x)
        result = {"out": F.interpolate(self.classifier(last), size=size, mode="bilinear", align_corners=False)}
        if self.aux_classifier is not None:
            result["aux"] = F.interpolate(self.aux_classifier(third), size=size, mode="bilinear", align_corners=False)
        return result


def _build(block, stages, head, *, in_channels, num_classes, aux, activation, **head_options):
    backbone = Stages(block, in_channels=in_channels, activation=activation, **stages)
    classifier = head(backbone.channels[3], num_classes, activation, **head_options)
    return Segmentation(backbone, classifier, FCNHead(backbone.channels[2], num_classes, activation) if aux else None)


def fcn_resnet50(
    *, in_channels: int = 3, num_classes: int = 21, aux: bool = True, activation: Callable[[], nn.Module] = nn.ReLU
) -> Segmentation:
    """FCN on ResNet-50; see `Segmentation`. The published weights have an auxiliary classifier: aux=True."""
    return _build(
        Bottleneck, RESNET50, FCNHead, in_channels=in_channels, num_classes=num_classes, aux=aux, activation=activation
    )


def fcn_resnet101(
    *, in_channels: int = 3, num_classes: int = 21, aux: bool = True, activation: Callable[[], nn.Module] = nn.ReLU
) -> Segmentation:
    """FCN on ResNet-101; see `fcn_resnet50`."""
    return _build(
        Bottleneck, RESNET101, FCNHead, in_channels=in_channels, num_classes=num_classes, aux=aux, activation=activation
    )


def deeplabv3_resnet50(
    *, in_channels: int = 3, num_classes: int = 21, aux: bool = True, activation: Callable[[], nn.Module] = nn.ReLU
) -> Segmentation:
    """DeepLabv3 on ResNet-50; see `fcn_resnet50`."""
    return _build(
        Bottleneck,
        RESNET50,
        DeepLabHead,
        in_channels=in_channels,
        num_classes=num_classes,
        aux=aux,
        activation=activation,
    )


def deeplabv3_resnet101(
    *, in_channels: int = 3, num_classes: int = 21, aux: bool = True, activation: Callable[[], nn.Module] = nn.ReLU
) -> Segmentation:
    """DeepLabv3 on ResNet-101; see `fcn_resnet50`."""
    return _build(
        Bottleneck,
        RESNET101,
        DeepLabHead,
        in_channels=in_channels,
        num_classes=num_classes,
        aux=aux,
        activation=activation,
    )


def fcn_small(
    *, in_channels: int = 3, num_classes: int = 11, aux: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
) -> Segmentation:
    """FCN on a narrow ResNet-18 that keeps a quarter of the resolution; see `Segmentation`."""
    return _build(
        BasicBlock, SMALL, FCNHead, in_channels=in_channels, num_classes=num_classes, aux=aux, activation=activation
    )


def deeplabv3_small(
    *, in_channels: int = 3, num_classes: int = 11, aux: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
) -> Segmentation:
    """DeepLabv3 on the backbone of `fcn_small`, with a pyramid of 48 channels at the rates 4, 8 and 12."""
    return _build(
        BasicBlock,
        SMALL,
        DeepLabHead,
        in_channels=in_channels,
        num_classes=num_classes,
        aux=aux,
        activation=activation,
        channels=48,
        rates=(4, 8, 12),
        dropout=0.1,
    )
