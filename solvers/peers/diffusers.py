"""Schedulers of diffusers."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.peers.peer import Library, Peer, StepNoise, choose, defaults, library
from solvers.peers.schedulers import APART, MENU, NOT_ADAPTED, SETTINGS, STATES, Scheduler, State
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE

__all__ = ["MENU", "NOT_ADAPTED", "DiffusersSolver", "build"]

Casts = Literal["lift", "keep"]

# The schedulers of EDM's form get what makes their preconditioning give the denoised state; its scale cancels.
SIGMA_DATA = 0.5


def build(sampler: str, settings: Mapping[str, Any]) -> "DiffusersSolver":
    """A scheduler with its settings.

    Raises:
        UsageError: diffusers is not installed, a setting that the scheduler does not have, or a value that it refuses.
    """
    cls, entry = getattr(library("diffusers"), sampler), MENU[sampler]
    known = defaults(cls.__init__, *(f for f in (getattr(cls, "step", None),) if f))
    allowed = {key: known[key] for key in SETTINGS if key in known and key not in entry.fixed}
    if sampler == "SASolverScheduler":
        # In the place of tau_func, a function of the training step.
        allowed["tau"] = 1.0
    name = f"diffusers:{sampler}"
    solver = DiffusersSolver(name, choose(name, settings, {**allowed, "casts": "lift"}))
    short = {"num_train_timesteps": 4} if "num_train_timesteps" in defaults(cls.__init__) else {}
    try:
        cls(**solver.arguments(), **short)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UsageError(name, f"diffusers refuses the settings: {error}", dict(settings), "Correct them") from error
    return solver


class Call(NamedTuple):
    """One evaluation and call of a scheduler's ``step``.

    Attributes:
        time: where the network is evaluated.
        interval: times t > s that the step's noise belongs to.
        middle: a time between them at which the first stage's noise ended; None in a first or only stage.
        timestep: what the scheduler is told.
    """

    time: float
    interval: tuple[float, float]
    middle: float | None
    timestep: Any


@dataclass(frozen=True)
class DiffusersSolver(Peer):
    """A scheduler of diffusers.

    Its table of levels is that of the grid, followed by its own last level 0; the run ends before the step to 0, which
    would be the last step ``tweedie``. Where the levels come from a training schedule, that schedule has one training
    step a level. Tables are then set to the grid's levels in double precision. The network answers in the form that the
    scheduler is made for.

    Order as diffusers claims it, evaluations as its steps ask for them.

    Reference: von Platen et al. 2022, diffusers, github.com/huggingface/diffusers.

    Raises:
        UsageError: casts is neither lift nor keep.
    """

    family: ClassVar[str] = "diffusers"
    reference: ClassVar[str] = "von Platen et al. 2022, github.com/huggingface/diffusers"

    def __post_init__(self) -> None:
        if self.options["casts"] not in get_args(Casts):
            raise unknown_name(self.name, "casts", str(self.options["casts"]), get_args(Casts))

    @property
    def sampler(self) -> str:
        """Name of the scheduler's class."""
        return self.name.partition(":")[2]

    @property
    def entry(self) -> Scheduler:
        """What is known of the scheduler."""
        return MENU[self.sampler]

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on scheduler and settings
        """The order that is claimed."""
        return self.entry.order(self.options)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # depends on scheduler and settings
        """Whether it draws noise."""
        return self.entry.stochastic(self.options)

    @property
    def batch_coupled(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Only the corrector takes norms over the batch."""
        return bool(self.options.get("correct_steps"))

    @property
    def claim(self) -> str:
        return self.entry.claim

    @property
    def paired(self) -> bool:
        return self.stochastic and not self.entry.apart

    def nfe(self, steps: int) -> int:
        return self.entry.evaluations(self.options, steps)

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        sde, times = process.sde, ts.tolist()
        state = self._state(sde)
        if times[0] < times[-1]:
            raise UsageError(self.name, "a scheduler runs from noise to data", (times[0], times[-1]), "Turn the grid")
        if len(times) - 1 < self._least_steps:
            raise UsageError(
                self.name, f"it takes {self._least_steps} steps or more", len(times) - 1, "Raise the budget"
            )
        noise = StepNoise(brownian if self.stochastic else None, x, self.entry.apart)
        lift = self.options["casts"] == "lift" and x.dtype == torch.float64
        surroundings = Library(noise, lift)
        scheduler = self.scheduler(sde, times, torch.float64 if lift else torch.float32)
        advance = _advance(self, scheduler)
        if hasattr(scheduler, "noise_sampler"):
            scheduler.noise_sampler = lambda *levels: _staged(noise, sde)
        y = x / sde.alpha(times[0]) if state == "sigma" else x
        for call in self._calls(sde, times, scheduler):
            noise.interval, noise.middle = call.interval, call.middle
            if self.batch_coupled:
                y = self._correct(process, scheduler, y, call, brownian)
            output = _prediction(process, scheduler, state, y, call.time)
            with surroundings:
                y = advance(output, call, y)
        return (y * sde.alpha(times[-1]) if state == "sigma" else y).to(x.dtype)

    @property
    def _least_steps(self) -> int:
        """Fewer make PNDM's start by Runge–Kutta fail inside the library."""
        return 3 if self.sampler == "PNDMScheduler" and not self.options["skip_prk_steps"] else 1

    def represents(self, sde: ForwardSDE) -> bool:
        return any(isinstance(sde, STATES[state]) and not isinstance(sde, APART) for state in self._states)

    @property
    def _states(self) -> tuple[State, ...]:
        return (self.entry.state, "flow") if self.entry.flow else (self.entry.state,)

    def _state(self, sde: ForwardSDE) -> State:
        """The variable to integrate under an SDE.

        Raises:
            UsageError: the scheduler cannot represent it.
        """
        if not self.represents(sde):
            known = sorted({cls.__name__.lower() for state in self._states for cls in STATES[state]})
            raise UsageError(self.name, "its levels are those of other SDEs", sde.name, f"Take {' or '.join(known)}")
        return next(state for state in self._states if isinstance(sde, STATES[state]))

    def arguments(self) -> dict[str, Any]:
        """Those of the class's that choose the method."""
        known = defaults(getattr(library("diffusers"), self.sampler).__init__)
        arguments = {key: value for key, value in self.options.items() if key in known} | dict(self.entry.fixed)
        if "final_sigmas_type" in known and arguments.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver"):
            # They do not reach 0, and the library refuses levels that end there.
            arguments["final_sigmas_type"] = "sigma_min"
        return arguments

    def scheduler(self, sde: ForwardSDE, times: list[float], dtype: torch.dtype) -> Any:
        """The library's own object, its tables those of the grid."""
        flow = self._state(sde) == "flow"
        cls = getattr(library("diffusers"), self.sampler)
        known = defaults(cls.__init__)
        n, fine = len(times), 2 if self.sampler == "PNDMScheduler" else 1
        arguments = self.arguments()
        # Half-steps of Runge–Kutta lie at training steps too.
        dense = _halved(times) if fine == 2 else times
        squares = torch.tensor([1 / (1 + math.exp(-2 * sde.lam(t))) for t in reversed(dense)], dtype=torch.float64)
        betas = 1 - squares / torch.cat([torch.ones(1, dtype=torch.float64), squares[:-1]])
        if "num_train_timesteps" in known:
            arguments["num_train_timesteps"] = len(dense)
        if "trained_betas" in known:
            arguments["trained_betas"] = betas.tolist()
        if "timestep_spacing" in known:
            arguments["timestep_spacing"] = "trailing"
        if flow and "use_flow_sigmas" in known:
            arguments |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        if self.entry.state == "edm":
            arguments |= {"sigma_data": SIGMA_DATA, "prediction_type": "epsilon"}
        if "tau_func" in known:
            arguments["tau_func"] = lambda timestep: torch.tensor(self.options["tau"], dtype=dtype)
        scheduler = cls(**arguments)
        levels = [sde.sigma(t) if flow else math.exp(-sde.lam(t)) for t in times]
        if self.sampler == "LTXEulerAncestralRFScheduler":
            scheduler.set_timesteps(sigmas=[*levels, 0.0])
        else:
            scheduler.set_timesteps(n)
        sigmas = torch.tensor([*levels, 0.0], dtype=dtype)
        match self.entry.table:
            case "alphas":
                _set_alphas(scheduler, squares.to(dtype), betas.to(dtype))
            case "sigmas":
                scheduler.sigmas = sigmas
            case "pairs":
                _set_pairs(scheduler, sigmas)
            case "betas":
                root = torch.cat([squares.flip(0).sqrt(), torch.ones(1, dtype=torch.float64)])
                scheduler.alphas, scheduler.betas = root.to(dtype), (root * sigmas.double()).to(dtype)
            case "discrete":
                scheduler.discrete_sigmas = sigmas[:-1].flip(0)
        if self.sampler == "LMSDiscreteScheduler":
            # It integrates its polynomials point by point: numbers are a hundred times faster there than tensors.
            scheduler.sigmas = sigmas.tolist()
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        scheduler.is_scale_input_called = True
        return scheduler

    def _calls(self, sde: ForwardSDE, times: list[float], scheduler: Any) -> Iterator[Call]:
        """The evaluations in their order."""
        steps = list(pairwise(times))
        if self.sampler == "PNDMScheduler":
            dense = _halved(times)
            for timestep in scheduler.timesteps[: self.nfe(len(steps))]:
                yield Call(dense[len(dense) - 1 - int(timestep)], steps[0], None, timestep)
        elif self.entry.table == "pairs":
            halfway = self.sampler in ("KDPM2DiscreteScheduler", "DPMSolverSDEScheduler")
            for k, (t, s) in enumerate(steps):
                middle = sde.t_of_lam((sde.lam(t) + sde.lam(s)) / 2) if halfway else s
                first = (t, middle) if halfway else (t, s)
                yield Call(t, first, None, scheduler.timesteps[2 * k])
                yield Call(middle, (t, s), middle, scheduler.timesteps[2 * k + 1])
        else:
            for k, (t, s) in enumerate(steps):
                yield Call(t, (t, s), None, scheduler.timesteps[k])

    def _correct(self, process: ReverseProcess, scheduler: Any, y: Tensor, call: Call, brownian: Any) -> Tensor:
        for j in range(self.options["correct_steps"]):
            score = process.score(y, call.time)
            stream = f"corrector {j} at {call.time!r}"
            with Library(partial(brownian.normal, stream), lift=False):
                y = scheduler.step_correct(score, y, return_dict=False)[0]
        return y


def _prediction(process: ReverseProcess, scheduler: Any, state: State, y: Tensor, t: float) -> Tensor:
    """The network's answer in the form that the scheduler takes, one evaluation."""
    sde = process.sde
    if state == "sigma":
        return process.noise(sde.alpha(t) * y, t)
    if state == "flow":
        return process.velocity(y, t)
    if state == "ve":
        return process.score(y, t)
    if state == "edm":
        sigma = sde.sigma(t)
        total = sigma**2 + SIGMA_DATA**2
        return (process.denoised(y, t) - SIGMA_DATA**2 / total * y) * (math.sqrt(total) / (sigma * SIGMA_DATA))
    noise = process.noise(y, t)
    if scheduler.__class__.__name__ == "IPNDMScheduler":
        # It takes v = alpha noise - sigma denoised.
        return (noise - sde.sigma(t) * y) / sde.alpha(t)
    return noise


def _advance(solver: DiffusersSolver, scheduler: Any) -> Callable[[Tensor, Call, Tensor], Tensor]:
    """The scheduler's step as a function of prediction, call and state."""
    if solver.entry.table == "discrete":
        last = len(scheduler.timesteps) - 1
        numbers = iter(range(last, 0, -1))

        def predict(output: Tensor, call: Call, y: Tensor) -> Tensor:
            # Its index is the timestep times the number of levels, rounded down.
            result: Tensor = scheduler.step_pred(output, (next(numbers) + 0.5) / last, y, return_dict=False)[0]
            return result

        return predict
    taken = defaults(type(scheduler).step)
    options = {key: value for key, value in solver.options.items() if key in taken}
    if solver.sampler == "CogVideoXDPMScheduler":
        before: list[Any] = [None, None]

        def multistep(output: Tensor, call: Call, y: Tensor) -> Tensor:
            denoised, timestep = before
            y, before[0] = scheduler.step(output, denoised, call.timestep, timestep, y, return_dict=False)
            before[1] = call.timestep
            return y

        return multistep

    def step(output: Tensor, call: Call, y: Tensor) -> Tensor:
        result: Tensor = scheduler.step(output, call.timestep, y, return_dict=False, **options)[0]
        return result

    return step


def _staged(noise: StepNoise, sde: ForwardSDE) -> Tensor:
    """The noise of a stage; that of a whole step goes on from its first stage's, in the library's clock sigma."""
    (t, s), middle = noise.interval, noise.middle
    if middle is None:
        return noise.over(t, s)
    whole, half = (math.exp(-sde.lam(t)) - math.exp(-sde.lam(end)) for end in (s, middle))
    share = half / whole
    return math.sqrt(share) * noise.over(t, middle) + math.sqrt(1 - share) * noise.over(middle, s)


def _halved(times: list[float]) -> list[float]:
    """The times with one halfway in each step, and one beyond the last, which stands for 0."""
    return [time for t, s in pairwise([*times, 0.0]) for time in (t, (t + s) / 2)]


def _set_alphas(scheduler: Any, squares: Tensor, betas: Tensor) -> None:
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = betas, 1 - betas, squares
    scheduler.final_alpha_cumprod = torch.ones((), dtype=squares.dtype)


def _set_pairs(scheduler: Any, sigmas: Tensor) -> None:
    """A two-stage scheduler's tables: inner levels twice; levels between, where it has them."""
    following = torch.cat([sigmas[1:], sigmas[-1:]])

    def twice(values: Tensor, last: bool) -> Tensor:
        inner = values[1:] if last else values[1:-1]
        return torch.cat([values[:1], inner.repeat_interleave(2), values[-1:]])

    if hasattr(scheduler, "sigmas_up"):
        # sigma_down = sigma'^2 / sigma, whose geometric mean with sigma is sigma'.
        up = following * (1 - (following / sigmas).square()).clamp(min=0).sqrt()
        scheduler.sigmas_up = twice(up, last=True)
        scheduler.sigmas_down = twice(following.square() / sigmas, last=True)
        scheduler.sigmas_interpol = twice(following, last=True)
    elif hasattr(scheduler, "sigmas_interpol"):
        before = torch.cat([sigmas[-1:], sigmas[:-1]])
        scheduler.sigmas_interpol = twice((before * sigmas).sqrt(), last=True)
    scheduler.sigmas = twice(sigmas, last=hasattr(scheduler, "sigmas_interpol"))
