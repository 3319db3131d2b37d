"""The launch of a kernel: a value that is run, inspected and tested, and remembered to be run again."""

import contextlib
import functools
import threading
from typing import NamedTuple

import torch
import triton

THREADS = 128
REMEMBERED = 4096  # kinds of launches, after which they are worked out anew


class Part(NamedTuple):
    """What a part of a kernel takes: of `Launch.arguments`, `Launch.constants` and `Launch.derived`."""

    arguments: dict
    constants: dict
    derived: dict


class Launch(NamedTuple):
    """One launch of a kernel: what the launchers run, and what inspection and tests compile."""

    kernel: object
    programs: int
    arguments: dict  # by name: tensors, integers, None for a pointer that is not used
    constants: dict
    threads: int = THREADS
    stages: int | None = None  # loads in flight of a loop with a product; None: there is no such loop
    derived: dict = {}  # argument that is made of a tensor of the launcher's -> (the tensor's name, how)
    amd: dict = {}  # constants that are others on AMD's GPUs
    registers: dict = {}  # that a thread is to have at most, by compute capability, where the compiler is not to choose
    limit: int | None = None  # of them, on the GPU that `on` was told of

    def on(self, backend, capability):
        """The launch on GPUs of Triton's backend "cuda", of that compute capability, or "hip"."""
        if backend == "hip":
            return self._replace(constants=self.constants | self.amd)
        return self._replace(limit=self.registers.get(capability))

    def options(self, warp_size):
        """How Triton is to compile and run it on a GPU of that warp size."""
        options = dict(num_warps=self.threads // warp_size, enable_fp_fusion=False)  # a comparison must not flip
        if self.stages is not None:
            options["num_stages"] = self.stages
        if self.limit is not None:
            options["maxnreg"] = self.limit
        return options

    def __call__(self):
        """Run it; returns the compiled kernel, None where it is interpreted."""
        device = self.arguments["out_ptr"].device
        if device.type == "cpu":  # the interpreter
            self.kernel[(self.programs,)](**self.arguments, **self.constants)
            return None
        launch = self.on(*_architecture(device.index))
        options = launch.options(warp_size(device.index))
        with torch.cuda.device(device):
            return self.kernel[(self.programs,)](**self.arguments, **launch.constants, **options)


@functools.cache
def warp_size(device_index):
    return torch.cuda.get_device_properties(device_index).warp_size


@functools.cache
def _architecture(device_index):
    """What `Launch.on` is to be told of a device."""
    major, minor = torch.cuda.get_device_capability(device_index)
    return "hip" if torch.version.hip else "cuda", 10 * major + minor


class _Known:
    """A launch that has run, to be run again with tensors of the same kind without Triton's own checks and bindings."""

    def __init__(self, launch, compiled, tensors):
        values = launch.arguments | launch.constants
        names = list(launch.kernel.arg_names)
        self._arguments = [values[name] for name in names]
        self._slots = []
        for slot, (name, value) in enumerate(zip(names, self._arguments)):
            if isinstance(value, torch.Tensor):
                source, make = launch.derived.get(name, (name.removesuffix("_ptr"), None))
                self._slots.append((slot, list(tensors).index(source), make))
        self._run = functools.partial(compiled.run, launch.programs, 1, 1)
        self._compiled, self._device = compiled, launch.arguments["out_ptr"].device.index

    def __call__(self, tensors):
        arguments = self._arguments.copy()
        for slot, place, make in self._slots:
            tensor = tensors[place]
            arguments[slot] = (tensor if make is None else make(tensor)).data_ptr()
        self.launch(arguments)

    def operands(self, tensors):
        """(slot of the argument, place among `tensors`, the tensor it is made of, or what is derived from that)."""
        return [
            (slot, place, tensors[place] if make is None else make(tensors[place])) for slot, place, make in self._slots
        ]

    def template(self):
        """All arguments, addresses among them not filled in."""
        return self._arguments.copy()

    def launch(self, arguments):
        """Run it with these arguments, addresses for tensors."""
        if torch.cuda.current_device() == self._device:
            self._enqueue(arguments)
        else:
            with torch.cuda.device(self._device):
                self._enqueue(arguments)

    def _enqueue(self, arguments):
        compiled = self._compiled
        stream = torch._C._cuda_getCurrentRawStream(self._device)
        self._run(stream, compiled.function, compiled.packed_metadata, None, None, None, *arguments)


_known = {}
_hearers = threading.local()


@contextlib.contextmanager
def heard():
    """A list of (known launch, its tensors by name) of what `run` runs inside, on this thread."""
    before = getattr(_hearers, "launches", None)
    _hearers.launches = launches = []
    try:
        yield launches
    finally:
        _hearers.launches = before


def _on_cpu(device):
    return device.type == "cpu"


def _kind(tensor):
    """All of a tensor that a launch may depend on, but for its address."""
    return None if tensor is None else (tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16)


def watched():
    """Whether somebody, a profiler for one, has asked Triton to be told of launches."""
    return bool(getattr(triton.knobs.runtime.launch_enter_hook, "calls", triton.knobs.runtime.launch_enter_hook))


def run(plan, tensors, **facts):
    """Run the launch plan(**tensors, **facts).

    On a GPU it is planned, and bound to its arguments by Triton, once for tensors of a kind.

    Args:
        plan: makes the Launch; the kernel's argument NAME_ptr is the tensor NAME, or `derived` from one.
        tensors: by name, each a tensor or None.
        facts: all else, hashable; with the kinds of the tensors they determine the launch but for addresses.
    """
    values = tuple(tensors.values())
    device = values[0].device
    if _on_cpu(device):  # the interpreter
        plan(**tensors, **facts)()
        return
    key = plan, device.index, *facts.values(), *map(_kind, values)
    known = _known.get(key)
    if known is not None and not watched():
        known(values)
    else:
        launch = plan(**tensors, **facts).on(*_architecture(device.index))
        compiled = launch()
        if len(_known) >= REMEMBERED:
            _known.clear()
        _known[key] = known = _Known(launch, compiled, tensors)
    launches = getattr(_hearers, "launches", None)
    if launches is not None:
        launches.append((known, tensors))
