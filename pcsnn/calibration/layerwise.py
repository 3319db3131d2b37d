"""Methods "quick", "light" and "advanced": least squares layer after layer, then gradient steps against the float network."""

import copy

import torch
from torch.utils._pytree import tree_leaves

from pcsnn.calibration import least_squares, refine, signed
from pcsnn.calibration.lockstep import MEMORY, footprint, lockstep
from pcsnn.calibration.precision import largest, single, widened
from pcsnn.data.inputs import count, rows
from pcsnn.data.pools import dealt, first, mini_batches
from pcsnn.distributed import collectives
from pcsnn.graph import taxonomy

IMAGES = 1024  # inputs that a calibration takes, from the start of the data, and keeps in memory
CHUNK = 64
STEPS = {"light": 300, "advanced": 600}  # of the gradient
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
    """{place among the outputs: the synapse that makes it, or that an interpolation behind it reads}.

    Interpolations pass constants on: a larger bias raises the mean behind them by as much.
    """
    modules = dict(network.named_modules())
    made = {}
    for place, source in enumerate(
        tree_leaves(next(node for node in network.graph.nodes if node.op == "output").args[0])
    ):
        kinds = _WITH_BIAS
        while _interpolates(source, modules):
            source, kinds = source.args[0], taxonomy.CONVOLUTIONS
        module = modules[source.target] if isinstance(source, torch.fx.Node) and source.op == "call_module" else None
        if isinstance(module, kinds) and module not in made.values():
            made[place] = module
    return made


def _interpolates(node, modules):
    return isinstance(node, torch.fx.Node) and taxonomy.role(node, modules) is taxonomy.Role.INTERPOLATION


def _fit_layers(network, places, groups, timesteps, progress, limit, whole):
    """Settings of all places by least squares on the student's own inputs; corrects the mean of the output (C1)-(C3).

    limit: the largest activation that the network's own dtype can hold. whole: batches are not cut.
    """
    by_name = {place.name: place for place in places}
    settings = {place.name: place.own() for place in places if place.lossless(timesteps)}

    def choose(node, currents, activations):
        place = by_name[node.target]
        if place.name not in settings:
            if not all((value.abs() <= limit).all() and value.isfinite().all() for value in activations):
                raise ValueError(f"model: {place.name} reaches NaN or infinity on the calibration data")
            fit = signed.fit if place.signed else least_squares.fit
            settings[place.name] = fit(place, currents, activations, timesteps)
        return settings[place.name].neuron(place, timesteps).to(currents[0])

    peak = max(footprint(network, group if whole else rows(group, slice(1)))[0] for group in groups)
    share = min(1.0, MEMORY / (peak * sum(map(count, groups))))
    some = (
        groups[: max(1, int(len(groups) * share))]
        if whole
        else [rows(group, slice(max(1, int(count(group) * share)))) for group in groups]
    )
    outputs = lockstep(network, mini_batches(dealt(some), None if whole else CHUNK), choose, progress)
    for place, module in _direct(network).items():
        channel = -1 if isinstance(module, torch.nn.Linear) else 1
        pairs = [[tree_leaves(output)[place] for output in pair] for pair in zip(*outputs)]
        errors = [(taught - learnt).transpose(0, channel).flatten(1) for taught, learnt in pairs]
        module.bias.data += collectives.mean(torch.cat(errors, 1))
    return settings


def _calibrate(network, places, batches, timesteps, progress, seed, steps, weights):
    groups = first(batches, IMAGES)
    for group in groups:
        few = group if batches.whole else rows(group, slice(1))
        with batches.running(few, network, "inputs of this shape"):
            footprint(network, few)
    groups = single(groups)
    refined = steps and not all(place.lossless(timesteps) for place in places)
    limit = largest(network)
    with widened(network):
        teacher = copy.deepcopy(network) if refined else None
        outputs = _output_synapses(network)
        _with_biases(outputs)
        settings = _fit_layers(network, places, groups, timesteps, progress, limit, batches.whole)
        if refined:
            refine.refine(
                teacher,
                network,
                places,
                settings,
                groups,
                timesteps,
                steps=steps,
                weights=weights,
                outputs=outputs,
                seed=seed,
                progress=progress,
                whole=batches.whole,
            )
    return settings


def quick(network, places, batches, timesteps, progress, seed):
    """Method "quick": each layer's threshold, shift, levels and amplitude by least squares (C1)-(C3), and no gradient.

    Uses the first 1,024 inputs of the data; of them as many as let the live values of a network stay within 1 GB. Several
    processes share these inputs, add up the histograms, and share the channels.
    """
    return _calibrate(network, places, batches, timesteps, progress, seed, 0, False)


def light(network, places, batches, timesteps, progress, seed):
    """Method "light": "quick", then 300 gradient steps on thresholds, shifts, levels, amplitudes and output biases (C4), (C5).

    Several processes draw the same batches, share the work on each, and add up the gradients.
    """
    return _calibrate(network, places, batches, timesteps, progress, seed, STEPS["light"], False)


def advanced(network, places, batches, timesteps, progress, seed):
    """Method "advanced": "light" with 600 steps that adjust the weights too."""
    return _calibrate(network, places, batches, timesteps, progress, seed, STEPS["advanced"], True)
