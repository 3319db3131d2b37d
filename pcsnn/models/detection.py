"""RetinaNet on a feature pyramid of a ResNet, with torchvision's key names; a small one for a CPU.

Sources: "Focal Loss for Dense Object Detection" (ICCV 2017); "Feature Pyramid Networks for Object Detection" (CVPR
2017).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.models.initialise import he_normal
from pcsnn.models.resnet import BasicBlock, Bottleneck, Stages

ANCHORS = 9  # three sizes of three shapes at every place
DEPTH = 4  # convolutions of a head before its last
PRIOR = 0.01  # probability of an object that class logits start at
DEVIATION = 0.01  # of the heads' initial weights


def _older_keys(older, newer):
    """A hook for load_state_dict that gives parameters of the layers `older`, which files of before 2022 have, the
    names of `newer`."""

    def hook(module, state, prefix, *_):
        for old, new in zip(older, newer):
            for kind in ("weight", "bias"):
                if f"{prefix}{old}.{kind}" in state:
                    state[f"{prefix}{new}.{kind}"] = state.pop(f"{prefix}{old}.{kind}")

    return hook


def _convolution(in_channels, channels, kernel, stride=1):
    return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)


class LastLevels(nn.Module):
    """The two coarsest levels, P6 and P7, each half the resolution of the one before."""

    def __init__(self, channels, activation):
        super().__init__()
        self.p6 = _convolution(channels, channels, 3, 2)
        self.p7 = _convolution(channels, channels, 3, 2)
        self.relu = activation()

    def forward(self, x):
        sixth = self.p6(x)
        return [sixth, self.p7(self.relu(sixth))]


class FeaturePyramid(nn.Module):
    """Maps [N, in_channels[i], h_i, w_i], the finest first, to as many of `channels` and the two of `LastLevels`."""

    def __init__(self, in_channels, channels, activation):
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(_convolution(width, channels, 1)) for width in in_channels)
        self.layer_blocks = nn.ModuleList(nn.Sequential(_convolution(channels, channels, 3)) for _ in in_channels)
        self.extra_blocks = LastLevels(channels, activation)
        older = [f"{name}.{i}" for name in ("inner_blocks", "layer_blocks") for i in range(len(in_channels))]
        self.register_load_state_dict_pre_hook(_older_keys(older, [f"{name}.0" for name in older]))

    def forward(self, maps):
        found, above = [], None
        for lateral, block, x in reversed(list(zip(self.inner_blocks, self.layer_blocks, maps))):
            x = lateral(x)
            above = x if above is None else x + F.interpolate(above, size=x.shape[-2:], mode="nearest")
            found.insert(0, block(above))
        return found + self.extra_blocks(found[-1])


class Backbone(nn.Module):
    """A ResNet and the pyramid of its last three stages."""

    def __init__(self, body, channels, activation):
        super().__init__()
        self.body, self.fpn = body, FeaturePyramid(body.channels[1:], channels, activation)

    def forward(self, x):
        return self.fpn(self.body.stages(x)[1:])


class Head(nn.Module):
    """Four convolutions with activations and one, called `name`, that gives `outputs` numbers at every place."""

    def __init__(self, channels, name, outputs, activation):
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Sequential(_convolution(channels, channels, 3), activation()) for _ in range(DEPTH))
        )
        self.add_module(name, _convolution(channels, outputs, 3))
        self._last = name
        self.register_load_state_dict_pre_hook(
            _older_keys([f"conv.{2 * i}" for i in range(DEPTH)], [f"conv.{i}.0" for i in range(DEPTH)])
        )

    def forward(self, x):
        return getattr(self, self._last)(self.conv(x))


class RetinaNetHead(nn.Module):
    """Class logits and box shifts of every level, by one classification and one regression head for all levels."""

    def __init__(self, channels, num_classes, activation):
        super().__init__()
        self.classification_head = Head(channels, "cls_logits", ANCHORS * num_classes, activation)
        self.regression_head = Head(channels, "bbox_reg", ANCHORS * 4, activation)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=DEVIATION)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.classification_head.cls_logits.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, maps):
        return {
            "cls_logits": [self.classification_head(x) for x in maps],
            "bbox_regression": [self.regression_head(x) for x in maps],
        }


class RetinaNet(nn.Module):
    """One-stage detector up to the outputs of its heads; anchors and the choice of boxes are torchvision's or yours.

    Shape: [N, C, H, W] to {"cls_logits": five maps [N, 9 num_classes, h, w], "bbox_regression": five [N, 36, h, w]},
    of strides 8, 16, 32, 64 and 128. What torchvision's heads return is these, each as [N, 9 h w, K]
    (anchors are the outer part of the channels), side by side.
    """

    def __init__(self, body, channels, num_classes, activation):
        super().__init__()
        self.backbone = Backbone(body, channels, activation)
        he_normal(self)
        self.head = RetinaNetHead(channels, num_classes, activation)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        return self.head(self.backbone(x))


def retinanet_resnet50_fpn(
    *, in_channels: int = 3, num_classes: int = 91, activation: Callable[[], nn.Module] = nn.ReLU, eps: float = 0.0
) -> RetinaNet:
    """RetinaNet on ResNet-50; see `RetinaNet`. Loads torchvision's retinanet_resnet50_fpn (version 1), old keys too.

    eps: of its batch norms; the published weights are for 0, torchvision's default for new ones is 1e-5.
    """
    body = Stages(Bottleneck, (3, 4, 6, 3), in_channels=in_channels, activation=activation)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return RetinaNet(body, 256, num_classes, activation)


def retinanet_small(
    *, in_channels: int = 3, num_classes: int = 3, activation: Callable[[], nn.Module] = nn.ReLU
) -> RetinaNet:
    """RetinaNet of 32 channels on a ResNet-18 of 16 to 64 channels; see `RetinaNet`."""
    body = Stages(BasicBlock, (2, 2, 2, 2), in_channels=in_channels, activation=activation, widths=(16, 24, 32, 64))
    return RetinaNet(body, 32, num_classes, activation)
