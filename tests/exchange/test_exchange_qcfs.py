"""Checkpoints of the published QCFS code: synthetic ones of that form load, convert losslessly, come back the same."""

import copy

import pytest
import torch
from tiny_networks import conv, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.exchange import load_qcfs_checkpoint, qcfs_state_dict
from pcsnn.nn import QCFS

L = 4


class PublishedActivation(nn.Module):
    """Equation (1), its threshold kept under `key` with shape [1] as in the published checkpoints."""

    def __init__(self, key, threshold, levels=L):
        super().__init__()
        self.key, self.levels = key, levels
        self.register_parameter(key, nn.Parameter(torch.tensor([threshold])))

    def forward(self, z):
        theta = self.get_parameter(self.key)
        return theta / self.levels * torch.floor(z * self.levels / theta + 0.5).clamp(0, self.levels)


def net(*activations):
    one, two, three = activations
    return randomise(
        nn.Sequential(
            nn.Sequential(conv(), nn.BatchNorm2d(4), one, nn.AvgPool2d(2)),
            nn.Sequential(conv(4, 4), two),
            nn.Flatten(),
            nn.Linear(64, 8),
            three,
            nn.Linear(8, 3),
        )
    )


def published(key="thresh"):
    made = net(*(PublishedActivation(key, value) for value in (1.25, 0.8125, 2.5)))
    for module, value in zip((made[0][2], made[1][1], made[4]), (1.25, 0.8125, 2.5)):
        module.get_parameter(key).data.fill_(value)
    return made


def ours(levels=L):
    return net(*(QCFS(levels) for _ in range(3)))


@pytest.mark.parametrize("key", ["thresh", "up"])
@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_a_checkpoint_loads_and_converts_losslessly(key, prefix, tmp_path):
    source, x = published(key), torch.randn(16, 3, 8, 8)
    torch.save({prefix + name: value for name, value in source.state_dict().items()}, tmp_path / "net.pth")
    for model, options in ((ours(), {}), (net(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU()), {"levels": L})):
        for parameter in model.parameters():
            parameter.zero_()
        assert load_qcfs_checkpoint(tmp_path / "net.pth", model, **options) is model
        assert [module.threshold.item() for module in model.modules() if isinstance(module, QCFS)] == [
            1.25,
            0.8125,
            2.5,
        ]
        torch.testing.assert_close(model(x), source(x))
        assert torch.equal(pcsnn.convert(model, L)(x), model(x)) and torch.equal(
            pcsnn.convert(model, 3 * L)(x), model(x)
        )
    wrapped = {"state_dict": source.state_dict(), "epoch": 3}
    assert torch.equal(load_qcfs_checkpoint(wrapped, ours())(x), model(x))


@pytest.mark.parametrize("key", ["thresh", "up"])
def test_round_trip(key, tmp_path):
    model = ours()
    torch.save(qcfs_state_dict(model, key), tmp_path / "net.pth")
    theirs = published(key)
    theirs.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    assert theirs.state_dict()[f"4.{key}"].shape == (1,)
    loaded = load_qcfs_checkpoint(tmp_path / "net.pth", net(QCFS(L, 1.0), QCFS(L, 1.0), QCFS(L, 1.0)))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_bad_checkpoint_changes_nothing(tmp_path):
    state = published().state_dict()
    changed = {
        "it lacks 3.bias": {name: value for name, value in state.items() if name != "3.bias"},
        "the model has no extra.weight": state | {"extra.weight": torch.ones(2)},
        "it lacks 4.threshold": {name: value for name, value in state.items() if name != "4.thresh"},
        "3.weight has shape": state | {"3.weight": torch.ones(2, 2)},
        "4.thresh: expected values above zero, got -1.0": state | {"4.thresh": torch.tensor([-1.0])},
        "4.thresh: expected values above zero, got nan": state | {"4.thresh": torch.tensor([torch.nan])},
        r"4.thresh should be one threshold, got shape \(2,\)": state | {"4.thresh": torch.ones(2)},
        "4 has two thresholds": state | {"4.up": torch.ones(1)},
        "has no module 7": state | {"7.thresh": torch.ones(1)},
        "3 should be a QCFS or a ReLU, got Linear": state | {"3.thresh": torch.ones(1)},
        "no key ends in .thresh or .up": {name: value for name, value in state.items() if not name.endswith("thresh")},
        "expected a state dict": {"epoch": 3},
        "expected a state dict, names and tensors, got list": [1],
    }
    model = ours()
    before = copy.deepcopy(model.state_dict())
    for message, bad in changed.items():
        with pytest.raises(ValueError, match=message):
            load_qcfs_checkpoint(bad, model)
    with pytest.raises(ValueError, match="levels: got 8, but 0.2 of the model is a QCFS of 4"):
        load_qcfs_checkpoint(state, model, levels=8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    relu = net(nn.ReLU(), nn.ReLU(), nn.ReLU())
    with pytest.raises(ValueError, match="levels: expected the level count L of training"):
        load_qcfs_checkpoint(state, relu)
    assert isinstance(relu[4], nn.ReLU)
    shared = QCFS(L)
    with pytest.raises(ValueError, match="one QCFS stands for several"):
        load_qcfs_checkpoint(state, net(shared, shared, QCFS(L)))


def test_bad_files_and_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_qcfs_checkpoint(tmp_path / "none.pth", ours())
    torch.save(ours(), tmp_path / "pickled.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    for name in ("pickled.pth", "text.pth"):
        with pytest.raises(ValueError, match="is no checkpoint of tensors"):
            load_qcfs_checkpoint(tmp_path / name, ours())
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module"):
        load_qcfs_checkpoint({}, None)
    with pytest.raises(ValueError, match="levels: expected a value in 1..255, got 0"):
        load_qcfs_checkpoint({}, ours(), levels=0)
    with pytest.raises(ValueError, match="key: expected thresh or up"):
        qcfs_state_dict(ours(), "theta")
    with pytest.raises(ValueError, match="expected QCFS activations, got none"):
        qcfs_state_dict(nn.Linear(2, 2))


@pytest.mark.parametrize("around", ["net", "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_state_dicts_among_other_things_and_behind_prefixes(around, prefix):
    def make():
        return torch.nn.Sequential(torch.nn.Linear(3, 4), pcsnn.nn.QCFS(4), torch.nn.Linear(4, 2))

    source, x = make(), torch.randn(20, 3)
    source[1].threshold.data.fill_(1.5)
    state = {prefix + key: value for key, value in pcsnn.exchange.qcfs_state_dict(source).items()}
    loaded = pcsnn.exchange.load_qcfs_checkpoint({around: state, "epoch": 3, "acc": 0.9}, make())
    assert torch.equal(loaded(x), source(x))
