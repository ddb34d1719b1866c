"""What the registries hold, as rows for lists and documentation."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.kinds.kind import kind_classes
from bench.matrix import load_matrix, matrix_names
from bench.metrics.metric import metric_classes
from bench.problems.problem import problem_classes
from bench.tables import number
from pretrained import zoo
from pretrained.card import NoisyClassifierCard, ScoreCard, load_card
from pretrained.data import DATA_SETS
from pretrained.evaluation import Evaluation
from pretrained.published import load_published_card, published_names
from pretrained.results import ClassifierResult
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
    """Checkpoints, how they were made, what was measured of them, and where their weights are."""
    rows: Rows = []
    for name in zoo.names():
        card, weights = load_card(name), zoo.CHECKPOINTS / f"{name}.safetensors"
        result = card.result
        found = card.measured if isinstance(card, ScoreCard) else None
        stale = isinstance(card, ScoreCard) and card.evaluation is not None and found is None
        where = "shipped" if result else "not trained yet"
        rows.append(
            {
                "name": name,
                "kind": card.kind,
                "data": card.data.name,
                "SDE": card.sde.name if isinstance(card, ScoreCard | NoisyClassifierCard) else None,
                "parameters": result.parameters if result else None,
                "steps": result.steps if result else None,
                "final loss": round(result.final_loss, 4) if result else None,
                "accuracy": round(result.test_accuracy, 4) if isinstance(result, ClassifierResult) else None,
                **_measured(found),
                "licence": DATA_SETS[card.data.name].licence,
                "commit": result.commit[:10] if result and result.commit else None,
                "description": card.description,
                "where": f"{where}; its evaluation is of other weights" if stale else where,
                "file": None,
                **_size(weights),
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
                "SDE": published.settings.process().name if published.settings else None,
                "parameters": published.parameters,
                "steps": None,
                "final loss": None,
                "accuracy": None,
                **_measured(None),
                "licence": DATA_SETS[published.data.name].licence,
                "commit": None,
                "description": published.description,
                "where": published.presence(),
                "file": published.pipeline if path is None else str(path),
                **_size(path),
            }
        )
    return rows


def _measured(found: Evaluation | None) -> dict[str, Any]:
    """What a card's evaluation says, in short and in full."""
    distance, bits = (found.distance, found.bits_per_dim) if found else (None, None)
    # Its samples are of given classes then.
    other = " (any class)" if found and found.sampling.classes == "held-out" else ""
    return {
        "bits/dim": f"{number(bits.value, bits.standard_error)}{other}" if bits else None,
        "Fréchet distance": number(distance.value, distance.standard_error) if distance else None,
        "floor": number(distance.floor, distance.floor_error) if distance and distance.floor is not None else None,
        "n": distance.n if distance else None,
        "evaluation": found.model_dump(mode="json") if found else None,
    }


def _size(path: Path | None) -> dict[str, Any]:
    """Of a file of weights, if it is here."""
    size = path.stat().st_size if path is not None and path.is_file() else None
    return {"size": None if size is None else f"{size / 1e6:.1f} MB", "bytes": size}


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
                "licence": cls.licence,
                "source": cls.source,
            }
        )
    return rows


_CHECKPOINTS = ["name", "data", "SDE", "parameters", "size", "bits/dim", "Fréchet distance", "floor", "n", "accuracy"]
_CHECKPOINTS += ["licence", "where"]

# Each menu, and the columns that a terminal has room for.
MENUS: dict[str, tuple[Callable[[], Rows], list[str]]] = {
    "problems": (problems, ["name", "summary"]),
    "solvers": (solvers, ["name", "family", "order", "evaluations per step", "recommended grid"]),
    "peers": (peers, ["name", "claim"]),
    "metrics": (metrics, ["name", "label", "unit", "direction"]),
    "kinds": (kinds, ["name", "summary"]),
    "matrices": (matrices, ["name", "cells", "description"]),
    "data": (data, ["name", "shape", "levels", "flip", "here", "licence", "summary"]),
    "checkpoints": (checkpoints, _CHECKPOINTS),
}
