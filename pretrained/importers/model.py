"""What an importer makes of a file."""

from dataclasses import dataclass

from torch import nn

from solvers.process import Parametrisation
from solvers.sde import ForwardSDE


@dataclass(frozen=True)
class ImportedModel:
    """A score model, ready for a solver: ``ReverseProcess(sde, network, parametrisation)``.

    Attributes:
        network: ``network(x, t)``, in eval mode, frozen, float32.
        sde: the forward process.
        parametrisation: what the network predicts.
        shape: shape of one image, (channels, height, width).
        centred: whether its states lie about [-1, 1], x_0 = 2 v - 1 with v in [0, 1); else about [0, 1], x_0 = v.
    """

    network: nn.Module
    sde: ForwardSDE
    parametrisation: Parametrisation
    shape: tuple[int, ...]
    centred: bool
