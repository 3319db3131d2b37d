"""ONNX files: a runtime that knows nothing of pcsnn gives the network's own outputs."""

import sys

import numpy as np
import pytest
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn import reference
from pcsnn.exchange.onnx.search import Bisection, NearestLevel, search
from pcsnn.levels.signed import signed_levels
from pcsnn.levels.spacing import find_spacing
from pcsnn.nn import QCFS

onnx = pytest.importorskip("onnx", reason="pip install pcsnn[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="pip install pcsnn[onnx]")
pytest.importorskip("onnxscript", reason="pip install pcsnn[onnx]")

EXACT = ("mlp", "tokens", "convolutions", "residual", "two_inputs", "tuple_output", "max_pools", "causal_attention")
INT8 = ("residual", "max_pool_first", "average_pools", "depthwise", "mlp", "cat")


def written(snn, x, path):
    """A session on the file of a network; every operator in it is standard."""
    pcsnn.exchange.to_onnx(snn, path, x)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert {entry.key: entry.value for entry in model.metadata_props}["timesteps"] == f"{snn.timesteps}"
    return runtime.InferenceSession(path), [node.op_type for node in model.graph.node]


def run(session, x):
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, x)})


def dyadic(net):
    """Weights that are multiples of 1/16 and thresholds of 1, so that all sums are exact and many are ties."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 16).round() / 16)
        for module in net.modules():
            if isinstance(module, QCFS):
                module.threshold.fill_(1.0)
    return net


def dyadic_inputs(name, batch):
    return tuple((value * 8).round() / 8 for value in inputs(name, batch=batch, seed=batch))


@pytest.mark.parametrize("form", ["converted", "float32"])
@pytest.mark.parametrize("name", EXACT)
def test_outputs_are_the_same_bits_where_sums_are(name, form, tmp_path):
    snn = pcsnn.convert(dyadic(build(name)), 4)
    snn = pcsnn.optimize(snn) if form == "float32" else snn
    session, _ = written(snn, dyadic_inputs(name, 1), tmp_path / "net.onnx")
    x = dyadic_inputs(name, 5)
    for found, expected in zip(run(session, x), tree_leaves(snn(*x)), strict=True):
        assert expected.any() and np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("name", INT8)
def test_int8_networks_have_equal_counts(name, tmp_path):
    x = inputs(name, batch=4)
    snn = pcsnn.optimize(pcsnn.convert(build(name), 8), "int8", example_inputs=x, first_last=True)
    session, operators = written(snn, x, tmp_path / "net.onnx")
    assert {"ConvInteger", "MatMulInteger"} & set(operators)
    x = inputs(name, batch=7, seed=5)
    for found, expected in zip(run(session, x), tree_leaves(snn(*x)), strict=True):
        assert expected.any() and np.allclose(found, expected, rtol=0, atol=1e-6)  # a count is worth far more


def test_signed_and_calibrated_neurons(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    snn = pcsnn.convert(net, 8, calibration=images, method="light", signed=True)
    session, _ = written(snn, images[:2], tmp_path / "net.onnx")
    (found,) = run(session, (images,))
    assert np.mean(np.abs(found - snn(images).numpy()) < 1e-5) > 0.99  # a sum in another order may cross a level


def table(name):
    """(levels, line or None) by name."""
    generator = torch.Generator().manual_seed(3)
    thetas = torch.rand(5, generator=generator) + 0.1
    if name == "bent":
        return torch.rand(5, 11, generator=generator).sort(-1).values, None
    if name == "signed":
        return signed_levels("silu", 0.05, 60, -4.0)[0], None
    if name == "whole":
        levels = torch.tensor([[-40, -30, -20], [7, 7 + 2**20, 7 + 2**21], [2**31 - 1] * 3], dtype=torch.int32)
        return levels, None
    if name == "whole, uneven":
        return torch.tensor([[-40, -30, -25, 2**31 - 1]], dtype=torch.int32), None
    if name == "silent":
        thetas[2] = torch.inf
    levels = pcsnn.functional.levels(thetas if name != "shared" else 0.37, 200 if name == "many" else 8, offset=0.013)
    return levels, find_spacing(levels).line


@pytest.mark.parametrize(
    "name, form",
    [
        ("shared", NearestLevel),
        ("channels", NearestLevel),
        ("many", NearestLevel),
        ("silent", NearestLevel),
        ("whole", NearestLevel),
        ("whole, uneven", Bisection),
        ("bent", Bisection),
        ("signed", Bisection),
    ],
)
def test_the_search_is_exact_at_ties(name, form):
    """At every level, the values next to it, and far away."""
    levels, line = table(name)
    ends = torch.tensor([-1e9, 1e9, 0.0])
    if levels.dtype == torch.int32:
        near = [levels - 1, levels.clamp(max=2**29), (levels.long() + 1).clamp(max=2**29).int(), (ends / 2).int()]
    else:
        near = [levels.nextafter(torch.tensor(-torch.inf)), levels, levels.nextafter(torch.tensor(torch.inf)), ends]
    values = torch.cat([value.flatten() for value in near])
    values = values[values.abs() < 2**30]
    current = values[:, None].expand(-1, len(levels) if levels.dim() == 2 else 5).contiguous()
    found = search(levels, line, 1)
    assert type(found) is form
    for axis in (1, -1):
        assert torch.equal(search(levels, line, axis)(current).int(), reference.search(current, levels))
    images = current[:, :, None, None].expand(-1, -1, 2, 1)
    assert torch.equal(found(images).int(), reference.search(images, levels))


def test_what_cannot_be_written_is_refused_and_no_file_touched(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("kept")
    snn = pcsnn.convert(build("residual"), 4)
    x = inputs("residual")
    for given, example, error, words in (
        (build("residual"), x, TypeError, "snn: expected a SpikingNetwork"),
        (pcsnn.optimize(snn, "bfloat16"), x, ValueError, "has weights of bfloat16"),
        (pcsnn.convert(build("residual", dtype=torch.float64), 4), x, ValueError, "float32 weights, got torch.float64"),
        (snn, (), ValueError, "example: expected one or more tensors"),
        (snn, [1.0], TypeError, "example"),
        (snn, torch.zeros(2, 5, 8, 8), ValueError, r"example: the network does not run on inputs of shape \(2, 5"),
    ):
        with pytest.raises(error, match=words):
            pcsnn.exchange.to_onnx(given, path, example)
    assert path.read_text() == "kept"


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"to_onnx needs the packages onnx and onnxscript: pip install pcsnn\[onnx\]"):
        pcsnn.exchange.to_onnx(pcsnn.convert(build("mlp"), 4), tmp_path / "net.onnx", inputs("mlp"))
