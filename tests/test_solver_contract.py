"""What every registered solver promises. New solvers are covered by being registered."""

import importlib
import math
import pkgutil
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import Problem
from bench.trial import Trial
from solvers import methods
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver, solver_classes, solver_names
from solvers.sde import SDES
from solvers.solver import AdaptiveSolver, FixedStepSolver, Solver, integrate

# Settings beside the defaults that change what a solver declares.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {"eta": 0.5}),
    ("predictor_corrector", {"corrector": "none"}),
    ("predictor_corrector", {"corrector": "ald", "corrector_steps": 2, "predictor": "heun"}),
    ("torchdiffeq", {"method": "adaptive_heun"}),
    ("torchdiffeq", {"method": "rk4"}),
    ("torchsde", {"method": "srk"}),
    ("rk45", {"pair": "dormand_prince_853"}),
]


def parametrised(keep: Callable[[Solver], bool]) -> pytest.MarkDecorator:
    cases = [(name, {}) for name in solver_names()] + VARIANTS
    named = [("-".join([name, *map(str, settings.values())]), get_solver(name, **settings)) for name, settings in cases]
    return pytest.mark.parametrize("solver", [pytest.param(s, id=name) for name, s in named if keep(s)])


every = parametrised(lambda solver: True)
fixed_step = parametrised(lambda solver: isinstance(solver, FixedStepSolver))
stochastic = parametrised(lambda solver: solver.stochastic)
ode = parametrised(lambda solver: not solver.stochastic)


# What is declared


def test_one_file_is_one_solver_of_that_name():
    classes = solver_classes()
    modules = [info.name for info in pkgutil.iter_modules(methods.__path__) if not info.name.startswith("_")]
    assert [name for name, cls in classes.items() if cls.__module__.startswith("solvers.")] == sorted(modules)
    for name in modules:
        module = importlib.import_module(f"solvers.methods.{name}")
        own = [
            v
            for v in vars(module).values()
            if isinstance(v, type) and issubclass(v, Solver) and v.__module__ == module.__name__
        ]
        # Besides its class, a file may hold other forms of the same key.
        assert [cls for cls in own if not cls.__name__.startswith("_")] == [classes[name]]
        assert {cls.key for cls in own} == {name}
        assert classes[name].key == name


@every
def test_declarations(solver: Solver):
    assert solver.order is None or (isinstance(solver.order, int) and solver.order >= 1)
    for flag in (solver.stochastic, solver.adaptive, solver.batch_coupled):
        assert isinstance(flag, bool)
    assert solver.adaptive != isinstance(solver, FixedStepSolver)
    assert solver.family
    assert re.search(r"\b(19|20)\d\d\b", solver.reference)
    if solver.recommended_grid is not None:
        make_grid(solver.recommended_grid, SDES["vp"](), 4)


@pytest.mark.parametrize("name", solver_names())
def test_docstring(name: str):
    cls = solver_classes()[name]
    doc = cls.__doc__ or ""
    assert re.search(r"\S +(=|<-) +\S", doc), "the formula of a step"
    assert re.search(r"\bOrder\b", doc)
    assert re.search(r"\bevaluations?\b", doc, re.IGNORECASE), "the cost of a step"
    assert re.search(r"\bReference: \S", doc)
    for field in fields(cls):
        assert re.search(rf"(?s)Args:.*\n +{field.name}: \S", doc), field.name


# Cost


@fixed_step
def test_steps_for_is_the_most_that_a_budget_buys(solver: FixedStepSolver):
    least = solver.nfe(1)
    for budget in [*range(least, 40), 999, 1000, 1001]:
        steps = solver.steps_for(budget)
        assert solver.nfe(steps) <= budget < solver.nfe(steps + 1)
    with pytest.raises(UsageError, match=f"{solver.key}: one step takes {least} evaluations; got {least - 1}"):
        solver.steps_for(least - 1)


# What a result depends on


@every
def test_a_result_is_finite_and_has_no_gradient(solver: Solver):
    x = Trial(solver, Mixture2d()).x
    assert x.isfinite().all()
    assert not x.requires_grad


@every
def test_noise_is_drawn_if_and_only_if_it_is_declared(solver: Solver):
    one, other = (Trial(solver, Mixture2d(), brownian=Mixture2d().brownian(6, seed)).x for seed in (0, 1))
    assert torch.equal(one, other) != solver.stochastic or (isinstance(solver, FixedStepSolver) and _silent(solver))


def _silent(solver: Solver) -> bool:
    """A stochastic solver none of whose parts draws: a predictor that is an ODE solver, without a corrector."""
    settings = solver.settings
    return settings.get("corrector") == "none" and not get_solver(settings["predictor"]).stochastic


@every
def test_nothing_is_kept_on_the_solver(solver: Solver):
    first = Trial(solver, Mixture2d()).x
    Trial(solver, Gaussian(), n=3, steps=5, seed=4)
    assert torch.equal(Trial(solver, Mixture2d()).x, first)
    for name in ("order", *solver.settings):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(solver, name, 1)


