"""One network under several processes, side by side: the report's section on problems that share a checkpoint."""

from collections.abc import Iterable, Iterator

import pandas as pd

from bench.metrics.metric import metric_classes
from bench.problems.image import CheckpointProblem
from bench.problems.problem import problem_class
from bench.standings import Standing, column, row_name
from bench.tables import markdown_table, number, plain

TEXT = (
    "One network, {}, from the same starts under each process. Bold: not decided to be worse than the best of the line "
    "(paired differences, 95 % by Holm over all pairs of the line)."
)


def processes_section(found: Iterable[Standing]) -> list[str]:
    """Lines of Markdown; none where no two problems share a network, a metric and a row."""
    shared: dict[tuple[str, str], list[Standing]] = {}
    for standing in found:
        cls = problem_class(standing.problem)
        if not issubclass(cls, CheckpointProblem) or cls.folder is not None:
            continue
        if standing.kind == "sampling" and standing.direction != "none":
            shared.setdefault((cls.checkpoint, standing.metric), []).append(standing)
    lines = []
    for (checkpoint, metric), standings in shared.items():
        rows = list(_rows(standings))
        if rows:
            declared = metric_classes()[metric]
            heads = ["solver", "grid", "NFE", *(standing.problem for standing in standings)]
            lines += [f"### {declared.label} [{declared.unit}], {standings[0].direction} is better", ""]
            lines += [TEXT.format(f"`{checkpoint}`"), "", markdown_table(heads, rows), ""]
    return ["## Processes", "", *lines] if lines else []


def _rows(standings: list[Standing]) -> Iterator[list[str | None]]:
    """A line a row and budget that at least two of the problems have a value at."""
    cells = pd.concat([standing.cells for standing in standings])
    for key in dict.fromkeys(key for standing in standings for key in standing.rows):
        at = {standing.problem: standing.rows[key] for standing in standings if key in standing.rows}
        budgets = {int(budget) for points in at.values() for budget in points.budget.dropna()}
        for budget in sorted(budgets):
            known = {(problem, *key[1:]): points for problem, points in at.items() if (points.budget == budget).any()}
            line = column(known, budget, cells, standings[0].direction)
            if line.valid.sum() < 2:
                continue
            texts: list[str | None] = [plain(row_name(key)), key[2], str(budget)]
            for standing in standings:
                place = (standing.problem, *key[1:])
                point = line.points.get(place)
                if point is None or pd.isna(point.value):
                    texts.append(None)
                    continue
                text = number(point.value, point.standard_error)
                texts.append(f"**{text}**" if line.tied(place) else text)
            yield texts
