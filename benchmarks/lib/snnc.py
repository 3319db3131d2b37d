"""The light pipeline of SNN calibration (19), for comparison: thresholds by a grid search, biases layer after layer.

Written from the description in "A Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration"
(ICML 2021), on this project's serial soft-reset IF:

- The threshold of a channel is the candidate i / GRID of its largest activation, i = 1..GRID, that minimises the mean
  square error between the activation and its clipped, shifted floor (theta / T) clip(floor(a T / theta + 1/2), 0, T).
- Every step adds theta / (2 T) to the current, and the potential starts at 0 (ShiftedIF). CorrectedIF instead starts at
  theta / 2, as `pcsnn.baselines.serial` does: the same in total, but early enough for the layers behind, so that it is
  far better at small T.
- Layer after layer in execution order, the bias of each channel grows by the mean difference between the float
  network's activation and the spiking network's rate over the correction images, each network fed by its own layers;
  last, so do the biases of the outputs.

The paper trains with average pools. Where a network has max pools, they take the maximum of the spikes of each step.
"""

import torch
from torch import fx, nn
from tqdm import tqdm

import pcsnn
from pcsnn.baselines.rebuild import Evaluated, with_neurons
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.tensors.arithmetic import per_channel

GRID = 100
BINS = 4096  # of the histograms of activations from which the errors are computed
BATCH = 64


class FloatActivation(nn.Module):
    """The source's activation on the calibration images: ReLU, which nowhere exceeds its recorded maximum there.

    So it stands for ReLU6 and other clipped ReLUs too.
    """

    def __init__(self, maximum):
        super().__init__()
        self.register_buffer("maximum", maximum)

    def forward(self, current, residual=None):
        current = current if residual is None else current + residual
        return torch.minimum(current.relu(), per_channel(self.maximum, current.dim()))


class CorrectedIF(SerialIF):
    """Serial IF that starts at theta / 2 and adds a bias, which `correct` changes, in every step."""

    start = 0.5  # in units of the threshold

    def __init__(self, threshold, timesteps):
        worth = torch.where(threshold.isfinite(), threshold, 0.0)
        super().__init__(threshold, amplitude=worth, shift=self.start)
        self.register_buffer("bias", self.first_bias(worth, timesteps))

    @staticmethod
    def first_bias(worth, timesteps):
        return torch.zeros_like(worth)

    def correct(self, difference):
        self.bias += torch.where(self.amplitude > 0, difference, 0.0)

    def forward(self, current, residual=None):
        return super().forward(current + per_channel(self.bias, current.dim()), residual)


class ShiftedIF(CorrectedIF):
    """The same, started at 0, with theta / (2 T) in the bias: the paper's."""

    start = 0.0

    @staticmethod
    def first_bias(worth, timesteps):
        return worth / (2 * timesteps)


NEURONS = {"snnc": ShiftedIF, "snnc-half": CorrectedIF}


class TimeAverage(Evaluated):
    """The mean output of T passes over a network of IF neurons, plus `bias`."""

    def __init__(self, network, timesteps, bias=0.0):
        super().__init__()
        self.network, self.timesteps, self.bias = network, timesteps, bias

    @torch.no_grad()
    def forward(self, images):
        for module in self.network.modules():
            if isinstance(module, SerialIF):
                module.reset()
        total = self.network(images)
        for _ in range(self.timesteps - 1):
            total = total + self.network(images)
        return total / self.timesteps + self.bias


def per_channel_mean(value, per_channel):
    """[N, C, ...] -> [C], or [] where channels share a threshold."""
    return value.transpose(0, 1).flatten(1).mean(1) if per_channel else value.mean()


def best_fractions(counts, timesteps):
    """Histograms of activations between 0 and the maximum, [C, BINS] -> which fraction of the maximum is best, [C]."""
    value = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
    fraction = torch.arange(1, GRID + 1, dtype=torch.float64).unsqueeze(1) / GRID
    rounded = (value * timesteps / fraction + 0.5).floor().clamp(0, timesteps) * fraction / timesteps
    errors = (rounded - value).square() @ counts.double().T
    return fraction.squeeze(1)[errors.argmin(0)]


