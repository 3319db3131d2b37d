"""NIR graphs that run step by step, with all that does not follow from a mean current."""

import torch
from torch import nn
from torch.utils._pytree import tree_map

from pcsnn.exchange.nir import dynamics, fields, layers, structure
from pcsnn.exchange.nir.neurons import step_thresholds
from pcsnn.tensors import checks

USUAL_DT = 1e-4  # of the NIR paper, snnTorch and Norse, in seconds


class SerialGraph(nn.Module):
    """A graph of NIR run step by step, made by `read_nir(..., serial=True)`: leaks, hard resets, loops and delays.

    Called, it shows its inputs [N, *shape] at each of T steps, and gives the averages of its outputs over them; `run`
    takes and gives every step. Each call starts anew, and calls of several threads do not meet. An evaluation: nothing
    has gradients.

    A step of LIF and LI neurons is one of forward Euler, as in snnTorch and Norse: v += dt/tau (v_leak - v + r i); of
    CubaLIF and CubaLI i += dt/tau_syn (w_in x - i) before it; of I and of IF that are set to v_reset v += r dt i.
    Then v > v_threshold is a spike, which sets v to v_reset. IF neurons of v_reset = 0 are those of (2): v >= threshold
    is a spike, and takes the threshold away. Potentials start at 0. What a neuron sends back in a loop comes a step
    later.

    Attributes:
        timesteps: T.
        dt: the length of a step in the unit of the graph's time.
    """

    def __init__(self, timesteps: int, dt: float) -> None:
        super().__init__()
        self.timesteps, self.dt = timesteps, dt
        self.layers = nn.ModuleList()
        self._wires: list = []  # of each layer: its name, sources, sources a step late, shape or None
        self._inputs: dict = {}
        self._outputs: dict = {}

    @torch.no_grad()
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Inputs [N, *shape], in the order of the graph's Input nodes, to averages of its outputs over T steps."""
        self._check(inputs, ("N",))
        total = None
        for out in self._outputs_of(inputs for _ in range(self.timesteps)):
            total = out if total is None else tree_map(torch.add, total, out)
        return tree_map(lambda value: value / self.timesteps, total)

    @torch.no_grad()
    def run(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Inputs [T, N, *shape], as many steps as they have, to outputs [T, N, ...]."""
        self._check(inputs, ("T", "N"))
        if len({len(value) for value in inputs}) > 1 or not len(inputs[0]):
            raise ValueError(f"inputs: expected one number of steps above 0, got {[len(value) for value in inputs]}")
        outputs = list(self._outputs_of(zip(*inputs)))
        return tree_map(lambda *values: torch.stack(values), outputs[0], *outputs[1:])

    def _check(self, inputs, before):
        if len(inputs) != len(self._inputs):
            raise TypeError(f"inputs: expected {len(self._inputs)} ({', '.join(self._inputs)}), got {len(inputs)}")
        held = {value.dtype for value in (*self.parameters(), *self.buffers()) if value.is_floating_point()}
        for (name, shape), value in zip(self._inputs.items(), inputs):
            checks.tensor(name, value, tuple(held) or (torch.float32, torch.float64))
            if value.dim() != len(before) + len(shape) or value.shape[len(before) :] != shape:
                expected = ", ".join(map(str, (*before, *shape)))
                raise ValueError(f"{name}: expected shape [{expected}], got {list(value.shape)}")

    def _outputs_of(self, steps):
        """What the graph gives at each of `steps`, tuples of inputs [N, *shape]."""
        states, sent = {}, {}
        for inputs in steps:
            values = dict(zip(self._inputs, inputs))
            for layer, (name, sources, late, shape) in zip(self.layers, self._wires):
                parts = [values[source] for source in sources] + [sent[source] for source in late if source in sent]
                if not parts:  # nothing has come back at the first step
                    parts = [inputs[0].new_zeros(len(inputs[0]), *shape)]
                value = sum(parts[1:], parts[0])
                if hasattr(layer, "first"):
                    state = states[name] if name in states else layer.first(value)
                    value, states[name] = layer(value, state)
                else:
                    value = layer(value)
                values[name] = value
            sent = values
            outputs = tuple(sum(values[source] for source in sources) for sources in self._outputs.values())
            yield outputs[0] if len(outputs) == 1 else outputs

    def extra_repr(self) -> str:
        return f"timesteps={self.timesteps}, dt={self.dt:g}"


class _Step(nn.Module):
    """x >= threshold at each step."""

    def __init__(self, threshold):
        super().__init__()
        self.register_buffer("threshold", torch.from_numpy(threshold))

    def forward(self, x):
        return (x >= self.threshold).to(x.dtype)


def serial_graph(graph, timesteps, dt, shift, reset, dtype):
    """The SerialGraph of a `files.Graph`; ValueError, naming the node, where it has none. See `read_nir`."""
    order = structure.ordered_steps(graph, dynamics.NEURONS)
    dt = _length(order) if dt is None else dt
    made, shapes = SerialGraph(timesteps, dt), {}
    for node in graph.of_kind("Input"):
        shapes[node.name] = made._inputs[node.name] = fields.extents(node, "shape")
    waiting, neurons = [], {node.name: node for node, *_ in order}
    for node, sources, late in order:
        if node.kind == "Input":
            continue
        shape = fields.incoming(node, sources, shapes) if sources else dynamics.own_shape(neurons[late[0]])
        if node.kind == "Output":
            fields.expect_output(node, shape)
            continue
        layer, out = _layer(node, shape, dt, shift, reset)
        made.layers.append(layer)
        made._wires.append((node.name, tuple(sources), tuple(late), shape))
        shapes[node.name] = out
        waiting += [(node, source, shape) for source in late]
    for node, source, shape in waiting:
        if shapes[source] != shape:
            node.refuse(f"gets values of shape {list(shapes[source])} from {source}; expected {list(shape)}")
    by_name = {node.name: sources for node, sources, _ in order}
    made._outputs = {node.name: tuple(by_name[node.name]) for node in graph.of_kind("Output")}
    return made.to(dtype).requires_grad_(False).eval()


def _length(order):
    """The length of a step that nobody gave: 1 without time constants, else that which is usual; ValueError, naming a
    node, where the graph has neurons of both kinds."""
    timed = [node for node, *_ in order if node.kind in (*dynamics.LEAKY, "Delay")]
    plain = [node for node, *_ in order if node.kind in ("IF", "I")]
    if timed and plain:
        timed[0].refuse(f"has time constants and {plain[0].name} ({plain[0].kind}) has none; expected dt to be given")
    return USUAL_DT if timed else 1.0


def _layer(node, shape, dt, shift, reset):
    """The module of a node that gets [N, *shape], and the shape of what it gives."""
    found = dynamics.dynamic(node, shape, dt, shift, reset)
    if found is not None:
        return found, shape
    if node.kind == "Threshold":
        return _Step(step_thresholds(node, shape)), shape
    made = layers.layer(node, shape, dt, shift)
    return made.module, made.shape
