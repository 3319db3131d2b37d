"""Images per second of evaluation and calibration, by the number of processes on this machine.

    python benchmarks/scaling.py                              1 process, 2 processes, and 1 process with 2 threads
    python benchmarks/scaling.py --forms 1x1 2x1 4x1 8x1      processes x threads

Evaluation: the shipped QCFS ResNet-20 at T = 8 on FashionMNIST test images. Calibration: method "quick" of the shipped
ReLU VGG at T = 8. torchrun starts each form anew in each round, in changing order; start and warm-up are not counted.
Labels hit and spikes of every layer must equal those of the first form, and the calibrated network must be the same up
to rounding, or no speed is shown.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import torch
from lib import data, networks, timing
from tqdm import tqdm

import pcsnn
from pcsnn.distributed.processes import group, rank, shard
from pcsnn.network.text_table import table

TIMESTEPS = 8
WORK = {"evaluation": "evaluation, QCFS ResNet-20", "calibration": 'calibration "quick", ReLU VGG'}
ROUNDING = 1e-3  # relative difference of the calibrated networks' outputs
PROBE = 100  # images on which these are compared


def images_and_labels(count):
    images, labels = data.fashion_mnist("t10k")
    return data.normalise(images[:count], data.FASHION_MNIST), labels[:count]


def worker(args):
    """What each process does. Process 0 writes seconds and results to args.worker."""
    torch.set_num_threads(args.threads)
    with group() as device:
        network = networks.load(networks.checkpoint_path("resnet20"))[0].to(device)
        relu = networks.load(networks.checkpoint_path("vgg", "relu"))[0].to(device)
        snn = pcsnn.convert(network, TIMESTEPS, progress=False)
        images, labels = images_and_labels(args.images)
        calibration = images[: args.calibration_images]

        def evaluate(count=args.images):
            return pcsnn.analysis.evaluate(
                snn, shard((images[:count], labels[:count]), args.batch), spikes=True, progress=False
            )

        def calibrate(count=args.calibration_images):
            return pcsnn.convert(
                relu, TIMESTEPS, calibration=shard(calibration[:count], args.batch), method="quick", progress=False
            )

        evaluate(4 * args.batch)
        calibrate(64)
        begun = time.perf_counter()
        evaluation = evaluate()
        between = time.perf_counter()
        calibrated = calibrate()
        seconds = {"evaluation": between - begun, "calibration": time.perf_counter() - between}
        if rank() == 0:
            result = {
                "seconds": seconds,
                "right": evaluation.right,
                "images": evaluation.images,
                "spikes": evaluation.spikes,
                "logits": calibrated(images[:PROBE].to(device)).tolist(),
            }
            args.worker.write_text(json.dumps(result))


def launch(form, args, folder):
    """One run of a form, (processes, threads): what its process 0 wrote."""
    processes, threads = form
    path = folder / "result.json"
    path.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        __file__,
        "--worker",
        str(path),
        "--threads",
        str(threads),
        "--images",
        str(args.images),
        "--calibration-images",
        str(args.calibration_images),
        "--batch",
        str(args.batch),
    ]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(path.read_text())


def differences(result, first):
    """Relative difference of the calibrated networks' outputs; SystemExit where two forms' results are not the same."""
    for key in ("right", "images", "spikes"):
        if result[key] != first[key]:
            raise SystemExit(f"{key} differ between forms: {result[key]} and {first[key]}")
    logits, expected = (torch.tensor(one["logits"]) for one in (result, first))
    apart = ((logits - expected).norm() / expected.norm()).item()
    if not apart <= ROUNDING:
        raise SystemExit(f"calibrated networks differ between forms: outputs are {apart:.1e} apart")
    return apart


def name_of(form):
    processes, threads = form
    return (
        f"{processes} process{'es' if processes > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
        f"{' each' if processes > 1 else ''}"
    )


def measure(forms, args):
    """({what: {form: {round: seconds}}}, largest difference of calibrated outputs, results of the first run)."""
    seconds = {what: {form: {} for form in forms} for what in WORK}
    first, apart, shuffled = None, 0.0, random.Random(0)
    runs = [(turn, form) for turn in range(args.rounds) for form in shuffled.sample(forms, len(forms))]
    with tempfile.TemporaryDirectory() as folder:
        for turn, form in tqdm(runs, leave=False, unit="run"):
            result = launch(form, args, pathlib.Path(folder))
            first = first or result
            apart = max(apart, differences(result, first))
            for what in WORK:
                seconds[what][form][turn] = result["seconds"][what]
    return seconds, apart, first


def parse_form(text):
    processes, _, threads = text.partition("x")
    if not (processes.isdigit() and threads.isdigit() and int(processes) and int(threads)):
        raise argparse.ArgumentTypeError(f"expected PROCESSESxTHREADS, e.g. 2x1, got {text!r}")
    return int(processes), int(threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--forms",
        nargs="+",
        type=parse_form,
        default=[(1, 1), (2, 1), (1, 2)],
        metavar="PROCESSESxTHREADS",
        help="the first is what others are compared with",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=50, help="images of a batch of one process")
    parser.add_argument("--json", type=pathlib.Path, help="also write the seconds to this file")
    parser.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    forms = list(dict.fromkeys(args.forms))
    seconds, apart, first = measure(forms, args)
    counts = {"evaluation": args.images, "calibration": args.calibration_images}
    cells = [("work", "form", "seconds", "images/s", f"over {name_of(forms[0])}")]
    for what, by_form in seconds.items():
        for form in forms:
            median = timing.median(by_form[form])
            cells.append(
                (
                    WORK[what],
                    name_of(form),
                    f"{median:.2f}",
                    f"{counts[what] / median:.1f}",
                    f"{timing.ratio(by_form[forms[0]], by_form[form]):.2f}",
                )
            )
    print("\n".join(table(cells)))
    print(
        f"Medians of {args.rounds} rounds. All forms: {first['right']} of {first['images']} labels hit, "
        f"{sum(first['spikes'].values()):,} spikes; outputs of the calibrated networks at most {apart:.0e} apart."
    )
    if args.json:
        rows = [
            {
                "work": what,
                "processes": form[0],
                "threads": form[1],
                "images": counts[what],
                "seconds": list(by_form[form].values()),
            }
            for what, by_form in seconds.items()
            for form in forms
        ]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({"rows": rows, "apart": apart, "circumstances": timing.circumstances()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
