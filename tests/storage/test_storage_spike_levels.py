"""Files of networks with spikes of several levels (22): what comes back, what is refused, what stays as it was."""

import json

import pytest
import torch
from network_files import parts, write
from tiny_networks import LEVELS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.nn import QCFS
from pcsnn.storage import graph

T, D = 4, 3
NAMES = ["residual", "cat", "average_pools", "depthwise", "attention", "mlp", "conv_bn"]


def same(one, other):
    return all(map(torch.equal, tree_leaves(one), tree_leaves(other)))


def signed():
    net = randomise(nn.Sequential(conv(), nn.SiLU(), conv(4, 4), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(256, 5)))
    (x,) = inputs("conv_bn", batch=12)
    return pcsnn.convert(net, T, calibration=x, method="max", signed=True, spike_levels=D, progress=False), x


def wide(weights, activation=nn.ReLU):
    """An optimised network with a residual branch of counts and an average pool of them."""

    def forward(s, x):
        x = s.b(s.one(s.a(s.stem(x))))
        x = s.pool(s.c(s.two(x) + x))
        return s.last(torch.flatten(s.d(s.three(x)), 1))

    parts = dict(stem=conv(3, 16), one=conv(16, 16), two=conv(16, 16), three=conv(16, 16), pool=nn.AvgPool2d(2))
    net = randomise(network(forward, **parts, last=nn.Linear(256, 3), **{name: activation() for name in "abcd"}))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    snn = pcsnn.convert(net, T, calibration=x, method="quick", spike_levels=D, progress=False)
    return pcsnn.optimize(snn, weights, example_inputs=x), x


def back(snn, path):
    pcsnn.save(snn, path)
    return pcsnn.load(path)


def is_the_same(loaded, snn, *x):
    assert same(loaded(*x), snn(*x)) and loaded.report == snn.report
    assert (loaded.timesteps, loaded.spike_levels) == (snn.timesteps, snn.spike_levels) == (T, D)
    for (name, one), (other, two) in zip(loaded.neurons(), snn.neurons(), strict=True):
        assert name == other and one.neuron.full_count == T * D and torch.equal(one.neuron.levels, two.neuron.levels)
        assert one.neuron.spike_range == two.neuron.spike_range and torch.equal(one.neuron.spike, two.neuron.spike)
    pcsnn.set_timesteps(loaded, 2)
    assert loaded.spike_levels == D and same(loaded(*x), pcsnn.set_timesteps(snn, 2)(*x))
    assert same(pcsnn.set_timesteps(loaded, 6, 1)(*x), snn(*x))


