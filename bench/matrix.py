"""A matrix file: which problems, solvers, grids, budgets and seeds; expanded into cells."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from bench.dequantisation import UNIFORM, VARIATIONAL
from bench.kinds.kind import kind_classes
from bench.problems.problem import problem_class
from bench.recipe import Recipe
from bench.record import CellSpec
from pretrained.card import load_card, shipped_cards
from pretrained.yaml_model import read_mapping, validate
from solvers.errors import UsageError, unknown_name
from solvers.grids import get_grid
from solvers.registry import get_solver, solver_classes
from solvers.solver import LastStep, Solver

TRAINING = "training"

MATRICES = Path(__file__).parent / "matrices"

Names = Annotated[list[str], Field(min_length=1)]
# More evaluations than this would take years.
Budgets = Annotated[list[Annotated[int, Field(gt=0, le=10**9)]], Field(min_length=1)]
# Whole numbers that a table's 64-bit column holds.
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]


class _Section(BaseModel):
    # Strict: no true for 1, no "5" for 5. Infinite numbers have no place in JSON records.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _known_grids(grids: list[str] | None) -> list[str] | None:
    for grid in grids or []:
        get_grid(grid, "matrix")
    return grids


def _known_kinds(kinds: list[str] | None) -> list[str] | None:
    # Objectives have a kind of their own, which no solver has.
    known = [name for name in kind_classes() if name != TRAINING]
    for kind in kinds or []:
        if kind not in known:
            raise unknown_name("matrix", "kind", kind, known)
    return kinds


class _Asked(_Section):
    """What the matrix, a problem and a solver may each ask for: what stands nearest to the solver holds.

    Attributes:
        budgets: network evaluations a sample.
        grids: every fixed-step solver runs on each.
        kinds: what is computed of each, see :mod:`bench.kinds`.
        batch_size: samples a chunk; all at once unless given.
    """

    budgets: Budgets | None = None
    grids: Names | None = None
    kinds: Names | None = None
    batch_size: PositiveInt | None = None

    _grids = field_validator("grids")(_known_grids)
    _kinds = field_validator("kinds")(_known_kinds)


class LikelihoodEntry(_Section):
    """What the cells of kind likelihood take of a problem of images.

    Attributes:
        n: held-out images.
        draws: dequantisations of each.
        probes: Hutchinson probes of each of those.
        sketch: directions of Hutch++ beside the probes; 0 for Hutchinson's estimate.
        dequantisation: ``variational`` for the dequantiser of the problem's checkpoint, or the name of one.
    """

    n: Annotated[int, Field(ge=2)]
    draws: PositiveInt = 2
    probes: PositiveInt = 2
    sketch: NonNegativeInt = 0
    dequantisation: str = UNIFORM

    def asked(self) -> dict[str, Any]:
        """The fields of a cell: uniform dequantisation and Hutchinson's estimate go without saying."""
        usual = {"dequantisation": UNIFORM, "sketch": 0}
        return {name: value for name, value in self.model_dump().items() if value != usual.get(name, ...)}

    @field_validator("dequantisation")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [UNIFORM, VARIATIONAL, *(card for card in shipped_cards() if load_card(card).kind == "dequantiser")]
        if name not in known:
            raise unknown_name("matrix", "dequantisation", name, known)
        return name


class ProblemEntry(_Asked):
    """A problem of a matrix.

    Attributes:
        name: key of the problem, or the path of a trained card.
        n: samples a cell.
        metrics: those taken of its samples; all of the problem unless given.
        likelihood: where its cells of kind likelihood take less than n.
        solvers: the matrix's unless given.
    """

    name: str
    n: Annotated[int, Field(ge=2)]
    metrics: Names | None = None
    likelihood: LikelihoodEntry | None = None
    solvers: Annotated[list["SolverEntry"], Field(min_length=1)] | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        problem_class(name)
        return name

    @model_validator(mode="after")
    def _enough_references(self) -> Self:
        limit = problem_class(self.name).n_max
        most = max(self.n, self.likelihood.n if self.likelihood else 0)
        if limit is not None and most > limit:
            raise UsageError(f"problem {self.name}", f"there are {limit} reference samples", most, "Lower n")
        return self

    @model_validator(mode="after")
    def _metrics_of_the_problem(self) -> Self:
        for name in self.metrics or ():
            if name not in (known := problem_class(self.name).metrics):
                raise unknown_name(f"problem {self.name}", "metric", name, known)
        return self

    def asked(self, kind: str) -> dict[str, Any]:
        """The fields of a cell that say what a kind of cell takes of the problem, and how much."""
        if kind == "likelihood":
            return self.likelihood.asked() if self.likelihood else {"n": self.n}
        return {"n": self.n, **({"metrics": tuple(self.metrics)} if self.metrics else {})}


