"""ONNX files of float networks as networks of torch, which `pcsnn.convert` takes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import fx, nn

INSTALL = "pip install pcsnn[onnx]"
VERSIONS = 13, 17  # of the operators that onnx2torch knows
FLOATS = (1, 10, 11, 16)  # types of elements in ONNX: float32, float16, float64, bfloat16
LARGEST = 2**31  # elements of a constant that is computed here


def read_onnx(path: str | os.PathLike[str]) -> fx.GraphModule:
    """A float network in an ONNX file as a torch.fx.GraphModule of torch.nn layers, for `pcsnn.convert`.

    Read by the package onnx2torch, of operators of any opset that onnx can convert to 13..17. Constants are computed
    first. The batch is open in what is returned: where the file fixes it, reshapes are made for any other as well.

    Args:
        path: of a file whose inputs are [N, ...]; weights in files beside it are read too.

    Returns:
        GraphModule in evaluation mode, float32 weights.

    Raises:
        ImportError: the packages onnx, onnxscript and onnx2torch are not installed.
        FileNotFoundError: no such file.
        ValueError: no ONNX file; operators that onnx2torch does not know, which the message names.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401

        convert = _onnx2torch().convert
    except ImportError as error:
        raise ImportError(f"read_onnx needs the packages onnx, onnxscript and onnx2torch: {INSTALL}") from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path: no file {os.fspath(path)}")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx have classes of their own
        raise ValueError(f"path: {os.fspath(path)} is no ONNX file: {_first(error)}") from error
    try:
        batch = _fix_batch(model)
        model = _known_version(onnx, model)
        model = _constants(model)
        _as_sums_of_two(onnx, model)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        _open_batch(onnx, model, batch)
        network = convert(model)
    except Exception as error:  # of three packages, each with classes of its own
        raise ValueError(f"path: cannot read {os.fspath(path)}: {_first(error)}") from error
    if _divides_floats_only(model):
        for layer in network.modules():
            if getattr(getattr(layer, "math_op_function", None), "__name__", "") == "_onnx_div":
                layer.math_op_function = torch.div  # that one asks at every call whether its values are whole
    _bind(network)
    return network.eval().requires_grad_(False)


def _first(error):
    return " ".join(f"{error}".split())[:400] or type(error).__name__


@contextlib.contextmanager
def _stand_in(name):
    """An empty module of a name for as long as the block lasts."""
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    try:
        yield module
    finally:
        del sys.modules[name]


def _onnx2torch():
    """The package onnx2torch. It wants torchvision, for the boxes of detectors alone, and a torchvision that was built
    for another torch cannot be imported; then there are no boxes."""
    try:
        return importlib.import_module("onnx2torch")
    except (ImportError, RuntimeError):
        if importlib.util.find_spec("onnx2torch") is None:
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "onnx2torch")]:
        del sys.modules[name]
    with _stand_in("torchvision"), _stand_in("torchvision.ops") as boxes:
        boxes.roi_align = None  # type: ignore[attr-defined]
        return importlib.import_module("onnx2torch")


def _inputs(model):
    """The inputs of a graph, which then has only those: constants need not be inputs too since IR version 4."""
    graph = model.graph
    constants = {value.name for value in graph.initializer}
    kept = [value for value in graph.input if value.name not in constants]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)
        model.ir_version = max(model.ir_version, 4)
    return graph.input


def _fix_batch(model):
    """The size of the batch, 1 where the file leaves it open; then all inputs have it, so that shapes are known."""
    sizes = [value.type.tensor_type.shape.dim for value in _inputs(model)]
    batch = next((dims[0].dim_value for dims in sizes if len(dims) and dims[0].dim_value > 0), 1)
    for dims in sizes:
        if len(dims) and not dims[0].dim_value:
            dims[0].dim_value = batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return batch


def _known_version(onnx, model):
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    wanted = min(max(version, VERSIONS[0]), VERSIONS[1])
    return model if version == wanted else onnx.version_converter.convert_version(model, wanted)


def _constants(model):
    """What follows from constants, as constants of the graph and not of nodes."""
    import onnx_ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass
    from onnxscript import optimizer

    made = onnx_ir.serde.deserialize_model(model)
    fold = lambda node: True if node.op_type == "ConstantOfShape" else None
    optimizer.fold_constants(made, onnx_shape_inference=True, output_size_limit=LARGEST, should_fold=fold)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(made)
    optimizer.remove_unused_nodes(made)
    return onnx_ir.serde.serialize_model(made)


def _as_sums_of_two(onnx, model):
    """Sums of several values, for which onnx2torch asks the shapes of all, one after the other."""
    nodes = []
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Sum":
            nodes.append(node)
            continue
        total, *others = node.input
        for place, other in enumerate(others):
            out = node.output[0] if place == len(others) - 1 else f"sum_{number}_{place}"
            nodes.append(onnx.helper.make_node("Add", [total, other], [out]))
            total = out
        if not others:
            nodes.append(onnx.helper.make_node("Identity", [total], node.output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _divides_floats_only(model):
    graph = model.graph
    known = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    return all(known.get(node.output[0]) in FLOATS for node in graph.node if node.op_type == "Div")


def _open_batch(onnx, model, batch):
    """Let every reshape to [batch, ...] take any batch: all other sizes are known, so that it is -1."""
    graph = model.graph
    known = {value.name: value.type.tensor_type.shape for value in [*graph.value_info, *graph.output]}
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.output[0] not in known:
            continue
        sizes = [dim.dim_value for dim in known[node.output[0]].dim]
        if len(sizes) > 1 and all(size > 0 for size in sizes[1:]) and sizes[0] in (0, batch):
            name = f"open_batch_shape_{number}"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, *sizes[1:]]), name))
            node.input[1] = name
            del node.attribute[:]


class _Bound(nn.Module):
    """A layer with whole numbers among its arguments, which say what it does."""

    def __init__(self, layer, numbers):
        super().__init__()
        self.layer, self.numbers = layer, numbers

    def forward(self, *values: Any) -> Any:
        left = iter(values)
        return self.layer(*(next(left) if number is None else number for number in self.numbers))


def _bind(network):
    """Take sizes, axes and places, which onnx2torch passes as tensors, into the layers, whose graph is then traced."""
    for node in list(network.graph.nodes):
        if node.op != "call_module":
            continue
        values = [_whole(network, part) for part in node.args]
        if any(value is not None for value in values):
            network.set_submodule(node.target, _Bound(network.get_submodule(node.target), values))
            node.args = tuple(part for part, value in zip(node.args, values) if value is None)
    network.graph.eliminate_dead_code()
    network.recompile()


def _whole(network, part):
    if not isinstance(part, fx.Node) or part.op != "get_attr":
        return None
    home, _, name = part.target.rpartition(".")
    value = getattr(network.get_submodule(home), name)
    return None if value.is_floating_point() or not isinstance(value, torch.Tensor) else value
