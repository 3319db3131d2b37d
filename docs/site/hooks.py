"""The site of `make docs` (mkdocs.yml): reference pages, pages from outside of docs/, formulas as MathML, links."""

import pathlib
import posixpath
import re

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
OUTSIDE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
MORE = ("pcsnn.calibration",)  # public as well, though `pcsnn.__all__` does not name it
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.S)
NAME = re.compile(r"(?<!<pre>)(?<!</span>)<code>(pcsnn(?:\.\w+)+)(\([^<]*)?</code>(?!</a>)")


def public_names():
    """{module: its public names in order}, of pcsnn and the modules that it shows; read, not imported."""
    package = griffe.load("pcsnn", search_paths=[ROOT], submodules=True)
    modules = {}
    for path in ("pcsnn", *sorted([*(f"pcsnn.{name}" for name in package.exports), *MORE])):
        found = griffe_member(package, path)
        if found.is_module:
            names = [name if isinstance(name, str) else name.name for name in found.exports]
            modules[path] = [name for name in names if not griffe_member(package, f"{path}.{name}").is_module]
    return modules


def griffe_member(package, path):
    """The object of a dotted path below `package`, behind its aliases."""
    parts = path.split(".")[1:]
    found = package[".".join(parts)] if parts else package
    return found.final_target if found.is_alias else found


MODULES = public_names()
IDENTIFIERS = {*MODULES, *(f"{module}.{name}" for module, names in MODULES.items() for name in names)}


def on_config(config):
    """The pages of the reference stand in the navigation."""
    for entry in config.nav:
        if "API" in entry:
            entry["API"] = [{module: f"api/{module}.md"} for module in MODULES]
    return config


def on_files(files, config):
    """Pages that are not in docs/: a reference page for each module, and those of the repository's root."""
    for module, names in MODULES.items():
        blocks = [f"# {module}", f"::: {module}\n    options: {{show_root_heading: false, members: false}}"]
        blocks += [f"::: {module}.{name}" for name in names]
        files.append(File.generated(config, f"api/{module}.md", content="\n\n".join(blocks)))
    for page, source in OUTSIDE.items():
        content = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the repository's root lead to the site's page of it; [name.md](name.md) gets the page's title."""
    for target, source in OUTSIDE.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(source)}", f"]({target}", markdown)
    markdown = re.sub(r"\]\(\.\./README\.md#accuracy\)", "](accuracy.md)", markdown)
    return re.sub(r"\[(\w+\.md)\](?=\((?:\.\./)?\1[#)])", lambda found: f"[{title(found[1])}]", markdown)


def title(page):
    return re.search(r"^# (.*)", (ROOT / "docs" / page).read_text(), re.M)[1].replace("`", "")


def on_page_content(html, page, config, files):
    """Formulas become MathML, which browsers draw without scripts; names of pcsnn lead to the reference."""
    html = FORMULA.sub(lambda found: mathml(found[2], found[1] == "div"), html)
    html = NAME.sub(linked, html)
    if page.file.src_uri.startswith("api/"):
        html = re.sub(r"\bdocs/(\w+)\.md", lambda found: page_link(found, page), html)
    return html


def mathml(formula, block):
    formula = formula.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return convert(formula.strip(), display="block" if block else "inline")


def linked(found):
    if found[1] not in IDENTIFIERS:
        return found[0]
    return f'<autoref identifier="{found[1]}" optional>{found[0]}</autoref>'


def page_link(found, page):
    address = posixpath.relpath(f"{found[1]}.html", posixpath.dirname(page.url))
    return f'<a href="{address}">{found[0]}</a>'