class SolverEntry(_Asked):
    """A solver of a matrix.

    Attributes:
        name: key of the solver.
        n: samples a cell; the problem's unless given.
        last: the last step, see :func:`solvers.solver.integrate`; that of the kind of cell unless given.
        settings: its settings.
        tolerances: relative and absolute tolerances at which an adaptive solver is run.
    """

    name: str
    n: Annotated[int, Field(ge=2)] | None = None
    last: LastStep | None = None
    settings: dict[str, Any] = {}
    tolerances: Annotated[list[PositiveFloat], Field(min_length=1)] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]

    def build(self) -> Solver:
        """The solver.

        Raises:
            UsageError: unknown, or a setting that it refuses.
        """
        return get_solver(self.name, **self.settings)

    def model_post_init(self, context: Any, /) -> None:
        """Refuses an unknown solver or setting when the matrix is read."""
        solver = self.build()
        given = {"rtol", "atol"} & set(self.settings)
        if solver.adaptive and given:
            todo = "Move it to the entry's tolerances"
            raise UsageError(f"solver {self.name}", "tolerances are swept", ", ".join(sorted(given)), todo)


class ObjectiveEntry(_Section):
    """An objective of a matrix: cells of kind ``training``, their budget in training steps.

    Attributes:
        name: key of the objective.
        settings: its own and the recipe's, see :class:`bench.recipe.Recipe`.
    """

    name: str
    settings: dict[str, Any] = {}

    def build(self) -> Recipe:
        """The recipe.

        Raises:
            UsageError: unknown, or a setting that it refuses.
        """
        return Recipe.of(self.name, self.settings)

    def model_post_init(self, context: Any, /) -> None:
        """Refuses an unknown objective or setting when the matrix is read."""
        self.build()


ProblemEntry.model_rebuild()


