"""Faces found by MTCNN with its published weights, as a spiking network and as it was: overlap of the boxes.

    python benchmarks/detection.py --json results/detection.json --plot results/detection.png

All three networks are converted whole; their PReLUs become neurons with spikes of two signs. Weights come with
facenet-pytorch, pictures with scikit-image and matplotlib: pip install --no-deps facenet-pytorch==2.6.0, and
scikit-image. Faces with boxes are those that the float detector finds. The networks on the first crops are compared
with the plain torch reference, bit for bit, before a row counts.
"""

import argparse
import json
import pathlib

import torch
from lib import checks, faces, mtcnn
from lib.detection_plot import plot
from lib.face_boxes import Detector, overlaps
from lib.packages import Missing
from lib.steps import steps

import pcsnn
from pcsnn.network.text_table import table

SAME = 0.5  # intersection over union from which two boxes are one face
CANDIDATES = (0.3, 0.3, 0.3)  # probabilities from which the networks read windows to calibrate on
CROPS = 1024  # to calibrate the second and the third network on
BATCH = 32
CHECKED = 8


def calibration(networks, pictures):
    """For each network a list of batches of what it reads when the float detector looks at the pictures."""
    levels, *crops = Detector(networks, thresholds=CANDIDATES).inputs(pictures)
    generator, found = torch.Generator().manual_seed(0), [levels]
    for every in map(torch.cat, crops):
        found.append(every[torch.randperm(len(every), generator=generator)[:CROPS]].split(BATCH))
    return found


def converted(networks, batches, timesteps, spike_levels, method):
    """The three networks as spiking ones; ends the program where one differs from the reference."""
    made = []
    for name, network, some in zip(mtcnn.NETWORKS, networks, batches):
        snn = pcsnn.convert(network, timesteps, calibration=some, method=method, signed=True, spike_levels=spike_levels)
        verdict = checks.as_reference(snn, some[0][:CHECKED])
        if not verdict.right:
            raise SystemExit(f"{name}, {method}, T = {timesteps}, D = {spike_levels}: {verdict.words}")
        made.append(snn)
    return made


def row(found, wanted):
    """How the faces of all pictures agree: {name: Faces} of a detector and of the float one."""
    best, shifts, every = [], [], 0
    for name, own in wanted.items():
        theirs = found[name]
        every += len(theirs)
        if not len(theirs):
            best += [0.0] * len(own)
            continue
        overlap, place = overlaps(own.boxes, theirs.boxes).max(1)
        best += overlap.tolist()
        same = overlap >= SAME
        distance = (theirs.landmarks[place[same]] - own.landmarks[same]).norm(dim=-1).mean(1)
        shifts += (distance / (own.boxes[same, 2] - own.boxes[same, 0])).tolist()
    same = [overlap for overlap in best if overlap >= SAME]
    return {
        "faces": len(best),
        "found": len(same),
        "others": every - len(same),
        "overlap": sum(same) / len(same) if same else 0.0,
        "overlap_of_all": sum(best) / len(best) if best else 0.0,
        "landmarks": sum(shifts) / len(shifts) if shifts else None,
    }


def lines(rows):
    cells = [["method", "T", "D", "found", "others", "overlap", "overlap, all faces", "landmarks off"]]
    cells += [
        [
            entry["method"],
            str(entry["timesteps"]),
            str(entry["spike_levels"]),
            f"{entry['found']} of {entry['faces']}",
            str(entry["others"]),
            f"{100 * entry['overlap']:.1f} %",
            f"{100 * entry['overlap_of_all']:.1f} %",
            "-" if entry["landmarks"] is None else f"{100 * entry['landmarks']:.1f} %",
        ]
        for entry in rows
    ]
    return table(cells)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--timesteps",
        type=steps,
        nargs="+",
        default=[(16, 1), (32, 1), (2, 15)],
        metavar="T or TxD",
        help="time-steps, and D of spikes -D..D: 16 32 2x15",
    )
    parser.add_argument("--methods", nargs="+", choices=("max", "quick", "light", "advanced"), default=["quick"])
    parser.add_argument("--images", type=pathlib.Path, nargs="*", default=[], help="more pictures to look at")
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows, written after each")
    parser.add_argument("--plot", type=pathlib.Path, help="file of a picture: boxes of the float and of one network")
    parser.add_argument("--report", action="store_true", help="print what spikes and what does not")
    args = parser.parse_args(argv)
    for path in args.images:
        if not path.is_file():
            parser.error(f"--images: no file {path}")
    return args


@torch.no_grad()
def main(argv=None):
    args = arguments(argv)
    try:
        networks, pictures, others = mtcnn.load(), faces.test(), faces.calibration()
    except Missing as error:
        raise SystemExit(str(error)) from None
    pictures |= {path.name: faces.picture(path) for path in args.images}
    detector = Detector(networks)
    wanted = {name: detector(picture) for name, picture in pictures.items()}
    print(f"{sum(map(len, wanted.values()))} faces in {len(pictures)} pictures")
    batches = calibration(networks, others)
    rows, shown = [], {}
    for method in args.methods:
        for timesteps, spike_levels in args.timesteps:
            made = converted(networks, batches, timesteps, spike_levels, method)
            found = {name: Detector(made)(picture) for name, picture in pictures.items()}
            rows.append({"method": method, "timesteps": timesteps, "spike_levels": spike_levels, **row(found, wanted)})
            shown[method, timesteps, spike_levels] = found
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.report:
        print("\n\n".join(str(snn.report) for snn in made))
    print("\n".join(lines(rows)))
    if args.plot:
        plot(
            pictures, wanted, {key[1:]: found for key, found in shown.items() if key[0] == args.methods[-1]}, args.plot
        )


if __name__ == "__main__":
    main()
