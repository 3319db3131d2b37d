"""Methods "quick", "light", "advanced": least squares layer by layer, then gradient steps towards the float network."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch.utils._pytree import tree_leaves

from pcsnn import distributed
from pcsnn.calibration import least_squares, refine, signed, variation, weight_squares
from pcsnn.calibration.lockstep import footprint, joining, lockstep, student_of
from pcsnn.calibration.method import Method, check_between, check_counts, register
from pcsnn.calibration.precision import largest, single, widened
from pcsnn.data.inputs import count, rows
from pcsnn.data.pools import dealt, first, mini_batches
from pcsnn.distributed import collectives
from pcsnn.graph import taxonomy

_WITH_BIAS = (torch.nn.Linear, *taxonomy.CONVOLUTIONS)


def _output_synapses(network):
    """The synapses whose output leaves the network without meeting a neuron: no shift of a neuron corrects them."""
    modules = dict(network.named_modules())
    reached, found = set(), []
    for node in reversed(network.graph.nodes):
        if node.op == "output" or node in reached:
            if node.meta.get("activation"):
                continue
            if node.op == "call_module" and isinstance(modules[node.target], _WITH_BIAS):
                found.append(modules[node.target])
            else:
                reached.update(node.all_input_nodes)
    return found


def _with_biases(modules):
    for module in modules:
        if module.bias is None:
            outputs = module.out_features if isinstance(module, torch.nn.Linear) else module.out_channels
            module.bias = torch.nn.Parameter(module.weight.new_zeros(outputs), requires_grad=False)


def _direct(network):
    """{position among the outputs: the synapse that makes it, or that an interpolation behind it reads}.

    Interpolations pass constants on: a larger bias raises the mean behind them by as much.
    """
    modules = dict(network.named_modules())
    made = {}
    outputs = tree_leaves(next(node for node in network.graph.nodes if node.op == "output").args[0])
    for position, source in enumerate(outputs):
        kinds = _WITH_BIAS
        while _interpolates(source, modules):
            source, kinds = source.args[0], taxonomy.CONVOLUTIONS
        module = modules[source.target] if isinstance(source, torch.fx.Node) and source.op == "call_module" else None
        if isinstance(module, kinds) and module not in made.values():
            made[position] = module
    return made


def _interpolates(node, modules):
    return isinstance(node, torch.fx.Node) and taxonomy.role(node, modules) is taxonomy.Role.INTERPOLATION


def _cut(task, pools, options):
    """Mini-batches of pools, none of whose values alone take more memory than `fitting_bytes`."""
    if task.batches.whole:
        return list(pools)
    peak = max(footprint(task.network, rows(pool, slice(1)))[0] for pool in pools)
    return mini_batches(pools, max(1, min(options.fitting_batch, int(options.fitting_bytes / peak))))


def _folded(task, pools, options):
    """(batches of this process, the fold of each), folds by turns: the inputs, and varied copies of them.

    A copy is in the fold of its input. Folds and copies are the same, however many processes there are. Only images
    are varied; of other inputs there are no copies.
    """
    if task.batches.whole:
        return pools, [index % weight_squares.FOLDS for index in range(len(pools))]
    images = any(variation.is_image(part) for pool in pools for part in tree_leaves(pool))
    copies = options.fitting_copies if options.vary_images and images else 1
    folds = range(weight_squares.FOLDS)
    parts = [[rows(pool, slice(fold, None, len(folds))) for pool in pools if count(pool) > fold] for fold in folds]
    if min(sum(map(count, part)) for part in parts) < distributed.size():
        parts = [pools]  # too few for each process to have some of each
    generator = torch.Generator("cpu").manual_seed(task.seed)
    groups = []
    for fold, part in enumerate(parts):
        for copy_ in range(copies):
            some = [variation.all_varied(pool, options.fitting_batch, generator) for pool in part] if copy_ else part
            groups.append([(batch, fold) for batch in _cut(task, dealt(some), options)])
    turns = itertools.zip_longest(*groups)
    batches, own = zip(*[entry for turn in turns for entry in turn if entry is not None], strict=True)
    return batches, own


def fit_layers(task, pools, options, limit):
    """Settings of all places by least squares on the student's own inputs; corrects the outputs' means (C1)-(C3).

    Where weights may change, those of each synapse too (C6).

    pools: the inputs, on all of which the network computes in float32. limit: the largest activation that its own dtype
    can hold.
    """
    network, timesteps = task.network, task.timesteps
    by_name = {place.name: place for place in task.places}
    settings = dict(task.kept)

    def choose(node, currents, activations):
        place = by_name[node.target]
        if place.name not in settings:
            if not all((value.abs() <= limit).all() and value.isfinite().all() for value in activations):
                raise ValueError(f"model: {place.name} reaches NaN or infinity on the calibration data")
            settings[place.name] = (
                signed.fit(place, currents, activations, timesteps)
                if place.signed
                else least_squares.fit(place, currents, activations, timesteps, bend=options.bend_levels)
            )
        return settings[place.name].neuron(place, timesteps).to(currents[0])

    if options.change_weights and options.fit_weights and task.open:
        batches, folds = _folded(task, pools, options)
        corrections = weight_squares.Corrections(network, folds)
    else:
        batches, corrections = _cut(task, dealt(pools), options), None
    starts = joining(network, batches, task.batches.whole, options.fitting_bytes)
    outputs = lockstep(network, batches, choose, task.progress, corrections, starts)
    if corrections is not None:
        corrections.keep()
    for module, errors in _mean_errors(network, *outputs):
        module.bias.data += errors
    return settings


def _mean_errors(network, taught, learnt):
    """(synapse that makes an output, [O] by how much its bias is too small), of outputs on this process' batches."""
    for position, module in _direct(network).items():
        channel = -1 if isinstance(module, torch.nn.Linear) else 1
        pairs = [[tree_leaves(output)[position] for output in pair] for pair in zip(taught, learnt)]
        errors = [(one - other).transpose(0, channel).flatten(1) for one, other in pairs]
        yield module, collectives.mean(torch.cat(errors, 1))


