"""Interleaved timing, and the machine it ran on."""

import datetime
import os
import pathlib
import platform
import random
import statistics
import subprocess
import time

import torch

import pcsnn
from pcsnn.cli.machine import processor
from pcsnn.cli.timing import finish


def rounds_of(count, rounds):
    """`count` of the rounds 0..rounds-1, spread evenly, as a set."""
    count = min(count, rounds)
    return {round(i * (rounds - 1) / max(count - 1, 1)) for i in range(count)}


def interleaved(calls, rounds, slow=(), slow_rounds=None, device="cpu", after_each=lambda name: None):
    """Run every call once a round, in a new random order each round, so that drifting load falls on all alike.

    Args:
        calls: {name: function without arguments}, each run often enough before to be warm.
        rounds: how often each runs; those named in `slow` run in `slow_rounds` of these rounds only.
        after_each: is told the name of each call once it is done.

    Returns:
        {name: {round: seconds}}.
    """
    seconds = {name: {} for name in calls}
    shuffled = random.Random(0)
    turns_of_slow = rounds_of(slow_rounds or rounds, rounds)
    for turn in range(rounds):
        names = [name for name in calls if name not in slow or turn in turns_of_slow]
        shuffled.shuffle(names)
        for name in names:
            finish(device)
            begun = time.perf_counter()
            calls[name]()
            finish(device)
            seconds[name][turn] = time.perf_counter() - begun
            after_each(name)
    return seconds


def median(seconds):
    """The median of {round: seconds}."""
    return statistics.median(seconds.values())


def ratio(seconds, others):
    """The median of seconds / others over the rounds that both ran in: load that comes and goes cancels."""
    return statistics.median(seconds[turn] / others[turn] for turn in seconds.keys() & others.keys())


def load():
    """The load average of the last minute, or None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def circumstances(device="cpu"):
    """What a result file must say of the machine, the software and the day: a dict for JSON."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load": load(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pcsnn": pcsnn.__version__,
        "backend": pcsnn.backend_info(),
    }


def _commit():
    """The commit of this checkout, with "+" where files differ from it; None outside of one."""

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
