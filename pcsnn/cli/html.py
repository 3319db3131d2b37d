"""A page in one file: pictures stand inside as data, and nothing is loaded from elsewhere."""

import base64
import html
import io

from pcsnn.cli.files import PAGE

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
nav a { margin-right: 1rem; } img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px 2px 0; text-align: left; vertical-align: top; } th { border-bottom: 1px solid #888; }
tr:nth-child(even) td { background: #f6f6f6; } pre { font-size: 12px; overflow-x: auto; } .note { color: #555; }
"""


def text(words, kind="p"):
    """An element of plain text."""
    return f"<{kind}>{html.escape(words)}</{kind}>"


def note(words):
    return f'<p class="note">{html.escape(words)}</p>'


def table(cells):
    """`cells` as in pcsnn.network.text_table: rows of strings, the first of them the heading."""
    heading, *rows = [
        "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)
        for kind, row in zip(["th"] + ["td"] * (len(cells) - 1), cells)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def picture(figure, words):
    """A matplotlib Figure as an image inside the page; `words` say what it shows."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<p><img alt="{html.escape(words)}" src="data:image/png;base64,{data}"></p>'


def page(title, sections):
    """The whole page of (name, heading, body in HTML) sections."""
    links = "".join(f'<a href="#{name}">{html.escape(heading)}</a> ' for name, heading, _ in sections)
    bodies = "\n".join(
        f'<section id="{name}">\n<h2>{html.escape(heading)}</h2>\n{body}\n</section>'
        for name, heading, body in sections
    )
    return (
        f'{PAGE}<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n<nav>{links}</nav>\n"
        f"{bodies}\n</body>\n</html>\n"
    )
