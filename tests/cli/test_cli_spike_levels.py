"""--spike-levels: spikes of several levels (22) on the command line, in files of results and on the page."""

import json

import pytest
import torch
from cli_cases import NET, QUICK, folder, inside, lines, net, photos, run, swept  # noqa: F401 (fixtures)
from test_cli_report import read
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn import analysis
from pcsnn.cli.errors import in_words

SWEEP = ("sweep", *NET, "--data", "photos", *QUICK, "--skip", "time", "operations")


def test_convert_writes_spikes_of_several_levels(tmp_path, capsys):
    path = tmp_path / "snn.safetensors"
    assert run("convert", "cli_nets:make", "--timesteps", 4, "--spike-levels", 2, "--output", path) == 0
    assert "QCFS L = 4: lossless" in (printed := capsys.readouterr().out) and "method none, T = 4, D = 2" in printed
    loaded, x = pcsnn.load(path), photos()[0]
    assert (loaded.timesteps, loaded.spike_levels) == (4, 2) and torch.equal(loaded(x), net()(x))
    options = ("--data", "photos", "--timesteps", 1, "--spike-levels", 15, "--optimize", "int8", "--output", path)
    assert run("convert", *NET, *options) == 0
    snn = pcsnn.convert(net(), 15, calibration=x, method="max")
    assert torch.equal(pcsnn.load(path)(x), pcsnn.optimize(snn, "int8", example_inputs=x)(x))
    assert pcsnn.load(path).report.steps == "T = 1, D = 15"


@pytest.mark.parametrize(
    "options, words",
    [
        (("--timesteps", 4, "--spike-levels", 0), "--spike-levels: expected a whole number in 1..255, got '0'"),
        (("--timesteps", 4, "--spike-levels", "two"), "--spike-levels: expected a whole number in 1..255, got 'two'"),
        (("--timesteps", 16, "--spike-levels", 16), "--spike-levels: expected at most 15 at --timesteps 16, got 16"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "sweep", "report"])
def test_what_does_not_fit_a_byte_is_wrong_usage(command, options, words, tmp_path, capsys):
    output = ("--output", tmp_path / "output")
    assert run(command, "cli_nets:broken", "--data", "missing", *options, *output) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "output").exists()


def test_a_sweep_is_judged_by_its_largest_t(tmp_path, capsys):
    options = ("--timesteps", 2, 100, 3, "--spike-levels", 3, "--output", tmp_path / "s.jsonl")
    assert run(*SWEEP, *options) == 2
    assert "--spike-levels: expected at most 2 at --timesteps 100, got 3" in capsys.readouterr().err
    assert not (tmp_path / "s.jsonl").exists()


def test_errors_of_the_library_name_the_option():
    with pytest.raises(ValueError) as error:
        pcsnn.convert(net(), 200, spike_levels=2)
    assert in_words(error.value, None).startswith("--spike-levels: expected at most 1 at T = 200, got 2")


def test_rows_are_kept_apart_by_t_and_d(tmp_path, capsys, monkeypatch):
    path = tmp_path / "s.jsonl"
    assert run(*SWEEP, "--timesteps", 6, 2, "--output", path) == 0
    assert "  D  " not in capsys.readouterr().out
    several = (*SWEEP, "--timesteps", 2, 3, "--spike-levels", 3, "--output", path)
    assert run(*several) == 0
    told = capsys.readouterr()
    header, *printed = told.out.splitlines()
    assert header.split()[:3] == ["T", "D", "accuracy"] and "there already" not in told.err
    assert [line.split()[:2] for line in printed[1:3]] == [["2", "3"], ["3", "3"]]
    assert printed[-1].startswith("D: a step sends 0..D")
    _, *rows = lines(path)
    assert [(row["timesteps"], row["spike_levels"]) for row in rows] == [(6, 1), (2, 1), (2, 3), (3, 3)]
    same = [{name: value for name, value in row.items() if name not in ("timesteps", "spike_levels")} for row in rows]
    assert same[0] == same[2] != same[1]  # T D = 6
    x, labels = photos()
    expected = analysis.sweep(net(), [(x, labels)], [2, 3], "max", spike_levels=3, progress=False)
    for row, other in zip(rows[2:], expected.rows, strict=True):
        assert {name: row[name] for name in vars(other)} == pytest.approx(vars(other))
    monkeypatch.setattr(analysis, "sweep", lambda *_, **__: pytest.fail("measured again"))
    content = path.read_bytes()
    assert run(*several) == 0 and path.read_bytes() == content
    assert "goes on; there already: T = 2, 3 with D = 3\n" in capsys.readouterr().err


