"""Text tables."""


def table(cells):
    """Lines of a table: `cells` are rows of strings, the first of them the heading, which is underlined."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
