"""Checkpoints of the published QCFS code, whose activations keep their learned threshold under other names.

| repository | threshold of the activation `name` | level count |
|---|---|---|
| putshua/ANN_SNN_QCFS, of the QCFS paper (ICLR 2022) | `name.thresh`, shape [1] | option -L of training, 8 by default |
| putshua/SNN_conversion_QCFS, an earlier form of it | `name.up`, shape [1] | option --l of training, 16 by default |

All other keys are those of torch.nn. Files are state dicts, or hold one as "state_dict", "net", "model" or the like;
those of several GPUs or torch.compile put "module." or "_orig_mod." before every key.
"""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from pcsnn.exchange.state_dicts import find_state, unwrapped
from pcsnn.nn import QCFS
from pcsnn.tensors import checks

THRESHOLD_KEYS = ("thresh", "up")
_OURS = "threshold"
_REPLACED = (torch.nn.ReLU, torch.nn.ReLU6, torch.nn.Hardtanh)

Model = TypeVar("Model", bound=torch.nn.Module)


def _read(path_or_state_dict):
    """The state dict of a file or a dict."""
    if isinstance(path_or_state_dict, (str, os.PathLike)):
        path = os.fspath(path_or_state_dict)
        if not os.path.exists(path):
            raise FileNotFoundError(f"path_or_state_dict: no file {path}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"path_or_state_dict: {path} is no checkpoint of tensors: {error}") from error
    else:
        state = path_or_state_dict
    found = find_state(state)
    if found is None:
        raise ValueError(
            "path_or_state_dict: expected a state dict, names and tensors, "
            f"got {type(state).__name__}{' with other values' if isinstance(state, dict) and state else ''}"
        )
    return found


def _named_as(model, state):
    """A state dict under the names of the model, thresholds under those of the published code."""
    wanted = set(model.state_dict())
    thresholds = {f"{name}.{key}" for name, _ in model.named_modules() for key in THRESHOLD_KEYS}
    try:
        return unwrapped(state, wanted | thresholds)
    except ValueError as error:
        raise ValueError(f"path_or_state_dict: {error}") from error


def _thresholds(state):
    """{activation name: threshold []} of the keys in THRESHOLD_KEYS; ValueError where one is no threshold."""
    found = {}
    for key, value in state.items():
        name, _, leaf = key.rpartition(".")
        if leaf not in THRESHOLD_KEYS:
            continue
        if value.numel() != 1:
            raise ValueError(f"path_or_state_dict: {key} should be one threshold, got shape {tuple(value.shape)}")
        if name in found:
            raise ValueError(f"path_or_state_dict: {name} has two thresholds, under {' and '.join(THRESHOLD_KEYS)}")
        found[name] = checks.threshold(value.reshape(()).float(), f"path_or_state_dict: {key}").float()
    if not found:
        raise ValueError(
            f"path_or_state_dict: no key ends in {' or '.join('.' + key for key in THRESHOLD_KEYS)}: "
            "not a checkpoint of the published QCFS code"
        )
    return found


def _activations(model, names, levels):
    """{name: QCFS to stand there}: the model's own, or a new one of `levels` where it has a ReLU."""
    places = {}
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"model: has no module {name}, whose threshold is in the checkpoint") from None
        if isinstance(module, QCFS):
            if levels is not None and module.levels != levels:
                raise ValueError(f"levels: got {levels}, but {name} of the model is a QCFS of {module.levels}")
            places[name] = module
        elif isinstance(module, _REPLACED):
            if levels is None:
                raise ValueError(
                    "levels: expected the level count L of training, which the checkpoint does not hold, since "
                    f"{name} of the model is {type(module).__name__}; got None"
                )
            places[name] = QCFS(levels)
        else:
            raise ValueError(f"model: {name} should be a QCFS or a ReLU, got {type(module).__name__}")
    if len(set(map(id, places.values()))) < len(places):
        raise ValueError(
            "model: one QCFS stands for several activations of the checkpoint, each with its own threshold"
        )
    return places


def load_qcfs_checkpoint(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any], model: Model, *, levels: int | None = None
) -> Model:
    """Load a checkpoint of the published QCFS code into `model`, in place; converting it is lossless at T = L.

    Recognised are thresholds under `name.thresh` and `name.up` (see the module's table); the level count L is not in
    those files: it is that of the model's QCFS, or `levels`. Files are read with weights_only=True: nothing is
    unpickled but tensors.

    Args:
        path_or_state_dict: a file that torch.save wrote, or a state dict; or a dict with one inside, as {"net": ...};
            with or without "module." and "_orig_mod." in its keys.
        model: a network with the checkpoint's keys whose activations are `pcsnn.nn.QCFS`, or ReLU, which are replaced.
        levels: L, 1..255, of the QCFS that replace ReLUs; None where the model has QCFS already.

    Returns:
        `model`.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError, ValueError: not such a checkpoint; a threshold that is not above zero; keys that the model lacks or
            the checkpoint does not hold; L missing or another than the model's. Nothing is changed then.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if levels is not None:
        checks.timesteps(levels, "levels")
    state = _named_as(model, _read(path_or_state_dict))
    thresholds = _thresholds(state)
    places = _activations(model, thresholds, levels)
    rest = {key: value for key, value in state.items() if key.rpartition(".")[2] not in THRESHOLD_KEYS}
    wanted = {key: value for key, value in model.state_dict().items() if key.rpartition(".")[0] not in places}
    _compare(rest, wanted)
    device = next(iter(wanted.values())).device if wanted else "cpu"
    for name, module in places.items():
        model.set_submodule(name, module.to(device))
    model.load_state_dict(rest | {f"{name}.{_OURS}": theta for name, theta in thresholds.items()})
    return model


def _compare(given, wanted):
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unknown:
        listed = [
            f"{text} {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            for text, keys in (("it lacks", missing), ("the model has no", unknown))
            if keys
        ]
        raise ValueError(f"path_or_state_dict: does not fit the model: {'; '.join(listed)}")
    for key, value in wanted.items():
        if given[key].shape != value.shape:
            raise ValueError(
                f"path_or_state_dict: {key} has shape {tuple(given[key].shape)}, the model's has {tuple(value.shape)}"
            )


def qcfs_state_dict(model: torch.nn.Module, key: str = "thresh") -> dict[str, torch.Tensor]:
    """The state dict of a network with QCFS activations as the published code names it, for torch.save.

    Args:
        model: a torch.nn.Module.
        key: "thresh" (ANN_SNN_QCFS) or "up" (SNN_conversion_QCFS).

    Returns:
        dict of tensors; thresholds of shape [1]. Their level count is not in it, as there.

    Raises:
        ValueError: another key; no QCFS in the model.
    """
    if key not in THRESHOLD_KEYS:
        raise ValueError(f"key: expected {' or '.join(THRESHOLD_KEYS)}, got {key!r}")
    own = {
        f"{name}.{_OURS}" for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, QCFS)
    }
    if not own:
        raise ValueError("model: expected QCFS activations, got none")
    return {
        f"{name.rpartition('.')[0]}.{key}" if name in own else name: value.reshape(1) if name in own else value
        for name, value in model.state_dict().items()
    }
