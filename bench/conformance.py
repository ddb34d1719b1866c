"""Conformance: recorded runs of the reference implementation, done again with the project's solvers.

A case is run when its kind is known: predictor–corrector sampling, inpainting and colorization on an exact Gaussian
score, the black-box ODE sampler, training losses. Others are listed as skipped, never as passed.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pretrained.objectives.denoising import Denoising
from pretrained.objectives.times import Uniform
from solvers.brownian import Tape
from solvers.constraints import Colorization, Constraint, Inpainting
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import ForwardSDE, expand, get_sde
from solvers.solver import Solver, integrate

TOLERANCE = 1e-9
# Colorization: the reference keeps its colour basis in single precision. ODE: sums in another order, amplified.
LOOSE_TOLERANCE = 1e-6

Verdict = Literal["pass", "fail", "skipped"]
Arrays = Mapping[str, Tensor]

# The reference's names of predictors, by (name, probability_flow).
PREDICTORS = {
    ("euler_maruyama", False): "euler_maruyama",
    ("reverse_diffusion", False): "reverse_diffusion",
    ("reverse_diffusion", True): "probability_flow",
    ("ancestral_sampling", False): "ancestral",
    ("none", False): "none",
    ("none", True): "none",
}
CORRECTORS = ("langevin", "ald", "none")
SDE_SETTINGS = {
    "vp": ("beta_min", "beta_max"),
    "subvp": ("beta_min", "beta_max"),
    "ve": ("sigma_min", "sigma_max"),
}
LOSS_NETWORK = "0.3*tanh(x)"


@dataclass(frozen=True)
class Result:
    """Outcome of one case.

    Attributes:
        key: of the case.
        error: largest |a - b| / (1 + |b|) over its results; None where skipped or not finite.
        tolerance: the most it may be; None where skipped.
        verdict: ``pass``, ``fail`` or ``skipped``.
        reason: why it was skipped or failed, where the error does not say it.
    """

    key: str
    error: float | None
    tolerance: float | None
    verdict: Verdict
    reason: str | None = None


class Unknown(Exception):  # noqa: N818  # not an error
    """A case of a kind that is not run; says why."""


class Mismatch(Exception):  # noqa: N818  # a verdict
    """A case that cannot agree; says why."""


class Case:
    """One recorded run.

    Args:
        settings: its entry in the index.
        arrays: every array of the vectors, by name.
    """

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self.key: str = settings["key"]
        self._settings = settings
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def __getitem__(self, name: str) -> Any:
        if name not in self._settings:
            raise UsageError("conformance", f"case {self.key!r} lacks {name!r}", None, "Complete the index")
        return self._settings[name]

    def number(self, name: str) -> float:
        """A setting that is a number."""
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError("conformance", f"{name!r} of case {self.key!r} is a number", value)
        return value

    def count(self, name: str) -> int:
        """A setting that is a whole number, 1 or more."""
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError("conformance", f"{name!r} of case {self.key!r} is a whole number of at least 1", value)
        return value

    def has(self, name: str) -> bool:
        """Whether it recorded that array."""
        return f"{self.key}/{name}" in self._arrays

    def array(self, name: str, prefix: str | None = None) -> Tensor:
        """An array of the case, in double precision."""
        full = f"{self.key if prefix is None else prefix}/{name}"
        if full not in self._arrays:
            raise UsageError("conformance", f"the vectors lack the array {full!r}", None, "Complete them")
        found = self._arrays[full]
        if found.is_complex() or not found.numel():
            raise Mismatch(f"the array {full!r} holds real numbers; got {found.dtype}, {found.numel()} of them")
        return found.double()

    def sde(self) -> ForwardSDE:
        """The forward process with the case's constants."""
        name = self["sde"]
        if name not in SDE_SETTINGS:
            raise Unknown(f"no SDE {name!r} in the reference's discretisation")
        return get_sde(name, **{setting: self.number(setting) for setting in SDE_SETTINGS[name]})

    def process(self, constraint: Constraint | None = None) -> ReverseProcess:
        """The exact score of the Gaussian target."""
        sde, mean, var = self.sde(), self.array("mean", "target"), self.array("var", "target")

        def score(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
            value: Tensor = (alpha * mean - x) / (alpha**2 * var + sigma**2)
            return value

        return ReverseProcess(sde, score, "score", constraint)


def _pairs_of(found: Mapping[str, Tensor], case: Case) -> list[tuple[Tensor, Tensor]]:
    """Computed and recorded values of what the case recorded."""
    pairs = [(value, case.array(name)) for name, value in found.items() if case.has(name)]
    if not pairs:
        raise UsageError("conformance", f"case {case.key!r} records a result", None, f"Known: {', '.join(found)}")
    return pairs


def _sampler(case: Case) -> tuple[Solver, bool]:
    """The solver of a case, and whether its predictor draws noise."""
    flow = "probability_flow" in case and case["probability_flow"]
    if not isinstance(flow, bool):
        raise Mismatch(f"probability_flow is true or false; got {flow!r}")
    names = case["predictor"], flow
    corrector = case["corrector"]
    if names not in PREDICTORS:
        raise Unknown(f"no predictor {names[0]!r}" + (" with probability_flow" if flow else ""))
    if corrector not in CORRECTORS:
        raise Unknown(f"no corrector {corrector!r}")
    predictor = PREDICTORS[names]
    settings: dict[str, Any] = {"corrector": corrector, "discretisation": "song"}
    if corrector != "none":
        settings |= {"snr": case.number("snr"), "corrector_steps": case.count("corrector_steps")}
    if predictor != "none":
        solver = get_solver("predictor_corrector", predictor=predictor, **settings)
        return solver, predictor != "probability_flow"
    if corrector == "none":
        raise Unknown("neither predictor nor corrector")
    return get_solver("annealed_langevin", **settings), False


def _tape(case: Case, noisy: bool, constrained: bool) -> Tensor:
    """The recorded draws that our sampler asks for: the reference's probability-flow predictor throws one away."""
    noise, steps = case.array("noise"), case.count("steps")
    before = case.count("corrector_steps") if case["corrector"] != "none" else 0
    drawn = case["predictor"] != "none"
    layout = [True] * before + [True] * constrained + [noisy] * drawn + [True] * constrained
    if len(noise) != steps * len(layout):
        raise Mismatch(f"{len(noise)} draws are recorded, the solver takes {steps * len(layout)}")
    return noise[torch.tensor(layout * steps)]


def _sampling(case: Case) -> list[tuple[Tensor, Tensor]]:
    solver, noisy = _sampler(case)
    process = case.process()
    ts, tape = _grid(case, process.sde), _tape(case, noisy, False)
    x = integrate(solver, process, case.array("x_init"), ts, Tape(tape))
    x_mean = integrate(solver, process, case.array("x_init"), ts, Tape(tape), last="mean")
    return _pairs_of({"x": x, "x_mean": x_mean}, case)


def _controlled(case: Case) -> list[tuple[Tensor, Tensor]]:
    solver, noisy = _sampler(case)
    data = case.array("data")
    constraint = Inpainting(data, case.array("mask")) if case["task"] == "inpaint" else Colorization(data)
    process = case.process(constraint)
    ts, tape = _grid(case, process.sde), _tape(case, noisy, True)
    x = integrate(solver, process, case.array("x_init"), ts, Tape(tape))
    # The reference's mean is one of the known part alone.
    return _pairs_of({"x": x, "x_mean": constraint.impose(x, process.sde, float(ts[-1]))}, case)


def _ode(case: Case) -> list[tuple[Tensor, Tensor]]:
    process = case.process()
    solver = get_solver("scipy_rk45", rtol=case.number("rtol"), atol=case.number("atol"))
    x = integrate(solver, process, case.array("x_init"), make_grid("uniform", process.sde, 1, end=case.number("t_min")))
    return _pairs_of({"x": x}, case)


def _loss(case: Case) -> list[tuple[Tensor, Tensor]]:
    if case["network"] != LOSS_NETWORK:
        raise Unknown(f"no network {case['network']!r}")
    weighting, reduction = case["weighting"], case["reduction"]
    if weighting not in ("sigma2", "likelihood") or reduction not in ("mean", "half_sum"):
        raise Unknown(f"no loss with weighting {weighting!r}, reduction {reduction!r}")
    sde = case.sde()
    # The reference divides the network by -sigma for VP and sub-VP: there it predicts the noise.
    process = ReverseProcess(sde, lambda x, t: 0.3 * torch.tanh(x), "score" if sde.name == "ve" else "noise")
    t = Uniform().draw(sde, case.array("u"), case.number("t_min"))
    data, z = case.array("data"), case.array("z")
    loss = Denoising().loss(process, data, t, z, torch.Generator(), weighting, reduction)
    return _pairs_of({"loss": loss.mean()}, case)


def _grid(case: Case, sde: ForwardSDE) -> Tensor:
    return make_grid("uniform", sde, case.count("steps"), end=case.number("t_min"))


def _kind(case: Case) -> tuple[Callable[[Case], list[tuple[Tensor, Tensor]]], float]:
    """How a case is run, and its tolerance."""
    if "task" in case:
        if case["task"] not in ("inpaint", "colorize"):
            raise Unknown(f"no task {case['task']!r}")
        return _controlled, LOOSE_TOLERANCE if case["task"] == "colorize" else TOLERANCE
    if "weighting" in case and "reduction" in case and "network" in case:
        return _loss, TOLERANCE
    if "predictor" in case and "corrector" in case:
        return _sampling, TOLERANCE
    if "rtol" in case and case.key.endswith("ode_rk45"):
        return _ode, LOOSE_TOLERANCE
    if "model" in case:
        raise Unknown("the settings of a network: pass its --checkpoint, --config and --vectors")
    raise Unknown("a kind of case that is not known")


def largest_error(found: Tensor, recorded: Tensor) -> float:
    """max |a - b| / (1 + |b|); values that are not finite in both count as equal where they are the same."""
    if found.shape != recorded.shape:
        return math.inf
    same = (found == recorded) | (found.isnan() & recorded.isnan())
    errors = torch.where(same, 0.0, (found - recorded).abs() / (1 + recorded.abs()))
    return float(errors.nan_to_num(nan=math.inf).max()) if errors.numel() else 0.0


def run_case(case: Case) -> Result:
    """Run one case."""
    tolerance = None
    try:
        run, tolerance = _kind(case)
        error = max(largest_error(found, recorded) for found, recorded in run(case))
    except Unknown as why:
        return Result(case.key, None, None, "skipped", str(why))
    except Mismatch as why:
        return Result(case.key, None, tolerance, "fail", str(why))
    except Exception as why:
        # A case that is malformed costs no other its verdict.
        return Result(case.key, None, tolerance, "fail", f"{type(why).__name__}: {why}")
    return judge(case.key, error, tolerance)


def judge(key: str, error: float, tolerance: float) -> Result:
    """The verdict on a case that was run."""
    if not math.isfinite(error):
        return Result(key, None, tolerance, "fail", "shapes differ, or one of two values is not finite")
    return Result(key, error, tolerance, "pass" if error <= tolerance else "fail")


def load(vectors: Path, index: Path) -> list[Case]:
    """The cases of an index with their arrays.

    Raises:
        UsageError: a file is missing or is not what it should be.
    """
    for path in (vectors, index):
        if not path.is_file():
            raise UsageError("conformance", "there is no such file", str(path), "Give vectors (.npz) and index (.json)")
    try:
        entries = json.loads(index.read_text())
    except ValueError as error:
        raise UsageError("conformance", f"{index} is not JSON", str(error), "Give the index second") from error
    if isinstance(entries, dict):  # the settings of one checkpoint
        entries = [{"key": index.stem, **entries}]
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("key"), str) for e in entries):
        raise UsageError("conformance", f"{index} is a list of cases, each with its key", type(entries).__name__)
    arrays = load_arrays(vectors)
    return [Case(entry, arrays) for entry in entries]


def load_arrays(vectors: Path) -> dict[str, Tensor]:
    """The arrays of a file by name.

    Raises:
        UsageError: the file is missing or is none of arrays.
    """
    if not vectors.is_file():
        raise UsageError("conformance", "there is no such file", str(vectors), "Give vectors (.npz)")
    try:
        with np.load(vectors, allow_pickle=False) as stored:
            return {name: torch.from_numpy(np.asarray(stored[name])) for name in stored.files}
    except (OSError, ValueError, BadZipFile, TypeError, AttributeError, EOFError) as error:
        raise UsageError("conformance", f"{vectors} is not a file of arrays (.npz)", str(error)) from error


def conformance(vectors: Path, index: Path) -> list[Result]:
    """Run every case of an index, in its order.

    Raises:
        UsageError: a file is missing or malformed.
    """
    return [run_case(case) for case in load(vectors, index)]
