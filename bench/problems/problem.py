"""A problem: an SDE, a score, a start, a reference, and whatever is known exactly."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bench.registry import Registry
from pretrained.card import CARD_SUFFIXES
from pretrained.data import quantise
from solvers.brownian import BrownianPath
from solvers.errors import UsageError
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE


class Problem(ABC):
    """What a solver is run on.

    Attributes:
        key: name in matrices and on the command line; of a trained card its path.
        summary: one line for lists.
        metrics: keys of the metrics taken, the leaderboard's first.
        n_max: reference samples there are, if their number is limited.
        shape: shape of one sample.
        dtype: floating type of the states.
        sde: the forward process.
        device: where the network and the states live.
    """

    key: ClassVar[str]
    summary: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    n_max: ClassVar[int | None] = None
    shape: tuple[int, ...]
    dtype: torch.dtype
    sde: ForwardSDE
    device: torch.device

    @abstractmethod
    def process(self) -> ReverseProcess:
        """A new process, its counters at zero."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @abstractmethod
    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        """n exact samples of the law aimed at, independent of every start; shape (n, ...), on the CPU.

        Draws 0 and 1 are independent: metrics compare samples with 0, the floor is 1 against 0.

        Raises:
            UsageError: there are fewer than n.
        """

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of the exact law at t.

        Raises:
            UsageError: they are not known.
        """
        raise UsageError(self.key, "its moments are not known exactly", todo="Take another metric")

    def modes(self, t: float) -> tuple[Tensor, Tensor]:
        """Centres (k, d) of the exact law's modes at t and their weights (k,).

        Raises:
            UsageError: it is no mixture.
        """
        raise UsageError(self.key, "it is no mixture of known modes", todo="Take another metric")

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of the files that the problem's values depend on."""
        return {}

    def normals(self, n: int, seed: int, first: int = 0) -> Normals:
        """The addressed normals of samples first ... first + n - 1 under a seed."""
        return Normals(seed, (n, *self.shape), first=first, dtype=self.dtype, device=self.device)

    def prior(self, n: int, seed: int, first: int = 0) -> Tensor:
        """x_T of those samples: the same for every solver, budget and batch split; shape (n, ...)."""
        return self.sde.prior_sample(self.normals(n, seed, first).normal("prior"))

    def brownian(self, n: int, seed: int, first: int = 0) -> BrownianPath:
        """The Brownian paths of those samples."""
        return BrownianPath(self.normals(n, seed, first), self.sde.t_max)


class ImageProblem(Problem):
    """Images of levels k in 0 ... levels - 1; a state holds scale (k + u)/levels + offset, u in [0, 1).

    References are the levels themselves, uint8, (n, channels, height, width); draw 0 does not depend on the seed.

    Attributes:
        levels: grey or colour levels.
        scale, offset: of the state.
    """

    levels: ClassVar[int]
    scale: float
    offset: float

    @classmethod
    @abstractmethod
    def ends(cls) -> tuple[float, float]:
        """Values of the state at black and at white, offset and offset + scale, known without the weights."""

    def compared_with(self, n: int, seed: int, draw: int) -> Tensor:
        """The images whose features those of samples are compared with: the references, unless said otherwise.

        Raises:
            UsageError: there are fewer than n.
        """
        return self.reference(n, seed, draw)

    def to_levels(self, samples: Tensor) -> Tensor:
        """The levels that states lie nearest to, clipped to the data's, (n, ...), uint8."""
        return quantise((samples.float() - self.offset) / self.scale, self.levels)


class FlowProblem(Problem):
    """A problem on which the probability flow's map is known, exactly or to a certified precision.

    Attributes:
        flow_precision: error of :meth:`flow`, units of x; errors of solvers are resolved down to it.
    """

    flow_precision: ClassVar[float]

    @abstractmethod
    def marginal_sample(self, t: float, normals: Normals, stream: str) -> Tensor:
        """Draws of the exact law at t from the normals of a stream, shape (n, ...)."""

    @abstractmethod
    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """The probability flow's map from time t to s of states x (n, ...)."""

    @abstractmethod
    def log_density(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x) in nats, shape (n,)."""


PROBLEMS: Registry[Problem] = Registry("problem", "bench.problems")
register_problem = PROBLEMS.register
problem_classes = PROBLEMS.classes


def problem_class(name: str) -> type[Problem]:
    """A registered problem by name; or that of a score model trained here, by the path of its card (``.yaml``).

    Raises:
        UsageError: no such problem or card, or the card is not one of a score model of images.
    """
    if Path(name).suffix in CARD_SUFFIXES:
        # Here: it is a problem of images, which are problems.
        from bench.problems.trained import problem_of_card

        return problem_of_card(name)
    return PROBLEMS.find(name)


def get_problem(name: str, device: torch.device | str = "cpu") -> Problem:
    """The problem of a :func:`problem_class`, on a device.

    Raises:
        UsageError: there is none.
    """
    return problem_class(name)(device)
