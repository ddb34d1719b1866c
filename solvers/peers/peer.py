"""What the adapters of other libraries share: the solver's face, the noise they draw, the precision they work in."""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from solvers.errors import UsageError, unknown_name
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver


@dataclass(frozen=True)
class Peer(FixedStepSolver):
    """A sampler of another library.

    x_N = the library's own loop over the levels of noise of the grid, from x_T = x

    Args:
        name: ``library:sampler``.
        options: its settings, those left at their defaults included.
    """

    name: str
    options: Mapping[str, Any]

    multistep: ClassVar[bool] = True  # its steps make sense in a whole run only
    constrainable: ClassVar[bool] = False

    @property
    def key(self) -> str:  # type: ignore[override]  # one class serves all samplers of a library
        """Name on the command line."""
        return self.name

    @property
    def ramps(self) -> bool:
        """Whether an order above 2 is one before the limit: their histories begin with steps of lower order."""
        return not self.stochastic and self.order is not None and self.order > 2

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self.options)

    @property
    def claim(self) -> str:
        """Where the order is claimed."""
        raise NotImplementedError

    def represents(self, sde: ForwardSDE) -> bool:
        """Whether it runs under an SDE."""
        return True

    @property
    def paired(self) -> bool:
        """Whether its noise is that of the common Brownian paths."""
        return self.stochastic

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        """A run of a single step."""
        return self.solve(process, x, torch.tensor([t, s], dtype=torch.float64), brownian), state


def library(name: str) -> ModuleType:
    """The library of that name.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        todo = "Install the extra: pip install scorebench[peers]"
        raise UsageError("get_solver", f"{name} is not installed", None, todo) from error


def choose(name: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings given, completed by the defaults ``allowed``.

    Raises:
        UsageError: a setting that is not on the list.
    """
    for key in given:
        if key not in allowed:
            if not allowed:
                raise UsageError("get_solver", f"{name} has no settings", key, "Leave it out")
            raise unknown_name("get_solver", f"setting of {name}", key, allowed)
    return {**allowed, **given}


def defaults(*functions: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of all parameters that have one."""
    parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


class StepNoise:
    """What a library draws in its current step: the unit normal of the path's increment over it.

    Args:
        brownian: the source.
        like: a state, whose zeros stand for the noise of a run that has none.
        apart: draws that are no increments of the path, as a corrector's or churn's.

    Attributes:
        interval: times t > s of the current step or stage.
        middle: a time between them at which the step's first stage ended; None in a first or only stage.
    """

    def __init__(self, brownian: Any, like: Tensor, apart: bool = False) -> None:
        self._brownian = brownian
        self._like = like
        self._apart = apart
        self._count = 0
        self.interval = (1.0, 0.0)
        self.middle: float | None = None

    def __call__(self) -> Tensor:
        """The draw for the interval."""
        if self._brownian is None:
            # A library may draw noise that it then multiplies by 0.
            return torch.zeros_like(self._like)
        if self._apart:
            self._count += 1
            draw: Tensor = self._brownian.normal(f"peer, draw {self._count}")
            return draw
        return self.over(*self.interval)

    def over(self, t: float, s: float) -> Tensor:
        """The unit normal of an interval."""
        unit: Tensor = self._brownian.dw(t, s) / math.sqrt(t - s)
        return unit


class Library(TorchFunctionMode):
    """The surroundings in which a library's code is called.

    Its draws from torch come from ``draw``. With ``lift``, single precision named in a call of torch becomes double: a
    library that casts its states to single precision whatever it is given can then be measured below that rounding.
    """

    def __init__(self, draw: Callable[[], Tensor], lift: bool) -> None:
        super().__init__()
        self._draw = draw
        self._lift = lift

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.randn, torch.randn_like):
            return self._draw()
        if self._lift:
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {name: torch.float64 if arg is torch.float32 else arg for name, arg in kwargs.items()}
        return func(*args, **kwargs)
