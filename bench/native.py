"""Runs of other libraries' samplers in their own loops, on the levels that they choose themselves."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bench.problems.gaussian import Gaussian
from solvers.grids import make_grid
from solvers.peers.diffusers import DiffusersSolver
from solvers.peers.peer import Peer, defaults, library
from solvers.peers.schedulers import MENU
from solvers.registry import parse_solver
from solvers.solver import integrate

# The levels that a scheduler can be asked for: arguments of its class.
CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
)
LAST_LEVELS: tuple[dict[str, Any], ...] = ({}, {"final_sigmas_type": "sigma_min"})
# As many steps as training steps: levels then fall together in single precision or whole numbers.
MOST_STEPS = 1000
FEW_STEPS = 20
# Schedulers that find their levels by a search over all for each, or integrate a polynomial a step: few steps only.
SLOW = (
    "DPMSolverSDEScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
)


@dataclass(frozen=True)
class LevelRun:
    """A scheduler's own loop.

    Attributes:
        scheduler: the class.
        levels: how its levels were asked for.
        steps: steps asked for.
        evaluations: evaluations made.
        wasted: evaluations after which neither level nor state has changed.
        failed: whether the library raised an error.
        finding: in words, empty where there is nothing to say.
    """

    scheduler: str
    levels: str
    steps: int
    evaluations: int
    wasted: int
    failed: bool
    finding: str


def native_evaluations(solver: Peer, steps: int) -> int | None:
    """Evaluations in the library's own loop of ``steps`` steps; None where it fails."""
    if isinstance(solver, DiffusersSolver):
        # Its own end of the levels, 0, takes its own choice of the last orders.
        arguments = {key: value for key, value in solver.arguments().items() if key != "lower_order_final"}
        run = _loop(solver, steps, arguments)
        return None if run.failed else run.evaluations
    problem = Gaussian()
    process = problem.process()
    ts = make_grid("log_snr", problem.sde, steps)
    integrate(solver, process, problem.prior(2, 0), ts, problem.brownian(2, 0))
    return process.evaluations.calls


def level_runs() -> Iterator[LevelRun]:
    """Each scheduler's loop under each choice of levels."""
    for name in MENU:
        solver = parse_solver(f"diffusers:{name}")
        assert isinstance(solver, DiffusersSolver)
        known = defaults(getattr(library("diffusers"), name).__init__)
        for choice in CHOICES:
            for last in LAST_LEVELS:
                levels = choice | last
                if levels.keys() <= known.keys():
                    yield _loop(solver, FEW_STEPS, levels)
        if name not in SLOW:
            yield _loop(solver, MOST_STEPS, {})


def _loop(solver: DiffusersSolver, steps: int, arguments: dict[str, Any]) -> LevelRun:
    """``for t in scheduler.timesteps`` as the library's pipelines write it, in single precision, on a sine."""
    calls = wasted = 0
    chosen = ", ".join(f"{key}={value}" for key, value in arguments.items() if key not in solver.options) or "default"
    failure, x = "", torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)
    with torch.random.fork_rng(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            scheduler = getattr(library("diffusers"), solver.sampler)(**arguments)
            scheduler.set_timesteps(steps)
            same = _same_levels(solver, scheduler)
            for number, timestep in enumerate(scheduler.timesteps):
                for _ in range(solver.options.get("correct_steps", 0)):
                    calls += 1
                    x = scheduler.step_correct(_network(x), x, return_dict=False)[0]
                calls += 1
                y = _step(solver, scheduler, timestep, x)
                wasted += number in same or torch.equal(x, y)
                x = y
        except Exception as error:  # whatever the library raises is a finding
            failure = f"{type(error).__name__}: {str(error)[:60]}"
    finding = failure
    if not failure and not bool(x.isfinite().all()):
        finding = f"not finite in {steps} steps"
    elif wasted:
        finding = f"{wasted} of {calls} evaluations wasted"
    return LevelRun(solver.sampler, chosen, steps, calls, int(wasted), bool(failure), finding)


def _network(x: Tensor) -> Tensor:
    return 0.3 * torch.sin(x)


def _step(solver: DiffusersSolver, scheduler: Any, timestep: Any, x: Tensor) -> Tensor:
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, timestep)
    if solver.entry.table == "discrete":
        y: Tensor = scheduler.step_pred(_network(x), timestep, x, return_dict=False)[0]
    elif solver.sampler == "CogVideoXDPMScheduler":
        y = scheduler.step(_network(x), None, timestep, None, x, return_dict=False)[0]
    else:
        y = scheduler.step(_network(x), timestep, x, return_dict=False)[0]
    return y


def _same_levels(solver: DiffusersSolver, scheduler: Any) -> set[int]:
    """Numbers of the steps that end at the level where they start."""
    if solver.entry.table != "sigmas":
        return set()
    return {k for k, (level, following) in enumerate(pairwise(scheduler.sigmas.tolist())) if level == following}


class _quiet:  # noqa: N801  # reads as a statement
    """diffusers' logger silent."""

    def __enter__(self) -> None:
        from diffusers.utils import logging

        self._before = logging.get_verbosity()
        logging.set_verbosity_error()

    def __exit__(self, *exception: object) -> None:
        from diffusers.utils import logging

        logging.set_verbosity(self._before)
