"""A device that is not there: tensors that say they are on cuda:0, and refuse to meet tensors of the CPU as those do.

Inside `pretended()` tensors and modules go there by .to("cuda") or device="cuda", and come back by .cpu(). Their data
lies in the memory of the CPU, and each operation is the CPU's, those of pcsnn too, so that results are the CPU's bit
for bit; where `pretended(reciprocals=True)` a division by a number is a product with its reciprocal, as CUDA has it.
What torch lets meet on CUDA may meet here: a CPU tensor without dimensions in an elementwise operation, CPU indices of
a CUDA tensor, copies. Everything else raises, with torch's own words.
"""

import contextlib
import copy
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
_WITHIN = torch.device("cpu", 0)  # what C++ sees of it: the CPU, so that autograd needs no CUDA, but with a number
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default}  # from device to device
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_DIVISIONS = {_aten.div.Tensor, _aten.div_.Tensor}
_reciprocals = False
_RESHAPING = {"resize_", "set_", "t_", "transpose_", "unsqueeze_", "squeeze_", "as_strided_"}
# where TensorIterator takes a tensor without dimensions from the CPU
_TAKES_NUMBERS = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "pow",
    "remainder",
    "fmod",
    "floor_divide",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "where",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "logical_and",
    "logical_or",
    "logical_xor",
    "atan2",
    "masked_fill",
    "fill",
    "addcmul",
    "addcdiv",
    "clamp",
    "clamp_min",
    "clamp_max",
    "hypot",
    "copysign",
}


class OnOtherDevice(torch.Tensor):
    """A tensor on DEVICE; `data_here` is its data on the CPU, of the same shape and strides."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            layout=data.layout,
            device=_WITHIN,
        )

    def __init__(self, data):
        self.data_here = data

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return DEVICE.index

    def numpy(self, *arguments, **options):
        raise TypeError(
            f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    __array__ = numpy

    def tolist(self):
        return self.data_here.tolist()

    def __format__(self, form):
        return format(self.item(), form) if self.dim() == 0 else object.__format__(self, form)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            if not self.is_leaf:
                raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
            copied = OnOtherDevice(self.data_here.clone()).requires_grad_(self.requires_grad)
            copied.__dict__.update({name: value for name, value in vars(self).items() if name != "data_here"})
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self):
        return f"{self.data_here!r} on {DEVICE}"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            _check(func, args, kwargs)
            if (
                _reciprocals
                and func in _DIVISIONS
                and isinstance(args[0], OnOtherDevice)
                and not isinstance(args[1], OnOtherDevice)
            ):
                result = _times_reciprocal(*_map(_here, args), func is _aten.div_.Tensor)
            else:
                result = func(*_map(_here, args), **{name: _map(_here, value) for name, value in kwargs.items()})
            return _returned(func, args, kwargs, result)


def _times_reciprocal(value, number, in_place):
    """value / number, a number or a CPU tensor without dimensions, as CUDA rounds it."""
    dtype = torch.result_type(value, number)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    precise = torch.promote_types(dtype, torch.float32)
    product = (value.to(precise) * (1 / torch.as_tensor(number, dtype=precise))).to(dtype)
    return value.copy_(product) if in_place else product


def _map(change, value):
    """Change each tensor among arguments or results of an operator; torch's tree_map takes longer than the operator."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)(_map(change, part) for part in value) if type(value) in (tuple, list) else value


def _flat(values):
    for value in values:
        if type(value) in (tuple, list):
            yield from _flat(value)
        else:
            yield value


def _here(value):
    return value.data_here if isinstance(value, OnOtherDevice) else value


def _there(value):
    return value if isinstance(value, OnOtherDevice) else OnOtherDevice(value)


