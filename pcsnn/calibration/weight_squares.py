"""Weights of synapses by least squares on the student's own inputs, against the float network's outputs (C6).

A synapse whose output is added to another current is fitted to what the sum lacks, so that a residual branch makes up
for errors of its shortcut as well. Source: the layer-wise objective of post-training quantization (AdaRound, arXiv
2004.10568; Optimal Brain Compression, arXiv 2208.11580), here for errors of rates under weights that are not quantised.
"""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.calibration import branches
from pcsnn.distributed import collectives

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # on changes of weights, in units of the mean square of what the weights see
FOLDS = 2  # of the inputs: the penalty is the one that fits those that weights were not fitted on
MOST_POSITIONS = 2**18  # of outputs that a fit looks at
MOST_PRODUCTS = 2**36  # of inputs of a synapse with each other, summed over positions
LEAST_POSITIONS = 8  # for each weight of an output channel, whatever that costs
CHUNK = 2**24  # elements of patches at a time


def _padded(module, x):
    """The input of a convolution with its margins."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if isinstance(module.padding, str):
        total = [d * (k - 1) if module.padding == "same" else 0 for d, k in zip(module.dilation, module.kernel_size)]
        margins = [(width // 2, width - width // 2) for width in total]
    else:
        margins = [(width, width) for width in module.padding]
    margins = [width for pair in reversed(margins) for width in pair]
    return F.pad(x, margins, mode) if any(margins) else x


def _patches(module, x, positions, lengths):
    """What the weights of each output see: [groups, weights of an output, N * positions].

    lengths: of the output, in each dimension of space. positions: of outputs that are looked at, of each input.
    """
    if isinstance(module, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])[:, positions].flatten(0, 1).T.unsqueeze(0)
    x, seen = _padded(module, x), []
    for offset in itertools.product(*map(range, module.kernel_size)):
        window = tuple(
            slice(first * d, first * d + (length - 1) * s + 1, s)
            for first, d, s, length in zip(offset, module.dilation, module.stride, lengths)
        )
        seen.append(x[(..., *window)].flatten(2)[..., positions])
    seen = torch.stack(seen, 2)  # [N, C, places of the kernel, positions]
    return seen.unflatten(1, (module.groups, -1)).permute(1, 2, 3, 0, 4).flatten(3).flatten(1, 2)


def _lacking(module, x, wanted, beside, positions):
    """What its outputs lack of what is wanted: [groups, outputs of a group, N * positions]; beside: as of `fit`."""
    own = module(x)
    rest = wanted - own
    if beside is not None:
        rest = torch.where(wanted + beside > 0, rest, -(own + beside).clamp_min(0))
    if isinstance(module, nn.Linear):
        return rest.reshape(len(x), -1, rest.shape[-1])[:, positions].flatten(0, 1).T.unsqueeze(0)
    return rest.flatten(2)[..., positions].transpose(0, 1).flatten(1).unflatten(0, (module.groups, -1))


def _moments(module, inputs, wanted, folds, beside):
    """[FOLDS, groups, w, w + o]: products of what the w weights see, with itself and with what the o outputs lack.

    Of all processes. A constant stands behind the weights where the synapse has a bias. Of many positions of an output,
    some are looked at, drawn once.
    """
    channels = module.weight.shape[0]
    weights = module.weight[0].numel()
    size = weights + (module.bias is not None)
    groups = getattr(module, "groups", 1)
    most = max(LEAST_POSITIONS * weights, min(MOST_POSITIONS, MOST_PRODUCTS // weights**2))
    kept = -(-most // collectives.totals(sum(map(len, inputs)))[0])
    sums = torch.zeros(FOLDS, groups, size, size + channels // groups, dtype=torch.float64, device=module.weight.device)
    for x, target, fold, other in zip(inputs, wanted, folds, beside or [None] * len(folds)):
        each, some = math.prod(target.shape[1:]) // channels, slice(None)
        if kept < each:
            generator = torch.Generator("cpu").manual_seed(0)
            some = torch.randperm(each, generator=generator, device="cpu")[:kept].sort().values.to(x.device)
        rows = max(1, CHUNK // (min(kept, each) * weights * groups))
        others = itertools.repeat(None) if other is None else other.split(rows)
        for part, goal, addend in zip(x.split(rows), target.split(rows), others):
            seen = _patches(module, part, some, goal.shape[2:])
            if module.bias is not None:
                seen = torch.cat([seen, seen.new_ones(groups, 1, seen.shape[-1])], 1)
            lacking = _lacking(module, part, goal, addend, some)
            sums[fold] += seen @ torch.cat([seen, lacking], 1).mT
    return collectives.summed(sums)


def _changes(moments, weights, penalty):
    """The changes [groups, w, o] of the weights, and of the bias behind them, that least squares finds."""
    size = moments.shape[1]
    products, lacking = moments[..., :size], moments[..., size:]
    diagonal = products.diagonal(dim1=-2, dim2=-1)
    power = diagonal[:, :weights].mean(-1, keepdim=True).clamp_min(1e-30)
    ridge = torch.full_like(diagonal, 1e-12) * power
    ridge[:, :weights] += penalty * power
    return torch.linalg.solve(products + ridge.diag_embed(), lacking)


def _error(changes, moments):
    """What changes add to the squared error of the outputs; below zero where they help."""
    size = changes.shape[1]
    products, lacking = moments[..., :size], moments[..., size:]
    return (changes * (products @ changes - 2 * lacking)).sum().item()


def _fitted(module, inputs, wanted, folds, beside):
    moments, weights = _moments(module, inputs, wanted, folds, beside), module.weight[0].numel()
    fitted = copy.deepcopy(module)
    if not moments.isfinite().all():
        return fitted  # the next neuron says so, by name
    whole = moments.sum(0)
    errors = {
        penalty: sum(_error(_changes(whole - part, weights, penalty), part) for part in moments)
        for penalty in PENALTIES
    }
    penalty = min(errors, key=errors.get)
    if errors[penalty] < 0:
        changes = _changes(whole, weights, penalty).mT.flatten(0, 1)  # [outputs, weights and bias]
        fitted.weight.data += changes[:, :weights].reshape(fitted.weight.shape).to(fitted.weight)
        if fitted.bias is not None:
            fitted.bias.data += changes[:, weights].to(fitted.bias)
    return fitted


def fit(module, inputs, wanted, folds, beside=None):
    """A copy of a synapse whose outputs on `inputs` come closest to `wanted`; lists with an entry a batch.

    folds: of each batch, the number of its fold. The penalty on changes is the one that does best on inputs that
    weights were not fitted on; where none does better than the weights that there are, they stay.

    beside: what is added to the outputs, where of the sum only what is above zero goes on. Then weights are fitted a
    second time, and a sum below zero that is to be below zero lacks nothing.
    """
    fitted = _fitted(module, inputs, wanted, folds, None)
    return fitted if beside is None else _fitted(fitted, inputs, wanted, folds, beside)


class Corrections:
    """Refitted synapses in the student of a lockstep; `keep()` puts them into the network in the end.

    folds: of each batch of the lockstep, the number of its fold.
    """

    def __init__(self, network, folds):
        self.network, self.folds, self.fitted = network, folds, {}
        self._synapses = branches.own_synapses(network)
        self._sums = branches.last_of_sums(network, self._synapses)
        self._clipped = branches.clipped(network)
        self._waiting = dict.fromkeys(self._sums.values())

    @property
    def pending(self):
        """Whether a synapse waits for the sum that alone reads it, with the inputs that the batches so far gave it."""
        return any(inputs is not None for inputs in self._waiting.values())

    def __call__(self, node, teacher, student):
        """The module that stands at a node in the student, or None for the network's own; runs as in `lockstep`."""
        if node in self._synapses:
            inputs = [run.value(node.args[0] if node.args else node.kwargs["input"]) for run in student]
            if node in self._waiting:
                self._waiting[node] = inputs
                return None
            wanted, beside = [run.env[node] for run in teacher], None
            if node in self._clipped:
                beside = [value.new_zeros(1).expand_as(value) for value in wanted]
            self.fitted[node] = fit(self._synapses[node], inputs, wanted, self.folds, beside)
            return self.fitted[node]
        if node in self._sums:
            self._correct(node, self._sums[node], teacher, student)
        return None

    def _correct(self, node, synapse, teacher, student):
        inputs, module = self._waiting.pop(synapse), self._synapses[synapse]
        found = [run.run_node(node) for run in student]
        own = [run.env[synapse] for run in student]
        wanted, beside = [run.env[synapse] for run in teacher], None
        if all(value.shape == output.shape for value, output in zip(found, own)):  # else one is repeated
            others = [value - output for value, output in zip(found, own)]
            wanted = [taught.env[node] - other for taught, other in zip(teacher, others)]
            beside = others if node in self._clipped else None
        self.fitted[synapse] = fit(module, inputs, wanted, self.folds, beside)
        for run, x in zip(student, inputs):
            run.env[synapse] = self.fitted[synapse](x)

    def keep(self):
        """Give the network the weights and biases that were found, in place."""
        for node, module in self.fitted.items():
            own = self.network.get_submodule(node.target)
            for name, parameter in module.named_parameters():
                own.get_parameter(name).data.copy_(parameter.data)
