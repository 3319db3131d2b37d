"""Thresholds without calibration: the activations' own bounds, or the largest activation of each channel."""

import math

import torch

from pcsnn.calibration import signed
from pcsnn.calibration.places import Settings
from pcsnn.data.batches import run_through
from pcsnn.distributed import collectives


def from_bounds(network, places, batches, timesteps, progress, seed):
    """Method "none": QCFS keeps its learned threshold, clipped ReLU takes its bound; ReLU has none (ValueError)."""
    without = [place.name for place in places if place.bound is None]
    if without:
        raise ValueError(
            f"method: 'none' needs activations with a bound, and {', '.join(without)} "
            f"{'has' if len(without) == 1 else 'have'} none; give calibration= and another method"
        )
    return {place.name: place.own() for place in places}


def recorded_maxima(network, places, batches, timesteps, progress, seed):
    """Method "max" (16): theta is the largest activation over the data, per channel; QCFS keeps its learned threshold, IF its own.

    A channel that never rises above zero gets an infinite threshold: it emits no spikes. An activation that goes below zero
    gets an amplitude that covers all currents of its layer (S4). Several processes: the largest of all, whatever their shares.
    """
    recorded = [place for place in places if place.quantization_levels is None and not place.serial]
    maxima, ranges = {}, {}

    def record(place):
        def hook(module, arguments, output):
            highest = place.reduce(output, torch.amax)
            known = maxima.get(place.name)
            maxima[place.name] = highest if known is None else torch.maximum(known, highest)

        return hook

    if recorded:
        hooks = [
            network.get_submodule(place.name).register_forward_hook(
                signed.record_range(place, ranges) if place.signed else record(place)
            )
            for place in recorded
        ]
        try:
            run_through(network, batches, "recording maxima", progress)
        finally:
            for hook in hooks:
                hook.remove()
    settings = {place.name: place.own() for place in places if place not in recorded}
    for name, highest in maxima.items():
        if not highest.isfinite().all():
            raise ValueError(f"model: {name} reaches NaN or infinity on the calibration data")
        highest = collectives.highest(highest)
        settings[name] = Settings(torch.where(highest > 0, highest, torch.inf))
    for place in recorded:
        if place.signed:
            if not all(map(math.isfinite, ranges[place.name])):
                raise ValueError(f"model: {place.name} reaches NaN or infinity on the calibration data")
            settings[place.name] = signed.from_range(place, timesteps, *ranges[place.name])
    return settings