def _check(func, args, kwargs):
    """RuntimeError where CUDA would raise one."""
    values = list(_flat((*args, *kwargs.values())))
    if any(isinstance(value, torch.Generator) for value in values):
        raise RuntimeError(f"Expected a '{DEVICE.type}' device type for generator but found 'cpu'")
    if func in _COPIES:
        return
    name = func._schema.name.split("::")[1]
    if func in _INDEXING and isinstance(args[0], OnOtherDevice):  # indices may be on the CPU, values without dimensions
        values = [args[0], *(value for value in args[2:3] if value.dim())]
    elif (
        func.namespace == "aten"
        and name.rstrip("_") in _TAKES_NUMBERS
        and not (name.endswith("_") and not isinstance(args[0], OnOtherDevice))
    ):
        values = [
            value
            for value in values
            if isinstance(value, OnOtherDevice) or isinstance(value, torch.Tensor) and value.dim()
        ]
    if len({isinstance(value, OnOtherDevice) for value in values if isinstance(value, torch.Tensor)}) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! (in {func})"
        )


def _returned(func, args, kwargs, result):
    """What in-place operations return is what they were called on; new tensors are on the device."""
    if func._schema.name.split("::")[1] in _RESHAPING:
        with torch._C._DisableTorchDispatch():
            args[0].as_strided_(result.size(), result.stride(), result.storage_offset())
    if "out" in kwargs:
        if kwargs["out"].shape != kwargs["out"].data_here.shape:
            raise NotImplementedError(f"{func} that resizes its output, on the pretended device")
        return kwargs["out"]
    if func._schema.is_mutable and func._schema.returns and func._schema.returns[0].alias_info is not None:
        return args[0]
    return _map(_there, result)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, away):
        ctx.away = away
        return _there(value.detach().clone()) if away else _here(value.detach()).clone()

    @staticmethod
    def backward(ctx, gradient):
        return _Move.apply(gradient, not ctx.away), None


def _is_there(device):
    """Whether that is the pretended device; None for none."""
    if device is None:
        return None
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index not in (None, DEVICE.index):
        raise RuntimeError(f"CUDA error: invalid device ordinal, {device}")
    return device.type == "cuda"


def _moved(value, away):
    """A tensor there (away) or on the CPU, itself where it is already."""
    if isinstance(value, OnOtherDevice) == away:
        return value
    if value.requires_grad:
        return _Move.apply(value, away)
    with torch._C.DisableTorchFunction():
        return OnOtherDevice(value.detach().clone()) if away else value.data_here.clone()


_torch_parse_to = torch._C._nn._parse_to


def _parse_to(*args, **kwargs):
    """The arguments of Tensor.to and Module.to: (device, dtype, non_blocking, memory format)."""
    for name in ("other", "tensor"):
        if name in kwargs:
            args = (kwargs.pop(name), *args)
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    return _torch_parse_to(*args, **kwargs)


def _to(value, *args, **kwargs):
    """Tensor.to"""
    copied = kwargs.pop("copy", False)
    device, dtype, _, layout = _parse_to(*args, **kwargs)
    if device is not None and device.type == "meta":
        return torch.Tensor.to(value, *args, **kwargs)
    away = _is_there(device)
    before = value
    value = torch.Tensor.to(value, dtype=dtype or value.dtype, **({} if layout is None else {"memory_format": layout}))
    value = value if away is None else _moved(value, away)
    return value.clone() if copied and value is before else value


def _cuda(value, device=None, non_blocking=False, **options):
    """Tensor.cuda"""
    _is_there(device)
    return _moved(value, True)


def _cpu(value, **options):
    """Tensor.cpu"""
    return _moved(value, False)


def _set_data(value, new):
    """Tensor.data = ..."""
    if isinstance(value, OnOtherDevice) != isinstance(new, OnOtherDevice):
        raise RuntimeError(
            "Attempted to call `variable.set_data(tensor)`, but `variable` and `tensor` have incompatible tensor type."
        )
    torch.Tensor.data.__set__(value, new)
    if isinstance(value, OnOtherDevice):
        value.data_here = new.data_here


def _share_type(one, two):
    """Whether a module may let a parameter take new data: not those that are an object around their data."""
    return not isinstance(one, OnOtherDevice) and not isinstance(two, OnOtherDevice)