class Matrix(_Section):
    """A benchmark matrix.

    Attributes:
        name: also of the run's folder, unless one is given.
        description: for people.
        seeds: seeds of start and noise; a seed's samples and paths are shared by all solvers and budgets.
        budgets, grids, kinds: those of each problem and solver that gives none of its own.
        recommended_grids: whether a solver that declares a grid of its own gets a row on it as well.
        timeout_seconds: a cell that takes longer is killed and recorded as such.
        problems, solvers: what is crossed.
        objectives: crossed with the problems as well, in cells of kind ``training``.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    description: str = ""
    seeds: Seeds
    budgets: Budgets
    grids: Names = ["log_snr"]
    kinds: Names = ["sampling"]
    recommended_grids: bool = True
    timeout_seconds: PositiveFloat = 600.0
    problems: Annotated[list[ProblemEntry], Field(min_length=1)]
    solvers: list[SolverEntry] = []
    objectives: list[ObjectiveEntry] = []

    _grids = field_validator("grids")(_known_grids)
    _kinds = field_validator("kinds")(_known_kinds)

    @field_validator("problems")
    @classmethod
    def _each_problem_once(cls, problems: list[ProblemEntry]) -> list[ProblemEntry]:
        names = [entry.name for entry in problems]
        for name in names:
            if names.count(name) > 1:
                raise UsageError("matrix", "a problem is listed once", name, "Give the second a matrix of its own")
        return problems

    @model_validator(mode="after")
    def _each_problem_has_solvers(self) -> Self:
        for entry in self.problems:
            if not (entry.solvers or self.solvers or self.objectives):
                rule = "a problem has solvers, its own or the matrix's, or the matrix has objectives"
                raise UsageError("matrix", rule, entry.name, "Add solvers")
        return self

    def cells(self, device: str) -> list[CellSpec]:
        """The cells, problem by problem, in a fixed random order within one: repeats of a solver lie apart in time."""
        found = []
        for problem in self.problems:
            solvers = problem.solvers or self.solvers
            group = [spec for entry in solvers for spec in self._row_cells(problem, entry, device)]
            group += [spec for entry in self.objectives for spec in self._training_cells(problem, entry, device)]
            random.Random(0).shuffle(group)
            found += group
        # A seed, budget or entry given twice is one cell.
        return list({spec.name: spec for spec in found}.values())

    def _row_cells(self, problem: ProblemEntry, entry: SolverEntry, device: str) -> list[CellSpec]:
        solver = entry.build()
        kinds = entry.kinds or problem.kinds or self.kinds
        rows: list[tuple[dict[str, Any], str, int | None]]
        if solver.adaptive:
            rows = [({**solver.settings, "rtol": t, "atol": t}, "adaptive", None) for t in entry.tolerances]
        else:
            grids = list(entry.grids or problem.grids or self.grids)
            if self.recommended_grids and solver.recommended_grid and solver.recommended_grid not in grids:
                grids.append(solver.recommended_grid)
            budgets = entry.budgets or problem.budgets or self.budgets
            rows = [(solver.settings, grid, budget) for grid in grids for budget in budgets]
        return [
            CellSpec(
                problem=problem.name,
                solver=solver.key,
                settings=settings,
                grid=grid,
                budget=budget,
                seed=seed,
                device=device,
                batch_size=None if solver.batch_coupled else entry.batch_size or problem.batch_size,
                kind=kind,
                last=entry.last,
                **{**problem.asked(kind), **({"n": entry.n} if entry.n else {})},
            )
            for kind in kinds
            for settings, grid, budget in rows
            for seed in self.seeds
        ]

    def _training_cells(self, problem: ProblemEntry, entry: ObjectiveEntry, device: str) -> list[CellSpec]:
        return [
            CellSpec(
                problem=problem.name,
                n=problem.n,
                solver=entry.name,
                settings=entry.settings,
                grid=entry.build().times.law,
                budget=budget,
                seed=seed,
                device=device,
                kind=TRAINING,
            )
            for budget in problem.budgets or self.budgets
            for seed in self.seeds
        ]

    def select(
        self,
        problems: Sequence[str] = (),
        solvers: Sequence[str] = (),
        budgets: Sequence[int] = (),
        seeds: Sequence[int] = (),
    ) -> "Matrix":
        """A part of the matrix. A registered solver that it does not list is added; budgets and seeds replace its own.

        Raises:
            UsageError: a problem is not in the matrix, a solver not registered, or a budget not positive.
        """
        content = self.model_dump()
        if problems:
            known = {entry["name"]: entry for entry in content["problems"]}
            for name in problems:
                if name not in known:
                    raise unknown_name(f"matrix {self.name}", "problem", name, known)
            content["problems"] = [known[name] for name in dict.fromkeys(problems)]
        if solvers:
            for name in solvers:
                if name not in solver_classes() and ":" not in name:
                    raise unknown_name(f"matrix {self.name}", "solver", name, solver_classes())
            for holder in (content, *content["problems"]):
                listed = holder["solvers"]
                if listed is not None:
                    added = [{"name": name} for name in dict.fromkeys(solvers) if name not in _names(listed)]
                    holder["solvers"] = [entry for entry in listed if entry["name"] in solvers] + added
        if budgets:
            content["budgets"] = list(budgets)
            for problem in content["problems"]:
                own = [{**entry, "budgets": None} for entry in problem["solvers"] or []]
                problem |= {"budgets": None, "solvers": own or None}
            content["solvers"] = [{**entry, "budgets": None} for entry in content["solvers"]]
        if seeds:
            content["seeds"] = list(seeds)
        return validate(content, Matrix, f"matrix {self.name}")


def _names(entries: Sequence[dict[str, Any]]) -> set[str]:
    return {entry["name"] for entry in entries}


def matrix_names() -> list[str]:
    """Names of the shipped matrices."""
    return sorted(path.stem for path in MATRICES.glob("*.yaml"))


def load_matrix(name_or_path: str) -> Matrix:
    """A shipped matrix by name, or any by the path of its YAML file.

    Raises:
        UsageError: no such matrix, or something in it is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in matrix_names():
            raise unknown_name("load_matrix", "matrix", name_or_path, matrix_names())
        path = MATRICES / f"{name_or_path}.yaml"
    return validate(read_mapping(path, "matrix"), Matrix, f"matrix {path}")
