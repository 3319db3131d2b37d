"""Peak memory of one forward pass of each competitor, each in a process of its own.

    python benchmarks/peak_memory.py pcsnn resnet34 --batch 8 --timesteps 8 64

On the CPU: the highest resident set during the pass, less the resident set before it, with network and images loaded,
a pass of the same kind done and forgotten, and freed memory given back to the system (Linux only). The allocator is
told to give every large tensor back when it is freed: left alone it keeps up to twice as much, by luck, for all alike.
Beside it what torch's own tensors take of that, activations and what operators set aside, which hides what libraries
take for themselves but has no luck in it.
On a GPU: what torch allocated at most, less what it held before.
"""

import argparse
import ctypes
import functools
import gc
import itertools
import json
import math
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

import torch
from lib import competitors, workloads

import pcsnn

STATUS = pathlib.Path("/proc/self/status")
M_MMAP_THRESHOLD, LARGE = -3, 128 * 1024  # mallopt's name for the size from which tensors get pages of their own
FORGET_PEAK = "5"  # what clear_refs takes to set the peak back to the present
SHARE = 0.9  # of the memory that is free now, which a pass may take: then it fails, not its neighbours


def _status(field):
    """A size from /proc/self/status, in bytes."""
    return int(re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1]) * 1024


def _give_back():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _prepare():
    """Tell the allocator to give back what is freed, and the system how much this process may take."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    available = re.search(r"^MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    most = _status("VmSize") + int(SHARE * int(available[1]) * 1024)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _peak(run, device):
    """Bytes that one call takes at most, above what is held before."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _give_back()
    before = _status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text(FORGET_PEAK)
    run()
    return _status("VmHWM") - before


def _tensors(run):
    """Bytes of all tensors that torch makes on the CPU in one call, where they are most."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes), default=0)


@torch.no_grad()
def _measure_here(args):
    """{"peaks": {T: bytes}, "tensors": the same, "unavailable": why those after them are missing, or None}."""
    load = workloads.load(args.model, args.batch, args.image_size, args.device, args.seed)
    form, peaks, tensors = competitors.FORMS[args.form], {}, {}
    snn = load.convert(args.timesteps[0])
    if torch.device(args.device).type == "cpu":
        _prepare()
    try:
        form.build(load, snn)(load.images)  # loads what is loaded once: code of libraries, compiled kernels
        for timesteps in args.timesteps:
            run = form.build(load, pcsnn.set_timesteps(snn, timesteps))  # anew: states of neurons belong to the pass
            if form.warms:
                run(load.images)
            peaks[timesteps] = _peak(functools.partial(run, load.images), args.device)
            on_cpu = torch.device(args.device).type == "cpu"
            tensors[timesteps] = _tensors(functools.partial(run, load.images)) if on_cpu else peaks[timesteps]
    except competitors.Unavailable as error:
        return {"peaks": peaks, "tensors": tensors, "unavailable": str(error)}
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError on the CPU, its subclass on a GPU
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return {"peaks": peaks, "tensors": tensors, "unavailable": f"out of memory at T = {snn.timesteps}"}
    return {"peaks": peaks, "tensors": tensors, "unavailable": None}


def measure(form, model, batch, image_size, timesteps, threads, device, seed, processes=1):
    """What `_measure_here` returns, from fresh processes; T as int. Of several processes the least peak counts.

    What one process needs above that is luck: the same ReLU network takes 45 or 80 MiB from one process to the next.

    Raises:
        RuntimeError: a process failed; with the end of what it said.
    """
    if torch.device(device).type == "cpu" and not STATUS.exists():
        return {"peaks": {}, "tensors": {}, "unavailable": "peak memory is measured on Linux only"}
    command = [
        sys.executable,
        __file__,
        form,
        model,
        "--batch",
        batch,
        "--timesteps",
        *timesteps,
        "--threads",
        threads,
        "--device",
        device,
        "--seed",
        seed,
        *(["--image-size", image_size] if image_size else []),
    ]
    results = [_in_process(form, command) for _ in range(processes)]
    least = {
        timesteps: min(result["peaks"].get(timesteps, math.inf) for result in results)
        for timesteps in results[0]["peaks"]
    }
    return {**results[0], "peaks": least}


def _in_process(form, command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"peak memory of {form}: process ended with {done.returncode}\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return result | {kind: {int(key): value for key, value in result[kind].items()} for kind in ("peaks", "tensors")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=list(competitors.FORMS))
    parser.add_argument("model", choices=workloads.NAMES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[64])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(_measure_here(args)))


if __name__ == "__main__":
    main()
