"""What the registries hold, as rows for lists and documentation."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from bench.kinds.kind import kind_classes
from bench.matrix import load_matrix, matrix_names
from bench.metrics.metric import metric_classes
from bench.problems.problem import problem_classes
from pretrained import zoo
from pretrained.card import load_card
from pretrained.data import DATA_SETS
from pretrained.published import load_published_card, published_names
from solvers.peers import peer_claims
from solvers.registry import solver_classes
from solvers.solver import FixedStepSolver

Rows = list[dict[str, Any]]


def _first_line(item: object) -> str:
    return (item.__doc__ or "").strip().splitlines()[0]


def problems() -> Rows:
    """Problems and the metrics taken on them."""
    return [
        {"name": name, "summary": cls.summary, "metrics": list(cls.metrics)} for name, cls in problem_classes().items()
    ]


def solvers() -> Rows:
    """Solvers with what they declare at their default settings."""
    rows = []
    for name, cls in solver_classes().items():
        solver = cls()
        per_step = solver.nfe(2) - solver.nfe(1) if isinstance(solver, FixedStepSolver) else None
        rows.append(
            {
                "name": name,
                "family": solver.family,
                "order": solver.order,
                "evaluations per step": per_step,
                "stochastic": solver.stochastic,
                "adaptive": solver.adaptive,
                "settings": [f"{key}={value}" for key, value in solver.settings.items()],
                "recommended grid": solver.recommended_grid,
                "reference": solver.reference,
            }
        )
    return rows


def peers() -> Rows:
    """Samplers of other libraries that run as solvers, whether installed or not."""
    return [{"name": name, "library": name.partition(":")[0], "claim": claim} for name, claim in peer_claims().items()]


def metrics() -> Rows:
    """Metrics with unit and direction."""
    return [
        {"name": name, "label": cls.label, "unit": cls.unit, "direction": cls.direction, "reference": cls.reference}
        for name, cls in metric_classes().items()
    ]


def kinds() -> Rows:
    """Kinds of cells."""
    return [{"name": name, "summary": cls.summary} for name, cls in kind_classes().items()]


def matrices() -> Rows:
    """Shipped matrices and their size."""
    rows = []
    for name in matrix_names():
        matrix = load_matrix(name)
        rows.append(
            {
                "name": name,
                "description": matrix.description,
                "problems": [entry.name for entry in matrix.problems],
                "cells": len(matrix.cells("cpu")),
            }
        )
    return rows


def checkpoints() -> Rows:
    """Checkpoints, how they were made, and where their weights are."""
    rows: Rows = []
    for name in zoo.names():
        card = load_card(name)
        result = card.result
        rows.append(
            {
                "name": name,
                "kind": card.kind,
                "data": card.data.name,
                "parameters": result.parameters if result else None,
                "steps": result.steps if result else None,
                "final loss": round(result.final_loss, 4) if result else None,
                "commit": result.commit[:10] if result and result.commit else None,
                "description": card.description,
                "where": "shipped" if result else "not trained yet",
                "file": None,
            }
        )
    for name in published_names():
        published = load_published_card(name)
        path = published.where()
        rows.append(
            {
                "name": name,
                "kind": published.kind,
                "data": published.data.name,
                "parameters": published.parameters,
                "steps": None,
                "final loss": None,
                "commit": None,
                "description": published.description,
                "where": published.presence(),
                "file": published.pipeline if path is None else str(path),
            }
        )
    return rows


def data() -> Rows:
    """Data sets of the training module, what they declare, and whether they can be read without a download."""
    rows: Rows = []
    for name, cls in DATA_SETS.items():
        data_set = cls()
        spec = data_set.spec
        rows.append(
            {
                "name": name,
                "summary": cls.summary,
                "shape": "x".join(map(str, spec.shape)),
                "levels": spec.levels,
                "classes": spec.classes,
                "flip": "yes" if spec.flip else "no",
                "settings": [f"{field.name}={getattr(data_set, field.name)}" for field in fields(data_set)],
                "here": "yes" if data_set.is_here else "no",
            }
        )
    return rows


# Each menu, and the columns that a terminal has room for.
MENUS: dict[str, tuple[Callable[[], Rows], list[str]]] = {
    "problems": (problems, ["name", "summary"]),
    "solvers": (solvers, ["name", "family", "order", "evaluations per step", "recommended grid"]),
    "peers": (peers, ["name", "claim"]),
    "metrics": (metrics, ["name", "label", "unit", "direction"]),
    "kinds": (kinds, ["name", "summary"]),
    "matrices": (matrices, ["name", "cells", "description"]),
    "data": (data, ["name", "shape", "levels", "flip", "here", "summary"]),
    "checkpoints": (checkpoints, ["name", "kind", "data", "parameters", "final loss", "where"]),
}
