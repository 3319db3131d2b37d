"""The operator set: schemas, fake implementations, and which backend serves which device.

`pcsnn.functional` checks arguments and calls `call`. Whoever calls `torch.ops.pcsnn` instead, as exported programs do,
gets the checks of csrc/arguments.h on the CPU and those of `pcsnn.operators.arguments` from all that is Python. Backends: "c++"
(csrc/, CPU), "triton" (kernels/, CUDA and ROCm; through its interpreter on the CPU in tests), "reference" (plain torch,
every device).

Common arguments: `levels` [T] or [C, T] on the mean current; `repeat`: m, how often each level stands in its row (0: as 1);
`line` and `reach`: what `pcsnn.levels.spacing.Spacing` knows of the levels, so that a kernel need not bisect the table; `scale` and
`amplitude` [] or [C]; `turn` and `low` of a signed table (S1), 0 for any other.
Fused operators (a synapse and its neurons): `timesteps` is the largest count that comes in; with int8 weights `bias`,
`levels`, `line` and `residual_scale` are int32, and what comes out without levels and scale is too; `counts_dtype`: of the counts
that come out, uint8 or the floating dtype of half precision weights.
"""

import contextlib
import contextvars
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator

import torch

from pcsnn import reference
from pcsnn.cpu import attention, synapses
from pcsnn.operators import arguments
from pcsnn.tensors.shapes import convolved, fused_dtype

_FUSED_SCHEMAS = (
    "linear_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, Tensor? residual, "
    "Tensor? residual_scale, int repeat, int timesteps, Tensor? line=None, int reach=0, ScalarType? counts_dtype=None) -> Tensor",
    "conv2d_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, Tensor? residual, "
    "Tensor? residual_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, int repeat, int timesteps, "
    "Tensor? line=None, int reach=0, ScalarType? counts_dtype=None) -> Tensor",
)
_SCHEMAS = (
    "fire_counts(Tensor current, Tensor levels, Tensor? residual, Tensor? residual_scale, int repeat, Tensor? line=None, "
    "int reach=0) -> Tensor",
    "fire_rates(Tensor current, Tensor levels, Tensor scale, Tensor? residual, Tensor? residual_scale, int repeat, "
    "int turn=0, int low=0, Tensor? line=None, int reach=0) -> Tensor",
    "fire_rates_(Tensor(a!) current, Tensor levels, Tensor scale, Tensor? residual, Tensor? residual_scale, int repeat, "
    "int turn=0, int low=0, Tensor? line=None, int reach=0) -> ()",
    "fire_spikes(Tensor current, Tensor levels, Tensor? amplitude, ScalarType out_dtype, int repeat, Tensor? line=None, "
    "int reach=0) -> Tensor",
    "expand_spikes(Tensor counts, int timesteps, Tensor? order, ScalarType dtype, Tensor? amplitude) -> Tensor",
    "max_pool2d(Tensor counts, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int[2] sizes) -> Tensor",
    "sum_pool2d(Tensor counts, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int[2] sizes) -> Tensor",
    "spiking_attention(Tensor query, Tensor key, Tensor value, Tensor levels, Tensor scale, int heads, bool causal, int repeat, "
    "Tensor? line=None, int reach=0) -> Tensor",
    *_FUSED_SCHEMAS,
)
_library = torch.library.Library("pcsnn", "DEF")
for _schema in _SCHEMAS:
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)
for _schema in _FUSED_SCHEMAS:  # the part of csrc/fused.cpp that it hands on to Python
    _library.define(f"_{_schema}")


def _steps_like(step, timesteps, dtype):
    """An empty [T, N, ...] whose every step is laid out in memory like `step` [N, ...]."""
    layout = torch.empty_like(step, dtype=dtype)
    return torch.empty_strided(
        (timesteps, *layout.shape), (max(layout.numel(), 1), *layout.stride()), dtype=dtype, device=step.device
    )


def _fake_counts(current, *_):
    return torch.empty_like(current, dtype=torch.uint8)


def _fake_rates(current, *_):
    return torch.empty_like(current)


def _fake_rates_(*_):
    return None


def _fake_spikes(current, levels, amplitude, out_dtype, *_):
    return _steps_like(current.select(0, 0), current.shape[0], out_dtype)


def _fake_expand(counts, timesteps, order, dtype, amplitude):
    return _steps_like(counts, timesteps, dtype)


