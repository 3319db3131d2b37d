"""Numbers, arrays and names as C has them."""

import re

import torch

_TYPES = {torch.int8: "int8_t", torch.int32: "int32_t", torch.float32: "float"}
_WIDTH = 116


def identifier(stem):
    """A file's name as the beginning of names in C."""
    name = re.sub(r"\W|[^\x00-\x7f]", "_", stem).strip("_")
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


def array(name, values):
    """A constant of the values of a tensor, at least one, in their order."""
    flat = values.detach().contiguous().flatten()
    lines, line = [], ""
    for value in flat.tolist():
        word = f"{_number(value, values.dtype)},"
        if line and len(line) + len(word) > _WIDTH:
            lines.append(line)
            line = ""
        line += word
    lines.append(line.rstrip(","))
    body = "\n".join(f"    {line}" for line in lines)
    return f"static const {_TYPES[values.dtype]} {name}[{flat.numel()}] = {{\n{body}\n}};\n"


def _number(value, dtype):
    if dtype == torch.float32:
        return f"{value.hex()}f"
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)
