"""Float ONNX files as networks of torch, of old and new opsets, with the batch fixed or open."""

import importlib.util

import numpy as np
import pytest
import torch

import pcsnn
from pcsnn.cli import main

onnx = pytest.importorskip("onnx", reason="pip install pcsnn[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="pip install pcsnn[onnx]")
for package in ("onnx2torch", "onnxscript"):
    if importlib.util.find_spec(package) is None:
        pytest.skip("pip install pcsnn[onnx]", allow_module_level=True)
helper, FLOAT, INT64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def constants(**arrays):
    return [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(0, 0.4, shape).astype(np.float32)


def saved(path, opset, nodes, arrays, batch, also_inputs=False, fills=()):
    """A file of nodes that lead from images [batch, 3, 8, 8] to "out" [batch, 5]; fills: (name, shape, value)."""
    initializers = constants(**arrays)
    for name, shape, value in fills:
        initializers += constants(**{f"{name}_shape": np.array(shape, np.int64)})
        one = helper.make_tensor("value", FLOAT, [1], [value])
        nodes = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=one), *nodes]
    inputs = [helper.make_tensor_value_info("images", FLOAT, [batch, 3, 8, 8])]
    if also_inputs:
        inputs += [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in initializers]
    out = helper.make_tensor_value_info("out", FLOAT, [batch, 5])
    graph = helper.make_graph(nodes, "net", inputs, [out], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if also_inputs else 8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def old(path):
    """As files of 2019: opset 9, the batch fixed, weights that are inputs too, one of them made by an operator."""
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w", "b"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "g", "beta", "mean", "var"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "filled"], ["d"], kernel_shape=[1, 1]),
        node("Sum", ["d", "p"], ["s"]),
        node("Relu", ["s"], ["r2"]),
        node("Reshape", ["r2", "flat"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["out"], transB=1),
    ]
    arrays = dict(
        w=draw(4, 3, 3, 3), b=draw(4), g=1 + draw(4), beta=draw(4), mean=draw(4), var=np.ones(4, np.float32),
        flat=np.array([1, 64]), w2=draw(5, 64), b2=draw(5),
    )  # fmt: skip
    return saved(path, 9, nodes, arrays, 1, also_inputs=True, fills=[("filled", [4, 4, 1, 1], 0.1)])


def new(path):
    """As exporters write today: opset 20, the batch open, a shape that is computed, Clip as ReLU6."""
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Clip", ["c", "low", "high"], ["r"]),
        node("Mul", ["r", "gain"], ["m"]),
        node("ReduceMean", ["m", "axes"], ["mean"], keepdims=0),
        node("Shape", ["mean"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["wanted"], axis=0),
        node("Reshape", ["mean", "wanted"], ["f"]),
        node("MatMul", ["f", "w2"], ["y"]),
        node("Add", ["y", "b2"], ["out"]),
    ]
    arrays = dict(
        w=draw(6, 3, 3, 3), low=np.float32(0), high=np.float32(6), gain=1 + draw(1, 6, 1, 1), axes=np.array([2, 3]),
        zero=np.array([0]), rest=np.array([-1]), w2=draw(6, 5), b2=draw(5),
    )  # fmt: skip
    return saved(path, 20, nodes, arrays, "batch")


@pytest.mark.parametrize("make", [old, new])
def test_a_file_is_read_and_converts(make, tmp_path):
    path = make(tmp_path / "net.onnx")
    net = pcsnn.exchange.read_onnx(path)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    session = runtime.InferenceSession(path)
    for image in images:
        (expected,) = session.run(None, {"images": image[None].numpy()})
        assert np.abs(expected).max() > 0.1 and np.allclose(net(image[None]), expected, atol=1e-5)
    assert torch.allclose(net(images), torch.cat([net(image[None]) for image in images]), atol=1e-5)
    snn = pcsnn.convert(net, 64, calibration=images, method="max")
    assert len(list(snn.neurons())) == (2 if make is old else 1)
    assert (snn(images) - net(images)).abs().max() < 0.2 * net(images).abs().max()


def test_the_command_line_takes_a_file(tmp_path, capsys):
    path = old(tmp_path / "net.onnx")
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    command = ["convert", str(path), "--timesteps", "8", "--method", "max", "--quiet"]
    command += ["--data", str(tmp_path / "data.npz"), "--output", str(tmp_path / "snn.safetensors")]
    assert main(command) == 0
    assert "2 spiking" in capsys.readouterr().out
    assert pcsnn.load(tmp_path / "snn.safetensors")(torch.from_numpy(images).float()).shape == (8, 5)


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="path: no file"):
        pcsnn.exchange.read_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"text\.onnx is no ONNX file"):
        pcsnn.exchange.read_onnx(tmp_path / "text.onnx")
    nodes = [helper.make_node("Det", ["images"], ["out"])]
    with pytest.raises(ValueError, match="Det"):
        pcsnn.exchange.read_onnx(saved(tmp_path / "det.onnx", 13, nodes, {}, "batch"))
    assert main(["convert", str(tmp_path / "none.onnx"), "--timesteps", "4"]) == 1
    assert "MODEL: no file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "text.onnx"), "--timesteps", "4", "--levels", "8"])
    assert "--levels: is for networks in Python" in capsys.readouterr().err