def _fake_linear(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    return counts.new_empty(
        (*counts.shape[:-1], weight.shape[0]), dtype=fused_dtype(weight, levels, scale, counts_dtype)
    )


def _fake_conv2d(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    stride,
    padding,
    dilation,
    groups,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    return torch.empty(
        (counts.shape[0], weight.shape[0], *sizes),
        dtype=fused_dtype(weight, levels, scale, counts_dtype),
        device=counts.device,
        memory_format=torch.channels_last,
    )


def _fake_pool(counts, kernel, stride, padding, dilation, sizes):
    return torch.empty(
        (*counts.shape[:2], *sizes), dtype=counts.dtype, device=counts.device, memory_format=torch.channels_last
    )


def _fake_attention(query, key, value, *_):
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


# The reference computes values in any layout; as a backend it returns the layout the schema's fake promises.
def _reference_counts(current, levels, residual, residual_scale, *_):
    out = torch.empty_like(current, dtype=torch.uint8)
    return out.copy_(reference.fire_counts(current, levels, residual, residual_scale))


def _reference_rates(*arguments):
    return torch.empty_like(arguments[0]).copy_(_rates(*arguments))


def _reference_rates_(*arguments):
    arguments[0].copy_(_rates(*arguments))


def _rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0, line=None, reach=0):
    return reference.fire_rates(current, levels, scale, residual, residual_scale, max(repeat, 1), turn, low)


def _reference_spikes(current, levels, amplitude, out_dtype, *_):
    out = _steps_like(current.select(0, 0), current.shape[0], out_dtype)
    return out.copy_(reference.fire_spikes(current, levels, amplitude, out_dtype))


def _reference_expand(counts, timesteps, order, dtype, amplitude):
    out = _steps_like(counts, timesteps, dtype)
    return out.copy_(reference.expand_spikes(counts, timesteps, order, dtype, amplitude))


def _reference_linear(*arguments):
    return _fake_linear(*arguments).copy_(reference.linear_fire(*arguments[:8]))


def _reference_conv2d(*arguments):
    return _fake_conv2d(*arguments).copy_(reference.conv2d_fire(*arguments[:12]))


def _reference_max_pool(*arguments):
    return _fake_pool(*arguments).copy_(reference.max_pool2d(*arguments))


def _reference_sum_pool(*arguments):
    return _fake_pool(*arguments).copy_(reference.sum_pool2d(*arguments))


def _reference_attention(*arguments):
    return reference.spiking_attention(*arguments[:8]).contiguous()


_FAKES = dict(
    fire_counts=_fake_counts,
    fire_rates=_fake_rates,
    fire_rates_=_fake_rates_,
    fire_spikes=_fake_spikes,
    expand_spikes=_fake_expand,
    linear_fire=_fake_linear,
    conv2d_fire=_fake_conv2d,
    max_pool2d=_fake_pool,
    sum_pool2d=_fake_pool,
    spiking_attention=_fake_attention,
)
_REFERENCE = dict(
    fire_counts=_reference_counts,
    fire_rates=_reference_rates,
    fire_rates_=_reference_rates_,
    fire_spikes=_reference_spikes,
    expand_spikes=_reference_expand,
    linear_fire=_reference_linear,
    conv2d_fire=_reference_conv2d,
    max_pool2d=_reference_max_pool,
    sum_pool2d=_reference_sum_pool,
    spiking_attention=_reference_attention,
)


def _checked(name, function):
    """An implementation of an operator for those who call it directly."""
    check = getattr(arguments, name)

    def run(*given):
        check(*given)
        return function(*given)

    return run


def _checked_on_cpu(name, function):
    """The same where torch then reads the tensors' memory."""
    names = [argument.name for argument in getattr(torch.ops.pcsnn, name).default._schema.arguments]
    run = _checked(name, function)

    def run_stored(*given):
        for argument, value in zip(names, given):
            arguments.stored(argument, value)
        return run(*given)

    return run_stored


for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"pcsnn::{_name}", _checked(_name, _fake), lib=_library)


def _load_extension():
    """None when csrc/ is built and loaded, which registers it for the CPU; else the reason why not."""
    if importlib.util.find_spec("pcsnn._C") is None:
        return "the C++ extension was not built (no compiler at installation?)"
    try:
        import pcsnn._C  # noqa: F401
    except ImportError as error:
        return f"the C++ extension does not load: {error}"
    return None


def _warn_reference():
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"pcsnn runs on its slow reference: {_no_extension}. Install a C++ compiler and reinstall pcsnn.",
            RuntimeWarning,
            stacklevel=2,
        )


def _announced(function):
    def run(*arguments):
        _warn_reference()
        return function(*arguments)

    return run


_warned = False
_no_extension = _load_extension()
if _no_extension:
    if os.environ.get("PCSNN_REQUIRE_EXT") == "1":
        raise ImportError(f"PCSNN_REQUIRE_EXT=1, but {_no_extension}")
    for _name, _function in _REFERENCE.items():
        _library.impl(_name, _checked_on_cpu(_name, _announced(_function)), "CPU")
