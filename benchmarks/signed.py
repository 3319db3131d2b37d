"""Networks with LeakyReLU and SiLU, converted with spikes of two signs: accuracy on FashionMNIST at each T and method.

    python benchmarks/signed.py --data FOLDER

FOLDER has FashionMNIST's training images, to calibrate on; checkpoints and test images are shipped. Prints what each
conversion loses in points of accuracy, and of how many images it keeps the float network's class. The first images are
compared with the plain torch reference, bit for bit, before a result counts.
"""

import argparse
import json
import pathlib

import torch
from lib import checks, data, networks
from tqdm import tqdm

import pcsnn
from pcsnn.calibration import METHODS
from pcsnn.network.text_table import table

CASES = (("vgg", "leaky_relu"), ("mobilenet", "silu"))
SIGNED_METHODS = [name for name, method in METHODS.items() if method.needs_data and method.takes_signed]
CHECKED = 16  # images compared with the reference


@torch.no_grad()
def classes(network, images, batch, what):
    parts = [network(part).argmax(1) for part in tqdm(images.split(batch), desc=what, disable=None, leave=False)]
    return torch.cat(parts)


def measure(name, activation, args):
    """Rows of a network: the float one, then every method at every T."""
    network, _ = networks.load(networks.checkpoint_path(name, activation))
    images, labels = data.fashion_mnist("t10k")
    images = data.normalise(images[: args.images], data.FASHION_MNIST).contiguous(memory_format=torch.channels_last)
    labels = labels[: args.images]
    calibration, _ = data.fashion_mnist("train", args.data)
    calibration = data.normalise(calibration[: args.calibration_images], data.FASHION_MNIST)
    own = classes(network, images, args.batch, "float")
    float_accuracy = 100 * (own == labels).double().mean().item()
    rows = [{"network": name, "activation": activation, "method": "float", "accuracy": float_accuracy}]
    for method in args.methods:
        for timesteps in args.timesteps:
            snn = pcsnn.convert(network, timesteps, calibration=calibration, method=method, signed=True)
            verdict = checks.as_reference(snn, images[:CHECKED])
            if not verdict.right:
                raise SystemExit(f"{name}, {method}, T = {timesteps}: {verdict.words}")
            found = classes(snn, images, args.batch, f"{method}, T = {timesteps}")
            accuracy = 100 * (found == labels).double().mean().item()
            rows.append(
                {
                    "network": name,
                    "activation": activation,
                    "method": method,
                    "timesteps": timesteps,
                    "accuracy": accuracy,
                    "lost": float_accuracy - accuracy,
                    "same": 100 * (found == own).double().mean().item(),
                }
            )
    return rows


def lines(rows, methods, timesteps):
    source = rows[0]
    by = {(row["method"], row.get("timesteps")): row for row in rows}
    cells = [["lost (same class)", *(f"T = {t}" for t in timesteps)]]
    cells += [
        [method, *(f"{by[method, t]['lost']:.2f} ({by[method, t]['same']:.1f} %)" for t in timesteps)]
        for method in methods
    ]
    return [f"{source['network']}, {source['activation']}: float {source['accuracy']:.2f} %", *table(cells)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with FashionMNIST's *-ubyte.gz files")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--methods", nargs="+", choices=SIGNED_METHODS, default=list(SIGNED_METHODS))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--calibration-images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows")
    args = parser.parse_args(argv)
    found = []
    for name, activation in CASES:
        rows = measure(name, activation, args)
        print("\n".join(lines(rows, args.methods, args.timesteps)), end="\n\n", flush=True)
        found += rows
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
