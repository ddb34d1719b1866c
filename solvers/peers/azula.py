"""Samplers of azula."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from solvers.peers.peer import Library, Peer, StepNoise, choose, defaults, library
from solvers.process import ReverseProcess

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A sampler.

    Attributes:
        order: what is claimed, from the settings.
        claim: where.
        evaluations: evaluations a step, from the settings.
        stochastic: whether it draws noise, from the settings; None where it never does.
        apart: whether its noise is no increment of a path.
    """

    order: Callable[[Options], int | None]
    claim: str
    evaluations: Callable[[Options], int] = lambda options: 1
    stochastic: Callable[[Options], bool] | None = None
    apart: bool = False


def _of_order(options: Options) -> int:
    order: int = options["order"]
    return order


def _noisy(options: Options) -> bool:
    return bool(options["eta"] > 0)


NTH = "docstring: n-th order"

MENU: dict[str, Entry] = {
    "DDPMSampler": Entry(lambda o: 1, "none stated; ancestral sampling is of order 1", stochastic=lambda o: True),
    "DDIMSampler": Entry(lambda o: 1, "docstring: for eta = 0 equivalent to EulerSampler", stochastic=_noisy),
    "EulerSampler": Entry(lambda o: 1, "docstring: explicit Euler (1st order)"),
    "HeunSampler": Entry(lambda o: 2, "docstring: explicit Heun (2nd order)", evaluations=lambda o: 2),
    "ItoSampler": Entry(lambda o: 1, "none stated; one exponential Euler step of the SDE", stochastic=_noisy),
    "zABSampler": Entry(_of_order, NTH),
    "vABSampler": Entry(_of_order, NTH),
    "zEABSampler": Entry(_of_order, NTH),
    "xEABSampler": Entry(_of_order, NTH),
    "REABSampler": Entry(_of_order, NTH),
    "PCSampler": Entry(
        lambda o: None,
        "none stated; a corrector of fixed amplitude",
        evaluations=lambda o: 1 + int(o["corrections"]),
        stochastic=lambda o: True,
        apart=True,
    ),
}
NOT_ADAPTED = {"Sampler": "it is the abstract class"}


def build(sampler: str, settings: Options) -> "AzulaSolver":
    """A sampler with its settings.

    Raises:
        UsageError: azula is not installed, or a setting that the sampler does not have.
    """
    cls = getattr(library("azula.sample"), sampler)
    name = f"azula:{sampler}"
    return AzulaSolver(name, choose(name, settings, defaults(cls.__init__)))


@dataclass(frozen=True)
class AzulaSolver(Peer):
    """A sampler of azula.

    azula asks a schedule (alpha, sigma) for the levels at its times, which run evenly from 1 to 0: here the schedule of
    the grid itself, whose level of index k is that of time 1 - k/N.

    Order as azula claims it, evaluations as its loop makes them.

    Reference: Rozet 2024, azula, github.com/probabilists/azula.
    """

    family: ClassVar[str] = "azula"
    reference: ClassVar[str] = "Rozet 2024, github.com/probabilists/azula"

    @property
    def _entry(self) -> Entry:
        return MENU[self.name.partition(":")[2]]

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on sampler and settings
        """The order that is claimed."""
        return self._entry.order(self.options)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # depends on sampler and settings
        """Whether it draws noise."""
        return self._entry.stochastic is not None and self._entry.stochastic(self.options)

    @property
    def claim(self) -> str:
        return self._entry.claim

    def nfe(self, steps: int) -> int:
        return steps * self._entry.evaluations(self.options)

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        from azula import sample
        from azula.denoise import Denoiser, DiracPosterior

        times: list[float] = ts.tolist()
        steps = len(times) - 1
        alphas = torch.tensor([process.sde.alpha(t) for t in times], dtype=torch.float64, device=x.device)
        sigmas = torch.tensor([process.sde.sigma(t) for t in times], dtype=torch.float64, device=x.device)
        source = brownian if self.stochastic else None
        noise = StepNoise(source, x, self._entry.apart)
        # A sampler that can draw noise draws it even where it is multiplied by 0.
        surroundings = Library(noise, lift=False) if self._entry.stochastic else nullcontext()

        def index(u: Tensor) -> Tensor:
            return ((1 - u) * steps).round().long()

        class Network(Denoiser):  # type: ignore[misc]  # azula is an optional library
            """The process as azula's denoiser."""

            def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
                return alphas[index(u)].to(x.dtype), sigmas[index(u)].to(x.dtype)

            def forward(self, x_t: Tensor, u: Tensor) -> Any:
                k = int(index(u))
                noise.interval = (times[k], times[min(k + 1, steps)])
                return DiracPosterior(process.denoised(x_t, times[k]))

        sampler = getattr(sample, self.name.partition(":")[2])(
            Network(), start=1.0, stop=0.0, steps=steps, silent=True, dtype=torch.float64, **self.options
        )
        with surroundings:
            result: Tensor = sampler(x)
        return result.to(x.dtype)
