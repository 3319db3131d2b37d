"""What gpu.py prints and draws of its rows."""

WIDTH = 74  # of the longest name of a row
WIDEST = 1.6  # times the target that a picture shows


def number(value):
    """Three digits or more, without an exponent."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def short(commit):
    """A commit in seven digits, with "+" where files differed from it."""
    return "unknown" if commit is None else commit[:7] + "+" * commit.endswith("+")


def before(row):
    """What it was: a value, a range, or a dash."""
    return " to ".join(map(number, row["before"])) or "-"


def reached(row):
    """Whether the target was met, in a word."""
    return {True: "met", False: "MISSED", None: ""}[row["met"]]


def header():
    """Names of the columns."""
    return f"{'':{WIDTH}} {'measured':>9} {'':14} {'target':>9} {'877ccf2':>12}"


def line(row):
    """A row of the table."""
    if row["value"] is None:
        return f"  {row['what']:{WIDTH - 2}} {'-':>9} {'WRONG: ' if row['right'] is False else ''}{row['remark']}"
    target = "" if row["target"] is None else f"{'<=' if row['less'] else '>='} {number(row['target'])}"
    return (
        f"  {row['what']:{WIDTH - 2}} {number(row['value']):>9} {row['unit']:14} {target:>9} {before(row):>12} "
        f"{reached(row):7}{row['remark']}"
    )


def summary(sections, left_out):
    """The last lines: how many targets were met, what is missed, what is wrong, what was not measured."""
    rows = [row for rows in sections.values() for row in rows]
    missed, wrong = [row for row in rows if row["met"] is False], [row for row in rows if row["right"] is False]
    lines = [f"{sum(row['met'] is True for row in rows)} targets met, {len(missed)} missed, {len(wrong)} results wrong"]
    lines += [f"  missed: {row['what']}: {number(row['value'])}, to reach {number(row['target'])}" for row in missed]
    lines += [f"  WRONG: {row['what']}: {row['remark']}" for row in wrong]
    lines += [f"  left out, time is up: {what}" for what in left_out]
    return lines


def drawn(sections):
    """Rows that a picture can show: {section: [(what, value over target, the same before)]}, 1 being the target."""

    def score(row, value):
        return row["target"] / value if row["less"] else value / row["target"]

    found = {}
    for section, rows in sections.items():
        shown = [
            (row["what"], score(row, row["value"]), [score(row, value) for value in row["before"] if value])
            for row in rows
            if row["value"] and row["target"]
        ]
        if shown:
            found[section] = shown
    return found


def draw(sections, title, path):
    """Write a PNG: each row's value as a share of its target, and what it was at 877ccf2. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = drawn(sections)
    heights = [len(rows) + 1 for rows in shown.values()]
    figure, grid = plt.subplots(
        len(shown),
        1,
        figsize=(11, 0.27 * sum(heights) + 1.2),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for axes, (section, rows) in zip(grid[:, 0], shown.items()):
        names, values, earlier = zip(*rows)
        axes.barh(
            range(len(rows)), values, color=["#1f4fb4" if value >= 1 else "#e08214" for value in values], height=0.65
        )
        for place, was in enumerate(earlier):
            axes.plot(was, [place] * len(was), color="#333333", marker="|", markersize=10, linewidth=2)
        axes.axvline(1, color="#555555", linewidth=1)
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, WIDEST)
        axes.set_title(f"{section}: value over target; black: at commit 877ccf2, H200", fontsize=9, loc="left")
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
