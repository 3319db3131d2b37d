"""Photographs for ImageNet networks: JPEG files in an npz or in a folder, decoded when they are asked for."""

import io
import pathlib

import numpy
import torch

from lib import data
from pcsnn.cli.images import Folder

MARGIN = 32  # pixels that the usual preparation cuts off, 16 at each side of the shorter one, at the network's size
HELD_OUT = 4  # where a folder has no images to calibrate on, every so many-th is taken for that, and not tested


class Photographs(torch.utils.data.Dataset):
    """Pictures with labels, each decoded, cut, resized and normalised when it is read.

    The middle of a picture, size / (size + 32) of its shorter side, becomes `size` pixels wide: 224 of 256, as
    published networks expect. One that is `cut` already is resized whole.

    Args:
        sources: files, or bytes of files. labels: int64 [N]. cut: whether the margin is gone.
        size: of the network's images. statistics: mean and deviation of each channel, of values 0..1.
        smooth: whether to resize by bicubic instead of bilinear interpolation.
        workers: processes that decode; 0 for none beside this one.
    """

    def __init__(self, sources, labels, cut, size, statistics, smooth=False, workers=0):
        try:
            from PIL import Image
        except ImportError:
            raise ImportError("photographs need Pillow: pip install pillow") from None
        self._image = Image
        self.sources, self.labels, self.cut, self.size, self.workers = sources, labels, cut, size, workers
        self._statistics = statistics
        self._filter = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR

    def __len__(self):
        return len(self.sources)

    def _one(self, source):
        """uint8 [3, size, size]."""
        with self._image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            picture = file.convert("RGB")
        width, height = picture.size
        side = min(width, height) * (1 if self.cut else self.size / (self.size + MARGIN))
        left, top = (width - side) / 2, (height - side) / 2
        resized = picture.resize((self.size, self.size), self._filter, box=(left, top, left + side, top + side))
        return torch.from_numpy(numpy.array(resized)).permute(2, 0, 1)

    def __getitem__(self, place):
        """float32 [3, size, size], or [N, 3, size, size] of a slice."""
        if isinstance(place, slice):
            return torch.stack([self[number] for number in range(*place.indices(len(self)))])
        return data.normalise(self._one(self.sources[place])[None], self._statistics)[0]

    def split(self, batch):
        """Batches [n, 3, size, size], decoded while the one before is computed on where there are workers."""
        return torch.utils.data.DataLoader(self, batch, num_workers=self.workers)

    def some(self, count):
        """`count` of them at most, evenly spread: they may be sorted by class."""
        places = torch.linspace(0, len(self) - 1, min(count, len(self))).round().long()
        return self.at(places)

    def at(self, places):
        """Those at the places, int64 [n]."""
        part = object.__new__(Photographs)
        part.__dict__.update(self.__dict__)
        part.sources, part.labels = [self.sources[place] for place in places.tolist()], self.labels[places]
        return part


def _packed(path):
    """(bytes of each file, labels) of an npz with `data` uint8, `sizes` and `labels` int64 [N]."""
    with numpy.load(path) as arrays:
        missing = {"data", "sizes", "labels"} - set(arrays.files)
        if missing:
            raise ValueError(f"{path}: expected arrays data, sizes and labels, got none called {', '.join(missing)}")
        joined, sizes, labels = (arrays[name] for name in ("data", "sizes", "labels"))
    if len(sizes) != len(labels) or sizes.sum() != len(joined):
        raise ValueError(f"{path}: {len(sizes)} sizes, {len(labels)} labels and {len(joined)} bytes do not fit")
    ends = sizes.cumsum()
    return [joined[end - size : end].tobytes() for end, size in zip(ends, sizes)], torch.from_numpy(labels).long()


def _named_labels(path, files):
    """Labels of files, by lines "NAME LABEL" in any order."""
    known = {}
    for line in path.read_text().splitlines():
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdigit():
            raise ValueError(f"{path}: expected lines 'NAME LABEL', got {line!r}")
        known[pathlib.Path(name).name] = int(label)
    without = next((file.name for file in files if file.name not in known), None)
    if without:
        raise ValueError(f"{path}: no label for {without}")
    return torch.tensor([known[file.name] for file in files])


def _folder(path, labels):
    folder = Folder(path, "--data", 3)
    if labels is not None:
        return folder.files, _named_labels(labels, folder.files)
    if folder.labels is None:
        raise ValueError(f"--data: images in {path} have no labels: give --labels FILE, or a folder for each class")
    return folder.files, folder.labels


def load(path, labels, calibration, **preparation):
    """(Photographs to calibrate on, Photographs to test, where they come from) of a folder.

    Args:
        path: a folder with calibration.npz and test.npz, whose images are cut already; or images CLASS/IMAGE, classes
            in the order of their names, or IMAGE alone.
        labels: a file of lines "NAME LABEL", or None.
        calibration: a folder of images to calibrate on, or None: every fourth of `path`, which is not tested then.
        preparation: size, statistics, smooth and workers of Photographs.

    Raises:
        FileNotFoundError, ValueError, ImportError: nothing there, images without labels, no Pillow.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"--data: no folder {path}")
    packed = [path / f"{name}.npz" for name in ("calibration", "test")]
    if all(file.is_file() for file in packed):
        return *(Photographs(*_packed(file), True, **preparation) for file in packed), "samples"
    images = Photographs(*_folder(path, labels), False, **preparation)
    if calibration is not None:
        files = Folder(calibration, "--calibration", 3).files
        return Photographs(files, torch.zeros(len(files), dtype=torch.int64), False, **preparation), images, "folders"
    number = torch.arange(len(images))
    held_out = number % HELD_OUT == 0
    return images.at(number[held_out]), images.at(number[~held_out]), "one folder"
