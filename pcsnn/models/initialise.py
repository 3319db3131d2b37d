"""The initial weights that all convolutional networks here share."""

from torch import nn


def he_normal(model):
    """Convolutions from N(0, 2 / fan_out), in place. Source: arXiv 1502.01852."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
