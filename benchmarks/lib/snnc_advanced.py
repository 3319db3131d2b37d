"""The advanced pipeline of SNN calibration (19), for comparison: weights and initial potentials behind the light one.

Written from the description in "A Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration"
(ICML 2021), after lib/snnc.py. Layer after layer in execution order, each network fed by its own layers:

- The weights of the synapses that lead to the layer are changed by gradient steps on the mean square difference of
  clip(floor(.)) of the mean current and the float network's activation. The mean input over T steps, linear as synapses
  are, is computed once; the floor counts as the identity.
- The initial potential of each neuron grows by T times the mean difference between the float network's activation and
  the neuron's rate, over the correction images.

Last, the biases of the outputs grow by the mean difference of the outputs. A synapse is changed for the first layer
that it leads to, and not again.
"""

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map
from tqdm import tqdm

from lib import snnc
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.graph import taxonomy
from pcsnn.tensors.arithmetic import per_channel

SYNAPSES = (nn.Linear, *taxonomy.CONVOLUTIONS)


@dataclass(frozen=True)
class Fit:
    """How weights are changed: gradient steps a layer (0: not at all), images a step, rate of Adam, images in all."""

    steps: int = 200
    batch: int = 32
    learning_rate: float = 1e-3
    images: int = 512
    seed: int = 0


class _Charged:
    """A neuron of lib/snnc.py whose potential starts `initial` higher, [C, ...] of its own."""

    def __init__(self, threshold, timesteps):
        super().__init__(threshold, timesteps)
        self.register_buffer("initial", torch.zeros((), dtype=threshold.dtype))

    def forward(self, current, residual=None):
        if self.potential is None:
            current = current + self.initial
        return super().forward(current, residual)

    def rates(self, current, timesteps):
        """Rates under a mean current, the floor with the identity's gradient."""
        alive = per_channel(self.amplitude > 0, current.dim())
        theta = torch.where(alive, per_channel(self.threshold, current.dim()), 1.0)
        charge = (current + per_channel(self.bias, current.dim())) * timesteps + self.shift * theta + self.initial
        count = charge / theta
        count = count + (count.floor() - count).detach()
        return torch.where(alive, count.clamp(0, timesteps) * theta / timesteps, 0.0)


class ChargedShiftedIF(_Charged, snnc.ShiftedIF):
    """Started at 0, with theta / (2 T) in the bias: the paper's."""


class ChargedCorrectedIF(_Charged, snnc.CorrectedIF):
    """Started at theta / 2."""


NEURONS = {"snnc-ap": ChargedShiftedIF, "snnc-ap-half": ChargedCorrectedIF}


def pipeline(name):
    """(function, neuron) of a row of the benchmark: the light pipeline or the advanced one."""
    if name in NEURONS:
        return advanced_pipeline, NEURONS[name]
    return snnc.light_pipeline, snnc.NEURONS[name]


def _ends(node, modules, done):
    """Whether a node's mean over time is no linear function of what is before it, or must not change any more."""
    if node.op == "placeholder" or taxonomy.role(node, modules) is taxonomy.Role.MAX_POOL:
        return True
    return node.op == "call_module" and (isinstance(modules[node.target], SerialIF) or node.target in done)


def section(network, name, done):
    """What leads to a layer: (its first nodes, the graph module from their values to the layer's currents, synapses).

    done: names of synapses that are calibrated; their outputs are first nodes.
    """
    modules = dict(network.named_modules())
    layer = next(node for node in network.graph.nodes if node.op == "call_module" and node.target == name)
    inside, first, waiting = set(), set(), list(layer.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if _ends(node, modules, done):
            first.add(node)
        elif node not in inside:
            inside.add(node)
            waiting += node.all_input_nodes
    graph, copies = fx.Graph(), {}
    ordered = [node for node in network.graph.nodes if node in first or node in inside]
    for node in [node for node in ordered if node in first]:
        copies[node] = graph.placeholder(f"first_{len(copies)}")
    for node in [node for node in ordered if node in inside]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in layer.all_input_nodes))
    synapses = [
        node.target
        for node in ordered
        if node in inside and node.op == "call_module" and isinstance(modules[node.target], SYNAPSES)
    ]
    return [node for node in ordered if node in first], fx.GraphModule(network, graph), synapses


