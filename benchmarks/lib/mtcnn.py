"""The three networks of MTCNN with the weights that facenet-pytorch ships.

The weights are read from the installed files; no code of facenet-pytorch runs, and torchvision, which it imports, is
not needed. Source: "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (IEEE Signal
Processing Letters 23, 2016); keys and sizes are those of facenet-pytorch 2.6.0.
"""

import torch
from torch import nn

from lib import packages

NETWORKS = ("pnet", "rnet", "onet")


class Stage(nn.Module):
    """Convolutions with PReLU and max pools, then heads side by side.

    It returns logits where facenet-pytorch takes a softmax of them: what spikes ends there.

    Args:
        kernels, pools: sizes of the convolutions and of the max pools behind them, 0 for none.
        channels: of the image and of each convolution.
        hidden: width of a linear layer with PReLU between convolutions and heads; 0: heads are 1x1 convolutions.
        sides: of what the linear layer reads.
        heads: {name: how many numbers it gives}: logits of no face and face, box, landmarks.
    """

    def __init__(self, channels, kernels, pools, heads, hidden=0, sides=0):
        super().__init__()
        self._depth, self._heads, self._hidden = len(kernels), tuple(heads), f"dense{len(kernels) + 1}"
        for place, (kernel, pool) in enumerate(zip(kernels, pools), 1):
            self.add_module(f"conv{place}", nn.Conv2d(channels[place - 1], channels[place], kernel))
            self.add_module(f"prelu{place}", nn.PReLU(channels[place]))
            if pool:
                self.add_module(f"pool{place}", nn.MaxPool2d(pool, 2, ceil_mode=True))
        if hidden:
            self.add_module(self._hidden, nn.Linear(channels[-1] * sides * sides, hidden))
            self.add_module(f"prelu{self._depth + 1}", nn.PReLU(hidden))
        for name, width in heads.items():
            self.add_module(name, nn.Linear(hidden, width) if hidden else nn.Conv2d(channels[-1], width, 1))

    def forward(self, x):
        for place in range(1, self._depth + 1):
            x = getattr(self, f"prelu{place}")(getattr(self, f"conv{place}")(x))
            if hasattr(self, f"pool{place}"):
                x = getattr(self, f"pool{place}")(x)
        if hasattr(self, self._hidden):
            # The weights come from a framework that goes through columns first, and channels last.
            x = getattr(self, self._hidden)(x.permute(0, 3, 2, 1).flatten(1))
            x = getattr(self, f"prelu{self._depth + 1}")(x)
        return tuple(getattr(self, head)(x) for head in self._heads)


def pnet():
    """Proposals: [N, 3, H, W] to face logits [N, 2, h, w] and boxes [N, 4, h, w], one for each window of 12x12."""
    return Stage((3, 10, 16, 32), (3, 3, 3), (2, 0, 0), {"conv4_1": 2, "conv4_2": 4})


def rnet():
    """Refinement: [N, 3, 24, 24] to face logits [N, 2] and boxes [N, 4]."""
    return Stage((3, 28, 48, 64), (3, 3, 2), (3, 3, 0), {"dense5_1": 2, "dense5_2": 4}, 128, 3)


def onet():
    """Output: [N, 3, 48, 48] to face logits [N, 2], boxes [N, 4] and landmarks [N, 10]."""
    heads = {"dense6_1": 2, "dense6_2": 4, "dense6_3": 10}
    return Stage((3, 32, 64, 64, 128), (3, 3, 3, 2), (3, 3, 2, 0), heads, 256, 3)


def load():
    """(pnet, rnet, onet) in evaluation mode, with published weights.

    Raises:
        Missing: facenet-pytorch is not installed.
    """
    folder = packages.folder("facenet_pytorch", "facenet-pytorch", "facenet-pytorch==2.6.0") / "data"
    networks = []
    for name, make in zip(NETWORKS, (pnet, rnet, onet)):
        network = make()
        network.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True))
        networks.append(network.eval())
    return tuple(networks)
