"""Accuracy of spiking networks beside the networks they were converted from, on real images.

    python benchmarks/accuracy.py                   the shipped QCFS networks on the shipped FashionMNIST test images
    python benchmarks/accuracy.py --data FOLDER     also calibrates, on FashionMNIST training images
    python benchmarks/accuracy.py --cifar FOLDER    also a ReLU network on CIFAR-10 subsets

"Collapsed" is the converted network: one pass on rates. "bfloat16" and "int8" are pcsnn.optimize's weights on the
network of the row above. "Same" counts the images on which a form predicts what the source network predicts.
"Miscounts" counts the neurons, over all layers and images, whose spike count differs from the level of the QCFS
activation they replace. Serial IF takes T passes over the network, so it gets fewer images; the row of the network
itself on those stands above it.
"""

import argparse
import contextlib
import json
import pathlib
import platform
import time

import safetensors.torch
import torch
from lib import data, networks
from tqdm import tqdm

import pcsnn
from pcsnn import models

COLLAPSED, SERIAL, RELU = (2, 4, 16, 32), (4, 8, 16, 32, 64), (4, 8, 16, 32)
WEIGHTS = ("bfloat16", "int8")  # of pcsnn.optimize
CALIBRATION_IMAGES, CALIBRATION_BATCH = 4096, 32
HEADINGS = {
    "network": "network",
    "form": "form",
    "timesteps": "T",
    "method": "method",
    "images": "images",
    "accuracy": "accuracy",
    "same": "same",
    "miscounts": "miscounts",
}


def predict(network, images, batch, what):
    """The class of each image, int64 [N]."""
    shown = tqdm(images.split(batch), desc=what, unit="batch", leave=False)
    return torch.cat([network(part).argmax(1) for part in shown])


@contextlib.contextmanager
def qcfs_levels(network):
    """{layer: the level 0..L of every QCFS activation [N, ...]} of the latest forward pass inside."""
    found = {}

    def watch(name):
        def hook(module, arguments, output):
            found[name] = (output * module.levels / module.threshold).round()

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if isinstance(module, pcsnn.nn.QCFS)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def compare(network, snn, images, batch, what):
    """The class of each image by `snn`, int64 [N], and its miscounts.

    Those are the neurons whose spike count is not T / L times the level of their QCFS activation, over all layers and
    images.
    """
    predictions, wrong = [], 0
    for part in tqdm(images.split(batch), desc=what, unit="batch", leave=False):
        with qcfs_levels(network) as expected, pcsnn.record(snn) as recorded:
            network(part)
            predictions.append(snn(part).argmax(1))
        counts = recorded.counts
        if counts.keys() != expected.keys():
            raise RuntimeError(f"layers differ: {sorted(counts.keys() ^ expected.keys())}")
        for name, neuron in snn.neurons():
            repeat = snn.timesteps // neuron.quantization_levels
            wrong += int((counts[name] != expected[name] * repeat).sum())
    return torch.cat(predictions), wrong


class Table:
    """Rows of measurements on one network and its test images."""

    def __init__(self, name, network, images, labels, batch):
        self.name, self.network, self.images, self.labels, self.batch = name, network, images, labels, batch
        self.own = predict(network, images, batch, f"{name}: itself")
        self.rows = []

    def _add(self, form, predictions, **others):
        count = len(predictions)
        row = {
            "network": self.name,
            "form": form,
            "images": count,
            "accuracy": (predictions == self.labels[:count]).sum().item() / count,
            "same": (predictions == self.own[:count]).sum().item(),
            **others,
        }
        self.rows.append(row)

    def source(self, form, count=None):
        self._add(form, self.own[:count])

    def collapsed(self, timesteps, method, calibration=None, lossless=False, weights=()):
        what = f"{self.name}: collapsed, T = {timesteps}, {method}"
        snn = pcsnn.convert(self.network, timesteps, calibration=calibration, method=method)
        if lossless:
            predictions, wrong = compare(self.network, snn, self.images, self.batch, what)
            self._add("collapsed", predictions, timesteps=timesteps, method=method, miscounts=wrong)
        else:
            self._add("collapsed", predict(snn, self.images, self.batch, what), timesteps=timesteps, method=method)
        for kind in weights:
            predictions = predict(pcsnn.optimize(snn, kind), self.images, self.batch, f"{what}, {kind} weights")
            self._add(f"collapsed, {kind}", predictions, timesteps=timesteps, method=method)

    def serial(self, timesteps, method, count):
        what = f"{self.name}: serial, T = {timesteps}"
        network = pcsnn.baselines.serial(pcsnn.convert(self.network, timesteps, method=method))
        predictions = predict(network, self.images[:count], self.batch, what)
        self._add("serial IF", predictions, timesteps=timesteps, method=method)


