"""Photographs with faces that packages ship: two of scikit-image, one of matplotlib, and sheets of small portraits.

The portraits are the hundred of scikit-image's lfw_subset (25x25, grey; Labeled Faces in the Wild). The first fifty are
for calibration, with photographs of other things, the others for the test.
"""

import numpy
import torch
import torch.nn.functional as F

from lib import packages

ROW = 5  # portraits of a sheet, which has as many rows
SIDE, GAP = 60, 20  # of a portrait on a sheet, in pixels
OTHERS = ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")  # photographs without faces


def picture(path):
    """uint8 [H, W, 3] of an image file."""
    from PIL import Image

    with Image.open(path) as file:
        return torch.from_numpy(numpy.array(file.convert("RGB")))


def sheet(portraits):
    """uint8 [H, W, 3]: 25 portraits [25, h, w], values 0..1, enlarged, in five rows on grey."""
    large = F.interpolate(portraits[:, None], (SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    framed = F.pad(large, (GAP // 2,) * 4, value=0.5).unflatten(0, (ROW, ROW))
    whole = F.pad(framed.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1), (GAP // 2,) * 4, value=0.5)
    return (255 * whole).byte()[..., None].repeat(1, 1, 3)


def _sheets(first):
    """Two sheets of the fifty portraits from `first` on."""
    portraits = numpy.load(packages.folder("skimage") / "data" / "lfw_subset.npy")[first : first + 2 * ROW * ROW]
    return [sheet(part) for part in torch.from_numpy(portraits).float().split(ROW * ROW)]


def calibration():
    """Pictures to calibrate on: uint8 [H, W, 3] each.

    Raises:
        Missing: scikit-image is not installed.
    """
    folder = packages.folder("skimage") / "data"
    return _sheets(0) + [picture(folder / name) for name in OTHERS]


def test():
    """{name: picture} with faces; Missing as in `calibration`."""
    folder = packages.folder("skimage") / "data"
    return {
        "astronaut": picture(folder / "astronaut.png"),
        "camera": picture(folder / "camera.png"),
        "hopper": picture(packages.folder("matplotlib") / "mpl-data/sample_data" / "grace_hopper.jpg"),
        **{f"portraits {number}": page for number, page in enumerate(_sheets(50), 1)},
    }
