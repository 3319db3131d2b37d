"""benchmarks/unevenness.py on a tiny network: what it counts, prints, keeps and refuses."""

import json

import pytest
import torch
import unevenness
from lib.calibration_networks import Case
from tiny_networks import one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import baselines

LEVELS = 4


@pytest.fixture
def case(monkeypatch):
    """The benchmark's only network: QCFS activations, of which the second sees currents that change over time."""
    network = randomise(
        nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            pcsnn.nn.QCFS(LEVELS, 1.0),
            nn.Conv2d(6, 8, 3, stride=2),
            pcsnn.nn.QCFS(LEVELS, 1.0),
            nn.Flatten(),
            nn.Linear(72, 5),
        )
    )
    images = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        labels = network(images).argmax(1)
    made = Case("tiny", "A tiny network", network, None, images, labels)
    monkeypatch.setattr(unevenness, "CASES", {"tiny": lambda args: made})
    return made


def run(path, *options):
    unevenness.main(["--networks", "tiny", "--rounds", "1", "--threads", "1", "--json", str(path), *options])
    return {(row["form"], row["timesteps"]): row for row in json.loads(path.read_text())["rows"]}


@torch.no_grad()
def test_counts_of_both_forms_are_compared_one_by_one(case, tmp_path, capsys):
    rows = run(tmp_path / "rows.json", "--pairs", f"{LEVELS}x1")
    snn = pcsnn.convert(case.network, LEVELS, method="none", fold=True, progress=False)
    serial = baselines.serial(snn)
    sums, spikes = [0, 0], [0, 0]
    layers = [serial.network.get_submodule(name) for name, _ in snn.neurons()]
    serial.reset()
    for _ in range(LEVELS):
        current = serial.network.get_submodule("0")(case.images)
        for place, layer in enumerate(layers):
            fired = layer.fire(current)
            sums[place], spikes[place] = sums[place] + current, spikes[place] + fired
            current = serial.network.get_submodule("24"[place])(layer.worth(fired)) if not place else None
    with pcsnn.record(snn) as recorded:
        output = snn(case.images)
    own = whole = rate = neurons = 0
    for (name, neuron), total, fired in zip(snn.neurons(), sums, spikes):
        own += (neuron.counts(total / LEVELS) != fired).sum().item()
        whole += (recorded.counts[name] != fired).sum().item()
        rate += (recorded.counts[name].double() - fired).abs().sum().item() / LEVELS
        neurons += fired.numel()
    row = rows["serial", LEVELS]
    assert 0 < own and 0 < whole
    assert row["own_share"] == pytest.approx(100 * own / neurons)
    assert row["whole_share"] == pytest.approx(100 * whole / neurons)
    assert row["whole_rate"] == pytest.approx(100 * rate / neurons)
    assert row["same"] == (serial(case.images).argmax(1) == output.argmax(1)).double().mean()
    parallel = rows["parallel", LEVELS]
    assert parallel["accuracy"] == parallel["same"] == 1 and parallel["own_share"] == parallel["whole_rate"] == 0
    assert parallel["seconds"].keys() == {"packed", "collapsed"} and row["seconds"].keys() == {"serial"}
    printed = capsys.readouterr().out
    assert "A tiny network: 100.00 % itself, 40 images" in printed
    assert any(line.startswith("serial I-LIF") and f"{row['own_share']:.3f}" in line for line in printed.splitlines())


@torch.no_grad()
def test_spikes_of_several_levels_leave_less_and_at_one_step_nothing(case, tmp_path, capsys):
    rows = run(tmp_path / "rows.json", "--pairs", "4x1", "2x2", "1x4")
    shares = [rows["serial", timesteps]["own_share"] for timesteps in (4, 2, 1)]
    assert shares[0] > shares[1] > shares[2] == 0 and rows["serial", 1]["whole_share"] == 0
    assert {rows["parallel", timesteps]["accuracy"] for timesteps in (4, 2, 1)} == {1}
    snn = pcsnn.convert(case.network, 2, method="none", fold=True, progress=False, spike_levels=2)
    counted = pcsnn.analysis.count_operations(snn, case.images[:16], progress=False)
    row = rows["parallel", 2]
    assert row["accumulates"] == counted.total("packed").accumulates
    assert row["spike_macs"] == counted.total("packed integers").spike_macs > 0
    assert rows["parallel", 4]["spike_macs"] is None and rows["parallel", 1]["spike_macs"] <= row["spike_macs"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("parallel")]
    assert [line[1:3] for line in lines] == [["4", "1"], ["2", "2"], ["1", "4"]]


def test_a_first_layer_that_miscounts_gets_no_row(case, tmp_path, monkeypatch):
    class Late(baselines.serial_network.SerialIF):
        def fire(self, current, residual=None):
            return super().fire(current - 0.2, residual)

    monkeypatch.setattr(baselines.serial_network, "SerialIF", Late)
    with pytest.raises(RuntimeError, match="tiny, T = 4, serial, whose first layer has a constant current: .* counts"):
        run(tmp_path / "rows.json", "--pairs", f"{LEVELS}x1")
    assert not (tmp_path / "rows.json").exists()


def test_bad_options(capsys):
    for pair, words in (("8", "expected TxD, as 4x2, got 8"), ("16x16", "T D of at most 255, got 16x16")):
        with pytest.raises(SystemExit):
            unevenness.main(["--pairs", pair])
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit, match="needs --cifar FOLDER"):
        unevenness.main(["--networks", "cifar-resnet20", "--threads", "1"])
