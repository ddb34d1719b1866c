"""Solvers: what they declare, the loop of those with a fixed grid, and ``integrate``."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from solvers.brownian import Brownian, StoppedPath, announce
from solvers.errors import UsageError, unknown_name
from solvers.process import ReverseProcess

LastStep = Literal["keep", "mean", "tweedie"]
LAST_STEPS: tuple[LastStep, ...] = get_args(LastStep)


@dataclass(frozen=True)
class Solver(ABC):
    """A numerical method; its fields are its settings, its class variables what it declares.

    Attributes:
        key: name in the registry and on the command line, the name of its file.
        family: the menu's heading.
        order: order of convergence of the samples (ODE) or of their law (SDE); None where a bias stays at any step.
        stochastic: whether it draws noise.
        adaptive: whether it chooses its own steps, to a tolerance.
        batch_coupled: whether a sample depends on the others of its batch; it is then never run in chunks.
        takes_path: whether its noise is the increments of the path, without which its last step has a mean; normals of
            other draws, Langevin's or churn's, stay in the state.
        constrainable: whether it imposes the process's constraint after each update.
        recommended_grid: the grid its authors use, if it has one.
        certified: the settings to certify it with, where they are not the defaults alone.
        reference: the publication.
    """

    key: ClassVar[str] = ""
    family: ClassVar[str]
    order: ClassVar[int | None]
    stochastic: ClassVar[bool]
    adaptive: ClassVar[bool] = False
    batch_coupled: ClassVar[bool] = False
    takes_path: ClassVar[bool] = True
    constrainable: ClassVar[bool] = False
    recommended_grid: ClassVar[str | None] = None
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    reference: ClassVar[str]

    @classmethod
    def form(cls, settings: Mapping[str, Any]) -> "type[Solver]":
        """The class that takes these settings: this one, unless the key offers both fixed and adaptive steps."""
        return cls

    @abstractmethod
    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        """Carry x (n, ...) from ts[0] to ts[-1]."""

    def path_times(self, process: ReverseProcess, times: Sequence[float]) -> Sequence[float]:
        """Times of the path that a solve on a grid asks for, in order: a source may prepare for them."""
        return times

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def equilibrium_variance(self) -> float | None:
        """Variance that its Langevin steps keep on N(0, sigma(t)^2 I), units of sigma(t)^2; None without such steps."""
        return None


class FixedStepSolver(Solver):
    """A solver whose steps are given by a grid.

    Attributes:
        multistep: whether a step uses earlier steps (its state), so that it cannot serve as a predictor.
    """

    multistep: ClassVar[bool] = False
    constrainable: ClassVar[bool] = True

    @property
    def ramps(self) -> bool:
        """Whether its order holds before the limit only: a multistep ODE method whose first steps have lower ones."""
        return self.multistep and not self.stochastic and self.settings.get("start") == "ramp"

    @property
    def limit_order(self) -> int | None:
        """Order in the limit of small steps: at most 2 after a ramp."""
        return min(self.order, 2) if self.ramps and self.order is not None else self.order

    @abstractmethod
    def nfe(self, steps: int) -> int:
        """Network evaluations a sample in ``steps`` steps."""

    def steps_for(self, nfe: int) -> int:
        """The most steps within ``nfe`` evaluations.

        Raises:
            UsageError: not even one step fits.
        """
        if self.nfe(1) > nfe:
            raise UsageError(
                self.key, f"one step takes {self.nfe(1)} evaluations", nfe, "Give it a larger budget of evaluations"
            )
        steps = 1
        while self.nfe(2 * steps) <= nfe:
            steps *= 2
        high = 2 * steps
        while high - steps > 1:
            middle = (steps + high) // 2
            steps, high = (middle, high) if self.nfe(middle) <= nfe else (steps, middle)
        return steps

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> Any:
        """The state handed to the first step, e.g. an empty history; None where there is none."""
        return None

    @abstractmethod
    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        """One step from t to s; returns x_s and the new state. Nothing is kept on the solver."""

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        times: list[float] = ts.tolist()
        x = process.constrain(x, times[0], brownian, "start")
        state = self.init(process, x, ts)
        for t, s in pairwise(times):
            x, state = self.step(process, x, t, s, brownian, state)
            if process.constraint is not None:
                x = process.constrain(x, s, brownian, f"step to {s!r}")
        return x


class AdaptiveSolver(Solver):
    """A solver that chooses its own steps between the ends of the grid, to the tolerances ``rtol`` and ``atol``."""

    adaptive: ClassVar[bool] = True


def check_tolerances(who: str, rtol: float, atol: float) -> None:
    """Refuse tolerances out of range.

    Raises:
        UsageError: one is not positive, or not finite.
    """
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise UsageError(who, "tolerances are positive", (rtol, atol), "E.g. 1e-3")


def integrate(
    solver: Solver,
    process: ReverseProcess,
    x: Tensor,
    ts: Tensor,
    brownian: Brownian | None = None,
    last: LastStep = "keep",
    differentiable: bool = False,
) -> Tensor:
    """Carry samples along a grid: the reverse SDE or the probability-flow ODE.

    Args:
        solver: the method.
        process: network and SDE; counts the evaluations.
        x: states at ts[0], shape (n, ...).
        ts: grid of times, shape (steps + 1,), float64; decreasing, or for ODE solvers increasing.
        brownian: source of randomness, needed by stochastic solvers and under a constraint.
        last: ``keep`` the last state, take the last step's ``mean`` (no path increment in it), or follow it by a
            ``tweedie`` step to t = 0 (one more evaluation, counted). Adaptive stochastic solvers have no ``mean``; of
            solvers whose noise is not the path's (``takes_path``) it is the last state.
            Under a constraint the last two end with the known part at its mean.
        differentiable: keep the graph of the solve, for a loss of its end; its memory grows with the evaluations.

    Returns:
        States at ts[-1] (at 0 with ``tweedie``), shape of x.

    Raises:
        UsageError: the grid is not monotone, runs upwards under an SDE solver, a constraint or ``tweedie``, leaves
            (0, t_max], noise is missing, the solver knows no constraints, or ``last`` is unknown or not for it.
    """
    times: list[float] = ts.tolist()
    check_grid(solver, process, times)
    if last not in LAST_STEPS:
        raise unknown_name("integrate", "last step", last, LAST_STEPS)
    if last == "tweedie" and times[-1] > times[0]:
        raise UsageError("integrate", "a tweedie step ends a grid that runs down to t_min", times, "Take 'keep'")
    constraint = process.constraint
    if constraint is not None and not solver.constrainable:
        raise UsageError("integrate", "a constraint needs a solver of fixed steps", solver.key, "E.g. euler_maruyama")
    if brownian is None and (solver.stochastic or constraint is not None):
        who = solver.key if solver.stochastic else "a constraint"
        raise UsageError("integrate", f"{who} draws noise", None, "Pass brownian, e.g. a BrownianPath")
    if brownian is not None and solver.stochastic and last == "mean":
        if solver.adaptive:
            raise UsageError(
                "integrate", f"{solver.key} chooses its last step itself", last, "Take 'keep' or 'tweedie'"
            )
        brownian = StoppedPath(brownian, times[-2])
    process.follow(times)
    announce(brownian, solver.path_times(process, times))
    with torch.set_grad_enabled(differentiable):
        x = solver.solve(process, x, ts, brownian)
        if last == "tweedie":
            x = process.denoised(x, times[-1])
        if constraint is None or last == "keep":
            return x
        return constraint.impose(x, process.sde, 0.0 if last == "tweedie" else times[-1])


def check_grid(solver: Solver, process: ReverseProcess, times: Sequence[float]) -> None:
    """Refuse grids that a solver cannot follow, before any evaluation.

    Raises:
        UsageError: see :func:`integrate`.
    """
    signs = {(s > t) - (s < t) for t, s in pairwise(times)}
    if signs not in ({-1}, {1}):
        raise UsageError("integrate", "a grid has two times or more, all up or all down", times)
    if signs == {1} and (solver.stochastic or process.constraint is not None):
        raise UsageError("integrate", f"{solver.key} follows the reverse SDE, from t_max down", times)
    if min(times) <= 0 or max(times) > process.sde.t_max:
        raise UsageError(
            "integrate", f"times lie in (0, {process.sde.t_max}]", (times[0], times[-1]), "End at sde.t_min"
        )
