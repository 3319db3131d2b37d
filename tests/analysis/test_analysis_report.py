"""Tables and pictures of pcsnn.analysis."""

import sys

import pytest
from analysis_cases import ERRORS, data, labelled, two_layers
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn.analysis import layer_errors, sweep


def results():
    net = two_layers()
    snn = pcsnn.convert(net, 4, calibration=data(), method="max")
    return layer_errors(net, snn, data()), sweep(net, [(data(), labelled(net))], [2, 8, 4], "max")


def test_tables():
    errors, result = results()
    lines = str(errors).splitlines()
    assert lines[0].split() == ["layer", "current", "rate", "clipping", "rounding", "propagated", "dead", "saturated"]
    assert set(lines[1]) == {"-", " "} and lines[-1].endswith("method max, T = 4") and len(lines) == 3 + 2
    for line, row in zip(lines[2:], errors.rows):
        assert line.split() == [
            row.name,
            *(f"{getattr(row, name):.4f}" for name in ERRORS),
            f"{100 * row.dead:.1f}",
            "%",
            f"{100 * row.saturated:.1f}",
            "%",
        ]
    lines = str(result).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == ["2", "8", "4"]
    row = result.rows[1]
    assert lines[3].split() == [
        "8",
        f"{100 * row.accuracy:.2f}",
        "%",
        f"{100 * row.fidelity:.2f}",
        "%",
        f"{row.logit_error:.4f}",
        f"{row.spikes_per_neuron:.3f}",
        "max",
    ]
    assert lines[-1] == "float accuracy 68.75 %; method max"
    without = str(sweep(two_layers(), data(), [4], "max")).splitlines()
    assert without[2].split()[:2] == ["4", "-"] and without[-1] == "float accuracy -; method max"


def lines_of(figure):
    return {line.get_label(): list(line.get_ydata()) for axes in figure.axes for line in axes.get_lines()}


def test_pictures(tmp_path):
    errors, result = results()
    figure = errors.plot(tmp_path / "layers.png")
    drawn = lines_of(figure)
    assert all(drawn[name] == [getattr(row, name) for row in errors.rows] for name in ERRORS)
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["1", "3"]
    drawn = lines_of(result.plot(tmp_path / "sweep.png"))
    rows = [result.rows[0], result.rows[2], result.rows[1]]  # by T
    assert drawn["accuracy"] == [100 * row.accuracy for row in rows]
    assert drawn["fidelity"] == [100 * row.fidelity for row in rows]
    for name in ("layers.png", "sweep.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    without = sweep(two_layers(), data(), [4], "max").plot()
    assert "accuracy" not in lines_of(without) and "fidelity" in lines_of(without)


def test_pictures_need_an_extra(monkeypatch):
    errors, result = results()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for drawn in (errors, result):
        with pytest.raises(ImportError, match=r"plots need matplotlib, the extra \[plots\]"):
            drawn.plot()
