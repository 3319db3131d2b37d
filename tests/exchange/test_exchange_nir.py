"""NIR graphs: run step by step as serial IF, they give the spikes of the serial baseline."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import build, conv, inputs, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.nn.integrate_fire import IntegrateFire

nir = pytest.importorskip("nir", reason="pip install nir")
HELD = (
    "mlp",
    "convolutions",
    "no_bias",
    "depthwise",
    "grouped",
    "conv_bn",
    "bn_no_affine",
    "linear_bn",
    "bn_after_add",
    "shared_conv_two_norms",
    "shared_block",
    "residual",
    "residual_doubled",
    "three_branches",
    "scaled",
    "average_pool_functions",
    "nested",
)
NOT_HELD = {
    "transposed": "2 (ConvTranspose2d",
    "conv3d": "0 (Conv3d",
    "tokens": "0 (Linear",
    "cat": "cat (cat",
    "max_pools": "0 (MaxPool2d",
    "constant_matrix": "w (a constant",
    "broadcast_sum": "last (CollapsedNeuron",
    "average_pools": "2 (AvgPool2d",
    "add_a_size": "add (add",
    "tuple_output": "one output tensor",
    "two_inputs": "one input",
    "pad": "pad (pad",
    "product": "matmul_average (TimeAverage",
}


def sizes(values):
    return tuple(int(value) for value in np.atleast_1d(values))


def run(graph, x):
    """Serial IF as the graph and its metadata say: (counts of every IF node, mean of the output)."""
    tensor = torch.from_numpy
    order, steps = [], graph.metadata["timesteps"]
    before = {name: [source for source, target in graph.edges if target == name] for name in graph.nodes}
    while len(order) < len(graph.nodes):
        order += [name for name in graph.nodes if name not in order and all(source in order for source in before[name])]
    potential, counts, total = {}, {}, 0
    for _ in range(int(steps)):
        values = {}
        for name in order:
            node = graph.nodes[name]
            value = x if isinstance(node, nir.Input) else sum(values[source] for source in before[name])
            if isinstance(node, nir.Affine):
                value = F.linear(value, tensor(node.weight), tensor(node.bias))
            elif isinstance(node, (nir.Conv1d, nir.Conv2d)):
                function = F.conv1d if isinstance(node, nir.Conv1d) else F.conv2d
                value = function(
                    value,
                    tensor(node.weight),
                    tensor(node.bias),
                    *map(sizes, (node.stride, node.padding, node.dilation)),
                )
            elif isinstance(node, nir.AvgPool2d):
                value = F.avg_pool2d(value, *map(sizes, (node.kernel_size, node.stride, node.padding)))
            elif isinstance(node, nir.Flatten):
                value = value.flatten(1)
            elif isinstance(node, nir.Scale):
                value = value * tensor(node.scale)
            elif isinstance(node, nir.IF):
                assert (node.metadata["reset"], node.metadata["fires"]) == ("subtract", ">=")
                threshold = tensor(node.v_threshold)
                level = potential.get(name, tensor(node.metadata["v_initial"])) + tensor(node.r) * value
                value = (level >= threshold).to(x.dtype)
                potential[name] = level - threshold * value
                counts[name] = counts.get(name, 0) + value
            else:
                assert isinstance(node, (nir.Input, nir.Output)), node
            values[name] = value
        total = total + values["output"]
    return counts, total / steps


def serial_counts(snn, x):
    """(counts of every layer under the names of the graph, mean of the output) of the serial baseline."""
    baseline, counts = pcsnn.baselines.serial(snn), {}

    def add(name):
        def hook(module, arguments, output):
            counts[name] = counts.get(name, 0) + (output != 0).to(output.dtype)

        return hook

    for name, module in baseline.network.named_modules():
        if isinstance(module, SerialIF):
            module.register_forward_hook(add(name.replace(".", "_")))
    return counts, baseline(x)


def check(snn, x, graph=None):
    counts, output = run(pcsnn.exchange.to_nir(snn, x) if graph is None else graph, x)
    expected, mean = serial_counts(snn, x)
    assert counts.keys() == expected.keys() and any(count.any() for count in counts.values())
    for name, count in expected.items():
        assert torch.equal(counts[name], count), name
    torch.testing.assert_close(output, mean)


@pytest.mark.parametrize("name", HELD)
def test_the_graph_fires_as_the_serial_baseline_does(name):
    (x,) = inputs(name, torch.float64)
    check(pcsnn.convert(build(name, dtype=torch.float64), 8), x)
    net = build(name, nn.ReLU, torch.float64)
    check(pcsnn.convert(net, 6, calibration=[(x,)], method="paper"), x)  # offsets and amplitudes, per channel


def test_silent_channels_and_potentials_at_rest():
    net = randomise(
        nn.Sequential(conv(), nn.ReLU(), conv(4, 4), IntegrateFire(1.5, 0.0), nn.Flatten(), nn.Linear(256, 3))
    ).double()
    with torch.no_grad():
        net[0].bias[1] = -100
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    snn = pcsnn.convert(net, 5, calibration=x, method="max")
    graph = pcsnn.exchange.to_nir(snn, x)
    assert not graph.nodes["3"].metadata["v_initial"].any() and (graph.nodes["3"].v_threshold == 1.5).all()
    check(snn, x, graph)


def test_batch_norm_and_what_a_spike_is_worth_are_folded():
    snn = pcsnn.convert(build("conv_bn"), 4)
    graph = pcsnn.exchange.to_nir(snn, inputs("conv_bn")[0])
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert kinds == ["Input", "Conv2d", "IF", "Conv2d", "IF", "Scale", "Output"]
    threshold = snn.network.get_submodule("2").threshold
    assert (graph.nodes["2"].v_threshold == threshold.numpy()).all()
    assert (graph.nodes["2"].metadata["v_initial"] == threshold.numpy() / 2).all()
    assert graph.metadata["timesteps"] == 4


def test_a_graph_from_a_file_fires_the_same(tmp_path):
    (x,) = inputs("average_pool_functions", torch.float64)
    snn = pcsnn.convert(build("average_pool_functions", dtype=torch.float64), 4)
    nir.write(tmp_path / "net.nir", pcsnn.exchange.to_nir(snn, x))
    graph = nir.read(tmp_path / "net.nir")
    for node in graph.nodes.values():
        node.metadata = {
            key: value.decode() if isinstance(value, bytes) else value for key, value in node.metadata.items()
        }
    check(snn, x, graph)


@pytest.mark.parametrize("name", NOT_HELD)
def test_what_nir_cannot_hold_is_named(name):
    snn, x = pcsnn.convert(build(name), 4), inputs(name)
    with pytest.raises(ValueError, match="snn: ") as error:
        pcsnn.exchange.to_nir(snn, x[0])
    assert NOT_HELD[name] in str(error.value)


def test_bad_arguments():
    snn, x = pcsnn.convert(build("conv_bn"), 4), inputs("conv_bn")[0]
    for bad in (build("conv_bn"), None):
        with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
            pcsnn.exchange.to_nir(bad, x)
    with pytest.raises(ValueError, match="snn: is optimised"):
        pcsnn.exchange.to_nir(pcsnn.optimize(pcsnn.convert(build("convolutions"), 4)), x)
    with pytest.raises(TypeError, match="sample: expected a tensor, got list"):
        pcsnn.exchange.to_nir(snn, [x])
    bent = pcsnn.convert(build("conv_bn", nn.ReLU), 4, calibration=x, method="quick", progress=False)
    with pytest.raises(ValueError, match="calibrated to uneven levels"):
        pcsnn.exchange.to_nir(bent, x)


def test_nothing_is_changed():
    snn, x = pcsnn.convert(build("conv_bn"), 4), inputs("conv_bn")[0]
    before, state = snn(x), {key: value.clone() for key, value in snn.state_dict().items()}
    pcsnn.exchange.to_nir(snn, x)
    assert torch.equal(snn(x), before) and all(
        torch.equal(value, state[key]) for key, value in snn.state_dict().items()
    )


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match="pip install nir"):
        pcsnn.exchange.to_nir(pcsnn.convert(build("conv_bn"), 4), inputs("conv_bn")[0])
