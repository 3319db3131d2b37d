"""Networks as folders of the Hugging Face Hub's form; nothing is uploaded."""

import json

import pytest
import torch
from torch import nn

import pcsnn
from pcsnn import hub

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
pytest.importorskip("jinja2", reason="jinja2, which makes model cards, is not installed")

DATA = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def converted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    return pcsnn.convert(net, 5, calibration=DATA, method="max", spike_levels=3, progress=False)


def test_a_folder_gives_the_network_back(tmp_path):
    snn = converted()
    hub.save_pretrained(snn, tmp_path / "my-network", description="Made for a test.")
    assert {path.name for path in (tmp_path / "my-network").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    again = hub.from_pretrained(tmp_path / "my-network")
    assert isinstance(again, pcsnn.SpikingNetwork) and torch.equal(again(DATA), snn(DATA))
    assert str(again.report) == str(snn.report)
    assert torch.equal(pcsnn.load(tmp_path / "my-network" / "model.safetensors")(DATA), snn(DATA))
    assert json.loads((tmp_path / "my-network" / "config.json").read_text()) == {
        "pcsnn": {"timesteps": 5, "spike_levels": 3, "method": "max"}
    }


def test_the_card_says_what_the_report_says(tmp_path):
    snn = converted()
    hub.save_pretrained(snn, tmp_path / "net", title="user/net", description="Made for a test.")
    card = (tmp_path / "net" / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: pcsnn" in card and "spiking-neural-network" in card
    assert "# user/net\n" in card and "Made for a test." in card
    assert "T = 5, D = 3" in card and "method max" in card and 'pcsnn.hub.from_pretrained("net")' in card
    assert str(snn.report) in card


def test_the_mixin_is_there_too(tmp_path):
    network = hub.hub_network()(converted())
    network.save_pretrained(tmp_path)
    again = hub.hub_network().from_pretrained(tmp_path)
    assert torch.equal(again(DATA), network(DATA)) and again.snn.timesteps == 5


def test_what_is_no_network_is_refused(tmp_path):
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
        hub.save_pretrained(nn.ReLU(), tmp_path / "net")
    assert not (tmp_path / "net").exists()
    with pytest.raises(FileNotFoundError):
        hub.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no network")
    with pytest.raises(ValueError):
        hub.from_pretrained(tmp_path)
