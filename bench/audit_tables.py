"""What is written of an audit: JSON, CSV, and a page in Markdown."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.audit import COUNTED_STEPS, FINE_STEPS, FLOOR_STEPS, STEPS, AuditRow, Measured
from bench.native import LevelRun
from bench.record import Environment
from bench.tables import markdown_table


def write_audit(
    rows: Sequence[AuditRow], levels: Sequence[LevelRun], environment: Environment, folder: Path
) -> list[Path]:
    """Write audit.json, audit.csv and audit.md of an audit made in an environment; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    where = environment.model_dump()
    content = {
        "environment": where,
        "rows": [asdict(row) for row in rows],
        "levels": [asdict(run) for run in levels],
    }
    texts = {
        "audit.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "audit.csv": _csv(rows),
        "audit.md": _markdown(rows, levels, where),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _slope(measured: Measured) -> str:
    if measured.slope is None:
        return "–"
    if measured.interval is None:
        return f"{measured.slope:.2f}"
    low, high = measured.interval
    return f"{measured.slope:.2f} [{low:.2f}, {high:.2f}]"


def _cells(row: AuditRow) -> dict[str, Any]:
    gaussian, mixture = row.measured
    return {
        "solver": row.solver,
        "version": row.version,
        "SDE": row.sde,
        "claimed": "–" if row.claimed is None else row.claimed,
        "claimed where": row.claim,
        "measured, Gaussian": _slope(gaussian),
        "measured, mixture": _slope(mixture),
        "evaluations claimed": row.evaluations_claimed,
        "counted": "–" if row.evaluations_counted is None else row.evaluations_counted,
        "single precision": "–" if row.single_floor is None else f"{row.single_floor:.1e}",
        "finding": row.finding,
    }


def _csv(rows: Sequence[AuditRow]) -> str:
    text = io.StringIO()
    table = [_cells(row) for row in rows]
    writer = csv.DictWriter(text, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _markdown(rows: Sequence[AuditRow], levels: Sequence[LevelRun], where: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    dirty = " (with uncommitted changes)" if where["dirty"] else ""
    shown = [_cells(row) for row in rows]
    notes = [asdict(run) for run in levels if run.finding]
    return "\n".join(
        [
            "# Samplers of other libraries, audited",
            "",
            f"{where['date']}, commit {where['commit']}{dirty}.  ",
            f"Machine: {where['cpu']}, {where['cores']} cores, {where['threads']} threads.  ",
            f"Versions: {versions}.",
            "",
            "Orders: slope of log error over log steps on the three finest of "
            f"{', '.join(map(str, STEPS))} steps (where 4 or more is claimed, or of {FINE_STEPS[0]} to "
            f"{FINE_STEPS[-1]}, whichever is steeper), Karras grid, in double precision, from the exact law at t_max. "
            "Noisy samplers: of their law, exact on the Gaussian, by coupled differences with a 95 % interval on the "
            "mixture, at 16 to 128 steps or, where the claim does not show, at up to 512. Evaluations: of the "
            f"library's own loop with n = {COUNTED_STEPS}. Single precision: RMS "
            f"difference that the library's own rounding makes on the Gaussian in {FLOOR_STEPS} steps, units of x.",
            "",
            markdown_table(shown[0], (row.values() for row in shown)) if shown else "No sampler.",
            "",
            "## Levels that the schedulers of diffusers choose themselves",
            "",
            "An evaluation is wasted where the next level is the same or the state comes out as it went in.",
            "",
            markdown_table(notes[0], (note.values() for note in notes)) if notes else "Nothing found.",
            "",
        ]
    )
