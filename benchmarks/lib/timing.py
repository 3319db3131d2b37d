"""The timer of all benchmarks, and the machine it ran on."""

import datetime
import os
import pathlib
import platform
import subprocess

import torch

import pcsnn
from pcsnn.analysis.quality.timing import interleaved, median, ratio, rounds_of, synchronise
from pcsnn.cli.machine import processor

__all__ = ["circumstances", "interleaved", "load", "median", "ratio", "rounds_of", "synchronise"]


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
