"""The passes behind `pcsnn.optimize`: each synapse and the neurons behind it become one layer."""

import operator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.utils import _pair

from pcsnn.fusion.quantise import quantise
from pcsnn.graph.names import unused_name
from pcsnn.graph.places import argument
from pcsnn.nn import (
    CollapsedNeuron,
    CountMaxPool2d,
    CountSumPool2d,
    PixelCounts,
    Rates,
    SpikingConv2d,
    SpikingLinear,
    SynapticConv2d,
    SynapticLinear,
)
from pcsnn.nn.counts import BYTE, steps_of

_CAT = {torch.cat, torch.concat, torch.concatenate}
DENSE = 16  # input channels of a group from which int8 pays in any form; below (depthwise), only where one primitive does it all


@dataclass
class _Counts:
    """What is known of a value that is distinct counts: amplitude [] or [C], channels C, L, and how many neurons were added
    up; whether it was flattened; for the pixels of an image the value [C] of count 0."""

    worth: torch.Tensor
    channels: int | None
    levels: int | None
    area: int = 1
    flat: bool = False
    low: torch.Tensor | None = None

    def steps(self, timesteps):
        """The largest count."""
        return BYTE if self.low is not None else steps_of(timesteps, self.levels, self.area)

    def arguments(self):
        """What a layer that reads them has to know."""
        return dict(input_levels=self.levels, input_area=self.area)


