"""benchmarks/ablation.py on a tiny network: every variant changes what it names, and nothing stays changed."""

import ablation
import pytest
import torch
from lib.calibration_networks import Case
from tiny_networks import randomise
from torch import nn

from pcsnn.calibration import METHODS


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch, self.relu = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.relu(self.branch(x) + x)


@pytest.fixture
def case(monkeypatch):
    net = randomise(
        nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.ReLU(),
            Residual(),
            nn.Conv2d(6, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 5),
        )
    )
    test = torch.randn(256, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    calibration = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = net(test).argmax(1)
    made = Case("tiny", "A tiny network", net, calibration, test, labels)
    monkeypatch.setattr(ablation, "cifar_resnet20", lambda args: made)
    return made


def test_every_variant_is_one_of_its_own(case, monkeypatch, capsys):
    converted = {}
    monkeypatch.setattr(
        ablation.pcsnn,
        "convert",
        lambda *args, convert=ablation.pcsnn.convert, **options: converted.setdefault(
            len(converted), convert(*args, **options)
        ),
    )
    variants = {
        name: method.with_options(steps=12)
        if method.seeded and method.options.steps == METHODS[method.name].options.steps
        else method
        for name, method in ablation.VARIANTS.items()
    }
    monkeypatch.setattr(ablation, "VARIANTS", variants)
    before = dict(METHODS)
    ablation.main(["--cifar", "unused", "--timesteps", "3"])
    assert before == METHODS
    states = [torch.cat([value.flatten() for value in snn.state_dict().values()]) for snn in converted.values()]
    assert len(states) == len(ablation.VARIANTS)
    for i, state in enumerate(states):
        for other in states[:i]:
            assert state.shape != other.shape or not torch.equal(state, other)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("T = 3") and [line.split("  ")[0] for line in lines[1:]] == list(ablation.VARIANTS)


def test_what_is_printed_is_the_mean_over_seeds(case, capsys):
    ablation.main(
        ["--cifar", "unused", "--timesteps", "2", "--seeds", "1", "2", "--variants", "max", "light with 150 steps"]
    )
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.count("(") == 1
    each = [float(part.split(" (")[0]) for part in second.split("  ")[-1].split(", ")]
    with torch.no_grad():
        own = case.network(case.images).argmax(1)
    assert each == [round(ablation.measure(case, own, "light with 150 steps", 2, seed)[0], 2) for seed in (1, 2)]
    assert float(second.split()[4]) == pytest.approx(sum(each) / 2, abs=0.01)
