"""What is shown of two runs compared."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from bench.comparison import Change, RunsCompared
from bench.tables import number

# Names that are printed of a list.
SHOWN = 10


def decided_table(found: RunsCompared) -> Table | None:
    """The changes with a verdict, worse ones first; None if there are none."""
    rows = [change for verdict in ("worse", "better") for change in found.changes if change.verdict == verdict]
    if not rows:
        return None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("verdict", "problem", "metric", "solver", "grid", "at", "NFE", "A", "B", "B - A (95 %)"):
        table.add_column(head)
    for change in rows:
        table.add_row(*_row(change), style="red" if change.verdict == "worse" else "green")
    return table


def _row(change: Change) -> Iterator[str]:
    point = change.point
    yield from (change.verdict, point["problem"], point["metric"])
    yield f"{point['solver']} ({point['settings']})" if point["settings"] else point["solver"]
    yield point["grid"]
    yield f"{point['budget']}" if point["budget"] is not None else f"tol {point['tolerance']:g}"
    spent = ["–" if nfe is None else f"{nfe:.4g}" for nfe in (change.nfe_before, change.nfe_after)]
    yield spent[0] if spent[0] == spent[1] else " → ".join(spent)
    if change.difference is None:
        yield from ("", "", change.reason or "")
        return
    yield from ("" if value is None else number(value) for value in (change.before, change.after))
    yield number(change.difference, change.half_width)


def notes(found: RunsCompared) -> Iterator[str]:
    """Counts of verdicts, what differs around the cells, and what was not compared; a paragraph each."""
    same = sum(change.identical for change in found.changes)
    told = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in ("better", "worse", "undecided"))
    yield f"{len(found.changes)} comparisons of B with A: {told}; {same} identical."
    moved = sum(change.nfe_before != change.nfe_after for change in found.changes)
    if moved:
        yield f"{moved} of them spend other numbers of evaluations."
    for name, (one, two) in found.differing.items():
        yield f"{name} differs: {', '.join(one) or 'none'} in A, {', '.join(two) or 'none'} in B."
    for text, names in (
        ("only in A", found.only_before),
        ("only in B", found.only_after),
        ("not compared, since made with another network, extractor or reference", found.other_files),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more (--json has all)" if len(names) > SHOWN else ""
            yield f"{len(names)} cells {text}: {', '.join(names[:SHOWN])}{more}."
    silent = [change for change in found.changes if change.reason and change.verdict == "undecided"]
    if silent:
        reasons = "; ".join(dict.fromkeys(change.reason or "" for change in silent))
        yield f"{len(silent)} comparisons have no difference to judge: {reasons}."


def as_json(found: RunsCompared) -> dict[str, Any]:
    """Everything, as JSON holds it: each change flat with its point, and the counts."""
    changes = []
    for change in found.changes:
        entry = asdict(change)
        changes.append({**entry.pop("point"), **entry})
    counts = {verdict: found.count(verdict) for verdict in ("better", "worse", "undecided")}
    return {**asdict(found), "changes": changes, "counts": counts}
