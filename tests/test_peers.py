"""Samplers of other libraries as solvers: the same numbers as ours where the method is the same, and their refusals."""

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.matrix import SolverEntry
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import Problem
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.peers import get_peer, peer_claims
from solvers.peers.peer import Peer
from solvers.peers.schedulers import MENU, NOT_ADAPTED
from solvers.registry import get_solver, parse_solver, solver_names
from solvers.sde import EDM, SDES, VE, VP, Cosine, ForwardSDE, RectifiedFlow
from solvers.solver import FixedStepSolver, integrate

# Their own calls of numpy and of what they deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

# All that choose an SDE of another kind refuse VP.
ALL_SDES: tuple[ForwardSDE, ...] = (VP(), EDM(), VE(), RectifiedFlow())


def peer(text: str) -> Peer:
    solver = parse_solver(text)
    assert isinstance(solver, Peer)
    return solver


def solve(solver: FixedStepSolver, problem: Problem, steps: int, grid: str = "log_snr", seed: int = 0) -> Tensor:
    """The samples; evaluations are those declared."""
    process = problem.process()
    ts = make_grid(grid, problem.sde, steps)
    x = integrate(solver, process, problem.prior(6, 0), ts, problem.brownian(6, seed))
    assert process.evaluations.per_sample(6).tolist() == [solver.nfe(steps)] * 6
    return x


def own_sde(solver: Peer) -> ForwardSDE:
    return next(sde for sde in ALL_SDES if solver.represents(sde))


# What every peer promises


@pytest.mark.parametrize("name", peer_claims())
def test_a_peer_is_a_solver_like_any_other(name: str) -> None:
    solver = peer(name)
    problem = Mixture2d(sde=own_sde(solver))
    before = torch.get_rng_state()
    x = solve(solver, problem, 7)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn from the global generator"
    assert x.dtype == torch.float64
    assert x.isfinite().all()
    assert torch.equal(x, solve(solver, problem, 7))
    assert torch.equal(x, solve(solver, problem, 7, seed=1)) != solver.stochastic
    solve(solver, problem, 12)
    problem.dtype = torch.float32
    assert torch.allclose(solve(solver, problem, 7).double(), x, rtol=1e-3, atol=1e-3)
    assert solver.claim
    assert solver.key == name


@pytest.mark.parametrize("name", [name for name in peer_claims() if "ScoreSdeVe" not in name])
def test_a_peer_does_not_mix_the_samples(name: str) -> None:
    solver = peer(name)
    problem = Gaussian(sde=own_sde(solver))
    ts = make_grid("karras", problem.sde, 5)
    whole = integrate(solver, problem.process(), problem.prior(5, 0), ts, problem.brownian(5, 0))
    part = integrate(solver, problem.process(), problem.prior(3, 0, 2), ts, problem.brownian(3, 0, 2))
    assert torch.allclose(whole[2:], part, rtol=1e-11, atol=1e-11)


def test_only_a_corrector_takes_norms_over_the_batch() -> None:
    assert peer("diffusers:ScoreSdeVeScheduler").batch_coupled
    assert not peer("diffusers:ScoreSdeVeScheduler?correct_steps=0").batch_coupled


# The same method, the same numbers. Heads: theirs, ours, SDE.

