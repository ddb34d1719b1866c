"""The schedulers of diffusers that are adapted: the variable each integrates, its table of levels, what it claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from solvers.sde import EDM, VE, VP, Cosine, ForwardSDE, RectifiedFlow, SubVP

Options = Mapping[str, Any]

# vp: x with alpha^2 + sigma^2 = 1;  sigma: x/alpha against sigma/alpha;  edm: the same, its network a preconditioned
# denoiser;  flow: x with alpha = 1 - sigma;  ve: x with alpha = 1.
State = Literal["vp", "sigma", "edm", "flow", "ve"]

STATES: dict[State, tuple[type[ForwardSDE], ...]] = {
    "vp": (VP, Cosine),
    "sigma": (VP, Cosine, VE, EDM),
    "edm": (VE, EDM),
    "flow": (RectifiedFlow,),
    "ve": (VE,),
}
# Of one class with another: sub-VP is a VP of other coefficients.
APART = (SubVP,)

# alphas: alphas_cumprod, by the number of a training step;  sigmas: a level an evaluation;  pairs: each inner level
# twice, as two evaluations make a step;  betas: sigma, alpha following from it;  discrete: an ascending list.
Table = Literal["alphas", "sigmas", "pairs", "betas", "discrete"]


@dataclass(frozen=True)
class Scheduler:
    """How a scheduler is driven and what it promises.

    Attributes:
        state: the variable it integrates.
        table: where it holds its levels.
        order: the order claimed, from the settings.
        claim: where it is claimed.
        stochastic: whether it draws noise, from the settings.
        evaluations: evaluations in so many steps, from the settings.
        apart: whether its noise is no increment of a path.
        flow: whether it also runs in the state ``flow``.
        fixed: constructor arguments that are no setting: they would change levels or states.
    """

    state: State
    table: Table
    order: Callable[[Options], int | None]
    claim: str
    stochastic: Callable[[Options], bool] = lambda options: False
    evaluations: Callable[[Options, int], int] = lambda options, steps: steps
    apart: bool = False
    flow: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)


# Settings that choose the method; all others of a scheduler choose the levels, which the grid does here.
SETTINGS = (
    "algorithm_type",
    "corrector_order",
    "correct_steps",
    "disable_corrector",
    "eta",
    "euler_at_final",
    "lower_order_final",
    "order",
    "predict_x0",
    "predictor_order",
    "s_churn",
    "s_noise",
    "s_tmax",
    "s_tmin",
    "skip_prk_steps",
    "snr",
    "solver_order",
    "solver_type",
    "stochastic_sampling",
)


def _sde_type(options: Options) -> bool:
    return str(options["algorithm_type"]).startswith("sde")


def _eta(options: Options) -> bool:
    return bool(options["eta"] > 0)


def _churn(options: Options) -> bool:
    return bool(options["s_churn"] > 0)


def _always(options: Options) -> bool:
    return True


def _twice(options: Options, steps: int) -> int:
    return 2 * steps


def _pndm(options: Options, steps: int) -> int:
    # The first step made twice, or three Runge–Kutta steps of four evaluations, below which the library fails.
    return steps + 1 if options["skip_prk_steps"] else max(steps, 3) + 9


def _euler_order(options: Options) -> int | None:
    return 1


def _solver_order(options: Options) -> int:
    order: int = options["solver_order"]
    return order


def _sa_order(options: Options) -> int:
    predictor, corrector = options["predictor_order"], options["corrector_order"]
    order = predictor if not corrector else min(predictor + 1, corrector)
    return min(order, 2) if options["tau"] > 0 else int(order)


SOLVER_ORDER = "docstring: solver_order"
ANCESTRAL = "none stated; ancestral sampling is of order 1"
NO_CLIP = {"clip_sample": False}

_DDIM = Scheduler("vp", "alphas", _euler_order, "arXiv:2010.02502, sec. 4.3: an Euler method", _eta, fixed=NO_CLIP)
_DDPM = Scheduler("vp", "alphas", _euler_order, ANCESTRAL, _always, fixed=NO_CLIP)

MENU: dict[str, Scheduler] = {
    "CogVideoXDDIMScheduler": Scheduler(
        "vp", "alphas", _euler_order, "arXiv:2010.02502, sec. 4.3: an Euler method", fixed=NO_CLIP
    ),
    "CogVideoXDPMScheduler": Scheduler(
        "vp", "alphas", lambda o: 2, "its name; SDE-DPM-Solver++(2M)", _always, fixed=NO_CLIP
    ),
    "CosineDPMSolverMultistepScheduler": Scheduler("edm", "sigmas", _solver_order, SOLVER_ORDER, _always),
    "DDIMParallelScheduler": _DDIM,
    "DDIMScheduler": _DDIM,
    "DDPMParallelScheduler": _DDPM,
    "DDPMScheduler": _DDPM,
    "DEISMultistepScheduler": Scheduler("vp", "sigmas", _solver_order, SOLVER_ORDER, flow=True),
    # Its levels are to run from data to noise: of its table it only asks that levels follow one another.
    "DPMSolverMultistepInverseScheduler": Scheduler("vp", "sigmas", _solver_order, SOLVER_ORDER, _sde_type),
    "DPMSolverMultistepScheduler": Scheduler("vp", "sigmas", _solver_order, SOLVER_ORDER, _sde_type, flow=True),
    "DPMSolverSDEScheduler": Scheduler("sigma", "pairs", lambda o: 2, "class attribute order = 2", _always, _twice),
    # With a last level of 0 it sets lower_order_final itself.
    "DPMSolverSinglestepScheduler": Scheduler(
        "vp", "sigmas", _solver_order, SOLVER_ORDER, _sde_type, flow=True, fixed={"lower_order_final": True}
    ),
    "EDMDPMSolverMultistepScheduler": Scheduler("edm", "sigmas", _solver_order, SOLVER_ORDER, _sde_type),
    "EDMEulerScheduler": Scheduler("edm", "sigmas", _euler_order, "its name: Euler", _churn, apart=True),
    "EulerAncestralDiscreteScheduler": Scheduler("sigma", "sigmas", _euler_order, ANCESTRAL, _always),
    "EulerDiscreteScheduler": Scheduler("sigma", "sigmas", _euler_order, "its name: Euler", _churn, apart=True),
    "FlowMatchEulerDiscreteScheduler": Scheduler(
        "flow", "sigmas", _euler_order, "its name: Euler", lambda o: bool(o["stochastic_sampling"])
    ),
    "FlowMatchHeunDiscreteScheduler": Scheduler(
        "flow", "pairs", lambda o: 2, "class attribute order = 2", _churn, _twice, apart=True
    ),
    "HeunDiscreteScheduler": Scheduler(
        "sigma", "pairs", lambda o: 2, "class attribute order = 2", evaluations=_twice, fixed=NO_CLIP
    ),
    "IPNDMScheduler": Scheduler("vp", "betas", lambda o: 4, "docstring: fourth-order"),
    "KDPM2AncestralDiscreteScheduler": Scheduler(
        "sigma", "pairs", lambda o: 2, "class attribute order = 2", _always, _twice
    ),
    "KDPM2DiscreteScheduler": Scheduler("sigma", "pairs", lambda o: 2, "class attribute order = 2", evaluations=_twice),
    "LMSDiscreteScheduler": Scheduler("sigma", "sigmas", lambda o: int(o["order"]), "docstring of step: order"),
    "LTXEulerAncestralRFScheduler": Scheduler("flow", "sigmas", _euler_order, "its name: Euler", _eta),
    "PNDMScheduler": Scheduler(
        "vp", "alphas", lambda o: 2, "arXiv:2202.09778, theorem 3.1: second order", evaluations=_pndm
    ),
    "SASolverScheduler": Scheduler(
        "vp",
        "sigmas",
        _sa_order,
        "docstring: predictor_order, corrector_order",
        lambda o: bool(o["tau"] > 0),
        flow=True,
    ),
    "ScoreSdeVeScheduler": Scheduler(
        "ve",
        "discrete",
        lambda o: None if o["correct_steps"] else 1,
        "none stated; reverse diffusion is of order 1",
        _always,
        lambda o, steps: steps * (1 + int(o["correct_steps"])),
    ),
    "UniPCMultistepScheduler": Scheduler(
        "vp", "sigmas", lambda o: _solver_order(o) + 1, "docstring: effective order solver_order + 1", flow=True
    ),
}

_DISTILLED = "it samples consistency or flow-map models, not a score"
_TOKENS = "it samples discrete tokens"
_INVERSE = "it runs from data to noise"
_ONE_MODEL = "it belongs to one model and takes more than its prediction"

NOT_ADAPTED: dict[str, str] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": _DISTILLED,
    "ConsistencyDecoderScheduler": _DISTILLED,
    "DDIMInverseScheduler": _INVERSE,
    "DDPMWuerstchenScheduler": "its schedule is fixed, and clamped where alpha^2 leaves [1e-4, 1 - 1e-4]",
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "FlowMapEulerDiscreteScheduler": _DISTILLED,
    "FlowMatchLCMScheduler": _DISTILLED,
    "HeliosDMDScheduler": _ONE_MODEL,
    "HeliosScheduler": _ONE_MODEL,
    "KarrasVeScheduler": "it is deprecated",
    "LCMScheduler": _DISTILLED,
    "MiniMaxH3Scheduler": _ONE_MODEL,
    "PiflowScheduler": _DISTILLED,
    "RFD4ProteinaScheduler": _ONE_MODEL,
    "RePaintScheduler": "it is defined for inpainting only",
    "SCMScheduler": _DISTILLED,
    "ScoreSdeVpScheduler": "it is deprecated, and takes steps of 1/N whatever its times",
    "TCDScheduler": _DISTILLED,
    "UnCLIPScheduler": "it is deprecated in favour of DDPMScheduler",
    "VQDiffusionScheduler": _TOKENS,
}