@torch.no_grad()
def _centre(teacher, task, settings, pools, options):
    """Correct the mean over all classes of an output, which the divergence of the gradient steps does not see."""
    device = task.batches.device
    neurons = {place.name: settings[place.name].neuron(place, task.timesteps).to(device) for place in task.places}
    batches = _cut(task, dealt(pools), options)
    outputs = [[network(*batch) for batch in batches] for network in (teacher, student_of(task.network, neurons))]
    for module, errors in _mean_errors(task.network, *outputs):
        module.bias.data += errors.mean()


@dataclass(frozen=True)
class LayerwiseOptions:
    """Hyperparameters of the methods that fit layer after layer and then take gradient steps.

    Attributes:
        inputs: how many are taken, from the start of the data, and kept in memory.
        fit_layers: the settings that the gradient starts from, with the signature of `fit_layers`.
        fitting_batch: inputs that are run at a time while layers are fitted.
        fitting_bytes: what the live values of a network may take then; where those of all inputs took more, some inputs
            join at later layers, whose values are smaller.
        fitting_copies: how often each input is there, varied at random, while weights are fitted.
        bend_levels: whether levels may be unevenly spaced.
        steps: gradient steps; 0 for none.
        change_weights: whether weights are adjusted too, by least squares first and then by the steps.
        fit_weights: whether by least squares, where they may change.
        scale_branches: whether, where weights stay, branches of sums get a factor for each channel.
        learning_rate: of Adam, for logarithms, for shifts and levels in units of theta / T, and for biases relative to
            the outputs. All rates are for batches of 64 and up to 20 layers of neurons; smaller batches and deeper
            networks take smaller ones.
        learning_rate_beside_weights: the same where weights change.
        weight_learning_rate: relative to the weights of an output channel; of the factors of branches too.
        output_loss_weight: of the divergence of the outputs.
        temperature: of that divergence.
        layer_loss_weight: of the mean relative error of the layers.
        ema_decay: of the running average of the parameters over the second half of the steps.
        batch: inputs a step.
        dense_batch: the same where an input has many outputs, pixels or tokens, and so as many divergences.
        step_bytes: what a gradient step may keep; where a batch took more, it is made smaller.
        vary_images: whether images are flipped and shifted at random.
        mixed_share: of the batches, in which inputs are blended with each other.
    """

    inputs: int = 1024
    fit_layers: Callable = field(default=fit_layers, repr=False)  # processes compare options by what they look like
    fitting_batch: int = 64
    fitting_bytes: int = 2**30
    fitting_copies: int = 2
    bend_levels: bool = True
    steps: int = 0
    change_weights: bool = False
    fit_weights: bool = True
    scale_branches: bool = True
    learning_rate: float = 1e-2
    learning_rate_beside_weights: float = 3e-3
    weight_learning_rate: float = 2e-3
    output_loss_weight: float = 1.0
    temperature: float = 2.0
    layer_loss_weight: float = 2.0
    ema_decay: float = 0.98
    batch: int = 64
    dense_batch: int = 8
    step_bytes: int = 2**31
    vary_images: bool = True
    mixed_share: float = 0.0

    def __post_init__(self):
        check_counts(self, 0, "steps")
        check_counts(
            self, 1, "inputs", "fitting_batch", "fitting_bytes", "fitting_copies", "batch", "dense_batch", "step_bytes"
        )
        check_between(self, 1e-9, 1e9, "learning_rate", "learning_rate_beside_weights", "temperature")
        check_between(self, 0, 1e9, "weight_learning_rate", "output_loss_weight", "layer_loss_weight")
        check_between(self, 0, 1, "ema_decay", "mixed_share")


def calibrate(task, options):
    """The settings of a task. Several processes share the inputs and add up histograms, errors and gradients."""
    network, batches = task.network, task.batches
    pools = first(batches, options.inputs)
    for pool in pools:
        few = pool if batches.whole else rows(pool, slice(1))
        with batches.running(few, network, "inputs of this shape"):
            footprint(network, few)
    pools = single(pools)
    refined = options.steps and task.open
    limit = largest(network)
    with widened(network):
        teacher = copy.deepcopy(network) if refined else None
        outputs = _output_synapses(network)
        _with_biases(outputs)
        settings = options.fit_layers(task, pools, options, limit)
        if refined:
            refine.refine(teacher, task, settings, pools, outputs, options)
            _centre(teacher, task, settings, pools, options)
    return settings


# Least squares (C1)-(C3) on the first 1,024 inputs of the data; no gradient.
QUICK = register(Method("quick", calibrate, effort=3, options=LayerwiseOptions()))
# "quick", then gradient steps on thresholds, shifts, levels, amplitudes, output biases and factors of residual branches
# (C4), (C5).
LIGHT = register(Method("light", calibrate, effort=4, options=replace(QUICK.options, steps=300), seeded=True))
# Weights too, by least squares (C6) and by the steps. Mixing makes more data, so that they do not learn 1,024 images by
# heart.
ADVANCED = register(
    Method(
        "advanced",
        calibrate,
        effort=5,
        options=replace(LIGHT.options, steps=600, change_weights=True, mixed_share=0.5),
        seeded=True,
    )
)
