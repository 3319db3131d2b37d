"""The fields of NIR's nodes, looked at before they are used: each raises ValueError, naming node and field."""

import math

import numpy as np
import torch

MOST = 2**31  # elements of a value


class Metadata:
    """The metadata of a node where fields are looked for."""

    def __init__(self, node, metadata):
        self.fields, self._node = metadata, node

    def refuse(self, words):
        self._node.refuse(f"metadata: {words}")


def extents(node, key):
    """A shape in a field, as a tuple of sizes."""
    value = node.fields.get(key)
    if value is None:
        node.refuse(f"has no {key}")
    sizes = integers(node, key, None, 1)
    if math.prod(sizes) >= MOST:
        node.refuse(f"{key}: expected less than 2^31 elements, got {list(sizes)}")
    return sizes


def numbers(node, key):
    """A field as an array of numbers without NaN."""
    if key not in node.fields:
        node.refuse(f"has no {key}")
    try:
        value = np.asarray(node.fields[key])
    except ValueError:  # lists of several lengths
        value = np.array(None)
    if value.dtype.kind not in "biuf" or value.size == 0:
        node.refuse(f"{key}: expected an array of numbers, got {value.dtype} of shape {list(value.shape)}")
    if np.isnan(value).any():
        node.refuse(f"{key}: holds NaN")
    return value


def tensor(node, key):
    """A field as a tensor of finite values, of its own precision."""
    value = numbers(node, key)
    if not np.isfinite(value).all():
        node.refuse(f"{key}: holds infinity")
    value = value if value.dtype in (np.float32, np.float64) else value.astype(np.float64)
    return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))


def integers(node, key, count, least):
    """A field as `count` integers from `least` up, given one by one or as one for all; None: as many as there are."""
    value = node.fields.get(key)
    try:
        values = [float(part) for part in np.asarray(value).flatten().tolist()]
    except (TypeError, ValueError, OverflowError):
        values = []
    if count is not None and len(values) == 1:
        values *= count
    if (
        not values
        or (count is not None and len(values) != count)
        or any(not part.is_integer() or not least <= part < MOST for part in values)
    ):
        many = "integers" if count is None else f"{count} integers" if count > 1 else "an integer"
        node.refuse(f"{key}: expected {many} of at least {least}, got {f'{value}'[:80]}")
    return tuple(int(part) for part in values)


def expect(node, shape, expected, what):
    """ValueError unless the values that a node gets have the expected shape, which is that of `what`."""
    if tuple(shape) != tuple(expected):
        node.refuse(f"gets values of shape {list(shape)}; expected {list(expected)}, {what}")


def incoming(node, sources, shapes):
    """The shape of what a node gets: one shape, of all its sources."""
    shape = shapes[sources[0]]
    for source in sources[1:]:
        if shapes[source] != shape:
            node.refuse(
                f"adds up values of other shapes, {list(shape)} from {sources[0]} and {list(shapes[source])} from "
                f"{source}"
            )
    return shape


def expect_output(node, shape):
    """ValueError unless the values that an Output gets have its shape; sizes of 1 before it are a batch and time."""
    said = extents(node, "shape")
    before = len(said) - len(shape)
    if before < 0 or said[before:] != tuple(shape) or any(size != 1 for size in said[:before]):
        expect(node, shape, said, "its type")


def spread(node, key, shape):
    """A field [] or [C, ...] as float64 [*shape], infinity allowed for thresholds alone."""
    value = numbers(node, key)
    fits = value.ndim == len(shape) and all(own in (1, size) for own, size in zip(value.shape, shape))
    if value.size > 1 and not fits:
        node.refuse(f"{key}: expected the shape of the values it gets, {list(shape)}, got {list(value.shape)}")
    if key != "v_threshold" and not np.isfinite(value).all():
        node.refuse(f"{key}: holds infinity")
    value = value.astype(np.float64)
    return np.broadcast_to(value.reshape(()) if value.size == 1 else value, shape)
