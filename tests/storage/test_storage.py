"""Networks in files: what comes back is bit-equal, and a file can neither run code nor half replace another."""

import pytest
import torch
import torch.nn.functional as F
from network_files import saved
from safetensors import safe_open
from tiny_networks import LEVELS, NETWORKS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves, tree_structure

import pcsnn
from pcsnn.graph import taxonomy
from pcsnn.nn import QCFS
from pcsnn.storage import functions


def same(one, two):
    return tree_structure(one) == tree_structure(two) and all(map(torch.equal, tree_leaves(one), tree_leaves(two)))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_comes_back_is_bit_equal(name, tmp_path):
    for activation, dtype, timesteps in ((lambda: QCFS(LEVELS), torch.float32, 12), (nn.ReLU, torch.float64, 5)):
        x = inputs(name, dtype)
        snn = pcsnn.convert(build(name, activation, dtype), timesteps, calibration=[x])
        pcsnn.save(snn, tmp_path / "net.safetensors")
        loaded = pcsnn.load(tmp_path / "net.safetensors")
        assert same(loaded(*x), snn(*x))
        assert loaded.timesteps == timesteps and str(loaded.report) == str(snn.report)
        assert loaded.state_dict().keys() == snn.state_dict().keys()
        assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_loaded_network_is_an_ordinary_one(tmp_path):
    snn, path = saved(tmp_path, "residual")
    loaded, x = pcsnn.load(str(path)), inputs("residual")
    assert pcsnn.set_timesteps(loaded, 7) is loaded
    assert torch.equal(loaded(*x), pcsnn.set_timesteps(snn, 7)(*x))
    with pcsnn.record(loaded) as record:
        loaded(*x)
    assert list(record.counts) == ["act", "last"]
    pcsnn.save(loaded, path)
    assert torch.equal(pcsnn.load(path)(*x), loaded(*x))
    assert torch.equal(torch.export.export(loaded, x).module()(*x), loaded(*x))


def test_analog_parts_come_back(tmp_path):
    net = randomise(
        nn.Sequential(
            conv(),
            QCFS(4),
            nn.LeakyReLU(0.3),
            nn.GroupNorm(2, 4),
            nn.Softmax(1),
            nn.Flatten(),
            nn.Linear(256, 8),
            nn.LayerNorm(8),
            nn.PReLU(),
            nn.Linear(8, 8),
            QCFS(4),
        )
    )
    snn, x = pcsnn.convert(net, 4, strict=False), torch.randn(2, 3, 8, 8)
    pcsnn.save(snn, tmp_path / "net")
    assert torch.equal(pcsnn.load(tmp_path / "net")(x), net(x))


def test_every_function_of_the_tables_can_be_saved():
    for function in (*taxonomy.FUNCTIONS, F.relu, F.gelu, torch.softmax):
        assert functions.function(functions.function_name(function)) is function
    assert taxonomy.FUNCTION_METHODS | set(taxonomy.METHODS) <= functions.METHODS
    assert taxonomy.SHAPE_ATTRIBUTES | taxonomy.MOVING_ATTRIBUTES <= functions.ATTRIBUTES


def test_the_safetensors_library_reads_what_is_saved(tmp_path):
    snn, path = saved(tmp_path, "residual")
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"pcsnn", "checksum"}
        found = {name: file.get_tensor(name) for name in file.keys()}
    expected = {name.removeprefix("network."): value for name, value in snn.state_dict().items()}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
