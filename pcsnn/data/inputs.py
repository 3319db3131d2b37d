"""What a traced network takes, and how an item of the caller's data is read as that.

The inputs of one call are a tuple with an entry for each input that has no default: a tensor [N, ...], or a list or
dict of such tensors where the network reads its parts by position or by key.
"""

import collections.abc
import operator
from dataclasses import dataclass

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


@dataclass(frozen=True)
class Input:
    """An input without default: its name, and the keys or positions that are read of it; none of a plain tensor."""

    name: str
    keys: tuple = ()

    def read(self, value):
        """What of `value` the network takes, tensors; None where it does not fit."""
        if not self.keys:
            return value if isinstance(value, torch.Tensor) else None
        named = isinstance(self.keys[0], str)
        if named and isinstance(value, collections.abc.Mapping) and set(self.keys) <= set(value):
            value = {key: value[key] for key in self.keys}
        elif not named and isinstance(value, (tuple, list)) and len(value) > max(self.keys):
            value = list(value) if min(self.keys) < 0 else list(value[: max(self.keys) + 1])
            if not all(isinstance(part, torch.Tensor) for part in value):  # rather (the list, labels)
                return None
        else:
            return None
        return value if all(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)) else None


def required_inputs(network):
    """The inputs of a traced network that have no default."""
    return [
        _input(node)
        for node in network.graph.nodes
        if node.op == "placeholder" and not node.args and not node.target.startswith("**")
    ]


def _input(node):
    keys = [user.args[1] for user in node.users if user.target is operator.getitem]
    if len(keys) != len(node.users) or len({type(key) for key in keys} & {int, str}) != 1:
        keys = []
    return Input(str(node.target), tuple(dict.fromkeys(keys)))


def _described(item, inputs):
    """(inputs, labels and whatever stands behind them) of an item; None for inputs where it does not fit."""
    if isinstance(item, collections.abc.Mapping):
        if len(inputs) == 1 and inputs[0].keys and inputs[0].read(item) is not None:
            return [item], []
        return [item.get(one.name) for one in inputs], []
    if not isinstance(item, (tuple, list)):
        return [item], []
    behind = list(item[len(inputs) :])
    if len(inputs) == 1 and inputs[0].keys and inputs[0].read(item) is not None:
        return [item], []
    if item and isinstance(item[0], collections.abc.Mapping) and not (len(inputs) > 1 and inputs[0].keys):
        return _described(item[0], inputs)[0], list(item[1:])
    if item and isinstance(item[0], (tuple, list)) and not inputs[0].keys:
        return list(item[0])[: len(inputs)], list(item[1:])
    return list(item[: len(inputs)]), behind


def read(item, inputs):
    """(the inputs of a call, what stands behind them) of an item; (None, []) where it cannot be read as `inputs`.

    An item is a tensor; a tuple or list of the inputs, labels behind; ((inputs ...), labels ...); a dict with the
    inputs by name; or, for a network that reads the parts of one list or dict, that or (that, labels ...).
    """
    parts, behind = _described(item, inputs)
    if len(parts) != len(inputs):
        return None, []
    arguments = tuple(one.read(part) for one, part in zip(inputs, parts))
    return (None, []) if any(argument is None for argument in arguments) else (arguments, behind)


def expected(inputs):
    """Words for what a batch must be."""
    if any(one.keys for one in inputs):
        return "a batch with " + ", ".join(
            f"{one.name} [{', '.join(map(repr, one.keys))}]" if one.keys else one.name for one in inputs
        )
    return f"{len(inputs)} tensor{'s' if len(inputs) > 1 else ''} a batch"


def shapes(batch):
    """Words for what the tensors of a batch are."""
    return ", ".join(f"{list(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" for leaf in tree_leaves(batch))


def count(batch):
    """How many inputs a batch has."""
    return len(tree_leaves(batch)[0])


def rows(batch, index):
    """Some rows of a batch: a slice, or a tensor of positions."""
    return tree_map(lambda part: part[index.to(part.device) if isinstance(index, torch.Tensor) else index], batch)


def joined(batches):
    """One batch of several of the same structure."""
    flat, form = zip(*map(tree_flatten, batches))
    return tree_unflatten([torch.cat(parts) for parts in zip(*flat)], form[0])
