"""From time to what a network of Song et al. is told: 999 t for VP and sub-VP, sigma(t) for VE.

Such a network predicts the noise under VP and sub-VP, and the score under VE.

Reference: Song et al. 2021, arXiv:2011.13456, app. C and H.
"""

from torch import Tensor, nn

from solvers.errors import UsageError
from solvers.process import Parametrisation
from solvers.sde import VE, ForwardSDE

# The last index of the thousand noise levels that the first of these networks were trained with.
LAST_LABEL = 999

PREDICTIONS: dict[str, Parametrisation] = {"vp": "noise", "subvp": "noise", "ve": "score"}


class Labelled(nn.Module):
    """``network(x, t)`` around ``core(x, label)``.

    Args:
        core: x (n, ...) and a label (n,) to a prediction, shape of x.
        sde: VP, sub-VP or VE.

    Raises:
        UsageError: another process.
    """

    def __init__(self, core: nn.Module, sde: ForwardSDE) -> None:
        super().__init__()
        if sde.name not in PREDICTIONS:
            raise UsageError("Labelled", f"the process is one of {', '.join(PREDICTIONS)}", sde.name, "Choose one")
        self.core = core
        self.sde = sde

    @property
    def parametrisation(self) -> Parametrisation:
        """What the network predicts."""
        return PREDICTIONS[self.sde.name]

    def label(self, t: Tensor) -> Tensor:
        """The label of the times (n,): sigma(t) under VE, else 999 t."""
        if not isinstance(self.sde, VE):
            return LAST_LABEL * t
        # Fourier features turn by hundreds of radians with log sigma, so its last digit counts: this is the reference's
        # order of operations, which gives its labels to the bit where exp(t log(max/min)) is a rounding off.
        label: Tensor = self.sde.sigma_min * (self.sde.sigma_max / self.sde.sigma_min) ** t
        return label

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise (VP, sub-VP) or score (VE), shape of x; x (n, ...), t (n,)."""
        prediction: Tensor = self.core(x, self.label(t))
        return prediction
