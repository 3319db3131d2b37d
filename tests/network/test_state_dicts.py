"""Checkpoints in the forms that training codes write."""

import collections

import pytest
import safetensors.torch
import torch
from cli_cases import folder, inside, net, run  # noqa: F401 (fixtures)
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange import load_qcfs_checkpoint, qcfs_state_dict
from pcsnn.exchange.state_dicts import find_state, unwrapped
from pcsnn.nn import QCFS

WRAPPED = {
    "data parallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled in parallel": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "parallel, compiled": lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
    "in a training module": lambda net: nn.ModuleDict({"model": net}),
    "compiled in a training module": lambda net: nn.ModuleDict({"net": torch.compile(net, backend="eager")}),
}
INSIDE = {
    "itself": lambda state: state,
    "net": lambda state: {"net": state, "acc": 93.1, "epoch": 7},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
    "model": lambda state: {"model": collections.OrderedDict(state), "epoch": 3},
    "nested": lambda state: {"model": {"state_dict": state}},
}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), QCFS(4), nn.Sequential(nn.Linear(4, 4), QCFS(4)), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("inside_of", INSIDE)
def test_qcfs_checkpoints(tmp_path, wrap, inside_of):
    source, x = network(1), torch.randn(5, 3)
    names = qcfs_state_dict(source)
    wrapped = dict(zip(WRAPPED[wrap](source).state_dict(), names.values(), strict=True))
    state = {name.replace(".threshold", ".thresh"): value for name, value in wrapped.items()}
    torch.save(INSIDE[inside_of](state), tmp_path / "net.pth")
    assert torch.equal(load_qcfs_checkpoint(tmp_path / "net.pth", network())(x), source(x))


@pytest.mark.parametrize("wrap", WRAPPED)
def test_weights_of_the_command_line(tmp_path, wrap):
    source, path = net(seed=3), tmp_path / "net.safetensors"
    state = WRAPPED[wrap](source).state_dict()
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)
    assert run("convert", "cli_nets:make", "--weights", path, "--timesteps", 4, "--output", tmp_path / "snn") == 0
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(pcsnn.load(tmp_path / "snn")(x), source(x))


def test_a_wrapper_in_the_middle():
    source = network()
    inner = nn.Sequential(source[0], source[1], nn.DataParallel(source[2]), torch.compile(source[3], backend="eager"))
    assert unwrapped(inner.state_dict(), set(source.state_dict())).keys() == source.state_dict().keys()


def test_names_that_a_network_has_stay():
    wanted = {"module.weight", "net.weight", "_orig_mod.model.weight"}
    assert unwrapped(dict.fromkeys(wanted, 0), wanted).keys() == wanted


def test_two_tensors_of_one_name_are_refused(tmp_path, capsys):
    state = net().state_dict()
    with pytest.raises(ValueError, match="two of its tensors are 0.weight once module., _orig_mod. are left out"):
        unwrapped(state | {"module.0.weight": state["0.weight"]}, set(state))
    safetensors.torch.save_file(
        {name: value.clone().contiguous() for name, value in (state | {"module.0.weight": state["0.weight"]}).items()},
        tmp_path / "net.safetensors",
    )
    assert run("convert", "cli_nets:make", "--weights", tmp_path / "net.safetensors", "--timesteps", 4) == 1
    assert "--weights: " in (told := capsys.readouterr().err) and "two of its tensors are 0.weight" in told


@pytest.mark.parametrize("names", [["module"], ["module.module"], ["", "."], ["module.other", "else"]])
def test_names_that_fit_nothing(names, tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file({name: torch.ones(1) for name in names}, path)
    assert run("convert", "cli_nets:make", "--weights", path, "--timesteps", 4) == 1
    assert "does not fit cli_nets:make" in (told := capsys.readouterr().err) and "Missing key(s)" in told


@pytest.mark.parametrize(
    "checkpoint",
    [
        {},
        {"epoch": 3},
        {"net": {}},
        {"net": {"epoch": 3}},
        [torch.ones(1)],
        None,
        {"net": [torch.ones(1)]},
        {"a": torch.ones(1), "b": 3},
    ],
)
def test_no_state_dict(checkpoint):
    assert find_state(checkpoint) is None
    with pytest.raises(ValueError, match="path_or_state_dict: expected a state dict"):
        load_qcfs_checkpoint(checkpoint, network())
