"""NIR graphs and files that do not fit, or want something else than to be read, are refused by name."""

import random
import sys

import numpy as np
import pytest
import torch
from tiny_networks import build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange import read_nir, to_nir

nir = pytest.importorskip("nir", reason="pip install nir")
h5py = pytest.importorskip("h5py")

from nir_graphs import between, branching, conv2d, ends, fire, graph_of


def leaky(kind):
    one, none = np.ones(2), np.zeros(2)
    return {
        "LIF": lambda: nir.LIF(one, one, none, one),
        "LI": lambda: nir.LI(one, one, none),
        "I": lambda: nir.I(one),
        "CubaLIF": lambda: nir.CubaLIF(one, one, one, none, one),
        "Delay": lambda: nir.Delay(one),
        "CubaLI": lambda: nir.CubaLI(one, one, one, none),
    }[kind]()


@pytest.mark.parametrize("kind", ["LIF", "LI", "I", "CubaLIF", "CubaLI", "Delay"])
def test_neurons_whose_count_is_none_of_the_mean_are_refused(kind):
    with pytest.raises(ValueError, match=rf"path_or_graph: odd \({kind}\): cannot be read: "):
        read_nir(between([2], [2], odd=leaky(kind)))


def wired(*edges, **nodes):
    start, end = ends([2], [2])
    return graph_of(start | nodes | end, [tuple(edge.split(">")) for edge in edges])


def two_ways_in():
    two = np.array([2])
    return graph_of({"i": nir.Input(two), "j": nir.Input(two), "o": nir.Output(two)}, [("i", "o"), ("j", "o")])


def unlike_branches():
    start, end = ends([3, 4, 4], [3, 2, 2])
    nodes = start | {"p": nir.SumPool2d(np.array(2), np.array(2), np.array(0)), "g": fire((3, 2, 2))} | end
    return graph_of(nodes, [("in", "p"), ("in", "g"), ("p", "g"), ("g", "out")])


def linear(weight, bias=None):
    return between([3], [2], a=nir.Linear(weight) if bias is None else nir.Affine(weight, bias))


def conv(shape=(1, 5, 5), taps=(1, 1, 3, 3), image=None, **options):
    return between(shape, [1, 3, 3], c=conv2d(np.ones(taps), shape=image, **options))


def pool(kernel, stride, padding, shape=(1, 4, 4)):
    return between(shape, [4], p=nir.AvgPool2d(np.array(kernel), np.array(stride), np.array(padding)))


def said(**metadata):
    return between([2], [2], f=fire(2, metadata=metadata))


