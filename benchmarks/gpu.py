"""One GPU, everything: limits, agreement with the CPU, operators, layers, networks, and a profile by kernel.

    python benchmarks/gpu.py                                   # about four minutes on 16 cores and one H100
    python benchmarks/gpu.py --only limits operators --json operators.json
    python benchmarks/gpu.py --dry                             # the script itself, on the CPU: its figures mean nothing

Every result is compared with the reference, or the CPU's, before it is timed. A wrong one is printed as wrong, without
a time, and the exit status is 1; a missed target does not change it. Ratios are medians over rounds in which the two
took turns. docs/gpu.md explains the rows.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys
import time

import torch
from lib import gpu_profile, gpu_report, gpu_rows, gpu_sections, gpu_warm, timing, workloads
from lib.gpu_goals import SOURCE
from lib.gpu_setting import Setting

PROCESSES = 10  # that compile ahead: each holds a context and tensors on the GPU, at batch 256 up to 7 GB
WARMING = 0.45  # of the time, at most
MEANINGLESS = "DRY RUN on the CPU, everything small: no figure means anything"


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=gpu_sections.NAMES,
        default=gpu_sections.NAMES,
        metavar="SECTION",
        help=f"of {', '.join(gpu_sections.NAMES)}",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(workloads.RANDOM),
        metavar="MODEL",
        help="all rows of networks for each; default: ResNet-34, and ResNet-50's images a second",
    )
    parser.add_argument(
        "--seconds", type=float, default=300, help="no row starts later than this; those left out are named"
    )
    parser.add_argument(
        "--processes",
        type=int,
        help=f"that compile ahead; 0: none (default: one a core, at most {PROCESSES}; none in a dry run)",
    )
    parser.add_argument(
        "--dry", action="store_true", help="on the CPU, everything small: tries this script, measures nothing"
    )
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("results/gpu.json"))
    parser.add_argument("--png", type=pathlib.Path, default=pathlib.Path("results/gpu.png"))
    args = parser.parse_args(arguments)
    if args.processes is None:
        args.processes = 0 if args.dry else min(PROCESSES, os.cpu_count())
    if args.seconds <= 0 or args.processes < 0:
        parser.error("--seconds: expected more than 0, --processes: expected 0 or more")
    if not args.dry and not torch.cuda.is_available():
        parser.error("no CUDA or ROCm device; --dry tries this script on the CPU")
    return args


def rows(args, setting, ends):
    """({section: results}, names of rows left out), each printed as it comes."""
    found, left_out = {}, []
    for section, made in gpu_sections.rows_of(args.only, setting, args.models).items():
        print(f"\n{section}\n{gpu_report.header()}", flush=True)
        found[section] = []
        for row in made:
            if time.monotonic() > ends:
                left_out.append(row.what)
                continue
            found[section].append(gpu_rows.measure(row, setting))
            print(gpu_report.line(found[section][-1]), flush=True)
    return found, left_out


def profiles(args, setting, ends):
    """(profiles, names of those left out, names of those whose network is wrong), each printed as it comes."""
    found, left_out, wrong = [], [], []
    if gpu_sections.PROFILE not in args.only:
        return found, left_out, wrong
    print(f"\n{gpu_sections.PROFILE}", flush=True)
    for model in args.models or ("resnet34",):
        for form in gpu_profile.FORMS:
            what = f"profile of {model} {form}"
            if time.monotonic() > ends:
                left_out.append(what)
                continue
            try:
                profile = gpu_profile.measure(model, form, setting)
            except Exception as error:  # shown, and the exit status tells
                profile = None
                print(f"  {what} failed: {type(error).__name__}: {error}", flush=True)
            if profile is None:
                wrong.append(what)
            else:
                found.append(profile)
                print("\n".join(gpu_profile.lines(profile)), flush=True)
    return found, left_out, wrong


def picture(sections, title, path):
    """Draw, or say why there is no picture."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
    elif not gpu_report.drawn(sections):
        print("no picture: no row with a target was measured")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        gpu_report.draw(sections, title, path)
        print(f"wrote {path}")


def main(arguments=None):
    args = parse(arguments)
    setting, begun = Setting(args.dry), time.monotonic()
    if args.dry:
        torch.set_num_threads(1)  # what is this small takes longer on several
    torch.backends.cudnn.allow_tf32 = False  # rows in tf32 say so
    around = timing.circumstances(setting.device)
    title = (
        f"{around['device']}, torch {around['torch']}, Triton {around['backend']['triton']}, "
        f"{around['cores']} cores, commit {gpu_report.short(around['commit'])}"
    )
    print(MEANINGLESS if args.dry else title)
    print(f"877ccf2: {SOURCE}")
    if args.processes:
        for problem in gpu_warm.warm(args.only, setting, args.models, args.processes, WARMING * args.seconds):
            print(f"compiling ahead: {problem}")
        print(f"compiled ahead in {args.processes} processes, {time.monotonic() - begun:.0f} s", flush=True)
    ends = begun + args.seconds
    sections, left_out = rows(args, setting, ends)
    found, left_out_profiles, wrong_profiles = profiles(args, setting, ends)
    wrong = [row["what"] for results in sections.values() for row in results if row["right"] is False] + wrong_profiles
    left_out += left_out_profiles
    print("\n" + "\n".join(gpu_report.summary(sections, left_out)))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    result = {
        **around,
        "dry": args.dry,
        "before": SOURCE,
        "seconds": time.monotonic() - begun,
        "sections": sections,
        "profiles": found,
        "left_out": left_out,
        "wrong": wrong,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{MEANINGLESS}\n" if args.dry else "", end="")
    print(f"wrote {args.json}")
    picture(sections, MEANINGLESS if args.dry else title, args.png)
    if wrong:
        print(f"wrong results: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
