"""Gradient steps on a spiking network as a whole, its neurons differentiated straight through (C4), (C5)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from pcsnn import distributed
from pcsnn.calibration import branches, variation
from pcsnn.calibration.lockstep import footprint, per_input, student_of
from pcsnn.data.batches import show_steps
from pcsnn.data.inputs import count, rows
from pcsnn.data.pools import shuffled
from pcsnn.distributed import collectives
from pcsnn.graph import taxonomy

SMALLEST_BATCH = 8  # however much memory an input takes
FULL_BATCH, FULL_DENSE_BATCH, FEW_LAYERS = 64, 8, 20  # for which learning rates are meant


class _Relative(nn.Module):
    """A weight as its first value plus a change in units of its deviation, by output channel."""

    def __init__(self, weight, channel):
        super().__init__()
        others = [d for d in range(weight.dim()) if d != channel]
        self.first = weight.detach().clone()
        self.unit = self.first.square().mean(others, keepdim=True).sqrt()

    def forward(self, change):
        return self.first + self.unit * change

    def right_inverse(self, weight):
        return torch.zeros_like(weight)


def _free_weights(network):
    """Make the weights of all synapses parameters relative to what they are; returns the changes."""
    changes = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, *taxonomy.CONVOLUTIONS)):
            if not isinstance(module._parameters.get("weight"), nn.Parameter):
                raise ValueError(
                    f"model: method 'advanced' changes weights, and that of {name} is computed from other tensors; "
                    "make it a parameter (remove_parametrizations, remove_weight_norm, prune.remove) or use 'light'"
                )
            channel = 1 if isinstance(module, taxonomy.TRANSPOSED_CONVOLUTIONS) and module.groups == 1 else 0
            parametrize.register_parametrization(module, "weight", _Relative(module.weight, channel))
            changes.append(module.parametrizations["weight"].original.requires_grad_(True))
    return changes


class _Scaled(nn.Module):
    """A weight times exp(gain) of each output channel."""

    def __init__(self, weight):
        super().__init__()
        self.gain = nn.Parameter(weight.new_zeros(len(weight), *[1] * (weight.dim() - 1)))

    def forward(self, weight):
        return weight * self.gain.exp()


def _free_branches(network):
    """Give the branches of sums a gain for each channel; returns the gains. No threshold does what they do."""
    modules, gains = dict(network.named_modules()), []
    for node, module in branches.own_synapses(network).items():
        if branches.sum_behind(node, modules) is not None:
            scaled = _Scaled(module.weight)
            parametrize.register_parametrization(module, "weight", scaled)
            gains.append(scaled.gain)
    return gains


def _fix_weights(network):
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
            module.weight.requires_grad_(False)


@torch.no_grad()
def _outputs(network, batch):
    """Root mean square of the outputs on a few inputs, and whether an input has more than one of each class."""
    outputs = per_input(network(*batch))
    size = sum(value.square().mean().sqrt().item() for value in outputs) / max(len(outputs), 1)
    return size, any(value.dim() > 2 for value in outputs)


def _own(batch):
    """The rows of a batch, which every process has drawn, that are this one's, and their share of all rows."""
    own = rows(batch, slice(distributed.rank(), None, distributed.size()))
    return own, count(own) / count(batch)


def _mean_squares(values, share, device):
    """Mean square of each tensor over all processes; `share`: of the batch that this one has, and no values where 0."""
    own = [value.square().mean() if share else torch.zeros((), dtype=torch.float32, device=device) for value in values]
    return collectives.means(own, [share] * len(own))


def _divergence(learnt, taught, temperature):
    """Kullback-Leibler divergence over dimension 1, the classes, at a temperature; mean over all else."""
    learnt, taught = (
        (value.float().transpose(1, -1).flatten(0, -2) / temperature).log_softmax(1) for value in (learnt, taught)
    )
    return temperature**2 * F.kl_div(learnt, taught, reduction="batchmean", log_target=True)


def _size(network, pools, options, dense, whole):
    """Inputs of a batch. whole: of batches as they are."""
    if whole:
        return min(map(count, pools))
    total = max(footprint(network, rows(pool, slice(1)))[1] for pool in pools)
    fitting = max(SMALLEST_BATCH, options.step_bytes / (3 * total))
    return int(min(options.dense_batch if dense else options.batch, fitting))


