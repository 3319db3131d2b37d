"""Pixel accuracy and mean intersection over union; pixels without a class count nowhere."""

import camvid
import torch
from tqdm import tqdm

from lib import data


class Confusion:
    """How many pixels of each class [row] were given each class [column], int64 [classes, classes]."""

    def __init__(self, classes):
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, predicted, labels):
        """Classes predicted and true, [N, H, W]; labels beyond the classes are void."""
        classes = len(self.counts)
        known = labels < classes
        pairs = labels[known].long() * classes + predicted[known].long()
        self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    @property
    def pixel_accuracy(self):
        return (self.counts.diagonal().sum() / self.counts.sum()).item()

    @property
    def intersections_over_unions(self):
        """Of each class, float64 [classes]; NaN for one that is neither true nor predicted anywhere."""
        hit = self.counts.diagonal().double()
        return hit / (self.counts.sum(0) + self.counts.sum(1) - hit)

    @property
    def miou(self):
        return self.intersections_over_unions.nanmean().item()


@torch.no_grad()
def predict(network, images, batch, what):
    """The class of every pixel of uint8 images [N, 3, H, W], uint8 [N, H, W]."""
    found = []
    for part in tqdm(images.split(batch), desc=what, unit="batch", leave=False):
        x = data.normalise(part, camvid.STATISTICS).contiguous(memory_format=torch.channels_last)
        found.append(network(x)["out"].argmax(1).byte())
    return torch.cat(found)


def evaluate(predicted, labels):
    """The Confusion of predictions and labels [N, H, W]."""
    confusion = Confusion(len(camvid.CLASSES))
    confusion.add(predicted, labels)
    return confusion