WRONG = {
    "cycle": (lambda: branching([("t", "b")]), "(t, b|b, t) form a cycle"),
    "itself": (lambda: branching([("t", "t")]), "t form a cycle"),
    "to nowhere": (lambda: branching([("t", "no")]), "the edge t -> no names no, and there is no such node"),
    "from nowhere": (lambda: branching([("no", "t")]), "the edge no -> t names no"),
    "twice": (lambda: branching([("in", "a")]), "the edge in -> a stands there twice"),
    "no input": (lambda: graph_of({"f": fire(2), "out": nir.Output(np.array([2]))}), "no Input node"),
    "no output": (lambda: graph_of({"in": nir.Input(np.array([2])), "f": fire(2)}), "no Output node"),
    "unread": (lambda: wired("in>f", "in>g", "f>out", f=fire(2), g=fire(2)), r"g \(IF\): no edge leads from it"),
    "unfed": (lambda: wired("in>f", "g>f", "f>out", f=fire(2), g=fire(2)), r"g \(IF\): no edge leads to it"),
    "before an input": (lambda: wired("in>f", "f>in", "f>out", f=fire(2)), r"in \(Input\): expected nothing before it"),
    "behind an output": (lambda: wired("in>f", "f>out", "out>f", f=fire(2)), r"out \(Output\): expected nothing"),
    "no node": (lambda: between([2], [2], f=3), "f: expected a node of NIR, got int"),
    "empty": (lambda: graph_of({}, []), "has no nodes"),
    "odd edges": (lambda: graph_of(ends([2], [2])[0], [("in", "out", "x")]), "edges: expected pairs"),
    "branches of two shapes": (unlike_branches, r"g \(IF\): adds up values of other shapes, "),
    "inputs": (lambda: linear(np.ones((2, 4)), np.ones(2)), r"a \(Affine\): gets .* \[3\]; expected \[4\]"),
    "bias": (lambda: linear(np.ones((2, 3)), np.ones(3)), r"a \(Affine\): bias: expected 2 values"),
    "matrix": (lambda: linear(np.ones((2, 2, 3))), r"a \(Linear\): weight: expected \[outputs, inputs\]"),
    "nan": (lambda: linear(np.full((2, 3), np.nan)), r"a \(Linear\): weight: holds NaN"),
    "infinite": (lambda: linear(np.full((2, 3), np.inf)), r"a \(Linear\): weight: holds infinity"),
    "text": (lambda: linear(np.full((2, 3), "a")), r"a \(Linear\): weight: expected an array of numbers"),
    "channels": (lambda: conv((2, 5, 5)), r"c \(Conv2d\): gets values of shape \[2, 5, 5\]; expected \[1, 5, 5\]"),
    "image": (lambda: conv(image=(6, 5)), r"c \(Conv2d\): gets values of shape \[1, 5, 5\]; expected \[1, 6, 5\]"),
    "small": (lambda: conv((1, 2, 5)), r"c \(Conv2d\): its window of \[3, 3\] leaves nothing"),
    "groups": (lambda: conv((2, 5, 5), groups=2), r"c \(Conv2d\): groups: expected a divisor of the 1"),
    "stride": (lambda: conv(stride=np.array([0, 1])), r"c \(Conv2d\): stride: expected 2 integers of at least 1"),
    "half": (lambda: conv(dilation=np.array([1.5, 1])), r"c \(Conv2d\): dilation: expected 2 integers"),
    "negative": (lambda: conv(padding=-1), r"c \(Conv2d\): padding: expected 2 integers of at least 0"),
    "strided": (lambda: conv(padding="same", stride=2), r"c \(Conv2d\): padding: expected integers with a stride"),
    "pool": (lambda: pool(2, 2, 0, [4]), r"p \(AvgPool2d\): gets values of shape \[4\]"),
    "pad": (lambda: pool(2, 2, 2), r"p \(AvgPool2d\): padding: expected at most half"),
    "flat": (lambda: between([1, 4], [4], f=nir.Flatten(np.array([2, 2]), 0, -1)), r"f \(Flatten\): .* \[2, 2\]"),
    "dims": (lambda: between([1, 4], [4], f=nir.Flatten(None, 1, 0)), r"f \(Flatten\): expected start_dim and end_dim"),
    "scale": (lambda: between([3], [3], s=nir.Scale(np.ones(4))), r"s \(Scale\): scale: expected .* \[3\], got \[4\]"),
    "size": (lambda: between([3], [3], f=fire(4)), r"f \(IF\): v_threshold: expected the shape .* \[3\], got \[4\]"),
    "zero": (lambda: between([3], [3], f=fire(3, 0.0)), r"f \(IF\): v_threshold: expected values above zero, got 0"),
    "tiny": (lambda: between([3], [3], f=fire(3, 1e-300)), r"f \(IF\): v_threshold / \(r dt\)"),
    "zero step": (lambda: between([3], [3], t=nir.Threshold(np.zeros(3))), r"t \(Threshold\): threshold: expected"),
    "resistance": (lambda: between([3], [3], f=fire(3, r=-1.0)), r"f \(IF\): r: expected values above zero, got -1"),
    "hard reset": (lambda: between([3], [3], f=fire(3, v_reset=np.full(3, 0.25))), r"f \(IF\): v_reset: .* got 0.25"),
    "another reset": (lambda: said(reset="zero"), r"f \(IF\): reset: expected 'subtract', got 'zero'"),
    "strictly": (lambda: said(fires=">"), r"f \(IF\): fires: expected '>='"),
    "uneven start": (lambda: said(v_initial=np.array([0.1, 0.5])), r"f \(IF\): metadata: v_initial: expected the same"),
    "levels": (lambda: said(quantization_levels=0), r"f \(IF\): metadata: quantization_levels: expected an integer"),
    "output": (lambda: between([3], [2], f=fire(3)), r"out \(Output\): gets values of shape \[3\]; expected \[2\]"),
    "size of input": (lambda: between([0], [2], f=fire(2)), r"in \(Input\): shape: expected integers of at least 1"),
    "enormous": (lambda: between([2**20] * 2, [2], f=fire(1)), r"in \(Input\): shape: expected less than 2\^31"),
    "two ways in": (lambda: between([2], [2], g=two_ways_in()), r"g \(NIRGraph\): expected one Input node"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case):
    make, words = WRONG[case]
    with pytest.raises(ValueError, match=f"path_or_graph: .*({words})"):
        read_nir(make())


def test_a_graph_that_holds_itself():
    graph = between([2], [2], f=fire(2))
    graph.nodes["f"] = graph
    with pytest.raises(ValueError, match="path_or_graph: the graph holds itself"):
        read_nir(graph)


def test_bad_arguments(tmp_path):
    graph = between([2], [2], f=fire(2))
    for bad in (None, 3, nn.ReLU(), {"nodes": {}}):
        with pytest.raises(TypeError, match="path_or_graph: expected a nir.NIRGraph or the path"):
            read_nir(bad)
    for named, error, words in (
        (dict(dt=0.0), ValueError, "dt: expected a number above zero"),
        (dict(dt="1"), TypeError, "dt: expected a number"),
        (dict(shift=np.nan), ValueError, "shift: expected a finite"),
        (dict(dtype=torch.int8), ValueError, "dtype: expected torch.float32 or"),
    ):
        with pytest.raises(error, match=words):
            read_nir(graph, **named)
    with pytest.raises(FileNotFoundError, match="path_or_graph: no file"):
        read_nir(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no graph")
    with pytest.raises(ValueError, match="text.nir is no HDF5 file"):
        read_nir(tmp_path / "text.nir")
    with h5py.File(tmp_path / "other.nir", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="other.nir holds no NIR graph"):
        read_nir(tmp_path / "other.nir")


def test_without_the_package_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match="read_nir needs the package nir: pip install nir"):
        read_nir(tmp_path / "net.nir")


# Hostile files


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "net.nir"
    nir.write(path, to_nir(pcsnn.convert(build("convolutions"), 4), inputs("convolutions")[0]))
    return path


EXTRA = "node/nodes/input/extra"
HOSTILE = {
    "external link": lambda file, folder: file.__setitem__(EXTRA, h5py.ExternalLink(str(folder / "other.h5"), "/w")),
    "soft link": lambda file, folder: file.__setitem__(EXTRA, h5py.SoftLink("/version")),
    "bytes of another file": lambda file, folder: file.create_dataset(
        EXTRA, (8,), np.float64, external=[(str(folder / "secret"), 0, 64)]
    ),
    "virtual": lambda file, folder: file.create_virtual_dataset(EXTRA, h5py.VirtualLayout((3,), np.float64)),
    "bomb": lambda file, folder: file.create_dataset(EXTRA, (2**40,), np.float64, chunks=(2**10,)),
    "loop": lambda file, folder: file.__setitem__(EXTRA, file["node"]),
    "objects": lambda file, folder: file.create_dataset(EXTRA, (2,), h5py.ref_dtype),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_files_name_nothing_outside_themselves_and_no_more_than_they_hold(case, written, tmp_path):
    (tmp_path / "secret").write_bytes(np.arange(8.0).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["w"] = np.ones(3)
    with h5py.File(written, "a") as file:
        HOSTILE[case](file, tmp_path)
    why = "link|another file|not in the file|twice|numbers or text"
    with pytest.raises(ValueError, match=f"path_or_graph: /node.*({why})"):
        read_nir(written)


def test_damaged_files_are_refused_or_read(written):
    """Bytes changed at random: a ValueError or a network, and nothing else."""
    original, generator = written.read_bytes(), random.Random(0)
    for _ in range(150):
        data = bytearray(original)
        for _ in range(generator.choice((1, 1, 4, 40))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.1:
            del data[generator.randrange(len(data)) :]
        written.write_bytes(data)
        try:
            read_nir(written)
        except ValueError as error:
            assert str(error).startswith("path_or_graph: "), error


ODD = (
    None,
    "x",
    -1,
    0,
    2**40,
    np.nan,
    np.array([]),
    np.ones((2, 2)),
    np.zeros((1, 1, 1)),
    [[1], [2, 3]],
    {},
    object(),
    1.5,
    b"same",
    True,
)


def test_odd_fields_are_refused_or_read():
    generator = random.Random(1)
    snn, (x,) = pcsnn.convert(build("residual"), 4), inputs("residual")
    for _ in range(400):
        graph = to_nir(snn, x)
        for _ in range(generator.choice((1, 2))):
            kind = generator.random()
            if kind < 0.7:
                node = generator.choice(list(graph.nodes.values()))
                setattr(node, generator.choice(list(vars(node))), generator.choice(ODD))
            elif kind < 0.8:
                del graph.nodes[generator.choice(list(graph.nodes))]
            else:
                names = [*graph.nodes, "nowhere"]
                edge = generator.choice(names), generator.choice(names)
                graph.edges[generator.randrange(len(graph.edges))] = edge
        try:
            out = pcsnn.convert(read_nir(graph), 4)(x)
        except ValueError as error:
            assert str(error).startswith("path_or_graph: "), error
        else:
            assert out.isfinite().all()
