"""What the options say, as objects: the machine set up, the network, the data."""

import torch
from torch.utils.data import DataLoader

from pcsnn.cli import models
from pcsnn.cli.images import Preparation, Prepared, open_images
from pcsnn.cli.normalisation import for_images, settle
from pcsnn.data.labelled import is_one_logit, logits_of


def set_up(args):
    """Sets the threads and seeds torch; returns the float network. `args.normalisation` becomes how its images are
    normalised, a Settled."""
    if args.threads:
        torch.set_num_threads(args.threads)
    network, said = models.build(args)
    args.normalisation = settle(args, said, args.weights)
    return network


def load_data(args, path, option, count):
    """(batches of float32 images [N, C, H, W] and labels [N], as often as they are read, their source)."""
    source = open_images(path, option, args.channels)
    prepare = Preparation(args.resize, args.crop, for_images(args.normalisation, source))
    return DataLoader(Prepared(source, prepare, count, args.seed), batch_size=args.batch), source


def open_data(args, network):
    """--data and --calibration, each checked against the network.

    Returns:
        (batches of the data, batches of the calibration or None, what tells both from others: a dict for JSON).
    """
    data, source = load_data(args, args.data, "--data", args.images)
    check_decisions(*check_fits(network, data, "--data", args), data, "--data", args)
    settings = {"data": data_settings(args, data, source), "calibration": None}
    if args.calibration is None:
        return data, None, settings
    calibration, source = load_data(args, args.calibration, "--calibration", args.calibration_images)
    check_fits(network, calibration, "--calibration", args)
    return data, calibration, settings | {"calibration": data_settings(args, calibration, source)}


def data_settings(args, loader, source):
    """What tells these data from others: a dict for JSON."""
    return {
        "content": source.fingerprint(),
        "images": len(loader.dataset),
        "seed": args.seed,
        "channels": args.channels,
        "resize": args.resize,
        "crop": args.crop,
        "mean": loader.dataset.prepare.normalisation.mean,
        "std": loader.dataset.prepare.normalisation.std,
    }


def first_images(loader, count, device):
    """The first `count` images of the data in one tensor [count, ...], laid out as they come."""
    parts, left = [], count
    for item in loader:
        images = item if isinstance(item, torch.Tensor) else item[0]
        parts.append(images[:left])
        left -= len(parts[-1])
        if left <= 0:
            break
    return torch.cat(parts).to(device)


@torch.no_grad()
def check_fits(network, loader, option, args):
    """ValueError where a batch does not run through the network. Returns (images, output) of it."""
    item = next(iter(loader))
    images = item if isinstance(item, torch.Tensor) else item[0]
    try:
        return images, network(images.to(args.device))
    except Exception as error:  # whatever the network does
        shape = tuple(images.shape)
        raise ValueError(f"{option}: a batch {shape} does not run through {args.model}: {error}") from error


def check_decisions(images, output, loader, option, args):
    """ValueError where the output of a batch decides for no class, or where labels are no classes of the network."""
    try:
        logits = logits_of(output, args.model, len(images))
    except ValueError as error:
        raise ValueError(f"MODEL: {error}") from error
    labels, classes = loader.dataset.source.labels, 2 if is_one_logit(logits) else logits.shape[1]
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{option}: expected labels 0..{classes - 1} for {args.model}, whose outputs are "
            f"{tuple(logits.shape)}, got {int(labels.min())}..{int(labels.max())}"
        )