SAME = [
    ("azula:EulerSampler", "ddim", VP()),
    ("azula:DDIMSampler", "ddim", RectifiedFlow()),
    ("azula:DDIMSampler?eta=1.0", "ancestral", VP()),
    ("azula:DDPMSampler", "ancestral", Cosine()),
    ("azula:HeunSampler", "edm_heun", VP()),
    ("azula:zABSampler?order=3", "lms?order=3", VP()),
    ("azula:xEABSampler?order=3", "dpmpp_3m", VP()),
    ("diffusers:DDIMScheduler", "ddim", VP()),
    ("diffusers:DDIMScheduler", "ddim", Cosine()),
    ("diffusers:DDIMScheduler?eta=0.5", "ddim?eta=0.5", VP()),
    ("diffusers:DDIMParallelScheduler", "ddim", VP()),
    ("diffusers:CogVideoXDDIMScheduler", "ddim", VP()),
    ("diffusers:DDPMScheduler", "ancestral", VP()),
    ("diffusers:DDPMParallelScheduler", "ancestral", VP()),
    ("diffusers:EulerAncestralDiscreteScheduler", "ancestral", VP()),
    # Euler's method in sigma/alpha on x/alpha is ddim; where alpha = 1 and sigma = t, euler too.
    ("diffusers:EulerDiscreteScheduler", "ddim", VP()),
    ("diffusers:EulerDiscreteScheduler", "euler", EDM()),
    ("diffusers:EDMEulerScheduler", "euler", EDM()),
    ("diffusers:HeunDiscreteScheduler", "edm_heun", VP()),
    ("diffusers:HeunDiscreteScheduler", "heun", EDM()),
    ("diffusers:LMSDiscreteScheduler?order=4", "lms?order=4", VP()),
    ("diffusers:IPNDMScheduler", "ipndm?coefficients=fixed", VP()),
    ("diffusers:DPMSolverMultistepScheduler?solver_order=1", "ddim", VP()),
    ("diffusers:DPMSolverMultistepScheduler?lower_order_final=false", "dpmpp_2m", VP()),
    ("diffusers:DPMSolverMultistepScheduler?lower_order_final=false", "dpmpp_2m", RectifiedFlow()),
    ("diffusers:DPMSolverMultistepInverseScheduler?lower_order_final=false", "dpmpp_2m", VP()),
    (
        "diffusers:DPMSolverMultistepScheduler?lower_order_final=false&algorithm_type=sde-dpmsolver++",
        "dpmpp_2m_sde",
        VP(),
    ),
    ("diffusers:EDMDPMSolverMultistepScheduler?lower_order_final=false", "dpmpp_2m", EDM()),
    ("diffusers:CosineDPMSolverMultistepScheduler?lower_order_final=false", "dpmpp_2m_sde", EDM()),
    (
        "diffusers:UniPCMultistepScheduler?lower_order_final=false&solver_type=bh1",
        "unipc?predictor_order=2&variant=bh1",
        VP(),
    ),
    ("diffusers:UniPCMultistepScheduler?lower_order_final=false&solver_order=3", "unipc?predictor_order=3", VP()),
    ("diffusers:ScoreSdeVeScheduler?correct_steps=0", "reverse_diffusion", VE()),
    ("diffusers:FlowMatchEulerDiscreteScheduler", "euler", RectifiedFlow()),
    ("diffusers:FlowMatchHeunDiscreteScheduler", "heun", RectifiedFlow()),
]


