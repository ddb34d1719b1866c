"""Two runs side by side: their matched cells, paired, and a verdict on each point and metric."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.compare import Comparison, decided, estimate, holm, p_values, verdict_of
from bench.metrics.metric import metric_classes
from bench.points import sampled
from bench.record import PLUGIN, CellSpec, Record
from bench.store import Store
from bench.tables import POINT, long_table
from solvers.errors import UsageError

# Of a cell's specification, what says how it was computed rather than what.
HOW = ("device", "batch_size")
# Of an environment, what may change a value or a time.
WHERE = ("commit", "dirty", "trees", "cpu", "cores", "threads", "device", "versions")
FAILED = ("diverged", "timeout", "out_of_memory", "error")


@dataclass(frozen=True)
class Change:
    """One metric of one point, the seeds of both runs together.

    Attributes:
        point: problem, metric, solver, settings, grid, budget, tolerance.
        seeds: matched.
        before, after: values, None where there is none.
        nfe_before, nfe_after: evaluations a sample.
        difference: after less before, paired.
        half_width: of the difference's 95 % interval, not adjusted for the family.
        p: adjusted by Holm over all changes.
        verdict: on the second run.
        identical: whether every seed has the same value in both.
        reason: why there is no difference.
    """

    point: dict[str, Any]
    seeds: int
    before: float | None
    after: float | None
    nfe_before: float | None
    nfe_after: float | None
    difference: float | None
    half_width: float | None
    p: float | None
    verdict: Comparison
    identical: bool
    reason: str | None = None


@dataclass(frozen=True)
class RunsCompared:
    """What two runs' folders hold against each other.

    Attributes:
        changes: of the matched cells, in the order of points.
        only_before, only_after: cells without their like.
        other_files: cells that were made with other networks, extractors or references, and are not compared.
        differing: settings of environment and execution in which the matched cells differ, of both runs.
    """

    changes: list[Change]
    only_before: list[str]
    only_after: list[str]
    other_files: list[str]
    differing: dict[str, tuple[list[str], list[str]]]

    def count(self, verdict: Comparison) -> int:
        """Changes of a verdict."""
        return sum(change.verdict == verdict for change in self.changes)


def compare_runs(before: Path, after: Path) -> RunsCompared:
    """Compare the second run with the first.

    Raises:
        UsageError: a folder holds no records, a damaged one, or a cell twice; nothing in them can be compared.
    """
    one, two = (_by_identity(folder) for folder in (before, after))
    matched = [key for key in one if key in two]
    other = [key for key in matched if _other_files(one[key], two[key])]
    pairs = [(one[key], two[key]) for key in matched if key not in other]
    changes = list(_changes(*map(list, zip(*pairs, strict=True)))) if pairs else []
    if not changes:
        got = f"{len(one)} and {len(two)} cells, {len(matched)} of them matched, {len(other)} made with other files"
        todo = "Compare runs of one matrix: problem, n, solver, settings, grid, budget and seed must agree"
        raise UsageError("compare", "both runs hold cells with values that can be compared", got, todo)
    return RunsCompared(
        _judged(changes),
        [record.spec.name for key, record in one.items() if key not in two],
        [record.spec.name for key, record in two.items() if key not in one],
        [one[key].spec.name for key in other],
        _differing(pairs),
    )


def _by_identity(folder: Path) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in Store(folder).records():
        key = _identity(record.spec)
        if key in found:
            names = f"{found[key].spec.name}, {record.spec.name}"
            todo = "Give runs that differ in device or batch size folders of their own"
            raise UsageError(f"compare {folder}", "a folder holds a cell once", names, todo)
        found[key] = record
    return found


def _identity(spec: CellSpec) -> str:
    return json.dumps(spec.model_dump(exclude=set(HOW)), sort_keys=True)


def _other_files(before: Record, after: Record) -> bool:
    """Whether files behind both records differ, those of the solver itself apart."""
    shared = before.hashes.keys() & after.hashes.keys()
    return any(before.hashes[key] != after.hashes[key] for key in shared if not key.startswith(PLUGIN))


def _changes(before: list[Record], after: list[Record]) -> Iterator[Change]:
    """Every metric that ranks and has a value, or failed, in one of the runs; ``p`` not adjusted yet."""
    one, two = long_table(before), long_table(after)
    two_by_metric = dict(list(two.groupby(POINT[:2])))
    for place, part in one.groupby(POINT[:2]):
        if metric_classes()[part.metric.iloc[0]].direction == "none" or place not in two_by_metric:
            continue
        groups = _by_point(part)
        others = _by_point(two_by_metric[place])
        shared = [key for key in groups if key in others]
        if shared:
            yield from _changes_of([groups[key] for key in shared], [others[key] for key in shared])


def _by_point(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """NaN equals itself as text only."""
    return {str(key): group for key, group in part.groupby(POINT, dropna=False)}


def _changes_of(before: list[pd.DataFrame], after: list[pd.DataFrame]) -> Iterator[Change]:
    """The changes of one problem and metric."""
    both = sampled([*before, *after])
    first, second = both.part(slice(len(before))), both.part(slice(len(before), None))
    difference = second.minus(first)
    means = estimate(first).mean, estimate(second).mean
    found, p = p_values(difference, *means)
    for k, (one, two) in enumerate(zip(before, after, strict=True)):
        blank = [part.value.isna().all() for part in (one, two)]
        if all(blank) and any((part.status == "done").all() for part in (one, two)):
            # The metric does not apply.
            continue
        reason, verdict = _failures(one, two)
        if reason is None and not np.isfinite(difference.values[k]).any():
            reason = next(iter([*one.reason.dropna(), *two.reason.dropna()]), "cells of different n")
            if any(blank):
                reason = f"no value in {'A' if blank[0] else 'B'}: {reason}"
        yield Change(
            {name: _plain(one[name].iloc[0]) for name in POINT},
            len(one),
            _number(means[0][k]),
            _number(means[1][k]),
            _number(one.own_nfe.fillna(one.nfe).mean()),
            _number(two.own_nfe.fillna(two.nfe).mean()),
            _number(found.mean[k]),
            _number(found.half_width[k]),
            _number(p[k]),
            verdict,
            bool((difference.values[k][np.isfinite(difference.values[k])] == 0).all()) and reason is None,
            reason,
        )


def _failures(before: pd.DataFrame, after: pd.DataFrame) -> tuple[str | None, Comparison]:
    """What failures alone decide: more of them are worse, fewer better."""
    lost, then = (int(part.status.isin(FAILED).sum()) for part in (before, after))
    if not lost and not then:
        return None, "undecided"
    return f"{_why(before, lost)} in A, {_why(after, then)} in B", verdict_of(int(np.sign(lost - then)))


def _why(part: pd.DataFrame, failed: int) -> str:
    names = ", ".join(part.status[part.status.isin(FAILED)].unique())
    return f"{names} for {failed} of {len(part)} seeds" if failed else "no failure"


def _judged(changes: list[Change]) -> list[Change]:
    """The changes with their p-values adjusted, one family, and verdicts."""
    adjusted = holm(np.array([np.nan if change.p is None else change.p for change in changes], dtype=float))
    judged = []
    for change, p in zip(changes, adjusted, strict=True):
        verdict = change.verdict
        if change.difference is not None and np.isfinite(p):
            lower = metric_classes()[change.point["metric"]].direction == "lower"
            verdict = verdict_of(int(decided(np.array(change.difference), p, lower)))
        judged.append(replace(change, p=_number(p), verdict=verdict))
    return judged


def _differing(pairs: Iterable[tuple[Record, Record]]) -> dict[str, tuple[list[str], list[str]]]:
    """In what the environments differ, and how often not at all: the values of both runs."""
    seen: dict[str, tuple[set[str], set[str]]] = {}
    for pair in pairs:
        for side, record in enumerate(pair):
            where = {name: getattr(record.environment, name) for name in WHERE}
            where |= {"batch_size": record.spec.batch_size}
            versions, trees = where.pop("versions"), where.pop("trees")
            where |= {f"version of {name}": value for name, value in versions.items()}
            where |= {f"tree {name}": value for name, value in trees.items()}
            for name, value in where.items():
                seen.setdefault(name, (set(), set()))[side].add(str(value))
    return {name: (sorted(one), sorted(two)) for name, (one, two) in seen.items() if one != two}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, str):
        return value
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else number