@fixed_step
def test_two_solves_may_be_interleaved(solver: FixedStepSolver):
    problem, process = Mixture2d(), Mixture2d().process()
    ts = make_grid("log_snr", problem.sde, 6)
    starts = [problem.prior(4, seed) for seed in (0, 1)]
    sources = [problem.brownian(4, seed) for seed in (0, 1)]
    runs = [(x, solver.init(process, x, ts)) for x in starts]
    for t, s in pairwise(ts.tolist()):
        runs = [solver.step(process, x, t, s, source, state) for (x, state), source in zip(runs, sources, strict=True)]
    for (x, _), start, source in zip(runs, starts, sources, strict=True):
        assert torch.allclose(x, integrate(solver, process, start, ts, source), rtol=1e-12, atol=1e-12)


@every
def test_the_shape_of_a_sample_is_of_no_account(solver: Solver):
    problem = Gaussian()
    flat = Trial(solver, problem).x
    network, ts = problem.process().network, make_grid("log_snr", problem.sde, 8)

    class Image(Gaussian):
        def __init__(self) -> None:
            super().__init__()
            self.shape = (2, 2, 2)

    image = Image()
    process = ReverseProcess(problem.sde, lambda x, t: network(x.flatten(1), t).view_as(x))
    x = integrate(solver, process, image.prior(6, 0), ts, image.brownian(6, 0))
    assert torch.allclose(x.flatten(1), flat, rtol=1e-12, atol=1e-12)


# The last step


class OtherBelow:
    """A path that is another one below a time, and knows whether it was asked for that."""

    asked = False

    def __init__(self, problem: Problem, stop: float, seed: int) -> None:
        self.path, self.other, self.stop = problem.brownian(6, 0), problem.brownian(6, seed), stop

    def dw(self, t: float, s: float) -> Tensor:
        self.asked = self.asked or t <= self.stop
        return (self.path if t > self.stop else self.other).dw(t, s)

    def normal(self, stream: str) -> Tensor:
        return self.path.normal(stream)


@fixed_step
def test_last_step_mean_takes_no_noise(solver: FixedStepSolver):
    problem = Mixture2d()
    stop = float(make_grid("log_snr", problem.sde, 8)[-2])
    sources = [OtherBelow(problem, stop, seed) for seed in (1, 2)]
    keep = [Trial(solver, problem, brownian=source).x for source in sources]
    mean = [Trial(solver, problem, brownian=OtherBelow(problem, stop, seed), last="mean") for seed in (1, 2)]
    assert torch.equal(mean[0].x, mean[1].x)
    assert mean[0].evaluations.calls == solver.nfe(8)
    # Correctors, churn and restarts draw apart from the path.
    assert sources[0].asked == (solver.stochastic and solver.takes_path)
    if sources[0].asked:
        assert not torch.allclose(keep[0], keep[1], atol=1e-4)
        # The mean is what the noise is added to: kept states lie about it on both sides.
        many = [Trial(solver, problem, brownian=OtherBelow(problem, stop, seed)).x for seed in range(3, 203)]
        gap = torch.stack(many) - mean[0].x
        error = gap.std(0) / math.sqrt(len(many))
        assert (gap.mean(0).abs() < 4.5 * error).all()
    else:
        assert torch.equal(mean[0].x, keep[0])


@every
def test_last_step_tweedie_is_the_denoised_state(solver: Solver):
    problem = Mixture2d()
    keep, tweedie = Trial(solver, problem), Trial(solver, problem, last="tweedie")
    assert torch.equal(tweedie.x, problem.process().denoised(keep.x, problem.sde.t_min))
    assert tweedie.evaluations.calls == keep.evaluations.calls + 1


@ode
def test_an_ode_solver_follows_the_flow_both_ways(solver: Solver):
    if isinstance(solver, AdaptiveSolver):
        solver = replace(solver, rtol=1e-4, atol=1e-4)
    problem = Gaussian()
    sde = problem.sde
    top = problem.marginal_sample(sde.t_max, problem.normals(50, 0), "x")
    bottom = problem.flow(top, sde.t_max, sde.t_min)
    # The reference's discrete predictor: order 1 with a constant 20 times that of Euler's method.
    steps = 1200 if solver.key == "probability_flow" else 200
    for x, end, start, stop in ((top, bottom, sde.t_max, sde.t_min), (bottom, top, sde.t_min, sde.t_max)):
        result = integrate(solver, problem.process(), x, make_grid("log_snr", sde, steps, start, stop))
        assert (result - end).square().mean().sqrt() < 0.03


# Refusals, each before any evaluation


def refused(solver: Solver, ts: list[float], match: str, brownian: Any = None, last: Any = "keep") -> None:
    problem = Gaussian()
    process = problem.process()
    with pytest.raises(UsageError, match=match):
        integrate(solver, process, problem.prior(2, 0), torch.tensor(ts, dtype=torch.float64), brownian, last)
    assert process.evaluations.calls == 0


