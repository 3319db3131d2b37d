"""Images from a folder or a file of arrays, as batches for a network."""

import hashlib
import pathlib

import numpy
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F

from pcsnn.cli.errors import UsageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


class Folder:
    """The images of a folder, decoded when they are asked for: CLASS/.../IMAGE, classes numbered in the order of their
    names, or IMAGE alone, without labels."""

    def __init__(self, path, option, channels):
        self._image = _pillow(option)
        self._mode = {1: "L", 3: "RGB"}[channels]
        self.option = option
        classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
        flat = sorted(_image_files(path.iterdir()))
        inside = [sorted(_image_files(folder.rglob("*"))) for folder in classes]
        if flat and any(inside):
            raise ValueError(f"{option}: expected images in {path} or in its folders, one a class, got both")
        self.files = flat or [file for files in inside for file in files]
        if not self.files:
            raise ValueError(f"{option}: no image in {path}; expected {', '.join(sorted(SUFFIXES))}")
        self.labels = None if flat else torch.tensor([number for number, files in enumerate(inside) for _ in files])

    def __len__(self):
        return len(self.files)

    def image(self, place):
        """uint8 [C, H, W]."""
        try:
            with self._image.open(self.files[place]) as image:
                pixels = numpy.array(image.convert(self._mode))
        except OSError as error:  # UnidentifiedImageError is one
            raise ValueError(f"{self.option}: cannot read {self.files[place]}: {error}") from error
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)

    def name(self, place):
        return str(self.files[place])

    def fingerprint(self):
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.parent.name}/{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()


def _image_files(entries):
    return [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]


def _pillow(option):
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{option}: reading image files needs Pillow, the extra [images]: pip install pillow") \
            from error
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
            raise ValueError(f"{option}: expected images [N, ...] with N > 0 in {path}, got shape "
                             f"{tuple(images.shape)}")
        if images.dtype == torch.uint8:
            images = _channels_first(images, path, option)
        elif not images.is_floating_point():
            raise ValueError(f"{option}: expected images of dtype uint8 or floating point in {path}, got "
                             f"{images.dtype}")
        self.images = images
        if self.labels is not None:
            if self.labels.is_floating_point() or len(self.labels) != len(images):
                raise ValueError(f"{option}: expected labels in whole numbers, one for each of {len(images)} images, "
                                 f"in {path}, got {self.labels.dtype} {tuple(self.labels.shape)}")
            self.labels = self.labels.long()

    def __len__(self):
        return len(self.images)

    def image(self, place):
        return self.images[place]

    def name(self, place):
        return f"image {place} of {self.path}"

    def fingerprint(self):
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return digest.hexdigest()


def _read_arrays(path, option):
    try:
        if path.suffix == ".npz":
            with numpy.load(path, allow_pickle=False) as file:
                found = {key: torch.from_numpy(file[key]) for key in ("images", "labels") if key in file}
        else:
            tensors = safetensors.torch.load_file(path)
            found = {key: tensors[key] for key in ("images", "labels") if key in tensors}
    except (ValueError, TypeError, OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{option}: cannot read {path}: {error}") from error
    if "images" not in found:
        raise ValueError(f"{option}: expected an array images, and perhaps labels, in {path}")
    return found["images"], found.get("labels")


def _channels_first(images, path, option):
    """uint8 in one of three layouts -> [N, C, H, W]."""
    if images.dim() == 3:
        return images.unsqueeze(1)
    if images.dim() == 4 and images.shape[1] in (1, 3):
        return images
    if images.dim() == 4 and images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2)
    raise ValueError(f"{option}: expected uint8 images [N, C, H, W], [N, H, W, C] or [N, H, W] with 1 or 3 channels in "
                     f"{path}, got shape {tuple(images.shape)}")


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

    def __init__(self, resize=None, crop=None, mean=None, std=None):
        self.resize, self.crop = resize, (crop, crop) if isinstance(crop, int) else crop
        self.mean, self.std = (None if values is None else torch.tensor(values) for values in (mean, std))
        if self.std is not None and not (self.std > 0).all():
            raise UsageError(f"--std: expected values above 0, got {std}")

    def __call__(self, image, name):
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        if (self.resize or self.crop or self.mean is not None or self.std is not None) and image.dim() != 3:
            raise ValueError(f"--resize, --crop, --mean, --std: expected images [C, H, W], got {name} "
                             f"{tuple(image.shape)}")
        if self.resize:
            image = F.interpolate(image[None], self._target(image), mode="bilinear", antialias=True)[0]
        if self.crop:
            image = self._middle(image, name)
        if self.mean is not None:
            image = image - _per_channel("--mean", self.mean, image)
        if self.std is not None:
            image = image / _per_channel("--std", self.std, image)
        return image

    def _target(self, image):
        if isinstance(self.resize, tuple):
            return self.resize
        shorter = min(image.shape[1:])
        return tuple(max(self.resize * side // shorter, self.resize) for side in image.shape[1:])

    def _middle(self, image, name):
        (height, width), (rows, columns) = self.crop, image.shape[1:]
        if height > rows or width > columns:
            raise ValueError(f"--crop: expected at most the size of the images, got {height}x{width} for {name}, "
                             f"{rows}x{columns}")
        top, left = (rows - height) // 2, (columns - width) // 2
        return image[:, top:top + height, left:left + width]


def _per_channel(option, values, image):
    if len(values) not in (1, len(image)):
        raise ValueError(f"{option}: expected one value, or one for each of {len(image)} channels, got {len(values)}")
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
            raise ValueError(f"{self.source.option}: expected images of one size, got {tuple(image.shape)} in "
                             f"{self.source.name(place)} after {tuple(self._shape)}; --resize and --crop make them "
                             "equal")
        return image if self.source.labels is None else (image, self.source.labels[place])
