"""What each ingredient of the calibration methods is worth: "light" with one of them changed, on CIFAR ResNet-20.

    python benchmarks/ablation.py --cifar FOLDER --timesteps 4 8

The folder is that of calibration.py. Prints the drop in points and the share of test images that get the float
network's class, for each T and over the seeds; the rows from "quick" upwards take no gradient steps. Ingredients are
constants and functions of pcsnn.calibration; here they are replaced, one at a time.
"""

import argparse
import contextlib
import functools
import pathlib
import statistics
from unittest import mock

import torch
from calibration import logits
from lib.calibration_networks import cifar_resnet20

import pcsnn
from pcsnn.calibration import METHODS, layerwise, least_squares, refine
from pcsnn.data.batches import Batches
from pcsnn.data.inputs import required_inputs
from pcsnn.data.pools import mini_batches


def change(module, **values):
    return [mock.patch.object(module, name, value) for name, value in values.items()]


def from_maxima(network, places, groups, timesteps, progress, limit, whole):
    """Recorded maxima in place of the least squares."""
    batches = Batches(mini_batches(groups, layerwise.CHUNK), required_inputs(network), groups[0][0].device)
    return METHODS["max"](network, places, batches, timesteps, progress, 0)


def mixed(batch, generator, varied=refine._varied):
    """What "advanced" does to its images."""
    batch = varied(batch, generator)
    return refine._mixed(batch, generator) if torch.rand((), generator=generator) < refine.MIXED else batch


EVEN = change(least_squares, fit=functools.partial(least_squares.fit, bend=False))
VARIANTS = {  # name: (method, what is replaced)
    "max": ("max", []),
    "quick with even levels": ("quick", EVEN),
    "quick": ("quick", []),
    "light": ("light", []),
    "light from recorded maxima": ("light", change(layerwise, _fit_layers=from_maxima)),
    "light with even levels": ("light", EVEN),
    "light on the outputs alone": ("light", change(refine, LAYERS=0.0)),
    "light on the layers alone": ("light", change(refine, _divergence=lambda learnt, taught: 0.0 * learnt.sum())),
    "light on the images as they are": ("light", change(refine, _varied=lambda batch, generator: batch)),
    "light without the running average": ("light", change(refine, AVERAGE=0.0)),
    "light with mixed images": ("light", change(refine, _varied=mixed)),
    "light with 150 steps": ("light", change(layerwise, STEPS={"light": 150})),
    "light with 600 steps": ("light", change(layerwise, STEPS={"light": 600})),
    "advanced": ("advanced", []),
    "advanced without mixed images": ("advanced", change(refine, MIXED=0.0)),
    "advanced with 400 steps": ("advanced", change(layerwise, STEPS={"advanced": 400})),
}


@torch.no_grad()
def measure(case, own, variant, timesteps, seed):
    """(drop in points, share of the float network's classes in %) of one conversion."""
    method, changes = VARIANTS[variant]
    with contextlib.ExitStack() as stack:
        for replaced in changes:
            stack.enter_context(replaced)
        snn = pcsnn.convert(case.network, timesteps, calibration=case.calibration, method=method, seed=seed)
    found = logits(snn, case.images, 100, f"{variant}, T = {timesteps}").argmax(1)
    hits = ((own == case.labels).sum() - (found == case.labels).sum()).item()
    return 100 * hits / len(own), 100 * (found == own).double().mean().item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=pathlib.Path, required=True, help="as of calibration.py")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--images", type=int, default=2000, help="test images")
    parser.add_argument("--calibration-images", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    case = cifar_resnet20(args)
    with torch.no_grad():
        own = logits(case.network, case.images, 100, "float").argmax(1)
    width = max(map(len, args.variants))
    for timesteps in args.timesteps:
        print(f"T = {timesteps:<{width - 4}}  {'drop':>6}  {'same, %':>7}  each seed", flush=True)
        for variant in args.variants:
            seeds = args.seeds if VARIANTS[variant][0] in ("light", "advanced") else args.seeds[:1]
            found = [measure(case, own, variant, timesteps, seed) for seed in seeds]
            drop, same = (statistics.fmean(values) for values in zip(*found))
            each = ", ".join(f"{one:.2f} ({other:.1f})" for one, other in found)
            print(f"{variant:<{width}}  {drop:6.2f}  {same:7.2f}  {each}", flush=True)


if __name__ == "__main__":
    main()
