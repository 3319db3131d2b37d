"""pcsnn report: one HTML page."""

import base64
import io
import os
import pathlib
from html.parser import HTMLParser

import pytest
import torch
from cli_cases import ANALOG, NET, QUICK, folder, inside, lines, run, swept  # noqa: F401 (fixtures)
from PIL import Image
from tiny_networks import one_thread  # noqa: F401

import pcsnn


class Page(HTMLParser):
    """Sections, words, and whatever a browser would load."""

    def __init__(self, content):
        super().__init__()
        self.sections, self.loaded, self.words, self.open = [], [], "", []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "section":
            self.sections.append(found["id"])
        assert tag not in ("script", "link", "iframe")
        self.loaded += [found[name] for name in ("src", "href") if name in found]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def report(path, *options):
    code = run("report", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", path, *options)
    assert code == 0
    content = path.read_text()
    page = Page(content)
    assert not page.open and "url(" not in content and "@import" not in content
    pictures = [place.partition("base64,")[2] for place in page.loaded if not place.startswith("#")]
    assert len(pictures) == sum(place.startswith("data:image/png;base64,") for place in page.loaded)
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    return page, len(pictures)


SECTIONS = ["summary", "conversion", "errors", "rates", "rasters", "operations", "speed", "sweep", "machine"]


def test_report_is_one_file(tmp_path, swept):
    page, pictures = report(tmp_path / "r.html", "--sweep", swept, "--layers", "2")
    assert page.sections == SECTIONS and pictures == 1 + 2 + 1 + 3
    assert sorted(page.loaded)[:9] == sorted(f"#{name}" for name in SECTIONS)
    row = lines(swept)[1]
    for words in (
        f"{100 * row['accuracy']:.2f} %",
        "Conv2d",
        "QCFS L = 4",
        "propagated",
        "times faster than serial",
        "sparsity",
        f"{row['logit_error']:.4f}",
        pcsnn.backend_info()["torch"],
    ):
        assert words in page.words
    assert os.listdir(tmp_path) == ["r.html"]


def test_report_without_sweep_escapes(tmp_path):
    odd = pathlib.Path("<b>&photos")
    if not odd.exists():
        os.symlink("photos", odd, target_is_directory=True)
    page, pictures = report(tmp_path / "r.html", "--data", odd)
    assert page.sections == SECTIONS and pictures == 1 + 2 + 2
    assert "<b>&photos" in page.words and "--sweep sweep.jsonl shows it here" in page.words


def test_report_with_analog_operations(tmp_path):
    path = tmp_path / "r.html"
    assert run("report", *ANALOG, "--data", "photos", "--timesteps", 2, *QUICK, "--output", path) == 0
    page = Page(path.read_text())
    assert "speed" not in page.sections and "Not measured: 5 stays analog" in page.words


@pytest.mark.parametrize(
    "options, code, words",
    [
        (
            ("--model-args", '{"seed": 1}', "--sweep", "swept.jsonl"),
            1,
            "--sweep: swept.jsonl is of another network or conversion: model_args, state",
        ),
        (("--sweep", "none.jsonl"), 1, "--sweep: no file none.jsonl"),
        (("--layers", "nine"), 2, "--layers: expected names among 2, 4, got nine"),
    ],
)
def test_report_refuses(tmp_path, capsys, swept, options, code, words):
    common = ("report", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", tmp_path / "r.html")
    assert run(*common, *options) == code
    assert words in capsys.readouterr().err and not os.listdir(tmp_path)


HOSTILE = """
import torch
from torch import nn

NAMES = ["<script>alert(1)<_script>", "'onload=alert(2) x='", "a'b<b>&amp;", "$x_{$",
         "é漢🙂\\u202e", "a$b^{", "100%s{0}", "x" * 200]

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in NAMES:
            self.add_module(name, nn.ReLU())
            self.add_module(f"{name}$", nn.Conv2d(3, 3, 3, padding=1))
        self.last = nn.Linear(192, 3)

    def forward(self, x):
        for name in NAMES:
            x = self._modules[name](self._modules[f"{name}$"](x))
        return self.last(x.flatten(1))
"""


@pytest.mark.filterwarnings("ignore:Glyph")  # of letters that the font has not
@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_names_with_quotes_markup_and_other_letters(tmp_path, folder, capsys):
    (folder / "hostile_nets.py").write_text(HOSTILE)
    path, odd = tmp_path / "r.html", tmp_path / "d$a_{$<i>'\"é漢.npz"
    os.link("arrays.npz", odd)
    options = ("hostile_nets:Named", "--method", "max", "--data", odd, "--timesteps", 2, *QUICK)
    assert run("sweep", *options, "--output", tmp_path / "s.jsonl") == 0
    assert run("report", *options, "--sweep", tmp_path / "s.jsonl", "--output", path) == 0
    page = Page(path.read_text("utf-8"))  # which refuses scripts, and whatever is loaded
    import hostile_nets

    assert not page.open and all(name in page.words for name in hostile_nets.NAMES)
    assert all(place.startswith(("#", "data:image/png;base64,")) for place in page.loaded)
    assert str(odd.name) in page.words and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["$x_{$", "a$b$c", "\\$", "$"])
def test_pictures_take_names_as_they_are(tmp_path, name):
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), pcsnn.nn.QCFS(4), torch.nn.Linear(8, 3))
    for layer in net:
        torch.nn.init.ones_(layer.weight) if hasattr(layer, "weight") else None
    x = torch.rand(4, 6)
    snn = pcsnn.convert(net, 4)
    with pcsnn.record(snn) as recording:
        snn(x)
    errors = pcsnn.analysis.layer_errors(net, snn, x, progress=False)
    errors.rows[0].name = name
    for parts in (recording._layers, recording._parts):
        parts[name] = parts.pop("1")
    errors.plot(tmp_path / "errors.png")
    for number, draw in enumerate((pcsnn.analysis.plot_rates, pcsnn.analysis.plot_histograms)):
        draw(recording, tmp_path / f"{number}.png")
    pcsnn.analysis.plot_raster(recording, name, tmp_path / "raster.png")
    assert len(os.listdir(tmp_path)) == 4
