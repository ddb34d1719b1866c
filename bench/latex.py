"""Leaderboards as LaTeX tables, for the package booktabs."""

import re

from bench.leaderboard import Entry, Leaderboard

ESCAPES = {"\\": r"\textbackslash{}", **{mark: "\\" + mark for mark in "&%$#_{}"}, "~": r"\textasciitilde{}"}
ESCAPES["^"] = r"\textasciicircum{}"
NOTE = "Value and half width of its 95\\,\\% interval; bold: not decided to be worse than the best of its column"


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(ESCAPES.get(mark, mark) for mark in " ".join(text.split())).replace("–", "--")


def latex(board: Leaderboard) -> str:
    r"""A ``table`` of a leaderboard: value ± 95 %, what ties with the best bold, failures by name with \dag."""
    rows = [[escaped(name), escaped(grid), *map(_place, entries)] for name, grid, entries in board.rows]
    lines = [
        r"\begin{table}",
        rf"\caption{{{escaped(board.title)}. {NOTE}; $\dag$: no value.}}",
        rf"\begin{{tabular}}{{ll{'r' * len(board.budgets)}}}",
        r"\toprule",
        " & ".join(map(escaped, board.heads)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _place(entry: Entry) -> str:
    if not entry.within:
        return rf"{escaped(entry.text)}$^\dag$" if entry.text else ""
    value, _, spent = entry.within.partition(" @")
    number = re.sub(r"([-\d.]+)e([-+]\d+)", lambda found: rf"{found[1]} \cdot 10^{{{int(found[2])}}}", value)
    number = number.replace("±", r"\pm")
    bold = rf"$\mathbf{{{number}}}$" if entry.best else f"${number}$"
    return bold + (f" @{spent}" if spent else "")