def qcfs_rows(path, args):
    """A shipped network on FashionMNIST."""
    network, metadata = networks.load(path)
    images, labels = data.fashion_mnist("t10k")
    images, labels = data.normalise(images, data.FASHION_MNIST)[: args.images], labels[: args.images]
    levels = metadata["levels"]
    table = Table(f"{metadata['model']}, L = {levels}", network, images, labels, args.batch)
    table.source("QCFS network")
    calibration = None
    if args.data:
        training = data.fashion_mnist("train", args.data)[0][:CALIBRATION_IMAGES]
        calibration = data.normalise(training, data.FASHION_MNIST).split(CALIBRATION_BATCH)
    for timesteps in sorted({levels, *COLLAPSED}):
        table.collapsed(
            timesteps, "none", lossless=timesteps % levels == 0, weights=WEIGHTS if timesteps == levels else ()
        )
        if calibration and timesteps % levels:
            table.collapsed(timesteps, "paper", calibration)
    if args.serial_images:
        table.source("QCFS network", args.serial_images)
        for timesteps in SERIAL:
            table.serial(timesteps, "none", args.serial_images)
    return table.rows


def cifar_rows(args):
    """The published ReLU ResNet-20 on subsets of CIFAR-10."""
    network = models.cifar_resnet20()
    network.load_state_dict(safetensors.torch.load_file(args.cifar / "resnet20.safetensors"))
    images, labels = data.cifar10("test", args.cifar)
    images, labels = data.normalise(images, data.CIFAR10)[: args.images], labels[: args.images]
    calibration = data.normalise(data.cifar10("calibration", args.cifar)[0], data.CIFAR10).split(CALIBRATION_BATCH)
    table = Table("CIFAR ResNet-20, ReLU", network.eval(), images, labels, args.batch)
    table.source("ReLU network")
    for timesteps in RELU:
        for method in ("max", "paper", "quick"):
            table.collapsed(timesteps, method, calibration, weights=WEIGHTS if method == "quick" else ())
    return table.rows


def show(rows):
    cells = [list(HEADINGS.values())]
    for row in rows:
        shown = {**row, "accuracy": f"{100 * row['accuracy']:.2f} %"}
        cells.append([str(shown.get(key, "")) for key in HEADINGS])
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADINGS))]
    for row in cells:
        print(
            "  ".join(
                text.ljust(width) if i in (0, 1, 3) else text.rjust(width)
                for i, (text, width) in enumerate(zip(row, widths))
            ).rstrip()
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=pathlib.Path, nargs="*", help="default: the shipped ones; without a path: none"
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder with FashionMNIST's training images, to calibrate on")
    parser.add_argument("--cifar", type=pathlib.Path, help="folder with {test,calibration}.npz, resnet20.safetensors")
    parser.add_argument("--images", type=int, help="take the first so many test images, not all")
    parser.add_argument("--serial-images", type=int, default=1000, help="test images for serial IF; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoints = args.checkpoint
    if checkpoints is None:
        checkpoints = [networks.checkpoint_path(name) for name in networks.QCFS]
    begun, rows = time.time(), []
    try:
        with torch.no_grad():
            for path in checkpoints:
                rows += qcfs_rows(path, args)
            if args.cifar:
                rows += cifar_rows(args)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    show(rows)
    if not args.data and checkpoints:
        print("Where L does not divide T, method none is the half shift without calibration: give --data to calibrate.")
    if args.serial_images and checkpoints:
        print(
            "Serial IF takes the maximum of spikes step by step, which fires more often than the largest rate: "
            "behind max pools its error grows with T. In attention it multiplies the spikes of one step."
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "rows": rows,
            "seconds": round(time.time() - begun, 1),
            "pcsnn": pcsnn.__version__,
            "backend": pcsnn.backend_info(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
