"""A small training run on a problem's exact law, for the comparison of objectives."""

import torch
from torch import Tensor, nn

from bench.problems.problem import FlowProblem
from bench.recipe import Recipe
from pretrained.networks.conservative import Conservative
from pretrained.networks.mlp import MLP
from pretrained.networks.precondition import Preconditioned, PreconditionedEnergy
from pretrained.tasks import stratify
from pretrained.training.loop import rise_and_fall
from solvers.process import Evaluations, ReverseProcess

WIDTH, BLOCKS = 64, 2
BATCH = 256
RATE = 5e-3
WARM_UP = 50
# Draws of the exact law that batches are taken from.
DATA = 20_000


class Run:
    """Adam on a preconditioned MLP in single precision; network, data and draws follow from the seed.

    Args:
        problem: whose law at t = 0 is learned, under whose process.
        recipe: what the network is trained to.
        seed: of everything that is drawn.
        steps: of the whole run: the rate falls to zero over them as a half cosine.

    Attributes:
        network: the noise predictor.
        evaluations: of the network, so far.
    """

    def __init__(self, problem: FlowProblem, recipe: Recipe, seed: int, steps: int) -> None:
        self.evaluations = Evaluations()
        self._sde, self._recipe, self._steps = problem.sde, recipe, steps
        self._data = problem.marginal_sample(0.0, problem.normals(DATA, seed), "training data").float()
        self._data_std = float(self._data.square().mean().sqrt())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            core: nn.Module = MLP(problem.shape, WIDTH, BLOCKS)
        self.network: Preconditioned = (
            PreconditionedEnergy(Conservative(core), problem.sde, self._data_std)
            if recipe.energy
            else Preconditioned(core, problem.sde, self._data_std)
        )
        self.network.to(problem.device)
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=(0.9, 0.99), fused=True)
        self._generator = torch.Generator().manual_seed(seed)
        self._done = 0

    def loss(self) -> Tensor:
        """The mean loss of a fresh batch."""
        generator, device = self._generator, self._data.device
        sde, recipe = self._sde, self._recipe
        rows = torch.randint(DATA, (BATCH,), generator=generator)
        x_0 = self._data[rows.to(device)]
        t = recipe.times.draw(sde, stratify(torch.rand(BATCH, generator=generator)), sde.t_min).to(device)
        z = torch.randn(x_0.shape, generator=generator).to(device)
        process = ReverseProcess(sde, self.network, "noise")
        process.evaluations = self.evaluations
        loss = recipe.objective.loss(process, x_0, t, z, generator, recipe.weighting, "mean", self._data_std)
        return (loss * recipe.times.correction(sde, t, sde.t_min).to(loss.dtype)).mean()

    def gradient(self) -> None:
        """The gradient of a fresh batch's loss, into the parameters."""
        self._optimiser.zero_grad()
        torch.autograd.backward(self.loss())

    def step(self) -> None:
        """One step of Adam."""
        for group in self._optimiser.param_groups:
            group["lr"] = RATE * rise_and_fall(self._done, WARM_UP, self._steps)
        self.gradient()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimiser.step()
        self._done += 1

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.network.parameters())
