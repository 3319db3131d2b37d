"""Thresholds without calibration: the activations' own bounds, or the largest activation of each channel."""

import torch

from pcsnn.calibration import signed
from pcsnn.calibration.method import Method, register
from pcsnn.calibration.places import Settings
from pcsnn.data.batches import run_through
from pcsnn.distributed import collectives


def from_bounds(task):
    """Method "none": QCFS keeps its learned threshold, clipped ReLU takes its bound; ReLU has none (ValueError)."""
    without = [place.name for place in task.open if place.bound is None]
    if without:
        raise ValueError(
            f"method: 'none' needs activations with a bound, and {', '.join(without)} "
            f"{'has' if len(without) == 1 else 'have'} none; give calibration= and another method"
        )
    return {place.name: place.own() for place in task.open}


def recorded_maxima(task):
    """Method "max" (16): theta is the largest activation over the data, per channel; QCFS keeps its learned threshold.

    A channel that never rises above zero gets an infinite threshold: it emits no spikes. An activation that goes below
    zero gets an amplitude that covers all currents of its layer (S4). Several processes: the largest of all, whatever
    their shares.
    """
    recorded = [place for place in task.open if place.quantization_levels is None]
    maxima, ranges = {}, {}

    def record(place):
        def hook(module, arguments, output):
            highest = place.reduce(output, torch.amax)
            known = maxima.get(place.name)
            maxima[place.name] = highest if known is None else torch.maximum(known, highest)

        return hook

    if recorded:
        hooks = [
            task.network.get_submodule(place.name).register_forward_hook(
                signed.record_range(place, ranges) if place.signed else record(place)
            )
            for place in recorded
        ]
        try:
            run_through(task.network, task.batches, "recording maxima", task.progress)
        finally:
            for hook in hooks:
                hook.remove()
    settings = {place.name: place.own() for place in task.open if place not in recorded}
    for place in recorded:
        extremes = ranges[place.name] if place.signed else [maxima[place.name]]
        if not all(torch.as_tensor(extreme, device=task.batches.device).isfinite().all() for extreme in extremes):
            raise ValueError(f"model: {place.name} reaches NaN or infinity on the calibration data")
        if place.signed:
            settings[place.name] = signed.from_range(place, *extremes)
        else:
            highest = collectives.highest(*extremes)
            settings[place.name] = Settings(torch.where(highest > 0, highest, torch.inf))
    return settings


register(Method("none", from_bounds, effort=0, needs_data=False, depends_on_timesteps=False))
register(Method("max", recorded_maxima, effort=1, depends_on_timesteps=False))
