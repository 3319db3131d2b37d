"""pcsnn sweep: what it writes and prints, and how it goes on."""

import json
import pathlib

import pytest
import torch
from cli_cases import ANALOG, NET, QUICK, folder, inside, lines, net, photos, run, swept  # noqa: F401 (fixtures)
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn import analysis, baselines
from pcsnn.cli import images, results, sweep, timing


def steady(row):
    """A row without what was timed."""
    return {name: value for name, value in row.items() if name != "time"}


def test_sweep_equals_the_library(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    options = ("--data", "photos", "--calibration", "arrays.npz", "--timesteps", 4, 2)
    assert run("sweep", *NET, *options, *QUICK, "--output", path) == 0
    printed = capsys.readouterr().out
    _header, *rows = lines(path)
    x, labels = photos()
    arrays = images.open_images(pathlib.Path("arrays.npz"), "--calibration", 3)
    seen = torch.stack([images.Prepared(arrays, images.Preparation((8, 8)), None, 0)[place][0] for place in range(9)])
    snns = []
    expected = analysis.sweep(
        net(),
        [(x, labels)],
        [4, 2],
        "max",
        seen,
        after_each=lambda result, snn: snns.append((snn.timesteps, len(result.rows))),
    )
    assert snns == [(4, 1), (2, 2)]
    for row, other in zip(rows, expected.rows, strict=True):
        assert {name: row[name] for name in vars(other)} == pytest.approx(vars(other))
        assert row["float_accuracy"] == expected.float_accuracy
        assert row["time"]["milliseconds"].keys() == {"float", "serial", "spiking"} and row["time"]["batch"] == 2
    snn = pcsnn.convert(net(), 2, calibration=seen, method="max")
    assert rows[1]["operations"] == json.loads(json.dumps(analysis.count_operations(snn, x[:2]).as_dict()))
    assert [line.split()[0] for line in printed.splitlines()[2:4]] == ["2", "4"] and "speed-up" in printed


def test_a_killed_sweep_goes_on(tmp_path, capsys, monkeypatch):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "s.jsonl"
    options = ("sweep", *NET, "--data", "photos", "--timesteps", 2, 3, 4, *QUICK, "--output")
    assert run(*options, whole) == 0
    expected = lines(whole)

    calls = []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return timing.time_forms(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "time_forms", stop)
        assert run(*options, path) == 130
    assert "stopped" in capsys.readouterr().err
    assert list(map(steady, lines(path)[1:])) == list(map(steady, expected[1:2]))
    assert run(*options, path) == 0
    assert "goes on; there already: T = 2\n" in capsys.readouterr().err
    assert lines(path)[0] == expected[0] and list(map(steady, lines(path))) == list(map(steady, expected))

    content = path.read_bytes()
    path.write_bytes(content[:-40])  # killed while it wrote
    assert run(*options, path) == 0
    assert "cut short" in capsys.readouterr().err
    assert list(map(steady, lines(path)[1:])) == list(map(steady, expected[1:]))
    assert path.read_bytes().startswith(content[: content.rindex(b"\n", 0, -1) + 1])

    monkeypatch.setattr(analysis, "sweep", lambda *_, **__: pytest.fail("measured again"))
    content = path.read_bytes()
    assert run(*options, path) == 0
    assert path.read_bytes() == content and "goes on; there already: T = 2, 3, 4\n" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_header_that_was_cut(tmp_path, cut):
    path, settings = tmp_path / "s.jsonl", {"seed": 0, "size": (1, 2)}
    results.Results(path, settings).append({"timesteps": 4})
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    again = results.Results(path, settings)
    again.append({"timesteps": 4})
    assert path.read_bytes() == content and again.done() == {4}


@pytest.mark.parametrize(
    "change, words",
    [
        (("--seed", 1), ["data.seed: 0 there, 1 now", "  seed: 0 there, 1 now"]),
        (("--method", "paper"), ['method: "max" there, "paper" now']),
        (("--images", 5), ["data.images: 12 there, 5 now"]),
        (("--skip", "time"), ["time.rounds: 1 there, null now", "skip: []"]),
        (("--model-args", '{"seed": 1}'), ["state: "]),
        (("--data", "photos/pear"), ["data.content"]),
    ],
)
def test_sweep_refuses_other_settings(swept, capsys, change, words):
    content = swept.read_bytes()
    options = ("sweep", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", swept)
    assert run(*options, *change) == 1
    told = capsys.readouterr().err
    assert "--output: " in told and all(word in told for word in ["results of other settings", *words])
    assert swept.read_bytes() == content


@pytest.mark.parametrize(
    "content, words",
    [
        ("notes without an end", "expected results of pcsnn sweep"),
        ("notes\n", "line 1 is not JSON"),
        ('{"a": 1}\n', "expected results of pcsnn sweep"),
        ('{"pcsnn_sweep": 1, "settings": {}}\nnotes\n{}\n', "line 2 is not JSON"),
    ],
)
def test_sweep_leaves_other_files_alone(tmp_path, capsys, content, words):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    assert run("sweep", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", path) == 1
    assert words in capsys.readouterr().err and path.read_text() == content


def test_analog_operations_have_no_serial_form(tmp_path, capsys):
    options = ("sweep", *ANALOG, "--data", "photos", "--timesteps", 2, *QUICK, "--output", tmp_path / "s.jsonl")
    assert run(*options) == 2
    assert "--skip: expected time operations beside --no-strict: 5 stays analog" in capsys.readouterr().err
    assert not (tmp_path / "s.jsonl").exists()
    assert run(*options, "--skip", "time", "operations") == 0
    row = lines(tmp_path / "s.jsonl")[1]
    assert row["time"] is None and row["operations"] is None


def test_forms_take_turns_after_a_call_of_each(monkeypatch):
    order = []
    for kind in (pcsnn.SpikingNetwork, baselines.SerialNetwork):
        monkeypatch.setattr(
            kind,
            "forward",
            lambda self, x, kind=kind, forward=kind.forward: order.append(kind.__name__) or forward(self, x),
        )
    source, x = net(), torch.rand(2, 3, 8, 8)
    found = timing.time_forms(source, pcsnn.convert(source, 2, calibration=x, method="max"), x, 3, False)
    rounds = [sorted(order[start : start + 2]) for start in range(0, len(order), 2)]
    assert rounds == [["SerialNetwork", "SpikingNetwork"]] * 4
    assert (
        found["rounds"] == 3 and found["batch"] == 2 and all(found["milliseconds"][form] > 0 for form in timing.FORMS)
    )