def is_plain(module):
    """Whether a synapse has a fused form."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def geometry(module):
    """The keyword arguments of a convolution; none for a linear layer."""
    if isinstance(module, nn.Linear):
        return {}
    return {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}


def neuron_arguments(neuron):
    """What makes a CollapsedNeuron like this one."""
    return dict(
        threshold=neuron.threshold,
        timesteps=neuron.timesteps,
        quantization_levels=neuron.quantization_levels,
        offset=neuron.offset,
        amplitude=neuron.amplitude,
        bend=neuron.bend,
        shift=neuron.shift,
    )


class Fuser:
    """Walks a graph once; `fused` says of each fused layer what it became."""

    def __init__(self, network):
        self.network, self.graph = network, network.graph
        self.modules = dict(network.named_modules())
        self.fused = {}

    def module(self, node, kind=nn.Module):
        """The module a node calls, if it is of a kind."""
        found = self.modules.get(node.target) if isinstance(node, torch.fx.Node) and node.op == "call_module" else None
        return found if isinstance(found, kind) else None

    def synapse(self, node):
        """The synapse at a node that has a fused form and one reader; else None."""
        module = self.module(node)
        return module if module is not None and is_plain(module) and len(node.users) == 1 else None

    def put(self, node, module, name, args):
        """Let a node call a new module."""
        shared = any(
            other.op == "call_module" and other.target == name for other in self.graph.nodes if other is not node
        )
        name = unused_name(self.network, name) if shared or name != node.target else name
        self.network.set_submodule(name, module)
        self.modules[name] = module
        node.op, node.target, node.args, node.kwargs = "call_module", name, args, {}

    def insert(self, module, name, source):
        """A new node right behind `source` that calls a new module on it."""
        name = unused_name(self.network, name)
        self.network.add_submodule(name, module)
        self.modules[name] = module
        with self.graph.inserting_after(source):
            return self.graph.call_module(name, (source,))

    def finish(self):
        for node in self.graph.nodes:  # views may not fit the layout that layers now return
            if node.op == "call_method" and node.target == "view":
                node.target = "reshape"
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.network.delete_all_unused_submodules()
        self.network.recompile()


class RateFuser(Fuser):
    """float32: layers pass on rates, and compute what they did."""

    def run(self):
        for node in list(self.graph.nodes):
            neuron = self.module(node, CollapsedNeuron)
            synapse = self.synapse(node.args[0]) if neuron is not None else None
            if synapse is None or isinstance(synapse, nn.Linear) and len(node.args) > 1:
                continue
            kind = SpikingLinear if isinstance(synapse, nn.Linear) else SpikingConv2d
            layer = kind(
                synapse.weight,
                bias=synapse.bias,
                counted=False,
                emits="rates",
                **geometry(synapse),
                **neuron_arguments(neuron),
            )
            source = node.args[0]
            self.put(node, layer, node.target, (source.args[0], *node.args[1:]))
            self.fused[node.target] = "float32 weights, rates"
        self.finish()


class CountFuser(Fuser):
    """Layers pass on counts; weights of `dtype`: torch.int8, torch.bfloat16 or torch.float16.

    sizes: (H, W) of what goes into adaptive average pools, by node name; ranges: (low, worth) [C] of inputs that the first
    layers are to read as counts, by node name; last: whether the last synapse is to have int8 weights too.
    """

    def __init__(self, network, dtype, sizes=None, ranges=None, last=False):
        super().__init__(network)
        self.dtype, self.sizes, self.ranges, self.last = dtype, sizes or {}, ranges or {}, last
        self.counts, self.rates = {}, {}

    def run(self):
        for node in list(self.graph.nodes):
            if not self._waits(node) and not self._counted(node):
                self._read_values(node)
        self.finish()

    def _waits(self, node):
        """Whether a node is a synapse that the neurons behind it may take in."""
        return self.synapse(node) is not None and self.module(next(iter(node.users)), CollapsedNeuron) is not None

    def _read_values(self, node):
        node.args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), self._as_values)

    def _counted(self, node):
        """Rewrite a node to read counts where it can; whether it did."""
        if self.module(node, CollapsedNeuron) is not None:
            if self._neuron(node):
                return True
            for source in filter(self._waits, node.all_input_nodes):
                self._read_values(source)
            return False
        source = node.args[0] if node.args else None
        if node.op == "call_function" and node.target in _CAT:
            return self._cat(node)
        if source not in self.counts:
            return False
        if self.module(node, nn.MaxPool2d) is not None or node.target is F.max_pool2d:
            return self._max_pool(node)
        if self.module(node, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)) is not None or node.target in (
            F.avg_pool2d,
            F.adaptive_avg_pool2d,
        ):
            return self._average_pool(node)
        if self.module(node, nn.Flatten) is not None or node.target in (torch.flatten, "flatten"):
            return self._flatten(node)
        if self.dtype == torch.int8 and self.module(node, (nn.Conv2d, nn.Linear)) is not None:
            return self._synapse_alone(node)
        if node.target is operator.getitem:
            return self._slice(node)
        if node.target is F.pad:
            return self._pad(node)
        return False

    def _as_values(self, node):
        """The rates of a node that was counts."""
        known = self.counts.get(node)
        if known is None:
            return node
        if known.flat:
            before = self._as_values(node.args[0])
            with self.graph.inserting_after(before):
                return self.graph.node_copy(node, lambda source: before)
        if node not in self.rates:
            rates = Rates(known.worth, self.timesteps, known.levels, known.area)
            self.rates[node] = self.insert(rates, f"{node.name}_rates", node)
        return self.rates[node]

    def _neuron(self, node):
        neuron = self.modules[node.target]
        self.timesteps = neuron.timesteps
        source = node.args[0]
        synapse = self.synapse(source)
        if synapse is None:
            return False
        branch = node.args[1] if len(node.args) > 1 else None
        linear = isinstance(synapse, nn.Linear)
        if linear and branch is not None:
            return False
        into = self.counts.get(source.args[0])
        if into is None and not linear and branch is None and source.args[0].name in self.ranges:
            into = self._pixels(source, synapse)
        dtype = self._dtype(synapse, into, direct=branch is None and neuron.bend is None)
        if dtype == torch.float32 and branch is not None and branch not in self.counts:
            into = None  # a sum of two values
            self._read_values(source)
        options = dict(counted=into is not None, emits="counts", **geometry(synapse), **neuron_arguments(neuron))
        bias = synapse.bias
        if into is not None and into.low is not None:
            options |= dict(fixed_steps=BYTE, padding=0)
            bias = self._bias_of_lows(synapse, into)
        elif into is not None:
            options |= into.arguments()
        other = None
        if branch in self.counts:
            options |= dict(
                residual_worth=self.counts[branch].worth,
                residual_levels=self.counts[branch].levels,
                residual_area=self.counts[branch].area,
            )
        elif branch is not None and dtype == torch.float32:
            self._read_values(branch)
        elif branch is not None:
            other = self._branch(branch, into)
            if other is None:
                return False
        weights = [self._weight(synapse, into)] + ([self._weight(other, self.counts[branch.args[0]])] if other else [])
        scale = None
        if dtype == torch.int8:
            steps = into.steps(neuron.timesteps)
            weights, scale = quantise(weights, steps, self._distance(neuron, steps, len(weights[0])))
        else:
            weights = [weight.to(dtype) for weight in weights]
        if other is not None:
            layer = SynapticConv2d(
                weights[1],
                neuron.timesteps,
                weight_scale=scale,
                bias=other.bias,
                **self.counts[branch.args[0]].arguments(),
                **geometry(other),
            )
            self.fused[branch.target] = f"{self._name(dtype)} weights, current"
            self.put(branch, layer, branch.target, branch.args)
        kind = SpikingLinear if linear else SpikingConv2d
        layer = kind(weights[0], weight_scale=scale, bias=bias, **options)
        self.put(node, layer, node.target, (source.args[0], *node.args[1:]))
        self.counts[node] = _Counts(layer.amplitude, weights[0].shape[0], layer.quantization_levels)
        self.fused[node.target] = f"{self._name(dtype)} weights, counts"
        return True

    @staticmethod
    def _name(dtype):
        return str(dtype).removeprefix("torch.")

    def _dtype(self, synapse, into, direct=False):
        """What a synapse multiplies in: float32 for values, and for int8 where a group has few channels, unless evenly spaced
        levels follow directly (F4)."""
        if into is None:
            return torch.float32
        sparse = isinstance(synapse, nn.Conv2d) and synapse.weight.shape[1] < DENSE
        return (
            torch.float32
            if self.dtype == torch.int8 and sparse and not (direct or into.low is not None)
            else self.dtype
        )

    def _pixels(self, node, synapse):
        """Let the convolution at `node` read its input, values of a known range, as counts."""
        source = node.args[0]
        low, worth = self.ranges[source.name]
        pixels = self.insert(PixelCounts(low, worth, synapse.padding), f"{source.name}_counts", source)
        node.args = (pixels,)
        self.counts[pixels] = _Counts(worth, len(worth), None, low=low)
        return self.counts[pixels]

    @staticmethod
    def _bias_of_lows(synapse, into):
        """The bias of a convolution whose counts 0 stand for `low`, float64."""
        weight = synapse.weight.detach().double().sum((2, 3)).view(synapse.groups, -1, synapse.weight.shape[1])
        bias = (weight @ into.low.double().view(synapse.groups, -1, 1)).flatten()
        return bias if synapse.bias is None else bias + synapse.bias.detach().double()

    def _branch(self, node, into):
        """The convolution at the end of a residual branch that reads counts of as many steps; else None."""
        module = self.synapse(node)
        known = self.counts.get(node.args[0]) if module is not None else None
        if known is None or not isinstance(module, nn.Conv2d) or self._dtype(module, known) == torch.float32:
            return None
        return module if known.steps(self.timesteps) == into.steps(self.timesteps) else None

    @staticmethod
    def _weight(synapse, into):
        """float64 weights times what the incoming spikes are worth."""
        weight = synapse.weight.detach().double()
        if into is None:
            return weight
        worth = into.worth.double()
        if worth.dim():
            if into.flat:
                worth = worth.repeat_interleave(weight.shape[1] // len(worth))
            if isinstance(synapse, nn.Conv2d):
                group = torch.arange(weight.shape[0], device=weight.device) // (weight.shape[0] // synapse.groups)
                worth = worth.view(synapse.groups, -1)[group, :, None, None]
        return weight * worth

    @staticmethod
    def _distance(neuron, steps, channels):
        """Distance of evenly spaced levels in units of the current of one incoming step; None where they are not even."""
        if neuron.bend is not None:
            return None
        distance = neuron.threshold.double() * steps / steps_of(neuron.timesteps, neuron.quantization_levels)
        return distance.expand(channels)

    def _synapse_alone(self, node):
        """A synapse of counts with no neuron right behind it; the last one of a network keeps its float weights unless asked."""
        module, into = self.modules[node.target], self.counts[node.args[0]]
        if (
            not is_plain(module)
            or self._dtype(module, into) == torch.float32
            or not (self.last or self._leads_to_neurons(node))
        ):
            return False
        (weight,), scale = quantise([self._weight(module, into)], into.steps(self.timesteps))
        kind = SynapticLinear if isinstance(module, nn.Linear) else SynapticConv2d
        layer = kind(
            weight,
            self.timesteps,
            weight_scale=scale,
            bias=module.bias,
            emits="values",
            **into.arguments(),
            **geometry(module),
        )
        self.put(node, layer, node.target, node.args)
        self.fused[node.target] = "int8 weights, values"
        return True

    def _leads_to_neurons(self, node):
        """Whether a neuron stands anywhere behind a node."""
        waiting, seen = [node], set()
        while waiting:
            for user in waiting.pop().users:
                if self.module(user, CollapsedNeuron) is not None:
                    return True
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
        return False

    def _max_pool(self, node):
        module = self.module(node)
        if module is None:
            module = nn.MaxPool2d(*node.args[1:], **node.kwargs)
        if module.return_indices:
            return False
        source = node.args[0]
        pool = CountMaxPool2d(
            module.kernel_size, module.stride, module.padding, module.dilation, ceil_mode=module.ceil_mode
        )
        self.put(node, pool, node.target if node.op == "call_module" else node.name, (source,))
        self.counts[node] = self.counts[source]
        return True

    def _average_pool(self, node):
        """Sums of counts, where they fit a byte; a window that a border cuts off would have its own divisor."""
        module, source = self.module(node), node.args[0]
        known = self.counts[source]
        size = None
        if isinstance(module, nn.AdaptiveAvgPool2d) or node.target is F.adaptive_avg_pool2d:
            size = self.sizes.get(node.name)
            goal = module.output_size if module is not None else argument(node, 1, "output_size", None)
            goal = [length if wanted is None else wanted for length, wanted in zip(size or (), _pair(goal))]
            if size is None or any(length % wanted for length, wanted in zip(size, goal)):
                return False
            kernel = stride = tuple(length // wanted for length, wanted in zip(size, goal))
            padding = 0
        else:
            if module is None:
                module = nn.AvgPool2d(*node.args[1:], **node.kwargs)
            kernel, stride, padding = _pair(module.kernel_size), module.stride, module.padding
            if module.ceil_mode or module.divisor_override or any(_pair(padding)) and not module.count_include_pad:
                return False
        known = replace(known, area=known.area * kernel[0] * kernel[1])
        if known.flat or known.steps(self.timesteps) > BYTE:
            return False
        pool = CountSumPool2d(kernel, stride, padding, size)
        self.put(node, pool, node.target if node.op == "call_module" else node.name, (source,))
        self.counts[node] = known
        return True

    def _flatten(self, node):
        module = self.module(node)
        start, end = (
            (module.start_dim, module.end_dim)
            if module is not None
            else (argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1))
        )
        known = self.counts[node.args[0]]
        if (start, end) != (1, -1) or known.flat:
            return False
        self.counts[node] = replace(known, flat=True)
        return True

    def _cat(self, node):
        sources = node.args[0]
        dim = argument(node, 1, "dim", 0)
        known = [self.counts.get(source) for source in sources]
        if dim != 1 or None in known or any(one.flat or one.channels is None for one in known):
            return False
        if len({(one.levels, one.area) for one in known}) > 1:
            return False
        worth = torch.cat([one.worth.expand(one.channels) for one in known])
        self.counts[node] = replace(known[0], worth=worth, channels=len(worth))
        return True

    def _slice(self, node):
        """Pixels of counts [N, C, H, W]: x[:, :, a:b:c, d:e:f]."""
        index = node.args[1]
        known = self.counts[node.args[0]]
        if known.flat or not (
            isinstance(index, tuple)
            and all(isinstance(part, slice) for part in index)
            and all(part == slice(None) for part in index[:2])
        ):
            return False
        self.counts[node] = known
        return True

    def _pad(self, node):
        """Silent pixels, or channels, around counts [N, C, H, W]."""
        sides = argument(node, 1, "pad", None)
        known = self.counts[node.args[0]]
        if (
            known.flat
            or known.channels is None
            or not isinstance(sides, (tuple, list))
            or len(sides) > 6
            or argument(node, 2, "mode", "constant") != "constant"
            or argument(node, 3, "value", None)
            or min(sides) < 0
        ):
            return False
        first, last = sides[4:] or (0, 0)
        worth = F.pad(known.worth.expand(known.channels), (first, last), value=1.0)
        self.counts[node] = replace(known, worth=worth, channels=len(worth))
        return True
