"""The machine and the software that a figure was made on."""

import importlib.metadata
import math
import os
import pathlib
import platform

import torch

import pcsnn

# package: what needs it, for those that pcsnn runs without
PACKAGES = {
    "torch": "",
    "triton": "GPU kernels",
    "numpy": "",
    "safetensors": "",
    "tqdm": "",
    "matplotlib": "plots",
    "pillow": "folders of images",
}


def processor():
    """The processor's name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def packages():
    """{package: its version, or None}."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def machine():
    """Processor, cores, memory, GPUs and system: a dict for JSON."""
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    found["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return found


def available_memory():
    """Bytes that a new array may take; infinity where the system does not tell."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def timed_on(device):
    """What times depend on: a dict for JSON."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "pcsnn": pcsnn.__version__}
