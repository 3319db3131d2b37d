"""CUDA graphs of a network: captured at the first call with inputs of a kind, replayed at later ones."""

import contextlib
import threading

import torch
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pcsnn.operators import dispatch

_CONSTANTS = (type(None), bool, int, str, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
_TENSORS = {torch.Tensor, torch.nn.Parameter}
_one_capture = threading.Lock()  # CUDA allows one at a time in a process
_this_thread = threading.local()


class Device:
    """What needs a CUDA device: memory and order of the graphs of one network, which run one after another."""

    def __init__(self, device):
        self.device = device
        self._stream, self._done, self._pool = torch.cuda.Stream(device), torch.cuda.Event(), None

    @staticmethod
    def takes(tensor):
        """Whether graphs can read it."""
        return tensor.is_cuda

    @staticmethod
    def capturing():
        """Whether the caller captures a graph of their own."""
        return torch.cuda.is_current_stream_capturing()

    @contextlib.contextmanager
    def turn(self):
        """What runs inside waits for what ran inside before on whatever stream: graphs share their memory."""
        with torch.cuda.device(self.device):
            self._done.wait()
            try:
                yield
            finally:
                self._done.record()

    def warm_up(self, run):
        """run(), twice: kernels are compiled, tuned and loaded, libraries have their workspaces."""
        out = run()  # on the caller's stream, which shall own what is remembered, packed weights say
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            run()
        torch.cuda.current_stream().wait_stream(self._stream)
        return out

    def capture(self, run, first):
        """A function that replays what run() launches, and what run() returned. first: no other graph is left."""
        if first:  # a pool that has lost its last graph takes no new one
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Not the mode "global": threads that load data may go on. The stream is set outside too, since a capture that
        # fails leaves torch.cuda.graph without setting it back.
        with (
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            out = run()
        return graph.replay, out

    def fill(self, static, source):
        """Copy into what a graph reads."""
        static.copy_(source)
        static.record_stream(torch.cuda.current_stream())  # its memory is not to be reused before that stream is done

    def bytes(self):
        """Of the memory pool: results of layers, and outputs."""
        return sum(
            segment["total_size"]
            for segment in torch.cuda.memory_snapshot()
            if tuple(segment["segment_pool_id"]) == tuple(self._pool)
        )


class _Watched:
    """A network, and whether it is still what it was: modules, code, addresses and versions of tensors."""

    def __init__(self, network):
        modules = list(network.modules())
        self._network = network
        self._children = [module._modules for module in modules]
        self._owners = [part for module in modules for part in (module._parameters, module._buffers)]
        self._hooks = [part for module in modules for part in (module._forward_hooks, module._forward_pre_hooks)]
        self._kept = modules, self._tensors()  # alive, so that no new one has an old one's address
        self._state = self._now()  # None: of tensors that may have no address

    def _tensors(self):
        return [tensor for owner in self._owners for tensor in owner.values() if tensor is not None]

    def _now(self):
        tensors = self._tensors()
        if not _TENSORS.issuperset(map(type, tensors)):
            return None
        return (
            [id(module) for children in self._children for module in children.values()],
            type(self._network).forward,
            [tensor.data_ptr() for tensor in tensors],
            _versions(tensors),
            any(tensor.requires_grad for tensor in tensors),
        )

    def unchanged(self, network):
        return network is self._network and self._now() == self._state

    def graphic(self):
        """Whether graphs can stand for it: nobody hooks onto its modules or wants a gradient of its parameters."""
        if self._state is None or any(self._hooks):
            return False
        return not (self._state[-1] and torch.is_grad_enabled())


def _versions(tensors):
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:  # inference tensors have none; asking each costs as much again
        return [None if tensor.is_inference() else tensor._version for tensor in tensors]


class _Captured:
    """One graph: what it reads, how it is replayed, what it writes."""

    def __init__(self, device, inputs, replay, out):
        self._device, self.inputs, self._replay = device, inputs, replay
        self._outputs, self._form = _flatten(out)

    def __call__(self, sources):
        with self._device.turn():
            for static, source in zip(self.inputs, sources):
                self._device.fill(static, _memory(source))
            self._replay()
            own = [value.clone() if isinstance(value, torch.Tensor) else value for value in self._outputs]
            return pytree.tree_unflatten(own, self._form)


def _flatten(tree):
    return pytree.tree_flatten(tree, is_leaf=lambda value: type(value) is torch.Size)  # else it comes back as a tuple


def _memory(tensor):
    """The elements that a tensor spans, those between its own too, in one dimension: exact for any strides."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.as_strided((span,), (1,))


def _plain(value):
    """Whether a graph can take this tensor."""
    return (
        type(value) in _TENSORS
        and not value.is_nested
        and value.layout is torch.strided
        and not value.is_quantized
        and value.numel() > 0
        and not (value.requires_grad and torch.is_grad_enabled())
    )


def _kind(values):
    """What a graph depends on in its inputs; None: they have no graph."""
    kind, device = [], None
    for value in values:
        if isinstance(value, torch.Tensor):
            if not (_plain(value) and Graphs.device_class.takes(value)) or device not in (None, value.device):
                return None, None
            device = value.device
            kind.append((value.shape, value.stride(), value.dtype))
        elif type(value) in _CONSTANTS:
            kind.append((type(value), value))
        elif type(value) in (float, complex):
            kind.append((type(value), repr(value)))  # tells -0.0 from 0.0, and nan is nan
        else:
            return None, None
    return (device, kind), device


def _watched_by_others(device):
    """Whether someone wants to see the operations of a call, or changes them."""
    return (
        torch.jit.is_tracing()
        or torch.is_autocast_enabled(device.type)
        or _get_current_dispatch_mode() is not None
        or any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())
        or torch._C._functorch.maybe_current_level() is not None
        or _has_any_global_hook()
        or dispatch.is_forced()
        or getattr(_this_thread, "captures", False)
        or Graphs.device_class.capturing()
    )


def _check_outputs(out):
    for value in _flatten(out)[0]:
        if not isinstance(value, (torch.Tensor, float, complex, *_CONSTANTS)):
            raise TypeError(
                "max_graphs: expected a network whose outputs are tensors and constants in tuples, lists "
                f"and dicts, got {type(value).__name__}; with max_graphs = 0 it runs without graphs"
            )


class Graphs:
    """The graphs of one network, at most `most`, the least recently used first."""

    device_class = Device

    def __init__(self, most):
        self.most = most
        self._lock = threading.RLock()
        self._device = self._watched = None
        self._captured = []  # (kind, form of the arguments, _Captured)

    def __reduce__(self):  # copies capture graphs of their own
        return Graphs, (self.most,)

    def drop(self):
        """Forget all graphs, and free what they hold."""
        with self._lock:
            self._captured, self._watched = [], None

    def bytes(self):
        """Of inputs, outputs and results of layers that the graphs hold."""
        with self._lock:
            if not self._captured:
                return 0
            inputs = sum(static.nbytes for *_, captured in self._captured for static in captured.inputs)
            return inputs + self._device.bytes()

    def run(self, network, inputs, named):
        """network(*inputs, **named) by a graph, or as it is where there can be none."""
        values, form = _flatten((inputs, named))
        kind, device = _kind(values)
        if device is None or getattr(network, "_is_replica", False) or _watched_by_others(device):
            return network(*inputs, **named)
        with self._lock:
            if self._watched is None or not self._watched.unchanged(network):
                self.drop()
                self._watched = _Watched(network)
            if self._watched.graphic():
                captured = self._graph(network, values, form, kind, device)
                return captured([value for value in values if isinstance(value, torch.Tensor)])
        return network(*inputs, **named)

    def _graph(self, network, values, form, kind, device):
        """The graph for arguments of that kind and form, which is the most recently used one then."""
        for place, (known, known_form, captured) in enumerate(self._captured):
            if known == kind and known_form == form:
                self._captured.append(self._captured.pop(place))
                return captured
        captured = self._capture(network, values, form, device)
        self._captured.append((kind, form, captured))
        return captured

    def _capture(self, network, values, form, device):
        if self._device is None or self._device.device != device:
            self._device = self.device_class(device)
        with _one_capture, self._device.turn(), torch.inference_mode(False), torch.no_grad():
            inputs, arguments = [], []
            for value in values:
                if isinstance(value, torch.Tensor):
                    inputs.append(_memory(value).clone())
                    value = inputs[-1].as_strided(value.shape, value.stride())
                arguments.append(value)
            args, named = pytree.tree_unflatten(arguments, form)
            _this_thread.captures = True
            try:
                _check_outputs(self._device.warm_up(lambda: network(*args, **named)))
                del self._captured[: max(len(self._captured) - self.most + 1, 0)]
                replay, out = self._launches(lambda: network(*args, **named))
            finally:
                _this_thread.captures = False
        return _Captured(self._device, inputs, replay, out)

    def _launches(self, run):
        try:
            return self._device.capture(run, first=not self._captured)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                "max_graphs: expected a network that only launches work on its device (with "
                f"max_graphs = 0 any runs, without graphs), got {error}"
            ) from error
