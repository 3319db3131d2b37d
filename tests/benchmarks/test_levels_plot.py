"""benchmarks/levels_plot.py: what it reads, which points it draws, what it refuses."""

import json

import levels_plot
import pytest


def file(path, *rows):
    path.write_text(json.dumps({"rows": rows}))
    return path


def row(network, method, accuracy, timesteps=None, seed=None, **others):
    return {
        "network": network,
        "method": method,
        "accuracy": accuracy,
        "timesteps": timesteps,
        "seed": seed,
        "images": 10,
        **others,
    }


@pytest.fixture
def files(tmp_path):
    first = file(
        tmp_path / "calibration.json",
        row("resnet34", "float", 0.75),
        row("resnet34", "max", 0.5, 8),
        row("resnet34", "light", 0.7, 8, 0),
        row("resnet34", "light", 0.6, 8, 1),
        row("vgg", "float", 0.9),
        {"network": "vgg", "method": "snnc", "timesteps": None, "seed": None, "why": "not there"},
    )
    second = file(
        tmp_path / "imagenet.json",
        row("resnet34", "float", 0.75, spike_levels=1),
        row("resnet34", "light", 0.72, 2, 0, spike_levels=15),
        row("resnet34", "ptq-mse", 0.4, 3, spike_levels=1),
    )
    return [first, second]


def test_points_are_means_over_seeds_at_levels(files):
    found = levels_plot.read(files)
    assert found.keys() == {"resnet34", "vgg"}
    curves = levels_plot.curves(found["resnet34"])
    assert curves["max"] == [(8, 50)] and curves["ptq-mse"] == [(3, 40)]
    assert curves["light"] == [(8, pytest.approx(65)), (30, 72)]
    assert levels_plot.curves(found["vgg"]) == {}


def test_a_picture_has_a_panel_for_each_network_and_the_published_rows(files, tmp_path, monkeypatch):
    drawn = {}

    def draw(network, rows, axes, draw=levels_plot.draw):
        draw(network, rows, axes)
        drawn[network] = {line.get_label(): line.get_xdata() for line in axes.get_lines()}

    monkeypatch.setattr(levels_plot, "draw", draw)
    levels_plot.main([str(tmp_path / "new" / "levels.png"), *map(str, files)])
    assert (tmp_path / "new" / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert drawn.keys() == {"resnet34", "vgg"} and drawn["vgg"].keys() == {"float network"}
    assert list(drawn["resnet34"]["light"]) == [8, 30]
    assert list(drawn["resnet34"]["H-MT, 4 spikes a step, published"]) == [30, 60, 120, 240]


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    other = file(tmp_path / "other.json", row("vgg", "float", 0.8))
    with pytest.raises(SystemExit, match=r"other.json: vgg has accuracy 0.8, and 0.9 in .*calibration.json"):
        levels_plot.main([str(tmp_path / "a.png"), *map(str, files), str(other)])
    with pytest.raises(SystemExit, match="No such file"):
        levels_plot.main([str(tmp_path / "a.png"), str(tmp_path / "none.json")])
    with pytest.raises(SystemExit, match="no measured row"):
        levels_plot.main([str(tmp_path / "a.png"), str(file(tmp_path / "empty.json"))])
