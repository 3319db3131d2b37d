"""Images from a folder or a file of arrays, as batches for a network."""

import hashlib
import os
import zipfile

import numpy
import safetensors
import torch
import torch.nn.functional as F

from pcsnn.cli import files
from pcsnn.cli.errors import UsageError
from pcsnn.cli.machine import available_memory
from pcsnn.cli.normalisation import Settled
from pcsnn.cli.pixels import decode

MOST_PIXELS = 2**28  # of an image that --resize makes: 3 GiB in colour


class Folder:
    """The images of a folder, decoded when they are asked for: CLASS/.../IMAGE, classes numbered in the order of their
    names, or IMAGE alone, without labels."""

    def __init__(self, path, option, channels):
        self._image = _pillow(option)
        self._mode = {1: "L", 3: "RGB"}[channels]
        self.option = option
        with files.reading(path, option):
            classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
            flat = sorted(_image_files(path.iterdir()))
            inside = [sorted(_image_files(folder.rglob("*"))) for folder in classes]
        if flat and any(inside):
            raise ValueError(f"{option}: expected images in {path} or in its folders, one a class, got both")
        self.files = flat or [file for found in inside for file in found]
        if not self.files:
            raise ValueError(f"{option}: no image in {path}; expected {', '.join(sorted(files.IMAGE_SUFFIXES))}")
        self.labels = None if flat else torch.tensor([number for number, found in enumerate(inside) for _ in found])

    def __len__(self):
        return len(self.files)

    def image(self, place):
        """uint8 [C, H, W]."""
        with files.reading(self.files[place], self.option):
            return torch.from_numpy(decode(self._image, self.files[place], self._mode)).permute(2, 0, 1)

    def raw(self):
        """Whether images are pixels, as they come from a camera, which may have to be normalised."""
        return True

    def name(self, place):
        return str(self.files[place])

    def fingerprint(self):
        digest = hashlib.sha256()
        for file in self.files:
            with files.reading(file, self.option):
                digest.update(os.fsencode(f"{file.parent.name}/{file.name} {file.stat().st_size}\n"))
        return digest.hexdigest()


def _image_files(entries):
    return [entry for entry in entries if entry.suffix.lower() in files.IMAGE_SUFFIXES and entry.is_file()]


def _pillow(option):
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"{option}: reading image files needs Pillow, the extra [images]: pip install pillow"
        ) from error
    return Image


class Arrays:
    """The arrays `images` and, if there, `labels` of a .npz or .safetensors file.

    Images are uint8 [N, C, H, W], [N, H, W, C] or [N, H, W] with 1 or 3 channels, or floating point [N, ...], what the
    network takes.
    """

    def __init__(self, path, option):
        self.path, self.option = path, option
        images, self.labels = _read_arrays(path, option)
        if images.dim() < 2 or not len(images):
            raise ValueError(
                f"{option}: expected images [N, ...] with N > 0 in {path}, got shape {tuple(images.shape)}"
            )
        if images.dtype == torch.uint8:
            images = _channels_first(images, path, option)
        elif not images.is_floating_point():
            raise ValueError(
                f"{option}: expected images of dtype uint8 or floating point in {path}, got {images.dtype}"
            )
        self.images = images
        if self.labels is not None:
            whole = not self.labels.is_floating_point() and not self.labels.is_complex()
            if not whole or self.labels.shape[:1] != images.shape[:1]:
                raise ValueError(
                    f"{option}: expected labels in whole numbers, one for each of {len(images)} images, "
                    f"in {path}, got {self.labels.dtype} {tuple(self.labels.shape)}; a regression is "
                    "measured without labels, by the error of its outputs"
                )
            self.labels = self.labels.long()

    def __len__(self):
        return len(self.images)

    def image(self, place):
        return self.images[place]

    def raw(self):
        """Whether images are pixels: bytes, or numbers 0..1, [N, C, H, W]. Others are normalised already."""
        images = self.images
        return images.dtype == torch.uint8 or bool(images.dim() == 4 and images.min() >= 0 and images.max() <= 1)

    def name(self, place):
        return f"image {place} of {self.path}"

    def fingerprint(self):
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return digest.hexdigest()


def _read_arrays(path, option):
    """(images, labels or None) in memory of their own: what becomes of the file afterwards is of no consequence."""
    with files.reading(path, option):
        found = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    if "images" not in found:
        raise ValueError(f"{option}: expected an array images, and perhaps labels, in {path}")
    return found["images"], found.get("labels")


