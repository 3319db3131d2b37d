"""Layers that pass on counts: which nodes of a graph can read them, and what they become."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.utils import _pair

from pcsnn.fusion.fuse import Fuser
from pcsnn.fusion.quantise import quantise
from pcsnn.fusion.sources import Counts, Source, neuron_arguments
from pcsnn.graph.names import operation_name
from pcsnn.graph.nodes import leads_to
from pcsnn.graph.places import argument
from pcsnn.graph.taxonomy import Role, role
from pcsnn.nn import CollapsedNeuron, CountMaxPool2d, CountSumPool2d, PixelCounts, Rates
from pcsnn.nn.counts import BYTE, steps_of
from pcsnn.nn.synapses import synapse_of


@dataclass
class _Plan:
    """What a synapse and the neurons behind it become: weights of `dtype`, and what the residual branch is.

    residual: counts; joined: a synapse whose current is added, with the same scale of weights; neither: values, or no
    branch.
    """

    neuron: CollapsedNeuron
    source: Source
    dtype: torch.dtype
    residual: Counts | None = None
    joined: Source | None = None


class CountFuser(Fuser):
    """Layers pass on counts of T time-steps; weights of `dtype`: torch.int8, torch.bfloat16 or torch.float16.

    sizes: (H, W) of what goes into adaptive average pools, by node name; ranges: (low, worth) [C] of inputs that the
    first layers are to read as counts, by node name; last: whether the last synapse is to have int8 weights too.
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
        return self.source(node) is not None and self.neuron(next(iter(node.users))) is not None

    def _read_values(self, node):
        node.args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), self._as_values)

    def _counted(self, node):
        """Rewrite a node to read counts where it can; whether it did."""
        found = role(node, self.modules)
        rule = _RULES.get(found)
        if rule is None or (found not in _OF_VALUES and (not node.args or node.args[0] not in self.counts)):
            return False
        return rule(self, node)

    def _fire(self, node):
        if self._neuron(node):
            return True
        for source in filter(self._waits, node.all_input_nodes):
            self._read_values(source)
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
            rates = Rates(known.worth, self.timesteps, known.levels, known.area, known.spike_levels)
            self.rates[node] = self.insert(rates, f"{node.name}_rates", node)
        return self.rates[node]

    def _neuron(self, node):
        """Make one layer of the neurons at a node and the synapse before them where it can; whether it did."""
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
            source.into = Counts(worth, len(worth), None, low=low)
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
        self.counts[node] = Counts(layer.amplitude, len(weights[0]), layer.quantization_levels, layer.spike_levels)
        self.fused[node.target] = f"{self._name(plan.dtype)} weights, counts"

    @staticmethod
    def _name(dtype):
        return str(dtype).removeprefix("torch.")

    def _dtype(self, source, direct=False):
        """What a synapse multiplies in: float32 for values, and for int8 where a group has few channels, unless even
        levels follow directly (F4)."""
        if source.into is None:
            return torch.float32
        direct = direct or source.into.low is not None
        return torch.float32 if self.dtype == torch.int8 and source.is_sparse() and not direct else self.dtype

    def _joined(self, node, into):
        """The Source at the end of a residual branch that reads counts of as many steps; else None."""
        source = self.source(node)
        if source is None or not source.synapse.JOINS:
            return None
        source.into = self.counts.get(node.args[0])
        if source.into is None or self._dtype(source) == torch.float32:
            return None
        return source if source.into.steps(self.timesteps) == into.steps(self.timesteps) else None

    @staticmethod
    def _distance(neuron, steps, channels):
        """Distance of even levels in units of the current of one incoming step; None where they are not even."""
        if neuron.bend is not None:
            return None
        distance = neuron.threshold.double() * steps / steps_of(neuron.full_count, neuron.quantization_levels)
        return distance.expand(channels)

    def _synapse_alone(self, node):
        """A synapse of counts with no neuron right behind; the last of a network keeps float weights unless asked."""
        module, into = self.module(node), self.counts[node.args[0]]
        if self.dtype != torch.int8 or module is None:
            return False
        synapse = synapse_of(module)
        source = None if synapse is None else Source(module, synapse, into)
        if source is None or self._dtype(source) == torch.float32 or not (self.last or self._leads_to_neurons(node)):
            return False
        (weight,), scale = quantise([source.weight()], into.steps(self.timesteps))
        layer = source.synaptic(weight, timesteps=self.timesteps, weight_scale=scale, bias=module.bias, emits="values")
        self.put(node, layer, node.target, node.args)
        self.fused[node.target] = "int8 weights, values"
        return True

    def _leads_to_neurons(self, node):
        return leads_to(node, lambda behind: role(behind, self.modules) is Role.NEURON)

    def _max_pool(self, node):
        if operation_name(node, self.modules) not in ("MaxPool2d", "max_pool2d"):
            return False
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
        name = operation_name(node, self.modules)
        if name not in ("AvgPool2d", "avg_pool2d", "AdaptiveAvgPool2d", "adaptive_avg_pool2d"):
            return False
        module, source = self.module(node), node.args[0]
        known = self.counts[source]
        size = None
        if name in ("AdaptiveAvgPool2d", "adaptive_avg_pool2d"):
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
        if len({(one.levels, one.spike_levels, one.area) for one in known}) > 1:
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


_OF_VALUES = {Role.NEURON, Role.JOIN}  # whose first argument need not be counts
_RULES = {
    Role.NEURON: CountFuser._fire,
    Role.JOIN: CountFuser._cat,
    Role.MAX_POOL: CountFuser._max_pool,
    Role.AVERAGE_POOL: CountFuser._average_pool,
    Role.FLATTEN: CountFuser._flatten,
    Role.SYNAPSE: CountFuser._synapse_alone,
    Role.INDEX: CountFuser._slice,
    Role.PAD: CountFuser._pad,
}
