"""Small networks, data and labels for the tests of pcsnn.analysis."""

import torch
from tiny_networks import randomise
from torch import nn
from torch.utils.data import IterableDataset

ERRORS = ("current", "rate", "clipping", "rounding", "propagated")


def two_layers(activation=nn.ReLU, seed=0):
    return randomise(nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 3)), seed)


def data(rows=96, seed=1):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def images(batch=8, seed=3):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labelled(net, wrong=30):
    """Data with the float network's own decisions as labels, but for `wrong` of them."""
    labels = net(data()).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % 3
    return labels


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)
