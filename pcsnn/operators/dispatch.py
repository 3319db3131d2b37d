"""Operators and their backends: how a family defines one, and which backend serves which device.

A public function checks its arguments and calls `call`. Whoever calls `torch.ops.pcsnn` instead, as exported programs
do, gets the checks of csrc/arguments.h on the CPU and the `check` of the operator from all that is Python. Backends:
"c++" (csrc/, CPU), "triton" (kernels/, CUDA and ROCm; through its interpreter on the CPU in tests), "reference" (plain
torch, every device).

Common arguments: `levels` [T] or [C, T] on the mean current; `repeat`: m, how often each level stands in its row
(0: as 1); `line` and `reach`: what `pcsnn.levels.spacing.Spacing` knows of the levels, so that a kernel need not bisect
the table; `scale` and `amplitude` [] or [C]; `turn` and `low` of a signed table (S1), 0 for any other.
Fused operators (a synapse and its neurons): `timesteps` is the largest count that comes in; with int8 weights `bias`,
`levels`, `line` and `residual_scale` are int32, and what comes out without levels and scale is too; `counts_dtype`: of
the counts that come out, uint8 or the floating dtype of half precision weights.
"""

import contextlib
import contextvars
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch

from pcsnn import reference
from pcsnn.operators.arguments import stored


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


_warned = False
_no_extension = _load_extension()
if _no_extension and os.environ.get("PCSNN_REQUIRE_EXT") == "1":
    raise ImportError(f"PCSNN_REQUIRE_EXT=1, but {_no_extension}")
try:
    from pcsnn import kernels

    _no_triton = None
except ImportError as error:
    kernels = None  # type: ignore[assignment]
    _no_triton = f"Triton does not import: {error}"


# ---- definition -----------------------------------------------------------------------------------------------------
class Operator(NamedTuple):
    """What is called of an operator, each with the arguments of its schema."""

    overload: torch._ops.OpOverload  # by torch's dispatcher, on whatever device
    check: object  # raises where arguments do not fit each other
    reference: object  # on the backend "reference"
    part: object = None  # what csrc/ hands on to Python, and of which arguments
    is_part: object = None


_library = torch.library.Library("pcsnn", "DEF")
_operators = {}  # by name


def define(schema, check, out=None, cpu=None):
    """Register an operator on every backend; `pcsnn.reference`, csrc/ and `pcsnn.kernels` have functions of its name.

    Args:
        schema: as torch.library has it.
        check: raises where arguments do not fit, for those who call the operator directly; it looks at no values.
        out: makes an empty tensor of the shape, dtype and layout of the result, and so is the operator of meta tensors.
            None: the operator writes over its first argument, returns nothing, and its name ends in an underscore.
        cpu: the CPU form, where that is Python; None: csrc/ registers it.
    """
    name = schema[: schema.index("(")]
    compute = getattr(reference, name.removesuffix("_"))

    def empty(*given):
        check(*given)
        return out(*given) if out else None

    def by_reference(*given):  # which computes values in any layout
        if out:
            return out(*given).copy_(compute(*given))
        given[0].copy_(compute(*given))

    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_fake(f"pcsnn::{name}", empty, lib=_library)
    overload = getattr(torch.ops.pcsnn, name).default
    if _no_extension:
        cpu = _announced(by_reference)
    if cpu:
        _library.impl(name, _checked(check, cpu, [argument.name for argument in overload._schema.arguments]), "CPU")
    if kernels is not None:
        _library.impl(name, _checked(check, getattr(kernels, name)), "CUDA")
    _operators[name] = Operator(overload, check, by_reference)


def define_part(schema, cpu, is_part):
    """Register the part of an operator of csrc/ that it hands on to Python, by the schema's name.

    is_part: whether arguments that were checked are of that part; it may miss some, which csrc/ then hands on.
    """
    _library.define(schema)
    if not _no_extension:
        name = schema[: schema.index("(")]
        _library.impl(name, cpu, "CPU")
        _operators[name[1:]] = _operators[name[1:]]._replace(part=cpu, is_part=is_part)


def _checked(check, function, stored_names=()):
    """An implementation for those who call the operator directly. stored_names: of arguments whose memory torch then
    reads."""

    def run(*given):
        for name, value in zip(stored_names, given):
            stored(name, value)
        check(*given)
        return function(*given)

    return run


def _announced(function):
    def run(*given):
        _warn_reference()
        return function(*given)

    return run


# ---- backends -------------------------------------------------------------------------------------------------------
_BACKENDS = ("reference", "c++", "triton")
_forced = None  # the names that any context forces; None: no context does, and calls look no further
_forcing = {}  # {entry of a `use_backend` that holds: name}, of all contexts
_lock = threading.Lock()  # of the two above
# of this context, the innermost last
_entries: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar("pcsnn_use_backend", default=())


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
    """Whether nothing but a kernel on a GPU has to hear of an operator on these tensors, or None: nothing traced, no
    mode, no subclass, no gradient. The dispatcher takes longer than a launch."""
    return not forced() and getattr(tensors[0], "is_cuda", False) and _is_unheard(*tensors)


def _is_unheard(*tensors):
    """Whether nothing but a kernel has to hear of an operator on these tensors, or None, whatever their device."""
    if torch.compiler.is_compiling():
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
        if is_direct(arguments[0]):
            return getattr(kernels, name)(*arguments)
        operator = _operators[name]
        if operator.part and operator.is_part(*arguments) and _is_unheard(*arguments[:2]):
            return operator.part(*arguments)  # not through csrc/: no exception of Python's comes whole from there
        return operator.overload(*arguments)
    if backend == "reference":
        return _operators[name].reference(*arguments)
    device = arguments[0].device.type
    if backend == "c++":
        if device != "cpu":
            raise RuntimeError(f"use_backend('c++'): expected tensors on the CPU, got {device}")
        return _operators[name].overload(*arguments)
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
