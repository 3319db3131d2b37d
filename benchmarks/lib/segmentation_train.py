"""Trains a small segmentation network with ReLU on CamVid.

Killed and started again with the same options, it goes on from its last epoch to the same weights: the order and
augmentation of the images follow from seed and step alone, everything else is in the checkpoint.
"""

import json

import camvid
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from tqdm import tqdm
from train import TrainingState, build_optimizer, replace_file

from lib import data
from lib.segmentation_metrics import evaluate, predict
from pcsnn import models

MODELS = {"fcn_small": models.fcn_small, "deeplabv3_small": models.deeplabv3_small}
DEFAULTS = {"epochs": 60, "batch": 8, "seed": 0, "rate": 0.05, "weight_decay": 5e-4, "crop": (144, 192)}
SCALES = 0.75, 1.75  # of the images, before a crop
AUXILIARY = 0.4  # weight of the auxiliary classifier's loss
EVALUATE_EVERY = 5  # epochs


def augment(images, labels, crop, generator):
    """Normalised images [N, 3, H, W] and uint8 labels [N, H, W], each scaled, flipped and cropped at random.

    To float32 [N, 3, *crop], and int64 [N, *crop], VOID beyond the border of an image.
    """
    count, _, height, width = images.shape
    low, high = SCALES
    scale = low * (high / low) ** torch.rand(count, generator=generator)
    flip = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    spread = [length / full / scale for length, full in zip(crop, (height, width))]
    move = [(1 - part).clamp(min=0) * (2 * torch.rand(count, generator=generator) - 1) for part in spread]
    theta = torch.zeros(count, 2, 3)  # from places in the crop to places in the image, x first
    theta[:, 0, 0], theta[:, 0, 2] = spread[1] * flip, move[1]
    theta[:, 1, 1], theta[:, 1, 2] = spread[0], move[0]
    grid = F.affine_grid(theta, (count, 3, *crop), align_corners=False)
    beyond = labels.unsqueeze(1).float() - camvid.VOID  # zeros beyond the border then mean void
    classes = F.grid_sample(beyond, grid, "nearest", align_corners=False).squeeze(1).round().long() + camvid.VOID
    light = 0.8 + 0.4 * torch.rand(2, count, 1, 1, 1, generator=generator)
    return F.grid_sample(images, grid, align_corners=False) * light[0] + (light[1] - 1), classes


def class_weights(labels):
    """Weights of the classes in the loss, larger for rare ones, [11]. Source: ENet, arXiv 1606.02147."""
    counts = torch.bincount(labels.flatten(), minlength=camvid.VOID + 1)[: camvid.VOID].double()
    weights = 1 / torch.log(1.1 + counts / counts.sum())
    return (weights / weights.mean()).float()


def _batches(images, labels, settings, epoch):
    """The batches of an epoch; an incomplete last one is left out."""
    batch, seed = settings["batch"], settings["seed"] * 1000 + epoch
    generator = torch.Generator().manual_seed(seed)
    for picked in torch.randperm(len(images), generator=generator).split(batch):
        if len(picked) == batch or batch > len(images):
            part = data.normalise(images[picked], camvid.STATISTICS)
            yield augment(part, labels[picked], settings["crop"], generator)


def _loss(outputs, classes, weights):
    losses = {
        name: F.cross_entropy(logits, classes, weights, ignore_index=camvid.VOID) for name, logits in outputs.items()
    }
    return losses["out"] + AUXILIARY * losses["aux"]


def train(name, folder, path, settings, progress_interval=0.1):
    """Train a network of MODELS on the data in `folder` and write its weights to `path`, a safetensors file.

    `settings`: values for the names in DEFAULTS.
    """
    images, labels = camvid.load("train", folder)
    test_images, test_labels = camvid.load("val", folder)
    weights = class_weights(labels)
    torch.manual_seed(settings["seed"])
    model = MODELS[name](aux=True).to(memory_format=torch.channels_last)
    steps = max(1, len(images) // settings["batch"])
    optimizer, schedule = build_optimizer(model, settings, settings["epochs"] * steps)
    described = {"model": name, **settings, "crop": list(settings["crop"])}
    state = TrainingState(path, described, model, optimizer, schedule)
    state.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(
        total=settings["epochs"] * steps,
        initial=state.done * steps,
        unit="step",
        desc=name,
        mininterval=progress_interval,
    ) as progress:
        for epoch in range(state.done, settings["epochs"]):
            model.train()
            for x, classes in _batches(images, labels, settings, epoch):
                loss = _loss(model(x.contiguous(memory_format=torch.channels_last)), classes, weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
            progress.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}", refresh=False)
            state.done = epoch + 1
            state.write()
            if (epoch + 1) % EVALUATE_EVERY == 0 and epoch + 1 < settings["epochs"]:
                model.eval()
                found = evaluate(predict(model, test_images, settings["batch"], name), test_labels)
                progress.write(f"epoch {epoch + 1}: pixel accuracy {found.pixel_accuracy:.4f}, mIoU {found.miou:.4f}")
    model.eval()
    found = evaluate(predict(model, test_images, settings["batch"], name), test_labels)
    described |= {"data": "CamVid", "mean": camvid.STATISTICS[0], "std": camvid.STATISTICS[1]}
    described |= {"pixel_accuracy": found.pixel_accuracy, "miou": found.miou}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}
    tensors = {
        key: tensor.contiguous() for key, tensor in model.state_dict().items() if not key.startswith("aux_classifier")
    }
    replace_file(path, lambda path: safetensors.torch.save_file(tensors, path, metadata))
    state.path.unlink()
    print(f"{path}: pixel accuracy {found.pixel_accuracy:.4f}, mIoU {found.miou:.4f} on {len(test_images)} val images")


def load(path):
    """A file that `train` wrote -> the network without auxiliary classifier, in evaluation mode, and its metadata."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = {
            key: value if key in ("model", "data") else json.loads(value) for key, value in file.metadata().items()
        }
    network = MODELS[metadata["model"]]()
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval(), metadata
