"""The plots of a comparison, as SVG files that change with the figures only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Canvas

from sandbox.compare.report import Figure, Plot, Table

#: Colour-blind readers can tell these apart (Okabe and Ito's palette).
COLOURS = ("#0072b2", "#e69f00", "#009e73")

STYLE = {"svg.hashsalt": "dbpool_mw", "svg.fonttype": "none", "font.size": 9}


def draw(tables: Sequence[Table], folder: Path) -> None:
    """Write the plot of each table that has one into a folder."""
    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for table in tables:
            if table.plot:
                canvas = _bars(table, table.plot)
                canvas.savefig(
                    folder / f"{table.plot.name}.svg",
                    metadata={"Date": None, "Title": table.plot.title},
                )


def _bars(table: Table, plot: Plot) -> Canvas:
    """Draw a group of bars for each subject, with the rounds' spread."""
    rows = [row for row in table.rows if isinstance(row[1][0], Figure)]
    canvas = Canvas(figsize=(8, 1 + 0.36 * len(rows)), layout="constrained")
    axes = canvas.add_subplot()
    thick = 0.8 / len(plot.columns)
    for number, column in enumerate(plot.columns):
        index = table.columns.index(column)
        at = number - (len(plot.columns) - 1) / 2
        figures = [
            (place + at * thick, cells[index]) for place, (_, cells) in enumerate(rows)
        ]
        # A subject may have a reason instead of this column's figure.
        places = [place for place, each in figures if isinstance(each, Figure)]
        shown = [each for _, each in figures if isinstance(each, Figure)]
        middles = [each.median for each in shown]
        spread = [
            [each.median - min(each.rounds) for each in shown],
            [max(each.rounds) - each.median for each in shown],
        ]
        axes.barh(
            places,
            middles,
            thick,
            xerr=spread,
            label=column,
            color=COLOURS[number],
            error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
        )
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel(plot.unit)
    axes.set_title(plot.title)
    axes.spines[["top", "right"]].set_visible(False)
    if len(plot.columns) > 1:
        axes.legend(frameon=False)
    return canvas
