"""The float network of a command line."""

import difflib
import hashlib
import importlib
import inspect
import os
import sys

import torch

from pcsnn import models, nn
from pcsnn.cli.errors import UsageError
from pcsnn.cli.weights import read_weights
from pcsnn.exchange import read_onnx
from pcsnn.tensors.shapes import image_layout


def build(args):
    """(the network that MODEL (a function or an ONNX file), --model-args, --levels and --weights name, for evaluation,
    on --device, channels-last unless torch would crash; a pair (mean, std) by which --weights says that its images are
    normalised, or None).

    Raises:
        UsageError: no such model, arguments it does not take, --levels for a function of the user's own.
        ValueError, OSError: the function fails; weights that do not fit.
    """
    torch.manual_seed(args.seed)  # weights that no file gives are the same in every run
    network = _onnx(args) if is_onnx(args.model) else _call(_constructor(args), args)
    said = None
    if args.weights is not None:
        said = _load(network, args)
    elif ":" not in args.model and not is_onnx(args.model):
        print(f"pcsnn: note: no --weights, so {args.model} has random ones", file=sys.stderr)
    return network.eval().to(args.device, memory_format=image_layout(network)), said


def is_onnx(model):
    """Whether MODEL is the path of an ONNX file."""
    return model.lower().endswith(".onnx")


def _onnx(args):
    for option, value in (("--model-args", args.model_args), ("--levels", args.levels), ("--weights", args.weights)):
        if value:
            raise UsageError(
                f"{option}: is for networks in Python; {args.model} has its weights and activations itself"
            )
    try:
        return read_onnx(args.model)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"MODEL: {f'{error}'.removeprefix('path: ')}") from error


def _constructor(args):
    if ":" in args.model:
        if args.levels is not None:
            raise UsageError("--levels: is for networks of pcsnn.models; hand it to your function by --model-args")
        return _imported(args.model)
    if args.model not in models.__all__:
        close = difflib.get_close_matches(args.model, models.__all__, 3) or models.__all__
        raise UsageError(
            f"MODEL: expected module:function, or one of pcsnn.models such as {', '.join(close)}, got {args.model!r}"
        )
    return getattr(models, args.model)


def _imported(name):
    module, _, path = name.partition(":")
    if not module or not path:
        raise UsageError(f"MODEL: expected module:function, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m has it; the console script does not
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise ValueError(f"MODEL: cannot import {module}: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise UsageError(f"MODEL: {module} has no {path}")
        found = getattr(found, part)
    if not callable(found) or isinstance(found, torch.nn.Module):
        raise UsageError(f"MODEL: expected a function or class, got {name}, which is a {type(found).__name__}")
    return found


def _call(function, args):
    arguments = dict(args.model_args)
    if args.levels is not None:
        if "activation" in arguments:
            raise UsageError("--levels: expected no activation in --model-args beside it")
        arguments["activation"] = lambda: nn.QCFS(args.levels)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"--model-args: {args.model} {error}") from None
    try:
        network = function(**arguments)
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise ValueError(f"MODEL: {args.model} raised {type(error).__name__}: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"MODEL: expected {args.model} to return a torch.nn.Module, got {type(network).__name__}")
    return network


def _load(network, args):
    path, wanted = args.weights, network.state_dict()
    weights = read_weights(path, set(wanted))
    trained, tensors = weights.levels, weights.tensors
    if trained is not None and args.levels is not None and trained != args.levels:
        raise ValueError(f"--levels: {path} says it was trained with {trained}, got {args.levels}")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        ours, theirs = ({key.endswith(".threshold") for key in keys} for keys in (wanted, tensors))
        hint = ""
        if True in theirs - ours:
            hint = "\nthe file has thresholds of QCFS activations: --levels L gives the network such"
        elif True in ours - theirs:
            hint = "\nthe file has no thresholds of QCFS activations: leave --levels out"
        lines = "\n".join(_shortened(line) for line in str(error).splitlines()[1:])
        raise ValueError(f"--weights: {path} does not fit {args.model}:\n{lines}{hint}") from error
    return weights.normalisation


def _shortened(line, limit=300):
    return line if len(line) <= limit else f"{line[:limit]} ..."


def fingerprint(network):
    """SHA-256 of the names, types, shapes and values of a network's state."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
