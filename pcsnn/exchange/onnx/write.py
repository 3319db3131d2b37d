"""Converted networks as ONNX files, of standard operators alone."""

import copy
import os
from typing import Any

import torch
from torch import nn

from pcsnn.exchange.onnx.layers import portable
from pcsnn.exchange.onnx.operators import translations
from pcsnn.network.network import SpikingNetwork, check_converted
from pcsnn.tensors import checks

OPSET = 18
INSTALL = "pip install pcsnn[onnx]"


def to_onnx(
    snn: SpikingNetwork, path: str | os.PathLike[str], example: torch.Tensor | tuple[torch.Tensor, ...]
) -> None:
    """Write a converted network as an ONNX file that any runtime runs without pcsnn.

    Standard operators of opset 18 only. A neuron is the comparison of its current with the levels (10), exact at ties:
    counts are those of `snn` wherever a runtime's float32 sums are. Layers with int8 weights are ConvInteger and
    MatMulInteger on uint8 counts, whose sums are exact: a network optimised with weights "int8" and `first_last=True`
    has the same counts in every layer on every machine.

    The batch, the first dimension of all inputs, stays open; all other sizes are those of the example. The file has
    metadata: `timesteps`, T, and `spike_levels`, D.

    Args:
        snn: a SpikingNetwork, as `pcsnn.convert` made it or optimised with weights "float32" or "int8", in float32; it
            is not changed.
        path: of the file to write; one that is there is replaced when all has gone well.
        example: the network's input [N, ...], or a tuple of them where it has several, with one size of batch.

    Raises:
        ImportError: the packages onnx and onnxscript are not installed.
        TypeError, ValueError: not a SpikingNetwork; half or double precision; inputs that the network does not run on;
            an operation that has no form in ONNX, which the message names; a file of more than 2 GiB.
    """
    check_converted(snn)
    inputs = _inputs(example)
    dtypes = {value.dtype for value in snn.parameters()} - {torch.float32}
    if dtypes:
        raise ValueError(f"snn: expected float32 weights, got {', '.join(map(str, dtypes))}")
    try:
        import onnx

        table = translations()
    except ImportError as error:
        raise ImportError(f"to_onnx needs the packages onnx and onnxscript: {INSTALL}") from error
    network = _portable(snn)
    names = [node.name for node in network.graph.nodes if node.op == "placeholder"]
    inputs = tuple(_batch(value).cpu() for value in inputs)
    program = _exported(network, inputs, names[: len(inputs)], table)
    program.model.metadata_props.update(timesteps=f"{snn.timesteps}", spike_levels=f"{snn.spike_levels}")
    model = program.model_proto
    try:
        onnx.checker.check_model(model)
        content = model.SerializeToString()
    except Exception as error:  # onnx and protobuf have classes of their own
        raise ValueError(f"snn: cannot be written as an ONNX file: {error}") from error
    with open(path, "wb") as file:
        file.write(content)


def _inputs(example):
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    for value in inputs:
        checks.tensor("example", value, min_dim=1)
    if not inputs or len({len(value) for value in inputs}) > 1 or not len(inputs[0]):
        sizes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise ValueError(f"example: expected one or more tensors [N, ...] of one N > 0, got shapes {sizes or 'none'}")
    return inputs


def _batch(value):
    """At least two of a batch: of a size 1 torch.export cannot tell whether it may be another."""
    return torch.cat([value, value]) if len(value) == 1 else value


def _portable(snn):
    """A copy of the network on the CPU with portable layers."""
    network = copy.deepcopy(snn.network).cpu()
    for node in network.graph.nodes:
        if node.op == "call_module":
            found = portable(node.target, network.get_submodule(node.target))
            if found is not None:
                network.set_submodule(node.target, found)
    network.recompile()
    return network


def _exported(network, inputs, names, table):
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            network(*inputs)
    except Exception as error:  # whatever the network does
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise ValueError(f"example: the network does not run on inputs of shape {shapes}: {error}") from error
    options: dict[str, Any] = dict(custom_translation_table=table, opset_version=OPSET, dynamo=True, verbose=False)
    try:
        return torch.onnx.export(
            _Positional(network).eval(),
            inputs,
            dynamic_shapes=(({0: batch},) * len(inputs),),
            input_names=names,
            **options,
        )
    except Exception as error:  # torch.export and torch.onnx have many
        raise ValueError(f"snn: has no form in ONNX: {_reason(error)}") from error


class _Positional(nn.Module):
    """The network with its inputs by position, so that the shapes of all are given as one tuple."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return self.network(*inputs)


def _reason(error):
    """What torch says of the last cause, without the advice in front."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:600]
