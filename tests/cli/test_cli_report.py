"""pcsnn report: one HTML page."""

import json
import os
import pathlib
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest
import torch
from cli_cases import ANALOG, NET, QUICK, folder, inside, lines, run, swept, within  # noqa: F401 (fixtures)
from tiny_networks import one_thread  # noqa: F401

import pcsnn
from pcsnn.cli import content, html

LIBRARY = html.asset("plotly-basic.min.js")


class Page(HTMLParser):
    """Sections, words, charts, and whatever a browser would load."""

    def __init__(self, content):
        super().__init__()
        self.sections, self.loaded, self.words, self.open, self.ids, self.charts = [], [], "", [], set(), []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "section":
            self.sections.append(found["id"])
        assert tag not in ("link", "iframe", "img") and (tag != "script" or "src" not in found)
        self.ids.add(found.get("id"))
        if found.get("class") == "chart":
            self.charts.append("")
        self.loaded += [found[name] for name in ("src", "href") if name in found]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"] and self.open[-2:] == ["div", "script"]:
            self.charts[-1] += data
        elif self.open[-1:] not in (["script"], ["style"]):
            self.words += data


def read(path):
    """The Page of a file, of which nothing is loaded from elsewhere, and whose charts are JSON."""
    content = path.read_text("utf-8")
    page, own = Page(content), content.replace(LIBRARY, "")
    assert not page.open and "url(" not in own and "@import" not in own and len(content) < 3 * 2**20
    assert "http:" not in own and "https:" not in own
    assert all(place.startswith("#") and place[1:] in page.ids for place in page.loaded)
    charts = [json.loads(chart) for chart in page.charts]
    assert all(chart["title"] and (chart["data"] or chart["raster"]["trains"]) for chart in charts)
    return page, charts


def report(path, *options):
    code = run("report", *NET, "--data", "photos", "--timesteps", 2, *QUICK, "--output", path, *options)
    assert code == 0
    page, charts = read(path)
    return page, len(charts)


SECTIONS = ["summary", "conversion", "errors", "rates", "rasters", "operations", "speed", "sweep", "machine"]


def test_report_is_one_file(tmp_path, swept):
    page, charts = report(tmp_path / "r.html", "--sweep", swept, "--layers", "2")
    assert page.sections == SECTIONS and charts == 3 + 3 + 3 + 2 + 1 + 6
    assert {f"#{name}" for name in SECTIONS} | {"#layer-0"} == set(page.loaded)
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
    page, charts = report(tmp_path / "r.html", "--data", odd)
    assert page.sections == SECTIONS and charts == 3 + 3 + 2 * 3 + 2 + 1
    assert page.loaded.count("#layer-1") == 3  # of the conversion report, the errors, the rates
    assert "<b>&photos" in page.words and "--sweep sweep.jsonl shows it here" in page.words


def test_report_with_analog_operations(tmp_path):
    path = tmp_path / "r.html"
    assert run("report", *ANALOG, "--data", "photos", "--timesteps", 2, *QUICK, "--output", path) == 0
    page, _ = read(path)
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
        (
            ("--compare", "swept.jsonl", "swept.jsonl"),
            2,
            "--compare: expected two reports and --output alone, got MODEL",
        ),
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
    page, _ = read(path)
    import hostile_nets

    assert all(name in page.words for name in hostile_nets.NAMES)
    assert page_in_browser(path, tmp_path)["problems"] == []
    assert str(odd.name) in page.words and "Traceback" not in capsys.readouterr().err


BEGIN = """<script>var problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => problems.push(words.join(" "));</script>"""
END = """<script>
const column = (table, at) => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
const table = document.querySelector("#rates table, #layers table");
const found = { problems, sorts: [], before: column(table, 1), heading: document.querySelectorAll("th button").length };
for (let turn = 0; turn < 3; turn += 1) {
  table.tHead.rows[0].cells[1].querySelector("button").click();
  found.sorts.push(column(table, 1));
}
const colour = () => getComputedStyle(document.body).backgroundColor;
found.colours = [colour()];
document.getElementById("theme").click();
found.colours.push(colour());
document.querySelectorAll("details").forEach((part) => { part.open = false; });
const link = document.querySelector("td a");
if (link) link.click();
dispatchEvent(new Event("beforeprint"));  // all charts are drawn, as if they had come into view
setTimeout(() => {
  const hidden = (chart) => chart.closest("details:not([open])");
  found.opened = [...document.querySelectorAll("details")].map((part) => part.open);
  found.charts = [...document.querySelectorAll(".chart")].filter((chart) => !hidden(chart)).map(
    (chart) => chart.querySelectorAll(".main-svg").length > 0);
  found.paper = document.querySelector(".main-svg").style.background;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  const told = document.body.appendChild(document.createElement("pre"));
  told.id = "found";
  told.textContent = JSON.stringify(found);
}, 3000);
</script></body>"""


