"""What each ingredient of the calibration methods is worth: "light" with one of them changed, on CIFAR ResNet-20.

    python benchmarks/ablation.py --cifar FOLDER --timesteps 4 8

The folder is that of calibration.py. Prints the drop in points and the share of test images that get the float
network's class, for each T and over the seeds; the rows from "quick" upwards take no gradient steps, nor do those that
say so. Ingredients are options of the methods; here they are replaced, one at a time.
"""

import argparse
import dataclasses
import pathlib
import statistics

import torch
from calibration import logits
from lib.calibration_networks import cifar_resnet20

import pcsnn
from pcsnn.calibration import METHODS
from pcsnn.data.batches import Batches
from pcsnn.data.inputs import required_inputs
from pcsnn.data.pools import mini_batches

QUICK, LIGHT, ADVANCED = (METHODS[name] for name in ("quick", "light", "advanced"))


def from_maxima(task, pools, options, limit):
    """Recorded maxima in place of the least squares."""
    batches = Batches(mini_batches(pools, options.fitting_batch), required_inputs(task.network), pools[0][0].device)
    return METHODS["max"].settings(dataclasses.replace(task, batches=batches))


VARIANTS = {
    "max": METHODS["max"],
    "quick with even levels": QUICK.with_options(bend_levels=False),
    "quick": QUICK,
    "light": LIGHT,
    "light from recorded maxima": LIGHT.with_options(fit_layers=from_maxima),
    "light with even levels": LIGHT.with_options(bend_levels=False),
    "light on the outputs alone": LIGHT.with_options(layer_loss_weight=0.0),
    "light on the layers alone": LIGHT.with_options(output_loss_weight=0.0),
    "light on the images as they are": LIGHT.with_options(vary_images=False),
    "light without the running average": LIGHT.with_options(ema_decay=0.0),
    "light with mixed images": LIGHT.with_options(mixed_share=ADVANCED.options.mixed_share),
    "light without factors of branches": LIGHT.with_options(scale_branches=False),
    "light at a lower rate": LIGHT.with_options(learning_rate=ADVANCED.options.learning_rate_beside_weights),
    "light with layers at weight 10": LIGHT.with_options(layer_loss_weight=10.0),
    "light with 150 steps": LIGHT.with_options(steps=150),
    "light with 600 steps": LIGHT.with_options(steps=600),
    "advanced without steps": ADVANCED.with_options(steps=0),
    "advanced without steps, images as they are": ADVANCED.with_options(steps=0, fitting_copies=1),
    "advanced": ADVANCED,
    "advanced without least squares of weights": ADVANCED.with_options(fit_weights=False),
    "advanced without mixed images": ADVANCED.with_options(mixed_share=0.0),
    "advanced with 400 steps": ADVANCED.with_options(steps=400),
}


@torch.no_grad()
def measure(case, own, variant, timesteps, seed):
    """(drop in points, share of the float network's classes in %) of one conversion."""
    snn = pcsnn.convert(case.network, timesteps, calibration=case.calibration, method=VARIANTS[variant], seed=seed)
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
            seeds = args.seeds if VARIANTS[variant].seeded else args.seeds[:1]
            found = [measure(case, own, variant, timesteps, seed) for seed in seeds]
            drop, same = (statistics.fmean(values) for values in zip(*found))
            each = ", ".join(f"{one:.2f} ({other:.1f})" for one, other in found)
            print(f"{variant:<{width}}  {drop:6.2f}  {same:7.2f}  {each}", flush=True)


if __name__ == "__main__":
    main()
