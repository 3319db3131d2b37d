"""The operator set: schemas, fake implementations, and which backend serves which device.

`pcsnn.functional` checks arguments and calls `call`; nothing here checks twice. Backends: "c++" (csrc/, CPU), "triton"
(kernels/, CUDA and ROCm; through its interpreter on the CPU in tests), "reference" (plain torch, every device).

Common arguments: `levels` [T] or [C, T] on the mean current; `repeat` m >= 1 says that each row is T/m evenly spaced
levels, each m times, so that a kernel may guess and verify, 0 that it must bisect; `scale` and `amplitude` [] or [C];
`turn` and `low` of a signed table (S1), 0 for any other.
Fused operators (a synapse and its neurons): `timesteps` is the largest count that comes in; with int8 weights `bias`,
`levels`, and `residual_scale` are int32, and what comes out without levels and scale is too.
"""

import contextlib
import importlib.util
import os
import warnings

import torch

from pcsnn import attention_reference, linear_attention, onednn, reference
from pcsnn.shapes import convolved, fused_dtype

_FUSED_SCHEMAS = (
    "linear_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, Tensor? residual, "
    "Tensor? residual_scale, int repeat, int timesteps) -> Tensor",
    "conv2d_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, Tensor? residual, "
    "Tensor? residual_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, int repeat, int timesteps) -> Tensor",
)
_SCHEMAS = (
    "fire_counts(Tensor current, Tensor levels, Tensor? residual, Tensor? residual_scale, int repeat) -> Tensor",
    "fire_rates(Tensor current, Tensor levels, Tensor scale, Tensor? residual, Tensor? residual_scale, int repeat, "
    "int turn=0, int low=0) -> Tensor",
    "fire_rates_(Tensor(a!) current, Tensor levels, Tensor scale, Tensor? residual, Tensor? residual_scale, int repeat, "
    "int turn=0, int low=0) -> ()",
    "fire_spikes(Tensor current, Tensor levels, Tensor? amplitude, ScalarType out_dtype, int repeat) -> Tensor",
    "expand_spikes(Tensor counts, int timesteps, Tensor? order, ScalarType dtype, Tensor? amplitude) -> Tensor",
    "max_pool2d(Tensor counts, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int[2] sizes) -> Tensor",
    "sum_pool2d(Tensor counts, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int[2] sizes) -> Tensor",
    "spiking_attention(Tensor query, Tensor key, Tensor value, Tensor levels, Tensor scale, int heads, bool causal, int repeat) "
    "-> Tensor",
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
    return torch.empty_strided((timesteps, *layout.shape), (max(layout.numel(), 1), *layout.stride()),
                               dtype=dtype, device=step.device)


def _fake_counts(current, levels, residual, residual_scale, repeat):
    return torch.empty_like(current, dtype=torch.uint8)


def _fake_rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    return torch.empty_like(current)


def _fake_rates_(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    return None


def _fake_spikes(current, levels, amplitude, out_dtype, repeat):
    return _steps_like(current.select(0, 0), current.shape[0], out_dtype)


def _fake_expand(counts, timesteps, order, dtype, amplitude):
    return _steps_like(counts, timesteps, dtype)


def _fake_linear(counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps):
    return counts.new_empty((*counts.shape[:-1], weight.shape[0]), dtype=fused_dtype(weight, levels, scale))


def _fake_conv2d(counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat,
                 timesteps):
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    return torch.empty((counts.shape[0], weight.shape[0], *sizes), dtype=fused_dtype(weight, levels, scale),
                       device=counts.device, memory_format=torch.channels_last)


def _fake_pool(counts, kernel, stride, padding, dilation, sizes):
    return torch.empty((*counts.shape[:2], *sizes), dtype=torch.uint8, device=counts.device, memory_format=torch.channels_last)


def _fake_attention(query, key, value, levels, scale, heads, causal, repeat):
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


# The reference computes values in any layout; as a backend it returns the layout the schema's fake promises.
def _reference_counts(current, levels, residual, residual_scale, repeat):
    out = torch.empty_like(current, dtype=torch.uint8)
    return out.copy_(reference.fire_counts(current, levels, residual, residual_scale))


def _reference_rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    out = torch.empty_like(current)
    return out.copy_(reference.fire_rates(current, levels, scale, residual, residual_scale, max(repeat, 1), turn, low))


def _reference_rates_(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    current.copy_(reference.fire_rates(current, levels, scale, residual, residual_scale, max(repeat, 1), turn, low))


def _reference_spikes(current, levels, amplitude, out_dtype, repeat):
    out = _steps_like(current.select(0, 0), current.shape[0], out_dtype)
    return out.copy_(reference.fire_spikes(current, levels, amplitude, out_dtype))


def _reference_expand(counts, timesteps, order, dtype, amplitude):
    out = _steps_like(counts, timesteps, dtype)
    return out.copy_(reference.expand_spikes(counts, timesteps, order, dtype, amplitude))


def _reference_linear(*arguments):
    return reference.linear_fire(*arguments[:-1]).contiguous()


def _reference_conv2d(*arguments):
    out = reference.conv2d_fire(*arguments[:-1])
    return torch.empty_like(out, memory_format=torch.channels_last).copy_(out)


def _reference_max_pool(*arguments):
    return _fake_pool(*arguments).copy_(reference.max_pool2d(*arguments))


def _reference_sum_pool(*arguments):
    return _fake_pool(*arguments).copy_(reference.sum_pool2d(*arguments))


def _reference_attention(*arguments):
    return attention_reference.spiking_attention(*arguments).contiguous()


_FAKES = dict(fire_counts=_fake_counts, fire_rates=_fake_rates, fire_rates_=_fake_rates_, fire_spikes=_fake_spikes,
              expand_spikes=_fake_expand, linear_fire=_fake_linear, conv2d_fire=_fake_conv2d,
              max_pool2d=_fake_pool, sum_pool2d=_fake_pool, spiking_attention=_fake_attention)
_REFERENCE = dict(fire_counts=_reference_counts, fire_rates=_reference_rates, fire_rates_=_reference_rates_,
                  fire_spikes=_reference_spikes, expand_spikes=_reference_expand, linear_fire=_reference_linear,
                  conv2d_fire=_reference_conv2d, max_pool2d=_reference_max_pool, sum_pool2d=_reference_sum_pool,
                  spiking_attention=_reference_attention)
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"pcsnn::{_name}", _fake, lib=_library)


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
        warnings.warn(f"pcsnn runs on its slow reference: {_no_extension}. Install a C++ compiler and reinstall pcsnn.",
                      RuntimeWarning, stacklevel=2)


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
        _library.impl(_name, _announced(_function), "CPU")
else:
    for _name in ("linear_fire", "conv2d_fire"):
        _library.impl(f"_{_name}", getattr(onednn, _name), "CPU")
    _library.impl("spiking_attention", linear_attention.spiking_attention, "CPU")

try:
    from pcsnn import kernels
    _no_triton = None
except ImportError as error:
    kernels = None
    _no_triton = f"Triton does not import: {error}"
else:
    for _name in _FAKES:
        _library.impl(_name, getattr(kernels, _name), "CUDA")

_OPERATORS = {name: getattr(torch.ops.pcsnn, name).default for name in _FAKES}
_BACKENDS = ("reference", "c++", "triton")
_forced = None


def call(name, *arguments):
    """Run an operator: on the backend of its device, or on the one that `use_backend` forces."""
    if _forced is None:
        return _OPERATORS[name](*arguments)
    if _forced == "reference":
        return _REFERENCE[name](*arguments)
    device = arguments[0].device.type
    if _forced == "c++":
        if device != "cpu":
            raise RuntimeError(f"use_backend('c++'): expected tensors on the CPU, got {device}")
        return _OPERATORS[name](*arguments)
    if device == "cpu" and not kernels.INTERPRETED:
        raise RuntimeError("use_backend('triton'): expected tensors on a GPU, got cpu "
                           "(TRITON_INTERPRET=1 set before import runs the kernels' interpreter)")
    return getattr(kernels, name)(*arguments)


def runs_cpp(tensor):
    """Whether an operation on this tensor runs in the C++ extension."""
    return tensor.device.type == "cpu" and not _no_extension and _forced in (None, "c++")


def is_forced():
    """Whether `use_backend` holds."""
    return _forced is not None


@contextlib.contextmanager
def use_backend(name):
    """Force "reference", "c++" or "triton" for all operations inside; RuntimeError when that backend cannot run.

    Not thread-safe: it holds for the whole process. A function compiled by torch.compile inside keeps it.
    """
    global _forced
    if name not in _BACKENDS:
        raise ValueError(f"name: expected one of {', '.join(_BACKENDS)}, got {name!r}")
    reason = {"c++": _no_extension, "triton": _no_triton}.get(name)
    if reason:
        raise RuntimeError(f"use_backend({name!r}): {reason}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def backend_info():
    """What is built and used: {"cpu", "cuda": the backend of that device, "c++", "triton": version or why not, ...}."""
    gpu = _no_triton or ("triton" if torch.cuda.is_available() else "no GPU found")
    return {
        "cpu": _forced or ("reference" if _no_extension else "c++"),
        "cuda": _forced if _forced and gpu == "triton" else gpu,
        "c++": _no_extension or f"built, {torch.ops.pcsnn.cpu_capability()}",
        "triton": _no_triton or f"{kernels.VERSION}{' (interpreter)' if kernels.INTERPRETED else ''}",
        "forced": _forced,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