@pytest.mark.parametrize(
    ("theirs", "ours", "sde"), SAME, ids=lambda value: value if isinstance(value, str) else value.name
)
@pytest.mark.parametrize("grid", ["log_snr", "karras"])
def test_the_same_method_gives_the_same_samples(theirs: str, ours: str, sde: ForwardSDE, grid: str) -> None:
    problem = Mixture2d(sde=sde)
    own = parse_solver(ours)
    assert isinstance(own, FixedStepSolver)
    assert torch.allclose(solve(peer(theirs), problem, 12, grid), solve(own, problem, 12, grid), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("theirs", "ours", "points"),
    [
        ("diffusers:DPMSolverSinglestepScheduler?solver_order=2", "dpmpp_2s", 2),
        ("diffusers:DPMSolverSinglestepScheduler?solver_order=2&algorithm_type=dpmsolver", "dpm_solver?order=2", 2),
    ],
)
def test_single_steps_are_ours_over_as_many_points_of_the_grid(theirs: str, ours: str, points: int) -> None:
    """Its stages are points of the grid: on even steps of lam they lie where ours do."""
    problem, own = Mixture2d(), parse_solver(ours)
    assert isinstance(own, FixedStepSolver)
    assert torch.allclose(solve(peer(theirs), problem, 12), solve(own, problem, 12 // points), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_of_diffusers_interpolates_in_the_logarithm_of_rho(order: int) -> None:
    """Ours interpolates in t or in rho, so the two differ; azula has theirs under another name."""
    problem = Mixture2d()
    theirs = solve(peer(f"diffusers:DEISMultistepScheduler?solver_order={order}&lower_order_final=false"), problem, 12)
    same = solve(peer(f"azula:zEABSampler?order={order}"), problem, 12)
    assert torch.allclose(theirs, same, rtol=1e-8, atol=1e-8)
    for variant in ("tab", "rhoab"):
        own = get_solver("deis", order=order, variant=variant)
        assert isinstance(own, FixedStepSolver)
        assert torch.allclose(theirs, solve(own, problem, 12), atol=1e-8) == (order == 1)


def test_the_third_order_multistep_takes_half_the_second_derivative() -> None:
    """The whole of its difference from dpmpp_3m in the first step of order 3 (solver_type=heun: equal before it)."""
    problem = Mixture2d()
    sde, process = problem.sde, problem.process()
    ts = make_grid("log_snr", sde, 3)
    theirs = peer("diffusers:DPMSolverMultistepScheduler?solver_order=3&solver_type=heun&lower_order_final=false")
    own = get_solver("dpmpp_3m")
    runs = [
        [integrate(solver, problem.process(), problem.prior(6, 0), ts[: k + 1]) for k in (1, 2, 3)]
        for solver in (theirs, own)
    ]
    for k in (0, 1):
        assert torch.allclose(runs[0][k], runs[1][k], rtol=1e-9, atol=1e-9)
    states = [problem.prior(6, 0), *runs[0][:2]]
    d_2, d_1, d_0 = (process.denoised(x, float(t)) for x, t in zip(states, ts, strict=False))
    # Even steps of lam: the second divided difference, times h^2, is half of this; the second derivative all of it.
    h = sde.lam(float(ts[3])) - sde.lam(float(ts[2]))
    second = d_0 - 2 * d_1 + d_2
    phi_3 = (1 - h + h**2 / 2 - math.exp(-h)) / h**3
    missing = sde.alpha(float(ts[3])) * h * phi_3 * second / 2
    assert torch.allclose(runs[1][2] - runs[0][2], missing, rtol=1e-7, atol=1e-10)
    assert float(missing.abs().max()) > 1e-3


@pytest.mark.parametrize("casts", ["lift", "keep"])
def test_the_librarys_own_precision_is_single(casts: str) -> None:
    problem = Gaussian()
    exact = solve(get_solver("dpmpp_2m"), problem, 40)  # type: ignore[arg-type]
    found = solve(peer(f"diffusers:DPMSolverMultistepScheduler?lower_order_final=false&casts={casts}"), problem, 40)
    error = float((found - exact).abs().max())
    assert error < 1e-12 if casts == "lift" else 1e-8 < error < 1e-4


def test_the_table_set_is_the_scheduler_s_own_but_for_rounding() -> None:
    """A schedule trained on the grid's levels; only its single precision is replaced."""
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    ts = make_grid("karras", VP(), 10).tolist()
    squares = torch.tensor([VP().alpha(t) ** 2 for t in reversed(ts)], dtype=torch.float64)
    betas = (1 - squares / torch.cat([torch.ones(1), squares[:-1]])).tolist()
    for cls in (DPMSolverMultistepScheduler, EulerDiscreteScheduler):
        own = cls(num_train_timesteps=11, trained_betas=betas, timestep_spacing="trailing")
        own.set_timesteps(11)
        ours = peer(f"diffusers:{cls.__name__}").scheduler(VP(), ts, torch.float64)  # type: ignore[attr-defined]
        assert torch.equal(own.timesteps, ours.timesteps)
        assert torch.allclose(own.sigmas.double(), ours.sigmas, rtol=1e-3)


# Names and settings


def test_settings_stand_in_the_name() -> None:
    assert peer("diffusers:DEISMultistepScheduler?solver_order=3").settings["solver_order"] == 3
    assert get_solver("deis?order=2") == parse_solver("deis?order=2") == get_solver("deis", order=2)
    assert parse_solver("edm_stochastic?churn=4e1").settings["churn"] == 40.0
    assert parse_solver("unipc?corrector=false&variant=bh1").settings["corrector"] is False
    assert parse_solver("ddim?eta=.5") == get_solver("ddim", eta=0.5)


@pytest.mark.parametrize("text", ["deis?", "deis?order", "deis?order=2&order=3", "deis?=2", "deis?order=2&"])
def test_settings_are_each_given_once_with_a_value(text: str) -> None:
    with pytest.raises(UsageError, match=r"parse_solver: settings read \?setting=value&\..*got 'deis\?"):
        parse_solver(text)


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="get_solver: the setting order of deis is given twice"):
        get_solver("deis?order=2", order=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("difusers:DDIMScheduler", "no library 'difusers'; did you mean 'diffusers'"),
        ("diffusers:DDIMSchedule", "no sampler of diffusers 'DDIMSchedule'; did you mean 'DDIMScheduler'"),
        ("azula:HeunSmpler", "no sampler of azula 'HeunSmpler'; did you mean 'HeunSampler'"),
        ("diffusers:LCMScheduler", "diffusers:LCMScheduler is not adapted: it samples consistency or flow-map models"),
        (
            "diffusers:LMSDiscreteScheduler?ordr=3",
            "no setting of diffusers:LMSDiscreteScheduler 'ordr'; did you mean 'order'",
        ),
        ("diffusers:DDIMScheduler?beta_start=0.1", "no setting of diffusers:DDIMScheduler 'beta_start'"),
        ("diffusers:DDIMScheduler?casts=hold", "no casts 'hold'"),
        ("azula:EulerSampler?eta=1", "azula:EulerSampler has no settings"),
        (
            "diffusers:DEISMultistepScheduler?solver_type=taylor",
            "diffusers:DEISMultistepScheduler: diffusers refuses the settings: solver type taylor is not implemented",
        ),
    ],
)
def test_what_is_not_on_the_menu_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_solver(text)
    assert message in str(error.value)