def _slower(size, dense, neurons):
    """What learning rates are multiplied by, at most 1: changes of more layers add up, those of fewer inputs scatter.

    Rates are for batches of FULL_BATCH, of FULL_DENSE_BATCH where an input has many outputs, and FEW_LAYERS layers of
    neurons. Adam's rate goes with the root of the batch (arXiv 2205.10287).
    """
    return min(1.0, (size / (FULL_DENSE_BATCH if dense else FULL_BATCH)) ** 0.5) * min(1.0, FEW_LAYERS / len(neurons))


def _batches(pools, options, size, whole, generator):
    """Batches without end, in random order. whole: uncut and unvaried."""
    if whole:
        yield from shuffled(pools, None, generator)
    for batch in shuffled(pools, size, generator):
        if options.vary_images:
            batch = variation.varied(batch, generator)
        if options.mixed_share and variation.uniform(generator) < options.mixed_share:
            batch = variation.mixed(batch, generator)
        yield batch


class _RunningAverage:
    """An exponential moving average of some parameters, which begins with their first values seen."""

    def __init__(self, parameters, decay):
        self._parameters, self._decay, self._values = parameters, decay, None

    def update(self):
        now = [parameter.detach() for parameter in self._parameters]
        if self._values is None:
            self._values = [value.clone() for value in now]
        else:
            for old, new in zip(self._values, now):
                old.lerp_(new, 1 - self._decay)

    @torch.no_grad()
    def take_over(self):
        """Give the parameters their averages; they need no gradient any more."""
        for parameter, average in zip(self._parameters, self._values):
            parameter.copy_(average)
            parameter.requires_grad_(False)


def refine(teacher, task, settings, pools, outputs, options):
    """Adam with a cosine rate on what `settings` holds, and on biases of the modules `outputs`; changes both in place.

    Loss: the divergence of the outputs from the teacher's, and the mean relative squared error of all layers' rates.
    Several processes draw the same batches; each works on its rows, and the gradients are added up.
    """
    network, timesteps, whole = task.network, task.timesteps, task.batches.whole
    generator = torch.Generator("cpu").manual_seed(task.seed)
    device = tree_leaves(pools[0])[0].device
    neurons = {place.name: settings[place.name].trainable(place, timesteps, device) for place in task.open}
    student = student_of(network, neurons)  # a lossless QCFS is its neuron, and has a gradient
    taught = {}
    for name in neurons:
        teacher.get_submodule(name).register_forward_hook(
            lambda module, arguments, output, name=name: taught.__setitem__(name, output)
        )
    scale, dense = _outputs(teacher, pools[0] if whole else rows(pools[0], slice(options.batch)))
    levels = [parameter for module in neurons.values() for parameter in module.parameters()]
    biases = [module.bias.requires_grad_(True) for module in outputs]
    changes = []
    if options.change_weights:
        changes = _free_weights(network)
    elif options.scale_branches:
        changes = _free_branches(network)
    parameters = [*levels, *biases, *changes]
    size = _size(teacher, pools, options, dense, whole)
    slower = _slower(size, dense, neurons)
    rate = slower * (options.learning_rate_beside_weights if options.change_weights else options.learning_rate)
    optimiser = torch.optim.Adam(
        [
            {"params": levels, "lr": rate},
            {"params": biases, "lr": rate * scale},
            {"params": changes, "lr": slower * options.weight_learning_rate},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    batches = _batches(pools, options, size, whole, generator)
    averages = _RunningAverage(parameters, options.ema_decay)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),  # data read before may have left a mode switched on
        show_steps(range(options.steps), "refining", task.progress) as bar,
    ):
        for step in bar:
            batch, share = _own(next(batches))
            with torch.no_grad():
                expected = per_input(teacher(*batch)) if share else []
            squares = _mean_squares([taught.get(name) for name in neurons], share, device)
            optimiser.zero_grad()
            if share:
                found = per_input(student(*batch))
                errors = [
                    F.mse_loss(module.out, taught[name]) / square.clamp_min(1e-12)
                    for (name, module), square in zip(neurons.items(), squares)
                ]
                divergence = sum(_divergence(*pair, options.temperature) for pair in zip(found, expected))
                layers = torch.stack(errors).mean()
                loss = options.output_loss_weight * divergence + options.layer_loss_weight * layers
                (loss * share).backward()
            collectives.sum_gradients(parameters)
            optimiser.step()
            schedule.step()
            if step + 1 >= options.steps / 2:
                averages.update()
    averages.take_over()
    _fix_weights(network)
    settings.update({name: module.settings() for name, module in neurons.items()})