def _histogram(activation, maximum):
    """Activations [N, C, ...] with their maxima [C] or [] -> counts, int64 [C or 1, BINS]."""
    scaled = activation / per_channel(maximum, activation.dim()) * BINS  # 0 where the maximum is infinite
    rows = scaled.transpose(0, 1).flatten(1) if maximum.dim() else scaled.reshape(1, -1)
    index = rows.long().clamp(0, BINS - 1) + BINS * torch.arange(len(rows)).unsqueeze(1)
    return index.flatten().bincount(minlength=BINS * len(rows)).view(-1, BINS)


def grid_thresholds(float_network, timesteps, images, progress):
    """{layer: threshold, [C] or [], infinite for channels that never fire}."""
    found = {}

    def watch(name):
        def hook(module, arguments, output):
            found[name] = found.get(name, 0) + _histogram(output, module.maximum)

        return hook

    layers = {name: module for name, module in float_network.named_modules() if isinstance(module, FloatActivation)}
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    for part in tqdm(images.split(BATCH), desc="SNNC: thresholds", leave=False, disable=None if progress else True):
        float_network(part)
    for hook in hooks:
        hook.remove()
    return {
        name: module.maximum * best_fractions(found[name], timesteps).view(module.maximum.shape).float()
        for name, module in layers.items()
    }


def until(network, wanted):
    """The graph module that computes the output of the layer of that name, or of several nodes as a tuple.

    Its modules are the network's own.
    """
    graph, copies = fx.Graph(), {}
    for node in network.graph.nodes:
        if node.op == "output":
            break
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if isinstance(wanted, str):
        graph.output(next(copies[node] for node in copies if node.op == "call_module" and node.target == wanted))
    else:
        graph.output(tuple(copies[node] for node in wanted))
    prefix = fx.GraphModule(network, graph)
    prefix.graph.eliminate_dead_code()
    prefix.recompile()
    return prefix


def mean(network, images, per_channel):
    """The mean output of each channel over all images."""
    return sum(per_channel_mean(network(part), per_channel) * len(part) for part in images.split(BATCH)) / len(images)


def correct_biases(float_network, student, names, images, progress):
    """Layer after layer; changes `student`, a TimeAverage."""
    for name in tqdm(names, desc="SNNC: biases", leave=False, disable=None if progress else True):
        neuron = student.network.get_submodule(name)
        per_channel = neuron.threshold.dim() > 0
        taught = mean(until(float_network, name), images, per_channel)
        learnt = mean(TimeAverage(until(student.network, name), student.timesteps), images, per_channel)
        neuron.correct(taught - learnt)
    student.bias = mean(float_network, images, True) - mean(student, images, True)


def uncalibrated(network, timesteps, calibration, neuron, progress):
    """(float network, TimeAverage with grid thresholds, names of its neurons in execution order), weights shared.

    ValueError: a network with QCFS activations or operations that cannot run step by step.
    """
    snn = pcsnn.convert(network, timesteps, calibration=calibration, method="max", progress=progress)
    quantized = [name for name, known in snn.neurons() if known.quantization_levels is not None]
    if quantized:
        raise ValueError(f"network: {quantized[0]} is a QCFS activation; the pipeline calibrates ReLU networks")
    float_network = with_neurons(snn, lambda known: FloatActivation(known.threshold))
    thresholds = grid_thresholds(float_network, timesteps, calibration, progress)
    chosen = {known: thresholds[name] for name, known in snn.neurons()}
    student = TimeAverage(with_neurons(snn, lambda known: neuron(chosen[known], timesteps)), timesteps)
    return float_network, student, [name for name, _ in snn.neurons()]


@torch.no_grad()
def light_pipeline(network, timesteps, calibration, correction_images, neuron=ShiftedIF, progress=True):
    """A trained ReLU network -> the calibrated spiking network, evaluated step by step.

    Args:
        network: a classifier [N, ...] -> [N, classes] that pcsnn.convert takes, with ReLU or clipped ReLU activations.
        timesteps: T.
        calibration: images [N, ...] for the thresholds.
        correction_images: how many of them, the first, correct the biases (the paper's code takes one batch).
        neuron: ShiftedIF or CorrectedIF.
        progress: show progress bars on a terminal.

    Returns:
        TimeAverage, images to the mean output of T passes.

    Raises:
        ValueError: correction_images < 1; a network with QCFS activations or operations that cannot run step by step.
    """
    if correction_images < 1:
        raise ValueError(f"correction_images: expected at least 1, got {correction_images}")
    float_network, student, names = uncalibrated(network, timesteps, calibration, neuron, progress)
    correct_biases(float_network, student, names, calibration[:correction_images], progress)
    return student
