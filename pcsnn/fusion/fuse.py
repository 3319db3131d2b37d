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
from pcsnn.nn import CollapsedNeuron, CountMaxPool2d, CountSumPool2d, PixelCounts, Rates
from pcsnn.nn.counts import BYTE, steps_of
from pcsnn.nn.synapses import LAYERS, Synapse, synapse_of

_CAT = {torch.cat, torch.concat, torch.concatenate}


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

    def arguments(self, name="input"):
        """What a layer that reads them has to know."""
        return {f"{name}_levels": self.levels, f"{name}_area": self.area}


@dataclass
class _Source:
    """A layer that has a fused form: what kind of synapse it is, and the counts that it reads, None where it reads values."""

    layer: nn.Module
    synapse: Synapse
    into: _Counts | None = None

    def weight(self):
        """float64 weights [O, C / groups, ...], times what the incoming spikes are worth."""
        weight = self._weight()
        if self.into is None:
            return weight
        worth = self.into.worth.double()
        if worth.dim():
            if self.into.flat:
                worth = worth.repeat_interleave(weight.shape[1] // len(worth))
            groups = self.synapse.groups
            group = torch.arange(weight.shape[0], device=weight.device) // (weight.shape[0] // groups)
            worth = worth.view(groups, -1)[group].view(weight.shape[:2] + (1,) * (weight.dim() - 2))
        return weight * worth

    def _weight(self):
        return self.synapse.by_output(self.layer.weight.detach().double())

    def bias(self):
        """[O] or None, with what counts 0 stand for: `low` of pixels."""
        bias = self.layer.bias
        if self.into is None or self.into.low is None:
            return bias
        weight, groups = self._weight().flatten(2).sum(2), self.synapse.groups
        lows = (weight.view(groups, -1, weight.shape[1]) @ self.into.low.double().view(groups, -1, 1)).flatten()
        return lows if bias is None else lows + bias.detach().double()

    def is_sparse(self):
        """Whether a group has so few channels that int8 pays only where one primitive does it all (depthwise ones)."""
        return self.synapse.by_output(self.layer.weight).shape[1] < self.synapse.LEAST_INT8

    def spiking(self, weight, **options):
        """The layer with neurons behind it, of weights [O, C / groups, ...]; options replace what it says of itself."""
        return self._made(0, weight, options)

    def synaptic(self, weight, **options):
        """The layer without neurons, likewise."""
        return self._made(1, weight, options)

    def _made(self, which, weight, options):
        known = self.synapse.geometry()
        if self.into is not None:
            known |= self.into.arguments()
        return LAYERS[type(self.synapse)][which](self.synapse.from_output(weight), **known | options)


@dataclass
class _Plan:
    """What a synapse and the neurons behind it become: weights of `dtype`, and what the residual branch is.

    residual: counts; joined: a synapse whose current is added, with the same scale of weights; neither: values, or no branch.
    """

    neuron: CollapsedNeuron
    source: _Source
    dtype: torch.dtype
    residual: _Counts | None = None
    joined: _Source | None = None


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

    def source(self, node):
        """The _Source at a node that has a fused form and one reader; else None."""
        module = self.module(node)
        synapse = None if module is None or len(node.users) != 1 else synapse_of(module)
        return None if synapse is None else _Source(module, synapse)

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
            source = self.source(node.args[0]) if neuron is not None else None
            if source is None or len(node.args) > 1 and not source.synapse.JOINS:
                continue
            layer = source.spiking(
                source.layer.weight, bias=source.layer.bias, counted=False, emits="rates", **neuron_arguments(neuron)
            )
            self.put(node, layer, node.target, (node.args[0].args[0], *node.args[1:]))
            self.fused[node.target] = "float32 weights, rates"
        self.finish()


class CountFuser(Fuser):
    """Layers pass on counts of T time-steps; weights of `dtype`: torch.int8, torch.bfloat16 or torch.float16.

    sizes: (H, W) of what goes into adaptive average pools, by node name; ranges: (low, worth) [C] of inputs that the first
    layers are to read as counts, by node name; last: whether the last synapse is to have int8 weights too.
    """

    def __init__(self, network, timesteps, dtype, sizes=None, ranges=None, last=False):
        super().__init__(network)
        self.timesteps = timesteps
        self.dtype, self.sizes, self.ranges, self.last = dtype, sizes or {}, ranges or {}, last
        self.counts, self.rates = {}, {}

    def run(self):
        for node in list(self.graph.nodes):
            if not self._waits(node) and not self._counted(node):
                self._read_values(node)
        self.finish()

    def _waits(self, node):
        """Whether a node is a synapse that the neurons behind it may take in."""
        return self.source(node) is not None and self.module(next(iter(node.users)), CollapsedNeuron) is not None

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
        if self.dtype == torch.int8 and self.module(node) is not None:
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
        """Make one layer of the neurons at a node and the synapse before them, where it has a fused form; whether it did."""
        plan = self._decide(node)
        if plan is None:
            return False
        self._put_neuron(node, plan, *self._quantised(plan))
        return True

    def _decide(self, node):
        """The _Plan for the neurons at a node; None where they stay alone. Changes nothing."""
        neuron, source = self.modules[node.target], self.source(node.args[0])
        branch = node.args[1] if len(node.args) > 1 else None
        if source is None or branch is not None and not source.synapse.JOINS:
            return None
        origin = node.args[0].args[0]
        source.into = self.counts.get(origin)
        if source.into is None and branch is None and source.synapse.READS_IMAGES and origin.name in self.ranges:
            low, worth = self.ranges[origin.name]
            source.into = _Counts(worth, len(worth), None, low=low)
        dtype = self._dtype(source, direct=branch is None and neuron.bend is None)
        if branch is None or branch in self.counts:
            return _Plan(neuron, source, dtype, self.counts.get(branch))
        if dtype == torch.float32:  # a sum of two values
            source.into = None
            return _Plan(neuron, source, dtype)
        joined = self._joined(branch, source.into)
        return None if joined is None else _Plan(neuron, source, dtype, joined=joined)

    def _quantised(self, plan):
        """(weights of the plan's synapse and of the one that is joined, the scale of int8 ones or None)."""
        weights = [source.weight() for source in (plan.source, plan.joined) if source is not None]
        if plan.dtype != torch.int8:
            return [weight.to(plan.dtype) for weight in weights], None
        steps = plan.source.into.steps(self.timesteps)
        return quantise(weights, steps, self._distance(plan.neuron, steps, len(weights[0])))

    def _put_neuron(self, node, plan, weights, scale):
        """Let a node call the layer of a plan, which reads what the synapse read."""
        before, branch = node.args[0], node.args[1] if len(node.args) > 1 else None
        source, into, origin = plan.source, plan.source.into, before.args[0]
        options = dict(counted=into is not None, emits="counts", **neuron_arguments(plan.neuron))
        if into is not None and into.low is not None:
            origin = self.insert(
                PixelCounts(into.low, into.worth, source.synapse.padding), f"{origin.name}_counts", origin
            )
            self.counts[origin] = into
            options |= dict(fixed_steps=BYTE, padding=0)
        if plan.residual is not None:
            options |= plan.residual.arguments("residual") | dict(residual_worth=plan.residual.worth)
        elif plan.joined is not None:
            layer = plan.joined.synaptic(
                weights[1], timesteps=self.timesteps, weight_scale=scale, bias=plan.joined.layer.bias
            )
            self.fused[branch.target] = f"{self._name(plan.dtype)} weights, current"
            self.put(branch, layer, branch.target, branch.args)
        elif branch is not None:
            self._read_values(before)
            self._read_values(branch)
            origin = before.args[0]
        layer = source.spiking(weights[0], weight_scale=scale, bias=source.bias(), **options)
        self.put(node, layer, node.target, (origin, *node.args[1:]))
        self.counts[node] = _Counts(layer.amplitude, len(weights[0]), layer.quantization_levels)
        self.fused[node.target] = f"{self._name(plan.dtype)} weights, counts"

    @staticmethod
    def _name(dtype):
        return str(dtype).removeprefix("torch.")

    def _dtype(self, source, direct=False):
        """What a synapse multiplies in: float32 for values, and for int8 where a group has few channels, unless evenly spaced
        levels follow directly (F4)."""
        if source.into is None:
            return torch.float32
        direct = direct or source.into.low is not None
        return torch.float32 if self.dtype == torch.int8 and source.is_sparse() and not direct else self.dtype

    def _joined(self, node, into):
        """The _Source at the end of a residual branch that reads counts of as many steps; else None."""
        source = self.source(node)
        if source is None or not source.synapse.JOINS:
            return None
        source.into = self.counts.get(node.args[0])
        if source.into is None or self._dtype(source) == torch.float32:
            return None
        return source if source.into.steps(self.timesteps) == into.steps(self.timesteps) else None

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
        synapse = synapse_of(module)
        source = None if synapse is None else _Source(module, synapse, into)
        if source is None or self._dtype(source) == torch.float32 or not (self.last or self._leads_to_neurons(node)):
            return False
        (weight,), scale = quantise([source.weight()], into.steps(self.timesteps))
        layer = source.synaptic(weight, timesteps=self.timesteps, weight_scale=scale, bias=module.bias, emits="values")
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
