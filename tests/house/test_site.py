"""The documentation site: mkdocs.yml names every page, the strict build passes, and what it makes stands alone."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from folders import ROOT

import pcsnn

NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers", "mkdocs_jupyter", "latex2mathml")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_site = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)}: not installed, see `make docs`")


def test_the_navigation_names_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"[\w/]+\.(?:md|ipynb)\b", navigation)
    docs = ROOT / "docs"
    pages = {str(path.relative_to(docs)) for path in [*docs.glob("*.md"), *docs.glob("notebooks/*.ipynb")]}
    assert pages <= set(named) and len(named) == len(set(named)), pages.symmetric_difference(named)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@needs_site
@pytest.mark.quick(0)
def test_the_reference_has_every_public_name(site):
    public = [getattr(pcsnn, name) for name in (*pcsnn.__all__, "calibration")]
    for module in [pcsnn, *(value for value in public if hasattr(value, "__all__"))]:
        page = (site / "api" / f"{module.__name__}.html").read_text()
        for name in module.__all__:
            if not hasattr(getattr(module, name), "__path__") and name != "functional":
                assert f'id="{module.__name__}.{name}"' in page, f"{module.__name__}.{name}"


@needs_site
@pytest.mark.quick(0)
def test_pages_take_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        taken = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\"\s>]+)", page.read_text())
        taken += re.findall(r"<link\b[^>]*rel=\"?stylesheet\"?[^>]*href=\"?([^\"\s>]+)", page.read_text())
        assert not [address for address in taken if re.match(r"(https?:)?//", address)], page


@needs_site
@pytest.mark.quick(0)
def test_formulas_are_drawn_without_scripts(site):
    page = (site / "mathematics.html").read_text()
    formulas = (ROOT / "docs/mathematics.md").read_text().count("```math")
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == formulas > 0
    assert "arithmatex" not in page and "\\frac" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
