"""Paths of modules and tensors, and names of inputs and nodes, that may stand in a network file.

A GraphModule runs Python text that is made of them, and Python finds the attributes of nn.Module and GraphModule before
modules of the same name. So no part of a path is an attribute of either, none starts with an underscore, and all are
plain words.
"""

import keyword
import re

from torch import fx, nn

_RESERVED = frozenset(dir(nn.Module())) | frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))
_PART = re.compile(r"[A-Za-z0-9]\w{0,99}", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w{0,199}", re.ASCII)
_INPUT = re.compile(r"\*{0,2}[A-Za-z]\w{0,199}", re.ASCII)
# what the text of a GraphModule calls by these names
_SPOKEN = frozenset(
    ("self", "torch", "inf", "nan", "NoneType", "device", "fx_pytree", "pytree", "getattr", "slice", "operator")
)
MOST_PARTS = 32


def _is_part(part):
    return bool(_PART.fullmatch(part)) and part not in _RESERVED and not keyword.iskeyword(part)


def check_path(path):
    """ValueError for a path that a file may not name."""
    if not isinstance(path, str) or not all(map(_is_part, path.split("."))) or path.count(".") >= MOST_PARTS:
        raise ValueError(f"path: names a module or tensor {str(path)[:100]!r}, which is not allowed in a network file")


def check_input(name):
    """ValueError for an input that a file may not name."""
    word = name.strip("*") if isinstance(name, str) and _INPUT.fullmatch(name) else None
    if word is None or word in _SPOKEN or keyword.iskeyword(word):
        raise ValueError(
            f"path: names an input {str(name)[:100]!r}, which is not allowed in a network file; rename "
            f"the argument of forward"
        )


def check_node_name(name):
    """ValueError for a name that no node may have."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"path: names a node {str(name)[:100]!r}, which is not allowed in a network file")


def _plain(part):
    """The nearest word that a file may have as part of a path."""
    word = re.sub(r"\W", "_", part, flags=re.ASCII).lstrip("_")[:80]
    return word if word and _is_part(word) else f"{word or 'part'}_"


def plain_paths(paths):
    """{path: path that a file may name}, no two the same, and paths within others still within those."""
    parts = [path.split(".") for path in paths]
    wholes = {tuple(path[:length]) for path in parts for length in range(1, len(path) + 1)}
    found, taken = {(): ""}, set()
    # those within come later; plain ones come first, and keep their name
    for whole in sorted(wholes, key=lambda whole: (len(whole), not _is_part(whole[-1]), whole)):
        part, parent, count = whole[-1], found[whole[:-1]], 0
        word = part if _is_part(part) else _plain(part)
        name = _join(parent, word)
        while name in taken:
            count += 1
            name = _join(parent, f"{word}_{count}")
        found[whole] = name
        taken.add(name)
    return {path: found[tuple(path.split("."))] for path in paths}


def _join(prefix, part):
    return f"{prefix}.{part}" if prefix else part
