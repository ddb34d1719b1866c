"""What is shown of certificates: tables for the terminal, ranges of orders, one line for all."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from rich import box
from rich.markup import escape
from rich.table import Table

from bench.certificate import FALLS, LAW, ORDERS, Line
from bench.check import title
from bench.compare import Comparison

# Certificates that are shown line by line; of more, each has a row.
IN_FULL = 6
SHOWN_WITH_PROBLEM = (*ORDERS, FALLS, LAW)
MARKS = {
    "pass": "",
    "fail": " [bold red]✗[/bold red]",
    "unresolved": " [yellow]?[/yellow]",
    "not claimed": " [dim]n.c.[/dim]",
    "better": " [green]better[/green]",
    "worse": " [red]worse[/red]",
    "undecided": " undecided",
}


def tables(lines: Sequence[Line]) -> Iterator[Table]:
    """What the terminal shows: a table a certificate, or one with a row a certificate and one of what did not pass."""
    certificates: dict[str, list[Line]] = {}
    comparisons = [line for line in lines if line.verdict in get_args(Comparison)]
    for line in lines:
        if line not in comparisons:
            certificates.setdefault(title(line.solver, line.settings), []).append(line)
    if len(certificates) <= IN_FULL:
        yield from (_in_full(name, own) for name, own in certificates.items())
    else:
        yield from _in_rows(certificates, lines)
    if comparisons:
        yield _listed("comparison on the same starts and paths", comparisons)


def _in_rows(certificates: dict[str, list[Line]], lines: Sequence[Line]) -> Iterator[Table]:
    yield _overview(certificates)
    open_lines = [line for line in lines if line.verdict in ("fail", "unresolved")]
    if open_lines:
        yield _listed("not passed", open_lines)


def _in_full(name: str, lines: Sequence[Line]) -> Table:
    """A row a claim and problem, a column an SDE."""
    table = _table(escape(name))
    sdes = list(dict.fromkeys(line.sde for line in lines))
    for head in ("claim", "declared", *sdes):
        table.add_column(head, no_wrap=head in sdes)
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        place = f", {line.problem.removesuffix('_2d')}" if line.claim in SHOWN_WITH_PROBLEM else ""
        rows.setdefault(line.claim + place, {})[line.sde] = line
    for claim, own in rows.items():
        cells = (_cell(own[sde]) if sde in own else "" for sde in sdes)
        table.add_row(claim, _common([line.declared for line in own.values()]), *cells)
    return table


def _common(declared: Sequence[float | None]) -> str:
    known = {value for value in declared if value is not None}
    return "" if not known else number(known.pop()) if len(known) == 1 else "each its own"


def _cell(line: Line) -> str:
    if isinstance(line.measured, str):
        return escape(line.measured[:40]) + MARKS[line.verdict]
    text = "" if line.measured is None else number(line.measured)
    if line.interval is not None and line.claim in ORDERS:
        text += f" ±{(line.interval[1] - line.interval[0]) / 2:.2f}"
    return text + ("[cyan]↑[/cyan]" if line.superconvergent else "") + MARKS[line.verdict]


def _overview(certificates: dict[str, list[Line]]) -> Table:
    table = _table("certificates")
    for head in ("solver", "order", "Gaussian", "mixture", "evaluations", "pass", "fail", "unresolved", "not claimed"):
        table.add_column(head, justify="left" if head == "solver" else "right", overflow="fold")
    for name, lines in certificates.items():
        counts = Counter(line.verdict for line in lines)
        numbers = (str(counts[v]) if counts[v] else "" for v in ("pass", "fail", "unresolved", "not claimed"))
        evaluations = {line.verdict for line in lines if line.claim.startswith("evaluations")}
        counted = "counted" if evaluations == {"pass"} else "✗"
        declared = next((line.declared for line in lines if line.claim in ORDERS), None)
        orders = (measured_range(lines, problem) for problem in ("gaussian", "mixture_2d"))
        order = "" if declared is None else number(declared)
        style = "red" if counts["fail"] else "yellow" if counts["unresolved"] else None
        table.add_row(escape(name), order, *orders, counted, *numbers, style=style)
    return table


def measured_range(lines: Iterable[Line], problem: str) -> str:
    """Least and largest order that was measured on a problem, over the SDEs."""
    orders = [
        line.measured
        for line in lines
        if line.claim in ORDERS and line.problem == problem and isinstance(line.measured, float)
    ]
    if not orders:
        return "–"
    low, high = f"{min(orders):.2f}", f"{max(orders):.2f}"
    return low if low == high else f"{low}…{high}"


def _listed(heading: str, lines: Sequence[Line]) -> Table:
    table = _table(heading)
    for head in ("solver", "claim", "SDE", "on", "declared", "measured"):
        table.add_column(head, overflow="fold")
    for line in lines:
        name = escape(title(line.solver, line.settings))
        declared = "" if line.declared is None else number(line.declared)
        table.add_row(name, line.claim, line.sde, line.problem, declared, _cell(line))
    return table


def _table(heading: str) -> Table:
    return Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def number(value: float) -> str:
    """Counts as they are, orders to two digits, differences by their size."""
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if abs(value) >= 0.05 else f"{value:.0e}"


def summary(lines: Sequence[Line]) -> str:
    """One line: how many of each verdict."""
    counts: Counter[str] = Counter(line.verdict for line in lines)
    certificates = len({title(line.solver, line.settings) for line in lines})
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MARKS if counts[verdict])
    legend = "  (↑ superconvergent here)" if any(line.superconvergent for line in lines) else ""
    return f"{certificates} certificates, {len(lines)} claims: {told}{legend}"