@every
@pytest.mark.parametrize("ts", [[1.0], [1.0, 0.5, 0.6], [1.0, 0.5, 0.5], []])
def test_a_grid_that_is_not_monotone_is_refused(solver: Solver, ts: list[float]):
    refused(
        solver, ts, r"integrate: a grid has two times or more, all up or all down; got \[", Gaussian().brownian(2, 0)
    )


@every
@pytest.mark.parametrize("ts", [[1.1, 0.5], [1.0, 0.5, 0.0], [0.5, -0.1]])
def test_a_grid_outside_the_interval_is_refused(solver: Solver, ts: list[float]):
    refused(solver, ts, r"integrate: times lie in \(0, 1.0\]; got .*. End at sde.t_min", Gaussian().brownian(2, 0))


@every
def test_an_unknown_last_step_is_refused(solver: Solver):
    match = r"integrate: no last step 'tweedy'; did you mean 'tweedie'\? Known: keep, mean, tweedie"
    refused(solver, [1.0, 0.5], match, Gaussian().brownian(2, 0), "tweedy")


@stochastic
def test_a_stochastic_solver_refuses_to_run_upwards_or_without_noise(solver: Solver):
    refused(
        solver,
        [0.5, 1.0],
        f"integrate: {solver.key} follows the reverse SDE, from t_max down; got",
        Gaussian().brownian(2, 0),
    )
    refused(solver, [1.0, 0.5], f"integrate: {solver.key} draws noise. Pass brownian")


@pytest.mark.parametrize("name", solver_names())
def test_an_unknown_setting_is_refused_with_a_near_name(name: str):
    names = [field.name for field in fields(solver_classes()[name])]
    for known in names:
        with pytest.raises(
            UsageError, match=rf"get_solver: no setting of {name} '{known}x'; did you mean '{known}'.* Known: "
        ):
            get_solver(name, **{f"{known}x": 1})
    if not names:
        with pytest.raises(UsageError, match=f"get_solver: {name} has no settings; got 'eta'. Leave it out"):
            get_solver(name, eta=1)


@pytest.mark.parametrize("name", solver_names())
def test_wrong_values_are_refused(name: str):
    """Numbers: finite and not negative; words: on a menu."""
    for field in fields(solver_classes()[name]):
        wrong = ["nonsense"] if isinstance(field.default, str) else [-1, math.nan, math.inf]
        for value in wrong:
            with pytest.raises(UsageError, match=rf"^{name}: |^get_solver: no solver 'nonsense'"):
                get_solver(name, **{field.name: value})


@pytest.mark.parametrize("predictor", ["dpmpp_2m", "torchdiffeq", "predictor_corrector"])
def test_a_predictor_is_a_one_step_solver(predictor: str):
    with pytest.raises(UsageError, match=f"predictor_corrector: the predictor is a one-step solver; got '{predictor}'"):
        get_solver("predictor_corrector", predictor=predictor)


def test_a_tweedie_step_ends_no_grid_that_runs_up():
    problem = Gaussian()
    ts = make_grid("log_snr", problem.sde, 4).flip(0)
    with pytest.raises(UsageError, match=r"a tweedie step ends a grid that runs down to t_min; got .*Take 'keep'"):
        integrate(get_solver("ddim"), problem.process(), problem.prior(2, 0), ts, last="tweedie")


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({}, (True, True, True)),
        ({"corrector": "ald"}, (True, False, True)),
        ({"corrector": "ald", "predictor": "heun"}, (True, False, False)),
        ({"corrector": "none", "predictor": "heun"}, (False, False, False)),
        ({"corrector": "none", "predictor": "langevin?corrector=langevin"}, (True, True, False)),
        ({"corrector": "none", "predictor": "ancestral"}, (True, False, True)),
    ],
)
def test_what_predictor_corrector_declares_is_of_both_parts(settings: dict[str, Any], facts: tuple[bool, ...]):
    solver = get_solver("predictor_corrector", **settings)
    assert (solver.stochastic, solver.batch_coupled, solver.takes_path) == facts
    if not solver.stochastic:
        problem, ts = Mixture2d(), make_grid("log_snr", Mixture2d().sde, 4)
        found, own = (
            integrate(each, problem.process(), problem.prior(3, 0), ts) for each in (solver, get_solver("heun"))
        )
        assert torch.equal(found, own)


@pytest.mark.parametrize(
    ("predictor", "text"),
    [
        ("predictor_corrector?corrector=none", "the predictor is a one-step solver"),
        ("euler_maruyama?discretisation=song", "song is a setting of its own, not of the predictor"),
    ],
)
def test_predictors_with_settings_that_would_not_hold_are_refused(predictor: str, text: str):
    with pytest.raises(UsageError, match=f"predictor_corrector: {text}; got {re.escape(repr(predictor))}"):
        get_solver("predictor_corrector", predictor=predictor)