def _read_npz(path):
    found = {}
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        for key in ("images", "labels"):
            if f"{key}.npy" not in names:
                continue
            entry, most = archive.getinfo(f"{key}.npy"), available_memory()
            if entry.file_size > most:
                raise ValueError(
                    f"{key} takes {entry.file_size / 2**30:.1f} GiB, and {most / 2**30:.1f} GiB of memory are free"
                )
            with archive.open(entry) as member:
                found[key] = torch.from_numpy(numpy.lib.format.read_array(member, allow_pickle=False))
                if member.read(1):  # and the checksum is compared at the end
                    raise ValueError(f"{key} has bytes behind its array")
    return found


def _read_safetensors(path):
    with safetensors.safe_open(path, "pt") as file:
        return {key: file.get_tensor(key).clone() for key in ("images", "labels") if key in file.keys()}


def _channels_first(images, path, option):
    """uint8 in one of three layouts -> [N, C, H, W]."""
    if images.dim() == 3:
        return images.unsqueeze(1)
    if images.dim() == 4 and images.shape[1] in (1, 3):
        return images
    if images.dim() == 4 and images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2)
    raise ValueError(
        f"{option}: expected uint8 images [N, C, H, W], [N, H, W, C] or [N, H, W] with 1 or 3 channels in "
        f"{path}, got shape {tuple(images.shape)}"
    )


def open_images(path, option, channels):
    """A Folder or Arrays.

    Raises:
        FileNotFoundError, UsageError, ValueError, ImportError: nothing there, another kind of file, no images, no
            Pillow.
    """
    if path.is_dir():
        return Folder(path, option, channels)
    if not path.exists():
        raise FileNotFoundError(f"{option}: no file or folder {path}")
    if path.suffix not in (".npz", ".safetensors"):
        raise UsageError(f"{option}: expected a folder, or a .npz or .safetensors file, got {path}")
    return Arrays(path, option)


class Preparation:
    """From an image, [C, H, W], to what the network takes: uint8 to 0..1, resized, the middle cut out, normalised.

    Resizing is bilinear with antialiasing.
    """

    def __init__(self, resize=None, crop=None, normalisation=None):
        self.resize, self.crop = resize, (crop, crop) if isinstance(crop, int) else crop
        self.normalisation = normalisation or Settled()
        self.mean, self.std = (None if values is None else torch.tensor(values) for values in self.normalisation[:2])

    def __call__(self, image, name):
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        if (self.resize or self.crop or self.mean is not None or self.std is not None) and image.dim() != 3:
            raise ValueError(
                f"--resize, --crop, --mean, --std: expected images [C, H, W], got {name} {tuple(image.shape)}"
            )
        if self.resize:
            image = F.interpolate(image[None], self._target(image, name), mode="bilinear", antialias=True)[0]
        if self.crop:
            image = self._middle(image, name)
        if self.mean is not None:
            image = image - _per_channel("mean", self.normalisation.of_mean, self.mean, image)
        if self.std is not None:
            image = image / _per_channel("std", self.normalisation.of_std, self.std, image)
        return image

    def _target(self, image, name):
        if isinstance(self.resize, tuple):
            return self.resize
        shorter = min(image.shape[1:])
        height, width = (max(self.resize * side // shorter, self.resize) for side in image.shape[1:])
        if height * width > MOST_PIXELS:
            raise ValueError(
                f"--resize: expected images that come to at most {MOST_PIXELS:,} pixels, got {name}, which "
                f"would become {height}x{width}"
            )
        return height, width

    def _middle(self, image, name):
        (height, width), (rows, columns) = self.crop, image.shape[1:]
        if height > rows or width > columns:
            raise ValueError(
                f"--crop: expected at most the size of the images, got {height}x{width} for {name}, {rows}x{columns}"
            )
        top, left = (rows - height) // 2, (columns - width) // 2
        return image[:, top : top + height, left : left + width]


def _per_channel(name, said_by, values, image):
    if len(values) not in (1, len(image)):
        found = len(values) if said_by == f"--{name}" else f"{len(values)} of {said_by}"
        raise ValueError(f"--{name}: expected one value, or one for each of {len(image)} channels, got {found}")
    return values.view(-1, 1, 1)


class Prepared(torch.utils.data.Dataset):
    """`count` images (None: all), drawn by `seed`: (float32 image, int64 label), or the image alone without labels."""

    def __init__(self, source, prepare, count, seed):
        self.source, self.prepare = source, prepare
        self.order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        self._shape = None

    def __len__(self):
        return len(self.order)

    def __getitem__(self, position):
        place = self.order[position]
        image = self.prepare(self.source.image(place), self.source.name(place))
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            raise ValueError(
                f"{self.source.option}: expected images of one size, got {tuple(image.shape)} in "
                f"{self.source.name(place)} after {tuple(self._shape)}; --resize and --crop make them "
                "equal"
            )
        return image if self.source.labels is None else (image, self.source.labels[place])