def averages(student, nodes, images):
    """The means over time of nodes of a TimeAverage's network, a tensor [N, ...] each."""
    prefix, parts = snnc.until(student.network, nodes), []
    for part in images.split(snnc.BATCH):
        for module in student.network.modules():
            if isinstance(module, SerialIF):
                module.reset()
        total = prefix(part)
        for _ in range(student.timesteps - 1):
            total = tree_map(torch.add, total, prefix(part))
        parts.append([value / student.timesteps for value in total])
    return [torch.cat(values) for values in zip(*parts)]


def current_of(currents):
    """The sum of a layer's one or two currents."""
    return sum(currents[1:], start=currents[0])


def fit_weights(part, synapses, neuron, timesteps, inputs, taught, fit):
    """Gradient steps on the weights, and biases where there are some, of the synapses of a section."""
    modules = dict(part.named_modules())
    weights = [value for name in synapses for value in modules[name].parameters()]
    if not weights:
        return
    generator = torch.Generator().manual_seed(fit.seed)
    optimizer = torch.optim.Adam(weights, fit.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fit.steps)
    with torch.enable_grad():
        for value in weights:
            value.requires_grad_(True)
        for _ in range(fit.steps):
            some = torch.randint(len(taught), (fit.batch,), generator=generator)
            rates = neuron.rates(current_of(part(*(value[some] for value in inputs))), timesteps)
            optimizer.zero_grad()
            (rates - taught[some]).square().mean().backward()
            optimizer.step()
            schedule.step()
    for value in weights:
        value.requires_grad_(False)


@torch.no_grad()
def advanced_pipeline(
    network, timesteps, calibration, correction_images, neuron=ChargedShiftedIF, fit=None, progress=True
):
    """A trained ReLU network -> the calibrated spiking network, evaluated step by step.

    Args:
        network, timesteps, calibration, correction_images, progress: as of `lib.snnc.light_pipeline`.
        neuron: ChargedShiftedIF or ChargedCorrectedIF.
        fit: of the weights; None: Fit().

    Returns, raises: as `lib.snnc.light_pipeline`.
    """
    if correction_images < 1:
        raise ValueError(f"correction_images: expected at least 1, got {correction_images}")
    fit = fit or Fit()
    float_network, student, names = snnc.uncalibrated(network, timesteps, calibration, neuron, progress)
    student.network = copy.deepcopy(student.network)  # weights of its own, to change
    few, some = calibration[:correction_images], calibration[: fit.images]
    snnc.correct_biases(float_network, student, names, few, progress)
    done = set()
    for name in tqdm(names, desc="SNNC: layers", leave=False, disable=None if progress else True):
        layer, teacher = student.network.get_submodule(name), snnc.until(float_network, name)
        first, part, synapses = section(student.network, name, done)
        if fit.steps and synapses:
            taught = torch.cat([teacher(images) for images in some.split(snnc.BATCH)])
            fit_weights(part, synapses, layer, timesteps, averages(student, first, some), taught, fit)
        done.update(synapses)
        node = next(node for node in student.network.graph.nodes if node.target == name)
        [rates] = averages(student, [node], few)
        taught = torch.cat([teacher(images) for images in few.split(snnc.BATCH)])
        error = timesteps * (taught - rates).mean(0)
        layer.initial = torch.where(per_channel(layer.amplitude > 0, rates.dim())[0], error, 0.0)
    student.bias = student.bias + snnc.mean(float_network, few, True) - snnc.mean(student, few, True)
    return student