def test_rows_of_earlier_versions_are_of_binary_spikes(tmp_path, capsys, monkeypatch):
    path = tmp_path / "s.jsonl"
    assert run(*SWEEP, "--timesteps", 2, "--output", path) == 0
    header, row = lines(path)
    del row["spike_levels"]
    path.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    assert run(*SWEEP, "--timesteps", 2, "--spike-levels", 2, "--output", path) == 0
    assert "there already" not in capsys.readouterr().err and len(lines(path)) == 3
    monkeypatch.setattr(analysis, "sweep", lambda *_, **__: pytest.fail("measured again"))
    assert run(*SWEEP, "--timesteps", 2, "--output", path) == 0
    assert "there already: T = 2\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value, words",
    [
        ("2", "line 3 is no result of pcsnn sweep: its spike_levels are '2'"),
        (True, "its spike_levels are 'True'"),
        (None, "its spike_levels are 'None'"),
        (1, "lines 2 and 3 are both of T = 2; delete one"),
        (0, "no complete results of T = 2: spike_levels is not in 1..255"),
        (300, "spike_levels is not in 1..255"),
        (128, "T D is 256, above 255"),
        (10**30, "spike_levels is '1000"),
    ],
)
def test_rows_with_another_d_than_there_can_be(tmp_path, capsys, value, words):
    path = tmp_path / "s.jsonl"
    assert run(*SWEEP, "--timesteps", 2, "--output", path) == 0
    header, row = lines(path)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (header, row, row | {"spike_levels": value})))
    before, _ = path.read_bytes(), capsys.readouterr()
    assert run(*SWEEP, "--timesteps", 2, 3, "--output", path) == 1
    told = capsys.readouterr().err
    assert "--output: " in told and words in told and path.read_bytes() == before


def test_two_lines_of_one_t_and_d(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    assert run(*SWEEP, "--timesteps", 2, "--spike-levels", 3, "--output", path) == 0
    header, row = lines(path)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (header, row, row)))
    assert run(*SWEEP, "--timesteps", 2, "--output", path) == 1
    assert "lines 2 and 3 are both of T = 2, D = 3; delete one of them" in capsys.readouterr().err


# With time, operations and energy: serial form and counts at D


def test_a_sweep_measures_the_serial_form_of_integers_and_its_operations(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    options = ("sweep", *NET, "--data", "photos", *QUICK, "--timesteps", 2, "--spike-levels", 3, "--output", path)
    assert run(*options) == 0
    assert "speed-up" in capsys.readouterr().out
    _, row = lines(path)
    x = photos()[0]
    snn = pcsnn.convert(net(), 2, calibration=x, method="max", spike_levels=3)
    assert row["operations"] == json.loads(json.dumps(analysis.count_operations(snn, x[:2]).as_dict()))
    assert row["operations"]["spike_levels"] == 3
    assert row["time"]["milliseconds"].keys() == {"float", "serial", "spiking"}
    header, whole = path.read_text().splitlines()
    for damage in (
        lambda content: content["energy"].pop("serial integers"),
        lambda content: content["layers"][1]["counts"].pop("packed integers"),
        lambda content: content["layers"][1]["counts"]["serial integers"].update(spike_macs="many"),
        lambda content: content.update(spike_levels=1),
        lambda content: content.update(timesteps=4),
    ):
        changed = json.loads(whole)
        damage(changed["operations"])
        path.write_text(f"{header}\n{json.dumps(changed)}\n")
        assert run(*options) == 1
        told = capsys.readouterr().err
        assert f"--output: {path} has no complete results of T = 2: operations." in told


def test_the_page_shows_d_and_a_sweep_of_several(tmp_path, swept):
    content = lines(swept)
    path = tmp_path / "s.jsonl"
    path.write_bytes(swept.read_bytes())
    common = ("--data", "photos", *QUICK)
    assert run("sweep", *NET, *common, "--timesteps", 1, 2, "--spike-levels", 3, "--output", path) == 0
    assert lines(path)[: len(content)] == content
    page = tmp_path / "r.html"
    options = ("--timesteps", 2, "--spike-levels", 3, "--sweep", path, "--layers", "2", "--output", page)
    assert run("report", *NET, *common, *options) == 0
    found, charts = read(page)
    assert "cli_nets:make, T = 2, D = 3" in found.words and "in 2 steps of 0..3 each" in found.words
    assert "spike levels D" in found.words and "accumulate" in found.words
    assert len(charts) == 3 + 3 + 3 + 2 + 1 + 3 + 2 * 3  # of the sweep three for all, and three of each D
