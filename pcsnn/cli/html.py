"""A page in one file: its style, program and charts stand inside, and nothing is loaded from elsewhere."""

import html
import importlib.resources
import json
import math
import re

from pcsnn.cli.files import PAGE

_NUMBER = re.compile(r"[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)?( ?[%a-zA-Zµ]{1,6})?|-|inf|")
CONTENT = '<script type="application/json" id="pcsnn-report">'  # what follows is read by a comparison


def asset(name):
    """The text of a file that is shipped with the command line."""
    return importlib.resources.files("pcsnn.cli").joinpath("assets", name).read_text(encoding="utf-8")


def text(words, kind="p"):
    """An element of plain text."""
    return f"<{kind}>{html.escape(words)}</{kind}>"


def note(words):
    return f'<p class="note">{html.escape(words)}</p>'


def table(cells, links=None, sortable=True):
    """`cells` as in pcsnn.network.text_table: rows of strings, the first of them the heading. Columns of numbers stand
    right; a click on a heading sorts by its column.

    `links`: {a name in the first column: the id it leads to}.
    """
    heading, *rows = cells
    right = [all(_NUMBER.fullmatch(row[place]) for row in rows) and bool(rows) for place in range(len(heading))]
    classes = [' class="number"' if number else "" for number in right]
    links = {} if links is None else links
    words = [text(cell, "button") if sortable and cell else html.escape(cell) for cell in heading]
    head = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(classes, words))
    body = "\n".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{_linked(cell, links.get(cell)) if place == 0 else html.escape(cell)}</td>"
            for place, (kind, cell) in enumerate(zip(classes, row))
        )
        + "</tr>"
        for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _linked(cell, target):
    return html.escape(cell) if target is None else f'<a href="#{target}">{html.escape(cell)}</a>'


def cards(facts):
    """Figures that are seen first: (what, value, what it is compared with)."""
    inside = "".join(
        f'<div class="card">{text(name, "span")}{text(value, "b")}{text(beside, "i")}</div>'
        for name, value, beside in facts
    )
    return f'<div class="cards">{inside}</div>'


def chart(figure, words, height=320):
    """A chart that the page's program draws of a figure of pcsnn.cli.charts; `words` say what it shows."""
    return (
        f"<figure><figcaption>{html.escape(figure['title'])}</figcaption>"
        f'<div class="chart" style="height:{height}px" role="img" aria-label="{html.escape(words)}">'
        f'<script type="application/json">{data(figure)}</script></div></figure>'
    )


def side_by_side(*charts):
    return f'<div class="beside">{"".join(charts)}</div>'


def fold(name, heading, body, is_open=False):
    """A part that opens and closes."""
    state = " open" if is_open else ""
    return f'<details id="{name}"{state}><summary>{html.escape(heading)}</summary>\n{body}\n</details>'


def plain(value):
    """The same for JSON: what is no finite number becomes None."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data(value):
    """JSON that can stand inside a script element."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def page(title, sections, content=None):
    """The whole page of (name, heading, body in HTML) sections; `content` is what a comparison reads, for JSON."""
    links = "".join(f'<a href="#{name}">{html.escape(heading)}</a> ' for name, heading, _ in sections)
    bodies = "\n".join(
        f'<section id="{name}">\n<h2>{html.escape(heading)}</h2>\n{body}\n</section>'
        for name, heading, body in sections
    )
    inside = "" if content is None else f"{CONTENT}{data(content)}</script>\n"
    return (
        f'{PAGE}<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>\n{asset('report.css')}</style>\n</head>\n<body>\n"
        f'<header><h1>{html.escape(title)}</h1><button id="theme" type="button">dark</button></header>\n'
        f"<nav>{links}</nav>\n<main>\n<noscript>{note('Charts and sorting need JavaScript; the tables do not.')}"
        f"</noscript>\n{bodies}\n</main>\n{inside}"
        f"<script>{asset('plotly-basic.min.js')}</script>\n<script>\n{asset('report.js')}</script>\n</body>\n</html>\n"
    )