def _unravel_index(indices, shape):
    with _Pretended():  # off in the functions that are handled; torch's own makes a tensor on the device
        return torch.functional._unravel_index(indices, shape).unbind(-1)


def _new_tensor(value, data, *, dtype=None, device=None, requires_grad=False):
    away = _is_there(device if device is not None else value.device)
    return _moved(torch.tensor(data, dtype=dtype or value.dtype), away).requires_grad_(requires_grad)


class _MadeWithin(TorchDispatchMode):
    """What C++ makes for a tensor there, with its options, is there too."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # that would take longer than all else here

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        within = kwargs.get("device") == _WITHIN
        if within:
            kwargs["device"] = torch.device("cpu")
        result = func(*args, **kwargs)
        return _map(_there, result) if within else result


class _Pretended(TorchFunctionMode):
    _HANDLED = {
        torch.Tensor.to: _to,
        torch.Tensor.cuda: _cuda,
        torch.Tensor.cpu: _cpu,
        torch.Tensor.data.__set__: _set_data,
        torch.Tensor.new_tensor: _new_tensor,
        torch.unravel_index: _unravel_index,
        torch._has_compatible_shallow_copy_type: _share_type,
    }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self._HANDLED:
            return self._HANDLED[func](*args, **kwargs)
        away = _is_there(kwargs["device"]) if kwargs.get("device") is not None and _makes(func) else None
        if away is None:
            return func(*args, **kwargs)
        device, needs = kwargs.pop("device"), kwargs.pop("requires_grad", False)
        if torch.device(device).type == "meta":
            return func(*args, device=device, requires_grad=needs, **kwargs)
        if away and kwargs.get("generator") is not None:
            raise RuntimeError(f"Expected a '{DEVICE.type}' device type for generator but found 'cpu'")
        made = func(*args, **kwargs)
        if not isinstance(made, torch.Tensor):
            return made
        made = _moved(made, away)
        return made.requires_grad_() if needs else made


def _makes(func):
    """Whether a function makes a tensor on the device it is told."""
    return getattr(func, "__module__", None) != "torch.cuda" and getattr(func, "__name__", "") not in ("Generator",)


def _run_backward(*args, **kwargs):
    with _Pretended():  # which is off inside the functions that it handles, and these run Python code
        return _torch_run_backward(*args, **kwargs)


_torch_run_backward = torch.autograd._engine_run_backward


@contextlib.contextmanager
def pretended(reciprocals=False):
    """The pretended device is there, inside; reciprocals: divisions by numbers are rounded as CUDA does."""
    there = dict(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: DEVICE.index,
        get_device_name=lambda device=None: "pretended",
        synchronize=lambda device=None: None,
        get_rng_state=lambda device=None: None,
        set_rng_state=lambda state, device=None: None,
    )
    with contextlib.ExitStack() as stack:
        for name, stub in there.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stub))
        stack.enter_context(mock.patch.dict(globals(), _reciprocals=reciprocals))
        stack.enter_context(mock.patch.object(torch._C._nn, "_parse_to", _parse_to))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", _run_backward))
        stack.enter_context(_MadeWithin())
        yield stack.enter_context(_Pretended())


def there(value):
    """A copy on the pretended device: of a module, or of all tensors in a container."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).to(DEVICE)
    return tree_map(lambda part: part.to(DEVICE) if isinstance(part, torch.Tensor) else part, value)


def assert_there(module):
    """That every parameter and buffer is, those that are not saved too."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    assert not {name: str(value.device) for name, value in tensors if value.device != DEVICE}


def assert_same(far, near):
    """Tensors on the pretended device, and their like on the CPU."""
    far, near = tree_leaves(far), tree_leaves(near)
    assert len(far) == len(near)
    for one, two in zip(far, near):
        assert one.device == DEVICE and two.device.type == "cpu"
        assert one.dtype == two.dtype and one.stride() == two.stride() and torch.equal(one.cpu(), two)
