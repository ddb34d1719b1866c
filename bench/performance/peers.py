"""Schedulers of diffusers, stepped as its documentation shows: set_timesteps, scale_model_input, step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from solvers.process import Network

# The usual discrete VP schedule of diffusers.
TRAINING: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


class Peer(NamedTuple):
    """A method here and the scheduler that is the same method in diffusers."""

    solver: str
    scheduler: str
    settings: dict[str, Any]


PEERS = (
    Peer("ddim", "EulerDiscreteScheduler", {}),
    Peer("ddim", "DDIMScheduler", {"clip_sample": False}),
    Peer("ancestral", "DDPMScheduler", {"clip_sample": False}),
    Peer("ancestral", "EulerAncestralDiscreteScheduler", {}),
    Peer("edm_heun", "HeunDiscreteScheduler", {}),
    Peer("lms", "LMSDiscreteScheduler", {}),
    Peer("deis", "DEISMultistepScheduler", {"solver_order": 3}),
    Peer("ipndm", "IPNDMScheduler", {}),
    Peer("dpmpp_2s", "DPMSolverSinglestepScheduler", {"solver_order": 2}),
    Peer("dpm_solver", "DPMSolverSinglestepScheduler", {"solver_order": 3, "algorithm_type": "dpmsolver"}),
    Peer("dpmpp_2m", "DPMSolverMultistepScheduler", {"solver_order": 2}),
    Peer("dpmpp_3m", "DPMSolverMultistepScheduler", {"solver_order": 3}),
    Peer("dpmpp_2m_sde", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Peer("dpmpp_sde", "DPMSolverSDEScheduler", {}),
    Peer("sa_solver", "SASolverScheduler", {}),
    Peer("unipc", "UniPCMultistepScheduler", {"solver_order": 3}),
)


def scheduler(peer: Peer) -> Any:
    """The peer's scheduler, built."""
    import diffusers

    cls = getattr(diffusers, peer.scheduler)
    training = {} if peer.scheduler == "IPNDMScheduler" else TRAINING
    settings = dict(peer.settings)
    if peer.solver == "dpm_solver":
        settings["final_sigmas_type"] = "sigma_min"
    return cls(**training, **settings)


def sample(built: Any, network: Network, x: Tensor, steps: int) -> tuple[Tensor, int]:
    """The sampling loop of its documentation; samples and network evaluations."""
    built.set_timesteps(steps)
    x = x * built.init_noise_sigma
    times = x.new_ones(len(x))
    count = 0
    with torch.no_grad():
        for t in built.timesteps:
            noise = network(built.scale_model_input(x, t), times)
            count += 1
            x = built.step(noise, t, x).prev_sample
    return x, count