else:
    for _name in ("linear_fire", "conv2d_fire"):
        _library.impl(f"_{_name}", getattr(synapses, _name), "CPU")
    _library.impl("spiking_attention", _checked_on_cpu("spiking_attention", attention.spiking_attention), "CPU")

try:
    from pcsnn import kernels

    _no_triton = None
except ImportError as error:
    kernels = None
    _no_triton = f"Triton does not import: {error}"
else:
    for _name in _FAKES:
        _library.impl(_name, _checked(_name, getattr(kernels, _name)), "CUDA")

_OPERATORS = {name: getattr(torch.ops.pcsnn, name).default for name in _FAKES}
_BACKENDS = ("reference", "c++", "triton")
_forced = None  # the names that any context forces; None: no context does, and calls look no further
_forcing = {}  # {entry of a `use_backend` that holds: name}, of all contexts
_lock = threading.Lock()  # of the two above
_entries = contextvars.ContextVar("pcsnn_use_backend", default=())  # of this context, the innermost last


def forced():
    """The backend that `use_backend` forces in this context, or None."""
    return _forced and _forced_here(_forced)


@torch.compiler.assume_constant_result  # torch.compile has no context variables: its code depends on the names alone
def _forced_here(names):
    return next(filter(None, map(_forcing.get, reversed(_entries.get()))), None)


def _force(entry, name):
    """Let an entry force a backend; None: no longer."""
    global _forced
    with _lock:
        if name is None:
            del _forcing[entry]
        else:
            _forcing[entry] = name
        _forced = tuple(sorted(set(_forcing.values()))) or None


def is_direct(*tensors):
    """Whether nothing but a kernel on a GPU has to hear of an operator on these tensors, or None: nothing traced, no mode, no
    subclass, no gradient. The dispatcher takes longer than a launch."""
    if torch.compiler.is_compiling() or forced() or not getattr(tensors[0], "is_cuda", False):
        return False
    gradients = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (type(tensor) is not torch.Tensor or gradients and tensor.requires_grad):
            return False
    return (
        not torch._C._len_torch_dispatch_stack()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
    )


def call(name, *arguments):
    """Run an operator: on the backend of its device, or on the one that `use_backend` forces."""
    backend = forced()
    if backend is None:
        return getattr(kernels, name)(*arguments) if is_direct(arguments[0]) else _OPERATORS[name](*arguments)
    if backend == "reference":
        return _REFERENCE[name](*arguments)
    device = arguments[0].device.type
    if backend == "c++":
        if device != "cpu":
            raise RuntimeError(f"use_backend('c++'): expected tensors on the CPU, got {device}")
        return _OPERATORS[name](*arguments)
    if device == "cpu" and not kernels.INTERPRETED:
        raise RuntimeError(
            "use_backend('triton'): expected tensors on a GPU, got cpu "
            "(TRITON_INTERPRET=1 set before import runs the kernels' interpreter)"
        )
    return getattr(kernels, name)(*arguments)


def runs_cpp(tensor):
    """Whether an operation on this tensor runs in the C++ extension."""
    return tensor.device.type == "cpu" and not _no_extension and forced() in (None, "c++")


def is_forced():
    """Whether `use_backend` holds in this context."""
    return forced() is not None


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force "reference", "c++" or "triton" for all operations inside; RuntimeError when that backend cannot run.

    It holds for the context that enters it, a thread or an asyncio task: other threads, and those started inside, keep
    theirs (`contextvars.copy_context().run` takes it along). A function compiled by torch.compile keeps the backend it
    was compiled with for as long as the same backends are forced, in whatever thread.
    """
    if name not in _BACKENDS:
        raise ValueError(f"name: expected one of {', '.join(_BACKENDS)}, got {name!r}")
    reason = {"c++": _no_extension, "triton": _no_triton}.get(name)
    if reason:
        raise RuntimeError(f"use_backend({name!r}): {reason}")
    entry = object()
    _force(entry, name)
    _entries.set((*_entries.get(), entry))
    try:
        yield
    finally:
        _force(entry, None)
        _entries.set(tuple(other for other in _entries.get() if other is not entry))


def backend_info() -> dict[str, str | int | None]:
    """What is built and used: {"cpu", "cuda": the backend of that device, "c++", "triton": version or why not, ...}."""
    backend, gpu = forced(), _no_triton or ("triton" if torch.cuda.is_available() else "no GPU found")
    return {
        "cpu": backend or ("reference" if _no_extension else "c++"),
        "cuda": backend if backend and gpu == "triton" else gpu,
        "c++": _no_extension or f"built, {torch.ops.pcsnn.cpu_capability()}",
        "triton": _no_triton or f"{kernels.VERSION}{' (interpreter)' if kernels.INTERPRETED else ''}",
        "forced": backend,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
