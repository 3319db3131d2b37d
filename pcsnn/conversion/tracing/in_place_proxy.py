"""Traced values that record what is done to them in place, which torch.fx takes for ordinary operations."""

import operator

from torch import fx

_OPERATIONS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)


class InPlaceProxy(fx.Proxy):
    """A traced value of which x += 1, x **= 2 and x[0] = 1 become nodes of operator.iadd, ipow and setitem."""

    def __setitem__(self, index, value):
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __setattr__(self, name, value):
        if name in ("data", "grad", "requires_grad"):
            raise ValueError(
                f"sets the attribute {name} of a traced tensor, which no graph holds; compute a new tensor instead"
            )
        super().__setattr__(name, value)


def _in_place(function):
    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in _OPERATIONS:
    setattr(InPlaceProxy, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))
