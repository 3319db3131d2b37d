"""Time of the spiking network beside the serial baseline and the float network, in turns in one run."""

import torch

from pcsnn.analysis.quality import timing
from pcsnn.analysis.quality.errors import float_network
from pcsnn.baselines import serial
from pcsnn.data.batches import show_steps
from pcsnn.graph.fold import fold_batch_norms

FORMS = ("float", "serial", "spiking")


@torch.no_grad()
def time_forms(model, snn, images, rounds, progress):
    """Times of one batch, `images` [N, ...]: a dict for JSON.

    `milliseconds`: an image, the median over `rounds`, of "float" (the float network, batch norms folded), "serial" (T
    passes) and "spiking" (collapsed, (11)). `speed_up`: serial over spiking, the median of the ratios of the rounds.
    """
    network, _ = float_network(model)
    fold_batch_norms(network)
    stepwise = serial(snn)
    calls = {"float": lambda: network(images), "serial": lambda: stepwise(images), "spiking": lambda: snn(images)}
    for call in calls.values():  # to be warm
        call()
    with show_steps(range(rounds * len(calls)), "timing", progress) as bar:
        seconds = timing.interleaved(calls, rounds, device=images.device, after_each=lambda _: bar.update())
    return {
        "batch": len(images),
        "rounds": rounds,
        "speed_up": timing.ratio(seconds["serial"], seconds["spiking"]),
        "milliseconds": {name: 1000 * timing.median(taken) / len(images) for name, taken in seconds.items()},
    }