@pytest.mark.filterwarnings("ignore:this network was calibrated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_converted_networks_come_back(name, dtype, tmp_path):
    x = inputs(name, dtype, batch=8)
    for activation, method in ((nn.ReLU, "quick"), (nn.ReLU, "paper"), (lambda: QCFS(LEVELS), "none")):
        data = {} if method == "none" else {"calibration": [x]}
        net = build(name, activation, dtype)
        snn = pcsnn.convert(net, T, method=method, spike_levels=D, progress=False, **data)
        is_the_same(back(snn, tmp_path / "net"), snn, *x)


def test_spikes_of_two_signs_come_back(tmp_path):
    snn, x = signed()
    loaded = back(snn, tmp_path / "net")
    assert {layer.spike_range for _, layer in loaded.neurons()} == {(-D, D)}
    is_the_same(loaded, snn, x)


@pytest.mark.filterwarnings("ignore:this network was calibrated")
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("levels", [None, 4])
def test_optimised_networks_come_back(weights, levels, tmp_path):
    fused, x = wide(weights, nn.ReLU if levels is None else lambda: QCFS(levels))
    read = {getattr(layer, "input_spike_levels", None) for _, layer in fused.neurons()}
    assert D in read or weights == "float32"
    is_the_same(back(fused, tmp_path / "net"), fused, x)


def test_binary_spikes_are_written_as_before(tmp_path):
    snn = pcsnn.convert(build("residual"), LEVELS * D)
    fused = pcsnn.optimize(snn, "int8")
    for binary in (snn, fused):
        pcsnn.save(binary, tmp_path / "net")
        description, _ = parts(tmp_path / "net")
        assert "spike_levels" not in json.dumps(description)
        several = pcsnn.set_timesteps(binary, LEVELS, D)
        pcsnn.save(several, tmp_path / "net")
        description, _ = parts(tmp_path / "net")
        assert description["report"]["spike_levels"] == D
        neurons = neurons_of(description)
        assert len(neurons) == 2 and all(entry["spike_levels"] == D for entry in neurons)


# Files that do not fit themselves


def files(tmp_path):
    """(description, tensors) of a converted network with uneven levels and of an optimised one."""
    (x,) = inputs("residual", batch=8)
    snn = pcsnn.convert(build("residual", nn.ReLU), T, calibration=[x], method="quick", spike_levels=D, progress=False)
    for made in (snn, pcsnn.optimize(snn), wide("int8")[0]):
        pcsnn.save(made, tmp_path / "net")
        yield parts(tmp_path / "net")


def neurons_of(description):
    """Arguments of the layers in which neurons fire."""
    return [entry["arguments"] for entry in description["modules"].values() if "shift" in entry["arguments"]]


def refused(path, description, tensors, words):
    write(path, description, tensors)
    with pytest.raises(ValueError, match=words):
        pcsnn.load(path)


@pytest.mark.parametrize("value", [0, -1, 300, 64, 2**70, True, "2", 2.0, None, [3], {"dict": []}], ids=str)
def test_a_d_that_cannot_be(value, tmp_path):
    for description, tensors in files(tmp_path):
        text = json.dumps(description)
        changed = json.loads(text)
        changed["report"]["spike_levels"] = value
        refused(tmp_path / "changed", changed, tensors, "path: ")
        for key in ("spike_levels", "input_spike_levels", "residual_spike_levels"):
            changed = json.loads(text)
            entry = neurons_of(changed)[-1]
            if key not in entry:
                continue
            entry[key] = value
            refused(tmp_path / "changed", changed, tensors, "path: ")


def test_t_times_d_is_at_most_255(tmp_path):
    for description, tensors in files(tmp_path):
        for entry in neurons_of(description):
            entry["timesteps"] = 128
        description["report"]["timesteps"] = 128
        refused(tmp_path / "changed", description, tensors, "at most 1 at T = 128, got 3|at most 1 where average")


@pytest.mark.parametrize("length", [1, T, T * D - 1, T * D + 1, 255])
def test_bends_have_a_level_for_each_count(length, tmp_path):
    for description, tensors in files(tmp_path):
        name = next(name for name in tensors if name.endswith("bend"))
        assert tensors[name].shape[-1] == T * D
        tensors[name] = torch.zeros(*tensors[name].shape[:-1], length)
        refused(tmp_path / "changed", description, tensors, f"expected {T * D} levels")


def test_a_layer_of_another_d_than_the_report_is_refused(tmp_path):
    """record, sweep and set_timesteps go by the report's D; no file of earlier versions has one, so none is lost."""
    seen = set()
    for description, tensors in files(tmp_path):
        text = json.dumps(description)
        for key in ("spike_levels", "input_spike_levels", "residual_spike_levels"):
            for place, entry in enumerate(json.loads(text)["modules"].values()):
                if entry["arguments"].get(key) != D:
                    continue
                for value in (2, 1, None):
                    changed = json.loads(text)
                    arguments = list(changed["modules"].values())[place]["arguments"]
                    arguments[key] = value
                    if value is None:
                        del arguments[key]
                    words = (
                        rf"report of spike_levels = {D}, and the layer .* of {key} = {value or 1}|expected \d+ levels"
                    )
                    refused(tmp_path / "changed", changed, tensors, words)
                seen.add(key)
                break
        for value in (None, 1, 2):
            changed = json.loads(text)
            changed["report"]["spike_levels"] = value
            if value is None:
                del changed["report"]["spike_levels"]
            words = rf"report of spike_levels = {value or 1}, and the layer .* of spike_levels = {D}"
            refused(tmp_path / "changed", changed, tensors, words)
    assert seen == {"spike_levels", "input_spike_levels", "residual_spike_levels"}


def test_a_network_that_a_hand_took_apart_is_not_saved(tmp_path):
    snn = pcsnn.convert(build("residual"), T, spike_levels=D)
    snn.network.get_submodule("act").set_timesteps(T, 2)
    with pytest.raises(
        ValueError, match="snn: cannot save this network: has a report of spike_levels = 3, and the lay"
    ):
        pcsnn.save(snn, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_levels_that_take_more_memory_than_a_file_may_want(tmp_path, monkeypatch):
    snn = pcsnn.convert(build("residual"), T, spike_levels=D)
    pcsnn.save(snn, tmp_path / "net")
    description, tensors = parts(tmp_path / "net")
    tensors["act.threshold"] = torch.ones(10_000)
    monkeypatch.setattr(graph, "MOST_LEVELS", 3)
    assert 10_000 * T < sum(value.nbytes for value in tensors.values()) < 10_000 * T * D
    refused(tmp_path / "changed", description, tensors, "more than .* levels in all")
