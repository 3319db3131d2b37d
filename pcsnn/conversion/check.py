"""Whether a traced network computes what its model does: both run on the same inputs, before neurons take places."""

import inspect

import torch
from torch import fx
from torch.utils._pytree import tree_leaves, tree_map

from pcsnn.conversion.spikingjelly import read
from pcsnn.conversion.tracing.copies import copied
from pcsnn.conversion.tracing.unwrap import unwrapped
from pcsnn.data.inputs import shapes
from pcsnn.graph import taxonomy
from pcsnn.nn import DAQCFS, QCFS
from pcsnn.nn.integrate_fire import IntegrateFire

# relative differences, as Euclidean norms over an output. The same operations on the same tensors differ by nothing on
# a CPU, where only scales and batch norms that are folded round anew; GPUs may choose other algorithms and TF32.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF = 3e-2
_ELSEWHERE = 1e-2
_FOLDED = 10  # times the above, since rounding adds up over layers
_STEPS = (
    5e-2  # after folding, where a value that rounds to the other side of a step of a staircase moves by the whole step
)


def _tensors(value):
    """All tensors of an output, whatever holds them, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        value = vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for part in value for tensor in _tensors(part)]


def _difference(one, other):
    """||one - other|| / ||one||, infinite where shapes or what is not finite differ."""
    if one.shape != other.shape:
        return float("inf")
    if torch.equal(one, other):
        return 0.0
    one, other = ((value.to_dense() if value.layout != torch.strided else value).detach() for value in (one, other))
    kind = torch.complex128 if one.is_complex() else torch.float64
    one, other = one.to("cpu", kind), other.to("cpu", kind)
    finite = one.isfinite()
    if not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()) or not torch.equal(
        finite, other.isfinite()
    ):
        return float("inf")
    size = torch.linalg.vector_norm(one[finite]).item()
    apart = torch.linalg.vector_norm(one[finite] - other[finite]).item()
    return apart / size if size else float("inf") if apart else 0.0


def _cloned(inputs):
    return tree_map(torch.clone, inputs)


class _Recorder(fx.Interpreter):
    """Runs a graph, keeps what its layers return, [(node, its tensors)], and stops where one fails."""

    def __init__(self, network):
        super().__init__(network)
        self.found, self.failed = [], None

    def run_node(self, node):
        try:
            value = super().run_node(node)
        except Exception:
            self.failed = self.failed or node
            raise
        if node.op == "call_module":
            self.found.append((node, [tensor.clone() for tensor in _tensors(value)]))
        return value


class Trial:
    """A model's outputs on some inputs, to compare networks with that are made of it.

    Args:
        model: the model, which is not run itself: a copy in evaluation mode is.
        network: what was traced of it.
        inputs: what `network` takes, as `pcsnn.data.inputs` says.
        name: the argument that the inputs came from.

    Raises:
        ValueError: the model does not run on the inputs.
    """

    def __init__(self, model, network, inputs, name):
        self.model, self.inputs, self.kind = model, inputs, type(model).__name__
        self.names = [node.target for node in network.graph.nodes if node.op == "placeholder"][: len(inputs)]
        reference = self._reference()
        try:
            self.expected = None if reference is None else self._run(reference, *self._arguments(reference))
        except Exception as error:
            raise ValueError(
                f"{name}: the model does not run on the first inputs, tensors {shapes(inputs)}: {error}"
            ) from error

    def _reference(self):
        """A copy of the model to run; None where what was traced has no time dimension and the model has."""
        inside = unwrapped(self.model)
        if not read.is_spikingjelly(inside):
            return copied(inside)
        return None if read.is_multi_step(inside) else read.read(inside)

    def _arguments(self, reference):
        """(positional arguments, named arguments) that give the reference what the network takes in order."""
        inputs = _cloned(self.inputs)
        names = list(inspect.signature(reference.forward).parameters)
        if names[: len(inputs)] == self.names or any(name.startswith("*") for name in self.names):
            return inputs, {}
        return (), dict(zip(self.names, inputs))

    def _run(self, call, args, kwargs):
        """What a call returns, with the random numbers that every call here gets."""
        devices = {value.get_device() for value in tree_leaves(self.inputs) if value.is_cuda}
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            return _tensors(call(*args, **kwargs))

    def compare(self, network, folded=False):
        """ValueError, naming the first layer that differs, unless `network` does what the model does up to rounding.

        folded: batch norms have been folded, which rounds anew.
        """
        if self.expected is None:
            return
        steps = any(isinstance(module, (QCFS, DAQCFS, IntegrateFire)) for module in network.modules())
        try:
            found = self._run(network, _cloned(self.inputs), {})
        except Exception as error:
            raise ValueError(f"{self._refusal()} {self._first(network, folded, steps)}: {error}") from error
        if len(found) != len(self.expected):
            raise ValueError(f"{self._refusal()} it returns {len(found)} tensors and the model {len(self.expected)}")
        for expected, value in zip(self.expected, found):
            apart = _difference(expected, value)
            if apart > _tolerance(expected, folded, steps):
                raise ValueError(
                    f"{self._refusal(folded)} {self._first(network, folded, steps)}, and the outputs by {apart:.2g} "
                    "relative to their size"
                )

    def _refusal(self, folded=False):
        if folded:
            return f"model: with its batch norms folded, {self.kind} computes something else (fold=False keeps them);"
        return (
            f"model: what was traced of {self.kind} is not what it computes: its forward does what a graph does not "
            "hold, such as changing weights or deciding by values (check=False converts it all the same);"
        )

    def _first(self, network, folded, steps):
        """Words on the first layer whose output is not the model's."""
        reference, outputs = self._reference(), {}

        def keep(name):
            return lambda module, args, output: outputs.setdefault(name, []).append(
                [value.clone() for value in _tensors(output)]
            )

        for name, module in reference.named_modules():
            module.register_forward_hook(keep(name))
        self._run(reference, *self._arguments(reference))
        recorder = _Recorder(network)
        try:
            self._run(recorder.run, _cloned(self.inputs), {})
        except Exception:
            recorder.found.append((recorder.failed, None))
        calls, last = {}, None
        for node, values in recorder.found:
            count = calls[node.target] = calls.get(node.target, -1) + 1
            theirs = outputs.get(node.target, [])
            moved = (
                node.meta.get("activation")
                or node.meta.get("folded")
                or not theirs
                or isinstance(network.get_submodule(node.target), taxonomy.modules_of(taxonomy.Role.MAX_POOL))
            )  # a pool now stands behind its activation
            if values is not None and (
                moved or count < len(theirs) and not _differ(theirs[count], values, folded, steps)
            ):
                last = node if not moved else last
                continue
            return f"{node.target} ({node.meta.get('location') or 'unknown place'}) is the first layer that differs"
        return f"layers agree up to {last.target} ({last.meta['location']})" if last else "no layer agrees"


def _tolerance(expected, folded, steps):
    if not (expected.is_floating_point() or expected.is_complex()):
        return float("inf") if folded else 0.0  # a decision may be as close as rounding
    allowed = _ROUNDING.get(expected.dtype, _HALF)
    if expected.device.type != "cpu" and expected.dtype == torch.float32:
        allowed = _ELSEWHERE
    if not folded:
        return allowed
    return max(_FOLDED * allowed, _STEPS if steps else 0.0)


def _differ(expected, found, folded, steps):
    return len(expected) != len(found) or any(
        _difference(one, other) > _tolerance(one, folded, steps) for one, other in zip(expected, found)
    )