def page_in_browser(path, folder, width=1200):
    """What a page does in headless Chromium, opened from the disk: what it complains of, and how it answers clicks."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    content = path.read_text("utf-8").replace("<head>", f"<head>{BEGIN}", 1)
    head, _, tail = content.rpartition("</body>")
    probe = folder / "probe.html"
    probe.write_text(head + END + tail, "utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}", "--dump-dom")
    options = (*options, f"--window-size={width},900", "--virtual-time-budget=20000", probe.as_uri())
    done = subprocess.run([browser, *options], capture_output=True, text=True, timeout=500)
    found = done.stdout.rpartition('<pre id="found">')[2].partition("</pre>")[0]
    assert found, done.stderr[-2000:]
    shutil.rmtree(folder / "browser", ignore_errors=True)
    return json.loads(unescape(found))


def check_in_browser(path, folder, width):
    found = page_in_browser(path, folder, width)
    assert found["problems"] == [] and found["charts"] and all(found["charts"]) and found["heading"]
    up, down, again = found["sorts"]
    numbers = [float(word.replace(",", "")) for word in up]
    assert numbers == sorted(numbers) and down == up[::-1] and again == found["before"]
    assert found["colours"][0] != found["colours"][1] and found["wide"] <= 0
    return found


@pytest.mark.parametrize("width", [1200, 400])
def test_report_in_a_browser(tmp_path, swept, width):
    path = tmp_path / "r.html"
    report(path, "--sweep", swept)
    found = check_in_browser(path, tmp_path, width)
    assert found["opened"] == [True, False]  # the layer that the first link leads to


def compared(tmp_path, *reports):
    output = tmp_path / "c.html"
    assert run("report", "--compare", *reports, "--output", output) == 0
    return output


def test_comparison(tmp_path):
    paths = [tmp_path / "a.html", tmp_path / "b.html"]
    report(paths[0])
    report(paths[1], "--timesteps", 4, "--spike-levels", 2)
    path = compared(tmp_path, *paths)
    page, charts = read(path)
    assert page.sections == ["summary", "layers", "operations", "conversion", "facts"] and len(charts) == 3 + 2
    rows = [content.read(path, "--compare")["row"] for path in paths]
    assert [(row["timesteps"], row["spike_levels"]) for row in rows] == [(2, 1), (4, 2)]
    for words in (
        *(f"{row['logit_error']:.4f}" for row in rows),
        f"{rows[1]['logit_error'] - rows[0]['logit_error']:.4f}",
    ):
        assert words in page.words
    check_in_browser(path, tmp_path, 1200)


def test_comparison_of_one_with_itself(tmp_path):
    report(tmp_path / "a.html")
    page, _ = read(compared(tmp_path, tmp_path / "a.html", tmp_path / "a.html"))
    assert "The same in both." in page.words


def changed(text, name, value):
    """The page with another value in what a comparison reads."""
    head, mark, rest = text.partition(html.CONTENT)
    held, end, tail = rest.partition("</script>")
    return head + mark + json.dumps(json.loads(held) | {name: value}) + end + tail


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda text: text[:2000], "it is no page that pcsnn report wrote"),
        (lambda text: "no page", "it is no page that pcsnn report wrote"),
        (lambda text: changed(text, "pcsnn_report", 99), "it is a page of another version"),
        (lambda text: changed(text, "row", 3), "its content was changed: row is a int"),
        (lambda text: changed(text, "errors", [{"name": "x"}]), "its content was changed: errors.0.current is missing"),
        (lambda text: changed(text, "operations", {"energy": 1}), "its content was changed: operations."),
        (
            lambda text: changed(text, "conversion", [["a"]]),
            "its content was changed: conversion has a line of 1 texts, not 4",
        ),
    ],
)
@pytest.mark.quick(7)
def test_comparison_refuses(tmp_path, capsys, whole_report, change, words):
    path = tmp_path / "b.html"
    path.write_text(change(whole_report.read_text()))
    assert run("report", "--compare", whole_report, path, "--output", tmp_path / "c.html") == 1
    assert f"--compare: cannot read {path}: {words}" in capsys.readouterr().err and not (tmp_path / "c.html").exists()


def test_comparison_keeps_its_inputs(capsys, whole_report):
    before = whole_report.read_bytes()
    assert run("report", "--compare", whole_report, whole_report, "--output", whole_report) == 2
    assert "is the file of --compare" in capsys.readouterr().err and whole_report.read_bytes() == before


@pytest.fixture(scope="module")
def whole_report(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.html"
    with within(folder):
        report(path)
    return path


def test_report_needs_a_network_or_two_reports(tmp_path, capsys):
    assert run("report", "--output", tmp_path / "r.html") == 2
    assert "arguments are required: MODEL, --data, --timesteps (or --compare A B)" in capsys.readouterr().err


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
