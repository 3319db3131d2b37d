"""Time of the spiking network beside the serial baseline and the float network, alternating in one run."""

import statistics
import time

import torch

from pcsnn.analysis.quality.errors import float_network
from pcsnn.baselines import serial
from pcsnn.data.batches import show_steps
from pcsnn.graph.fold import fold_batch_norms

FORMS = ("float", "serial", "spiking")


def alternate(calls, rounds, device, progress):
    """{name: [seconds of each round]}: every call once a round, in turns of both directions, so that load falls on all.

    Each call runs once before, to be warm.
    """
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for turn in show_steps(range(rounds), "timing", progress):
        for name in sorted(calls, reverse=turn % 2 == 1):
            finish(device)
            begun = time.perf_counter()
            calls[name]()
            finish(device)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def finish(device):
    """Wait until all work on a device, or the device of that name, is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def time_forms(net, snn, images, rounds, progress):
    """Times of one batch, `images` [N, ...]: a dict for JSON.

    `milliseconds`: an image, the median over `rounds`, of "float" (the float network, batch norms folded), "serial" (T
    passes) and "spiking" (collapsed, (11)). `speed_up`: serial over spiking, the median of the ratios of the rounds.
    """
    network, _ = float_network(net)
    fold_batch_norms(network)
    stepwise = serial(snn)
    calls = {"float": lambda: network(images), "serial": lambda: stepwise(images), "spiking": lambda: snn(images)}
    seconds = alternate(calls, rounds, images.device, progress)
    ratios = [slow / fast for slow, fast in zip(seconds["serial"], seconds["spiking"])]
    return {
        "batch": len(images),
        "rounds": rounds,
        "speed_up": statistics.median(ratios),
        "milliseconds": {name: 1000 * statistics.median(values) / len(images) for name, values in seconds.items()},
    }
