"""pcsnn report: one HTML page."""

import base64
import io
import os
import pathlib
from html.parser import HTMLParser

import pytest
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
    for words in (f"{100 * row['accuracy']:.2f} %", "Conv2d", "QCFS L = 4", "propagated", "times faster than serial",
                  "sparsity", f"{row['logit_error']:.4f}", pcsnn.backend_info()["torch"]):
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


@pytest.mark.parametrize("options, code, words", [
    (("--model-args", '{"seed": 1}', "--sweep", "swept.jsonl"), 1,
     "--sweep: swept.jsonl is of another network or conversion: model_args, state"),
    (("--sweep", "none.jsonl"), 1, "--sweep: no file none.jsonl"),
    (("--layers", "nine"), 2, "--layers: expected names among 2, 4, got nine"),
])
def test_report_refuses(tmp_path, capsys, swept, options, code, words):
    common = ("report", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", tmp_path / "r.html")
    assert run(*common, *options) == code
    assert words in capsys.readouterr().err and not os.listdir(tmp_path)
