"""From time to the index of a noise level, for networks trained on a chain of N discrete ones.

The chain's levels are alpha_bar_i, i = 0 .. N - 1, of x_i ~ N(sqrt(alpha_bar_i) x_0, (1 - alpha_bar_i) I). Under a
variance preserving process the network is told the index whose level the state has at time t,

    log alpha_bar at index = 2 log alpha(t),

log alpha_bar being linear between neighbours: at the chain's own levels whole numbers come out and the network gets
what it was trained with; between them it interpolates, which it was not trained for. Levels beyond the chain's ends
are told the index of the end. Which process it is changes the clock alone: equal alpha means equal states.

Reference: Ho et al. 2020, arXiv:2006.11239; for v = alpha noise - sigma x_0, Salimans & Ho 2022, arXiv:2202.00512.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from solvers.process import Parametrisation
from solvers.sde import VP, Cosine, expand

Prediction = Literal["epsilon", "sample", "v_prediction"]
PREDICTIONS: dict[Prediction, Parametrisation] = {"epsilon": "noise", "sample": "denoised", "v_prediction": "noise"}
# A time in its own precision may lie this many roundings from the one whose index is whole.
ROUNDINGS = 4


class Discrete(nn.Module):
    """``network(x, t)`` around ``core(x, index)``; its table of levels stays in double precision.

    Args:
        core: x (n, ...) and an index (n,), a real number from 0 to N - 1, to a prediction, shape of x.
        sde: a variance preserving process.
        alpha_bar: the chain's levels, (N,), decreasing, in (0, 1).
        prediction: of the core: the noise (``epsilon``), the clean data (``sample``) or v (``v_prediction``).
    """

    levels: Tensor

    def __init__(self, core: nn.Module, sde: VP | Cosine, alpha_bar: Tensor, prediction: Prediction) -> None:
        super().__init__()
        self.core = core
        self.sde = sde
        self.prediction = prediction
        self.register_buffer("levels", -alpha_bar.double().log(), persistent=False)

    @property
    def parametrisation(self) -> Parametrisation:
        """What the network predicts; of v, the noise."""
        return PREDICTIONS[self.prediction]

    def index(self, t: Tensor) -> Tensor:
        """The index of the times (n,), in double precision."""
        level = -2 * self.sde.log_alpha(t.double())
        last = len(self.levels) - 1
        after = torch.searchsorted(self.levels, level).clamp(1, last)
        low, high = self.levels[after - 1], self.levels[after]
        index = (after - 1 + (level - low) / (high - low)).clamp(0, last)
        whole = index.round()
        return torch.where((index - whole).abs() <= ROUNDINGS * torch.finfo(t.dtype).eps * (whole + 1), whole, index)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise or denoised, shape of x; x (n, ...), t (n,)."""
        prediction: Tensor = self.core(x, self.index(t).to(x.dtype))
        if self.prediction != "v_prediction":
            return prediction
        t = t.double()
        noise: Tensor = expand(self.sde.sigma(t), x) * x + expand(self.sde.alpha(t), x) * prediction
        return noise
