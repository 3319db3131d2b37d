"""MTCNN's cascade around its three networks: faces of a picture, and what each network reads on the way.

Source: "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (IEEE Signal Processing
Letters 23, 2016). Roundings of corners and sizes are those of facenet-pytorch 2.6.0, for whose weights it is.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

WINDOW, STRIDE = 12, 2  # of the first network, in pixels of its level
CROPS = 24, 48  # sides that the second and the third network read
LANDMARKS = 5
AT_ONCE = 512  # crops


@dataclass(frozen=True)
class Faces:
    """Boxes [n, 4] (left, top, right, bottom), probabilities [n] and landmarks [n, 5, 2] in pixels, the best first."""

    boxes: torch.Tensor
    scores: torch.Tensor
    landmarks: torch.Tensor

    def __len__(self):
        return len(self.boxes)


def overlaps(boxes, others, border=0, of_smaller=False):
    """Intersection over union, or over the smaller of the two: [n, 4] and [m, 4] to [n, m].

    Args:
        border: what a side is longer than the difference of its ends.
    """
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low + border).clamp(min=0).prod(-1)
    one, other = ((part[:, 2:] - part[:, :2] + border).prod(-1) for part in (boxes, others))
    whole = torch.minimum(one[:, None], other) if of_smaller else one[:, None] + other - both
    return both / whole


def best(boxes, scores, most, **how):
    """Places of the boxes that overlap no better one by more than `most`, the best first; how: as in `overlaps`."""
    order = scores.argsort(descending=True, stable=True)
    far = overlaps(boxes[order], boxes[order], **how) <= most
    left, kept = torch.ones(len(order), dtype=torch.bool), []
    for place in range(len(order)):
        if left[place]:
            kept.append(place)
            left &= far[place]
    return order[kept]


def _squares(boxes):
    """Squares of the longer side around the same middles."""
    side = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    low = boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) * 0.5 - side * 0.5
    return torch.cat([low, low + side], 1)


def _moved(boxes, shifts, border):
    """Boxes whose corners go by shares of their sides."""
    return boxes + shifts * (boxes[:, 2:] - boxes[:, :2] + border).repeat(1, 2)


def _cut(boxes, pixels):
    """Whole pixels of boxes within the borders: left and top, and what ends them, int64 [n, 4]."""
    height, width = pixels.shape[-2:]
    whole = boxes.trunc().long()
    return torch.cat([whole[:, :2].clamp(min=1) - 1, torch.minimum(whole[:, 2:], torch.tensor([width, height]))], 1)


def _visible(boxes, pixels):
    """The boxes that have a pixel of the picture in them."""
    cut = _cut(boxes, pixels)
    return boxes[(cut[:, 2:] > cut[:, :2]).all(1)]


def _nobody():
    return Faces(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, LANDMARKS, 2))


def _prepared(pixels):
    return (pixels - 127.5) * 0.0078125


class Detector:
    """Faces of a picture.

    Args:
        networks: (pnet, rnet, onet) of `lib.mtcnn`, or what they were converted to.
        least: side of the smallest face in pixels.
        thresholds: least probability of a face behind each network.
        factor: of the sides of one level of the pyramid and those of the next.
    """

    def __init__(self, networks, least=20, thresholds=(0.6, 0.7, 0.7), factor=0.709):
        self.networks, self.least, self.thresholds, self.factor = networks, least, thresholds, factor

    @torch.no_grad()
    def __call__(self, picture):
        """uint8 [H, W, 3] to Faces."""
        return self._cascade(picture, {})

    @torch.no_grad()
    def inputs(self, pictures):
        """What each network reads of the pictures: lists of levels [1, 3, h, w], crops [n, 3, 24, 24] and [n, 3, 48,
        48]."""
        read = {place: [] for place in range(3)}
        for picture in pictures:
            self._cascade(picture, read)
        return [read[place] for place in range(3)]

    def _run(self, place, values, read):
        if place in read:
            read[place].append(values)
        parts = [self.networks[place](part) for part in values.split(AT_ONCE)]
        logits, *others = (torch.cat(part) for part in zip(*parts))
        return logits.softmax(1)[:, 1], *others

    def _cascade(self, picture, read):
        pixels = picture.permute(2, 0, 1)[None].float()
        boxes = _visible(self._proposals(pixels, read), pixels)
        if not len(boxes):
            return _nobody()
        scores, shifts = self._run(1, self._crops(pixels, boxes, CROPS[0]), read)
        boxes, scores, shifts = _where(scores > self.thresholds[1], boxes, scores, shifts)
        boxes, scores, shifts = _at(best(boxes, scores, 0.7), boxes, scores, shifts)
        boxes = _visible(_squares(_moved(boxes, shifts, 1)), pixels)
        if not len(boxes):
            return _nobody()
        scores, shifts, points = self._run(2, self._crops(pixels, boxes, CROPS[1]), read)
        boxes, scores, shifts, points = _where(scores > self.thresholds[2], boxes, scores, shifts, points)
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        points = points.unflatten(1, (2, LANDMARKS)).transpose(1, 2) * sides[:, None] + boxes[:, None, :2] - 1
        boxes = _moved(boxes, shifts, 1)
        return Faces(*_at(best(boxes, scores, 0.7, border=1, of_smaller=True), boxes, scores, points))

    def _levels(self, pixels):
        """(scale, level) from the one in which the smallest face fills the window."""
        height, width = pixels.shape[-2:]
        scale = WINDOW / self.least
        shorter = min(height, width) * scale
        while shorter >= WINDOW:
            size = int(height * scale + 1), int(width * scale + 1)
            yield scale, _prepared(F.interpolate(pixels, size, mode="area"))
            scale, shorter = scale * self.factor, shorter * self.factor

    def _proposals(self, pixels, read):
        """Squares [n, 4]: windows of all levels with a face in them, moved by what the first network says."""
        found = []
        for scale, level in self._levels(pixels):
            faces, shifts = self._run(0, level, read)
            rows, columns = (faces[0] >= self.thresholds[0]).nonzero(as_tuple=True)
            corner = torch.stack([columns, rows], 1).float() * STRIDE
            boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + WINDOW) / scale).floor()], 1)
            scores, shifts = faces[0, rows, columns], shifts[0, :, rows, columns].T
            found.append(_at(best(boxes, scores, 0.5), boxes, scores, shifts))
        if not found:
            return torch.zeros(0, 4)
        boxes, scores, shifts = (torch.cat(parts) for parts in zip(*found))
        boxes, shifts = _at(best(boxes, scores, 0.7), boxes, shifts)
        return _squares(_moved(boxes, shifts, 0))

    def _crops(self, pixels, boxes, side):
        """Prepared contents of boxes, cut at the borders: [n, 3, side, side]."""
        parts = [pixels[..., top:bottom, left:right] for left, top, right, bottom in _cut(boxes, pixels).tolist()]
        return _prepared(torch.cat([F.interpolate(part, (side, side), mode="area") for part in parts]))


def _at(places, *values):
    return tuple(value[places] for value in values)


def _where(mask, *values):
    return tuple(value[mask] for value in values)
