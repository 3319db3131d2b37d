"""Where serial IF neurons stood in a network that other software made, and the scales around them."""

import collections

import torch

from pcsnn import functional, reference
from pcsnn.nn import ChannelScale
from pcsnn.tensors import checks


class IntegrateFire(torch.nn.Module):
    """The place of a layer of IF neurons with soft reset: `pcsnn.convert` puts a parallel neuron there, thresholds kept.

    Under a steady current I that neuron gives the count of serial IF (2), clip(floor((T I + shift theta) / theta), 0, T).
    Called by itself, as calibration does, it is what the rate tends to as T grows: amplitude * clip(z / theta, 0, 1), or its own
    staircase.

    Args:
        threshold: theta > 0, a number or a tensor [C].
        shift: the potential at first, in units of the threshold: 0 at rest, 0.5 half the threshold.
        amplitude: what a spike is worth, a number or [C]. The place is on the device of the first of threshold and
            amplitude that is a tensor.
        levels: L, where the neuron has L distinct levels at every T that L divides, as one that came from QCFS (10); None:
            one for each time-step.

    Shape: [N, ...] or [N, C, ...] to the same.
    """

    def __init__(self, threshold, shift=0.0, amplitude=1.0, levels=None):
        super().__init__()
        checks.number("shift", shift)
        if levels is not None:
            checks.timesteps(levels, "levels")
        self.shift, self.levels = float(shift), levels
        device = checks.device_of(threshold, amplitude)
        self.register_buffer("threshold", checks.threshold(threshold).to(device))
        self.register_buffer("amplitude", torch.as_tensor(amplitude, dtype=torch.float64, device=device))

    def forward(self, z):
        if self.levels is not None:
            table = functional.levels(self.threshold, self.levels, shift=self.shift)
            return functional.fire_rates(z, table, (self.amplitude / self.levels).to(torch.float32), repeat=0)
        theta, amplitude = (reference.per_channel(value.to(z.dtype), z.dim()) for value in (self.threshold, self.amplitude))
        return (z / theta).clamp(0, 1) * amplitude

    def extra_repr(self):
        return f"shift={self.shift}"


def _drop(node):
    node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)


def fold_scales(network):
    """Take a ChannelScale right before or behind an IntegrateFire into its threshold or amplitude. Changes `network`.

    Only scales above zero, with which the maximum of what a max pool compares stays the maximum.
    """
    modules = dict(network.named_modules())

    def scale_at(node):
        module = modules.get(node.target) if node.op == "call_module" else None
        return module.scale.double() if isinstance(module, ChannelScale) and (module.scale > 0).all() else None

    calls = collections.Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    for node in list(network.graph.nodes):
        place = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(place, IntegrateFire) or calls[node.target] > 1:
            continue
        before = node.args[0]
        scale = scale_at(before)
        if scale is not None and len(before.users) == 1:
            place.threshold = place.threshold / scale
            _drop(before)
        behind = next(iter(node.users), None)
        scale = None if behind is None else scale_at(behind)
        if scale is not None and len(node.users) == 1:
            place.amplitude = place.amplitude * scale
            _drop(behind)
    network.delete_all_unused_submodules()
    network.recompile()