def test_every_scheduler_of_diffusers_is_adapted_or_has_a_reason() -> None:
    import diffusers

    theirs = {name for name in dir(diffusers) if name.endswith("Scheduler") and "Flax" not in name}
    assert theirs >= MENU.keys()
    assert not MENU.keys() & NOT_ADAPTED.keys()
    known = MENU.keys() | NOT_ADAPTED.keys()
    assert {name for name in theirs if hasattr(getattr(diffusers, name), "set_timesteps")} - known == set()


@pytest.mark.parametrize(
    ("text", "sde", "known"),
    [
        ("diffusers:DDIMScheduler", "subvp", "Take cosine or vp"),
        ("diffusers:DDIMScheduler", "ve", "Take cosine or vp"),
        ("diffusers:EulerDiscreteScheduler", "subvp", "Take cosine or edm or ve or vp"),
        ("diffusers:EDMEulerScheduler", "vp", "Take edm or ve"),
        ("diffusers:FlowMatchEulerDiscreteScheduler", "vp", "Take rectifiedflow"),
    ],
)
def test_an_sde_that_a_scheduler_cannot_represent_is_refused(text: str, sde: str, known: str) -> None:
    problem = Gaussian(sde=SDES[sde]())
    process, ts = problem.process(), make_grid("log_snr", problem.sde, 4)
    with pytest.raises(UsageError, match=f"{text}: its levels are those of other SDEs; got '{sde}'. {known}"):
        integrate(parse_solver(text), process, problem.prior(2, 0), ts)
    assert process.evaluations.calls == 0


def test_pndm_takes_three_steps_or_more() -> None:
    problem = Gaussian()
    with pytest.raises(UsageError, match="it takes 3 steps or more; got 2"):
        solve(peer("diffusers:PNDMScheduler"), problem, 2)
    assert peer("diffusers:PNDMScheduler").steps_for(12) == 3
    with pytest.raises(UsageError, match="one step takes 12 evaluations; got 11"):
        peer("diffusers:PNDMScheduler").steps_for(11)


def test_a_scheduler_does_not_run_upwards() -> None:
    problem = Gaussian()
    up = make_grid("log_snr", problem.sde, 4, 1e-3, 1.0)
    with pytest.raises(UsageError, match="a scheduler runs from noise to data"):
        integrate(peer("diffusers:DDIMScheduler"), problem.process(), problem.prior(2, 0), up)


def test_a_missing_library_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("diffusers", "azula"):
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    for name in ("diffusers:DDIMScheduler", "azula:HeunSampler"):
        library = name.partition(":")[0]
        with pytest.raises(
            UsageError, match=rf"{library}.* is not installed\. Install the extra: pip install scorebench\[peers\]"
        ):
            get_peer(name)


def test_peers_are_no_part_of_the_default_menu() -> None:
    assert not any(":" in name for name in solver_names())


def test_a_matrix_may_name_them() -> None:
    entry = SolverEntry(name="diffusers:DPMSolverMultistepScheduler", settings={"solver_order": 3})
    assert entry.build().key == entry.name
    assert SolverEntry(name="azula:REABSampler?order=3").build().settings == {"order": 3}
    with pytest.raises(ValueError, match="did you mean 'DDIMScheduler'"):
        SolverEntry(name="diffusers:DDIMShceduler")
