"""README, CONTRIBUTING and docs/: links, paths and names are real, README's lines run, pages keep their limits."""

import ast
import pkgutil
import re
import subprocess
import sys

import pytest
import torch
from folders import ROOT

FRONT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = FRONT + sorted((ROOT / "docs").glob("*.md"))
TEXT = {page: page.read_text() for page in PAGES}
LINES = {"README.md": 150, "CONTRIBUTING.md": 120}
COLUMNS = 120
FOLDERS = ("pcsnn", "csrc", "kernels", "benchmarks", "tests", "docs")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page in FRONT else f"docs/{page.name}")


def prose(text):
    """Lines of a page without its code and tables, whose width is that of what they show."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    return [line for line in text.splitlines() if not line.startswith(("|", "    "))]


def headings(path):
    """Anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pages
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        path, _, anchor = link.partition("#")
        if not re.match(r"https?://", link):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in headings(target), f"{page.name}: no heading for {link}"


@pages
def test_files_that_are_mentioned_exist(page):
    """Capitals stand for a name that a reader chooses: pcsnn/operators/FAMILY.py."""
    rooms = "|".join(FOLDERS)
    named = re.findall(rf"(?<![\w/.-])(?:{rooms})/[\w./*-]*\w|(?<=`)[\w./*-]+(?:\.py|\.cpp|\.h)(?=`)", TEXT[page])
    named = [
        path for path in named if not re.search("[A-Z]{4}", path) and path != "pcsnn/kernels"
    ]  # `make gpu` makes it
    missing = [path for path in named if not any(ROOT.glob(path)) and not any(ROOT.glob(f"[!.]*/**/{path}"))]
    assert not missing, f"{page.name}: {missing}"


@pages
def test_names_of_pcsnn_that_are_mentioned_exist(page):
    for name in set(re.findall(r"(?<![\w/.])pcsnn(?:\.[A-Za-z_]\w*)+", TEXT[page])):
        pkgutil.resolve_name(name)


@pages
def test_code_that_is_shown_is_python_whose_imports_are_there(page):
    for code in re.findall(r"```python\n(.*?)```", TEXT[page], re.S):
        tree = ast.parse(code)
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), page.name, "exec"), {})


@pages
def test_pages_keep_their_limits(page):
    lines = TEXT[page].splitlines() if page in FRONT else prose(TEXT[page])
    wide = [line for line in lines if len(line) > COLUMNS]
    assert not wide, f"{page.name}: wider than {COLUMNS} columns: {wide}"
    assert page not in FRONT or len(lines) <= LINES[page.name]


def test_every_page_and_picture_is_linked():
    linked = set(re.findall(r"\]\(([\w.]+)\)", (ROOT / "docs/README.md").read_text()))
    assert {page.name for page in PAGES if page not in FRONT} - {"README.md"} <= linked
    drawn = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg", ".jpg")}
    shown = [path for text in TEXT.values() for path in re.findall(r"!\[[^]]*\]\((.*?)\)", text)]
    assert drawn == {path.removeprefix("docs/") for path in shown}


def test_the_lines_of_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT[FRONT[0]], re.S):
        exec(code, ran)
    assert torch.equal(ran["snn"](ran["images"]), ran["logits"]) and ran["spikes"].shape[0] == ran["snn"].timesteps
    assert ran["fast"](ran["images"]).shape == ran["logits"].shape


def test_a_package_index_gets_readme_without_links_that_lead_nowhere_there():
    command = [sys.executable, "setup.py", "--long-description"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {link[:8] for link in re.findall(r"\]\((.*?)\)", shown)} == {"https://"}
    assert "docs/gpu.md" in shown and shown.count("|") == TEXT[FRONT[0]].count("|")


def test_the_picture_is_drawn_and_shows_the_times_of_readme(tmp_path):
    pytest.importorskip("matplotlib")
    import neuron_plot

    for form, milliseconds, _ in neuron_plot.TIMES:
        assert f"{milliseconds:,.1f}".removesuffix(".0") + " ms" in TEXT[FRONT[0]], form
    neuron_plot.draw(tmp_path / "neuron.svg")
    assert (tmp_path / "neuron.svg").read_text().count("<path") > 50
