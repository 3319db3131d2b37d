"""Post-training quantisation of activations, for comparison: a network whose activations take S + 1 values each.

An activation becomes step * clip(round(z / step), 0, S) with step = largest / S; the usual choices of what is largest:

- max: the largest activation on the calibration images, of the layer or of each channel;
- mean square: the share i / 100 of it with the least mean square error between activation and quantised activation;
- histogram: what torch.ao's HistogramObserver finds, told to take S + 1 values.

All look at the float network's activations, layer by layer, and change nothing else. Batch norms are folded.
"""

import torch
from torch import nn
from torch.ao.quantization.observer import HistogramObserver
from tqdm import tqdm

import pcsnn
from lib import checks, snnc
from pcsnn.baselines.rebuild import with_neurons
from pcsnn.tensors.arithmetic import per_channel

CHOICES = {
    "ptq-max-layer": "quantised: max, layer",
    "ptq-max": "quantised: max, channel",
    "ptq-mse-layer": "quantised: mean square, layer",
    "ptq-mse": "quantised: mean square, channel",
    "ptq-histogram": "quantised: torch.ao histogram",
}


class UniformActivation(nn.Module):
    """step * clip(round(z / step), 0, levels) with step = largest / levels, [] or [C], infinite for silence."""

    def __init__(self, largest, levels):
        super().__init__()
        self.levels = levels
        self.register_buffer("largest", largest)
        self.register_buffer("step", torch.where(largest.isfinite(), largest / levels, 0.0))
        self.register_buffer("inverse", torch.where(largest.isfinite(), levels / largest, 0.0))

    def forward(self, current, residual=None):
        current = current if residual is None else current + residual
        step, inverse = (per_channel(value, current.dim()) for value in (self.step, self.inverse))
        return (current * inverse).round_().clamp_(0, self.levels).mul_(step)


def _of_layer(threshold):
    """The largest finite threshold of a layer."""
    return threshold[threshold.isfinite()].amax() if threshold.isfinite().any() else threshold.flatten()[0]


def _observed(float_network, levels, images, progress):
    """{layer: largest activation by torch.ao's histogram}."""
    found, hooks = {}, []

    def watch(observer):
        def hook(module, arguments, output):
            observer(output)

        return hook

    for name, module in float_network.named_modules():
        if isinstance(module, snnc.FloatActivation):
            found[name] = HistogramObserver(quant_min=0, quant_max=levels)
            found[name].dst_nbins = levels + 1  # of its search, which otherwise takes all of a byte's
            hooks.append(module.register_forward_hook(watch(found[name])))
    for part in tqdm(images.split(snnc.BATCH), desc="histograms", leave=False, disable=None if progress else True):
        float_network(part)
    for hook in hooks:
        hook.remove()
    return {name: levels * observer.calculate_qparams()[0][0] for name, observer in found.items()}


@torch.no_grad()
def quantised(network, levels, calibration, choice, progress=True):
    """A ReLU network -> the same with activations of `levels` + 1 values, in evaluation mode.

    Args:
        network: what pcsnn.convert takes, with ReLU or clipped ReLU activations.
        levels: S, 1..255.
        calibration: images [N, ...].
        choice: one of CHOICES.
    """
    snn = pcsnn.convert(network, levels, calibration=calibration, method="max", fold=True, progress=progress)
    channels = choice in ("ptq-max", "ptq-mse")
    maxima = {name: known.threshold if channels else _of_layer(known.threshold) for name, known in snn.neurons()}
    names = {known: name for name, known in snn.neurons()}
    float_network = with_neurons(snn, lambda known: snnc.FloatActivation(maxima[names[known]]))
    if choice.startswith("ptq-mse"):
        maxima = snnc.grid_thresholds(float_network, levels, calibration, progress)
    elif choice == "ptq-histogram":
        maxima = _observed(float_network, levels, calibration, progress)
    return with_neurons(snn, lambda known: UniformActivation(maxima[names[known]], levels))


@torch.no_grad()
def as_neurons(network, images):
    """checks.Verdict: every activation is what a spiking neuron with the same threshold gives at T = S, up to ties."""
    wrong, neurons, hooks = 0, 0, []

    def compare(module, arguments, output):
        nonlocal wrong, neurons
        table = pcsnn.functional.levels(module.largest, module.levels)
        due = pcsnn.functional.fire_counts(sum(part for part in arguments if part is not None), table)
        counts = (output * per_channel(module.inverse, output.dim())).round()
        wrong, neurons = wrong + int((counts != due).sum()), neurons + due.numel()

    for module in network.modules():
        if isinstance(module, UniformActivation):
            hooks.append(module.register_forward_hook(compare))
    output = network(images)
    for hook in hooks:
        hook.remove()
    return checks.Verdict(
        wrong <= checks.TIES * neurons and bool(output.isfinite().all()),
        f"{wrong} of {neurons} activations are not those of a spiking neuron with the same threshold",
    )
