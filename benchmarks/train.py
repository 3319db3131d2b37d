"""Trains a small network on FashionMNIST: with QCFS activations, lossless at T = L, or with ReLU, to be calibrated.

    python benchmarks/train.py --model resnet20 --data FOLDER
    python benchmarks/train.py --model resnet20 --data FOLDER --start CHECKPOINT --seed 1    a second stage
    python benchmarks/train.py --model vgg --activation relu --data FOLDER
    python benchmarks/train.py --model transformer --data FOLDER --epochs 9

Killed and started again with the same options, it goes on from its last checkpoint to the same weights: the order and
augmentation of the images follow from seed and step alone, everything else is in the checkpoint.
"""

import argparse
import json
import os
import pathlib

import safetensors.torch
import torch
import torch.nn.functional as F
from lib import data, networks
from tqdm import tqdm

WARM_UP, SAVE_EVERY = 0.2, 100
THRESHOLD_RATE = 0.1  # of the rate of the weights
STAGE = ("epochs", "batch", "seed", "rate", "shift", "weight_decay", "label_smoothing")


def augment(images, shift, generator):
    """uint8 [N, 1, H, W]: each image shifted by up to `shift` pixels and flipped left to right at random."""
    count, _, height, width = images.shape
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = down + torch.arange(height)
    columns = right + torch.arange(width)
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(images, (shift,) * 4).squeeze(1)
    return padded[torch.arange(count).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)


def batches(images, labels, stage, epoch, first):
    """The normalised batches of an epoch from step `first` on; an incomplete last batch is left out."""
    batch, seed = stage["batch"], stage["seed"] * 1000 + epoch
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    for step in range(first, len(images) // batch):
        picked = order[step * batch : (step + 1) * batch]
        generator = torch.Generator().manual_seed(seed * 100_000 + step)
        yield data.normalise(augment(images[picked], stage["shift"], generator), data.FASHION_MNIST), labels[picked]


def build_optimizer(model, stage, total_steps):
    """Nesterov SGD with a one-cycle schedule; only matrices and kernels decay, thresholds learn at their own rate."""
    groups = {"weights": [], "vectors": [], "thresholds": []}
    for name, parameter in model.named_parameters():
        kind = "thresholds" if name.endswith(".threshold") else "vectors" if parameter.dim() == 1 else "weights"
        groups[kind].append(parameter)
    rates = [stage["rate"] * (THRESHOLD_RATE if kind == "thresholds" else 1) for kind in groups]
    groups = [
        {"params": group, "weight_decay": stage["weight_decay"] if kind == "weights" else 0.0}
        for kind, group in groups.items()
    ]
    optimizer = torch.optim.SGD(groups, lr=stage["rate"], momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        rates,
        total_steps,
        pct_start=WARM_UP,
        anneal_strategy="linear",
        cycle_momentum=False,
        final_div_factor=1000,
    )
    return optimizer, schedule


def replace_file(path, write):
    """Calls write(temporary path), then puts the result in place of `path` at once: a kill leaves no half file."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


class TrainingState:
    """All of a training that its steps change, beside `output`, so that it goes on after a kill; `done` counts what the
    caller counts: steps or epochs."""

    def __init__(self, output, settings, model, optimizer, schedule):
        self.path, self.settings, self.done = output.with_suffix(".training.pt"), settings, 0
        self._parts = {"model": model, "optimizer": optimizer, "schedule": schedule}

    def read(self):
        """Go on from the file, if there is one; SystemExit if it is of a training with other settings."""
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        if state["settings"] != self.settings:
            raise SystemExit(
                f"{self.path} is of a training with {state['settings']}, not {self.settings}: delete it to start anew"
            )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        self.done = state["done"]

    def write(self):
        state = {"settings": self.settings, "done": self.done, "random": torch.get_rng_state()}
        state |= {name: part.state_dict() for name, part in self._parts.items()}
        replace_file(self.path, lambda path: torch.save(state, path))


@torch.no_grad()
def accuracy(model, images, labels, batch=500):
    """The share of right answers of the model in evaluation mode, which it stays in."""
    model.eval()
    right = 0
    for some, expected in zip(images.split(batch), labels.split(batch)):
        x = data.normalise(some, data.FASHION_MNIST).contiguous(memory_format=torch.channels_last)
        right += (model(x).argmax(1) == expected).sum().item()
    return right / len(images)


def train(args):
    images, labels = data.fashion_mnist("train", args.data)
    test_images, test_labels = data.fashion_mnist("t10k", args.data)
    stage = {name: getattr(args, name) for name in STAGE}
    torch.manual_seed(args.seed)
    if args.start:
        model, before = networks.load(args.start)
        kind = before.get("activation", "relu" if before["levels"] is None else "qcfs")
        if (before["model"], before["levels"], kind) != (args.model, args.levels, args.activation):
            raise SystemExit(f"{args.start} is a {before['model']} with {kind}, {before['levels']} levels")
        stages = [*before["stages"], stage]
    else:
        model, stages = networks.build(args.model, args.levels, args.activation), [stage]
    model = model.to(memory_format=torch.channels_last)
    steps = len(images) // args.batch
    optimizer, schedule = build_optimizer(model, stage, args.epochs * steps)

    settings = {"model": args.model, "levels": args.levels, "stages": stages}
    if args.activation in networks.SIGNED:
        settings["activation"] = args.activation
    state = TrainingState(args.output, settings, model, optimizer, schedule)
    state.read()
    with tqdm(
        total=args.epochs * steps, initial=state.done, unit="step", mininterval=args.progress_interval
    ) as progress:
        for epoch in range(state.done // steps, args.epochs):
            model.train()
            for x, expected in batches(images, labels, stage, epoch, state.done % steps):
                logits = model(x.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, expected, label_smoothing=args.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                state.done += 1
                progress.update()
                if state.done % SAVE_EVERY == 0 or state.done % steps == 0:
                    progress.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}", refresh=False)
                    state.write()
            progress.write(f"epoch {epoch + 1}: test accuracy {accuracy(model, test_images, test_labels):.4f}")

    reached = accuracy(model, test_images, test_labels)
    described = {
        **settings,
        "data": "FashionMNIST",
        "mean": data.FASHION_MNIST[0],
        "std": data.FASHION_MNIST[1],
        "accuracy": reached,
        "seed": args.seed,
        "epochs": sum(stage["epochs"] for stage in stages),
    }
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in described.items()}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    replace_file(args.output, lambda path: safetensors.torch.save_file(tensors, path, metadata))
    state.path.unlink()
    print(f"{args.output}: test accuracy {reached:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(networks.FASHION_MNIST), required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with FashionMNIST's *-ubyte.gz files")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="default: benchmarks/checkpoints/MODEL[-ACTIVATION]-fashion-mnist.safetensors",
    )
    parser.add_argument(
        "--activation", choices=("qcfs", "relu", *networks.SIGNED), default="qcfs", help="relu: ReLU6 in a mobilenet"
    )
    parser.add_argument("--levels", type=int, default=8, help="quantization levels L of QCFS")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=pathlib.Path, help="checkpoint to go on from, in a new cycle")
    parser.add_argument("--rate", type=float, default=0.05, help="peak of the learning rate")
    parser.add_argument("--shift", type=int, default=2, help="augmentation: shift images by up to so many pixels")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--label-smoothing", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--progress-interval", type=float, default=0.1, help="seconds between progress bar updates")
    args = parser.parse_args()
    args.levels = args.levels if args.activation == "qcfs" else None
    args.output = args.output or networks.checkpoint_path(args.model, args.activation)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    try:
        train(args)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
