"""State dicts as checkpoints hold them: inside a dict, and with what a network was wrapped in before every name."""

import torch

_INSIDE = ("state_dict", "model_state_dict", "model_state", "net", "model", "network", "weights", "params")
_WRAPPERS = ("module", "_orig_mod")  # DataParallel and its like, torch.compile
_ATTRIBUTES = ("model", "net", "network")


def find_state(checkpoint):
    """The state dict of a checkpoint: itself, or what stands in it under a name that training codes use; or None.

    Args:
        checkpoint: what torch.load gave, e.g. {"net": state dict, "epoch": 90}, also {"model": {"state_dict": ...}}.
    """
    while isinstance(checkpoint, dict):
        if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
            return checkpoint
        inside = [checkpoint[name] for name in _INSIDE if isinstance(checkpoint.get(name), dict)]
        if not inside:
            return None
        checkpoint = inside[0]
    return None


def unwrapped(state, wanted):
    """A state dict under the names of the bare network, without "module." and "_orig_mod." in front or between, and
    "model." or "net." in front.

    Args:
        state: {name: tensor}.
        wanted: the names that the network has; those of `state` that are among them stay.

    Raises:
        ValueError: two names that become one.
    """
    result = {}
    for name, value in state.items():
        bare = name if name in wanted else _bare(name, wanted)
        if bare in result:
            wrappers = ", ".join(f"{part}." for part in _WRAPPERS)
            raise ValueError(f"two of its tensors are {bare} once {wrappers} are left out")
        result[bare] = value
    return result


def _bare(name, wanted):
    """Without the wrappers, and the attribute that a training module keeps the network in; where nothing fits, without
    the wrappers at its beginning."""
    parts = name.split(".")
    kept = [part for part in parts if part not in _WRAPPERS]
    if kept[:1] and kept[0] in _ATTRIBUTES and ".".join(kept) not in wanted:
        kept = kept[1:]
    if ".".join(kept) in wanted:
        return ".".join(kept)
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)
