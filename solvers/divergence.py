"""The divergence of a score: the trace of a network's Jacobian, exact or estimated, from one pass of the network.

Every form differentiates the pass that gives the value. With J the Jacobian of a sample's prediction and v a probe,
E[v v^T] = I, Hutchinson's estimate is v . J v. Any multiple of the unit matrix may be set apart, its trace being known:

    tr J = tr (J + c I) - c D,    estimated by  v . J v + c (|v|^2 - D).

With c such that J + c I is a multiple of the denoiser's Jacobian, Cov[x_0 | x_t] alpha / sigma^2 on an exact score,
what is left to estimate is small at high noise and of low rank at low noise. For Rademacher probes |v|^2 = D and c
makes no difference; without it, Gaussian probes would have the variance of c |v|^2 on top.

Hutch++ takes the trace on the range Q of a sketch S exactly, and estimates what is orthogonal to it:

    tr A ~ tr(Q^T A Q) + v . P A P v,    Q R = A^T S,   P = I - Q Q^T,   A = J + c I.

Probes and sketch are drawn once for a whole solve: the right-hand side is then a function of the state.

References: Hutchinson 1990, Commun. Stat. Simul. Comput. 19, 433; Grathwohl et al. 2019, arXiv:1810.01367, sec. 3.1;
Meyer et al. 2021, Hutch++: Optimal Stochastic Trace Estimation, arXiv:2010.09649.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import Tensor

from solvers.errors import UsageError, unknown_name

Mode = Literal["reverse", "forward"]
Law = Literal["rademacher", "gaussian"]

Prediction = Callable[[Tensor], Tensor]
"""A network at its times: states (n, ...) to predictions of the same shape, sample by sample."""


class Product(Protocol):
    """v -> J^T v of each sample, shape of v."""

    def __call__(self, v: Tensor, last: bool) -> Tensor:
        """``last``: the graph is not needed any more."""


@dataclass(frozen=True, eq=False)
class Divergence(ABC):
    """A way to take the trace of the Jacobian of each sample's prediction."""

    # Whether prediction and trace keep their graph, so that a solve with them can be differentiated.
    differentiable: ClassVar[bool] = False

    @property
    @abstractmethod
    def columns(self) -> int:
        """Estimates of a sample, side by side: one a probe, so that their spread is known."""

    @abstractmethod
    def passes(self, dim: int) -> int:
        """Derivative passes an evaluation, in ``dim`` dimensions."""

    @abstractmethod
    def trace(self, network: Prediction, x: Tensor, shift: Tensor | float) -> tuple[Tensor, Tensor]:
        """Prediction at states x (n, ...), its shape, and estimates of the trace of its Jacobian, (n, columns).

        Args:
            network: called once.
            x: states.
            shift: c of the module's text, a number or (n,).

        Raises:
            UsageError: the prediction carries no derivative, e.g. because it is made under ``no_grad``.
        """

    def at(self, rows: Tensor) -> Self:
        """The same for a part of the batch, its probes those of these samples."""
        return self


@dataclass(frozen=True, eq=False)
class ExactDivergence(Divergence):
    """sum_i e_i . J e_i over the D unit vectors: for low dimension.

    One pass forward, D derivative passes. Reverse mode walks back through one graph D times. Forward mode carries D
    tangents along and keeps no graph, and is slower on every network measured on a CPU: on the digits network 1.9
    times with all 64 unit vectors, on the exact scores in 2 and 8 dimensions 3.6 to 4.7 times.

    Args:
        mode: reverse or forward.

    Raises:
        UsageError: an unknown mode.
    """

    mode: Mode = "reverse"

    columns: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown_name("ExactDivergence", "mode", self.mode, get_args(Mode))

    def passes(self, dim: int) -> int:
        """One for each dimension."""
        return dim

    def trace(self, network: Prediction, x: Tensor, shift: Tensor | float) -> tuple[Tensor, Tensor]:
        """See :meth:`Divergence.trace`."""
        dim = x[0].numel()
        basis = torch.eye(dim, dtype=x.dtype, device=x.device).reshape(dim, 1, *x.shape[1:])
        if self.mode == "forward":
            raw, products = torch.func.vmap(lambda v: _pushed(network, x, v.expand_as(x)))(basis)
            raw = raw[0]
        else:
            raw, product = _pulled(network, x)
            products = torch.stack([product(v.expand_as(x), last=i == dim - 1) for i, v in enumerate(basis)])
            raw = raw.detach()
        return raw, (basis * products).sum(0).flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Hutchinson(Divergence):
    """v . J v of each of k probes: one pass forward, k derivative passes in reverse mode.

    Args:
        probes: v, (k, n, ...), with E[v v^T] = I, see :func:`make_probes`.
    """

    probes: Tensor

    @property
    def columns(self) -> int:
        """The number of probes."""
        return len(self.probes)

    def passes(self, dim: int) -> int:
        """One for each probe."""
        return len(self.probes)

    def trace(self, network: Prediction, x: Tensor, shift: Tensor | float) -> tuple[Tensor, Tensor]:
        """See :meth:`Divergence.trace`."""
        raw, product = _pulled(network, x)
        forms = torch.stack([_dot(v, product(v, last=k == self.columns - 1)) for k, v in enumerate(self.probes)], 1)
        excess = self.probes.square().flatten(2).sum(2).T - x[0].numel()
        return raw.detach(), forms + _column(shift, forms) * excess

    def at(self, rows: Tensor) -> Self:
        """With the probes of these samples."""
        return replace(self, probes=self.probes[:, rows])


@dataclass(frozen=True, eq=False)
class DifferentiableHutchinson(Hutchinson):
    """The same in the graph of the states: its derivative is a second one of the network."""

    differentiable: ClassVar[bool] = True

    def trace(self, network: Prediction, x: Tensor, shift: Tensor | float) -> tuple[Tensor, Tensor]:
        """See :meth:`Divergence.trace`."""
        raw = network(x)
        products = (torch.autograd.grad(raw, x, v, create_graph=True)[0] for v in self.probes)
        forms = torch.stack([_dot(v, product) for v, product in zip(self.probes, products, strict=True)], 1)
        excess = self.probes.square().flatten(2).sum(2).T - x[0].numel()
        return raw, forms + _column(shift, forms) * excess


@dataclass(frozen=True, eq=False)
class HutchPlusPlus(Divergence):
    """Hutch++: exact on the range of a sketch of m directions, k probes beside it; 2 m + k derivative passes.

    Every probe is held against the same sketch: the spread over the columns is what the probes leave, given the sketch.

    Args:
        sketch: S, (m, n, ...), independent of the probes.
        probes: v, (k, n, ...).

    Raises:
        UsageError: more directions than dimensions.
    """

    sketch: Tensor
    probes: Tensor

    def __post_init__(self) -> None:
        dim = self.sketch[0, 0].numel()
        if len(self.sketch) > dim:
            rule = f"a sketch has at most {dim} directions, the dimension"
            raise UsageError("HutchPlusPlus", rule, len(self.sketch), "Take ExactDivergence")

    @property
    def columns(self) -> int:
        """The number of probes."""
        return len(self.probes)

    def passes(self, dim: int) -> int:
        """Two for each direction of the sketch, one for each probe."""
        return 2 * len(self.sketch) + len(self.probes)

    def trace(self, network: Prediction, x: Tensor, shift: Tensor | float) -> tuple[Tensor, Tensor]:
        """See :meth:`Divergence.trace`."""
        raw, product = _pulled(network, x)
        sketch = self.sketch.flatten(2)
        images = torch.stack([product(s, last=False).flatten(1) for s in self.sketch])
        # (n, D, m): an orthonormal basis for each sample.
        q = torch.linalg.qr((images + _column(shift, images[0]) * sketch).permute(1, 2, 0)).Q
        inside = torch.stack([_dot(v, product(v.reshape(x.shape), last=False)) for v in q.unbind(2)]).sum(0)
        rest = self.probes.flatten(2)
        rest = rest - torch.einsum("ndm,nem,kne->knd", q, q, rest)
        last = self.columns - 1
        forms = torch.stack([_dot(v, product(v.reshape(x.shape), last=k == last)) for k, v in enumerate(rest)], 1)
        excess = len(self.sketch) + rest.square().sum(2).T - x[0].numel()
        return raw.detach(), forms + inside[:, None] + _column(shift, forms) * excess

    def at(self, rows: Tensor) -> Self:
        """With the probes of these samples."""
        return replace(self, sketch=self.sketch[:, rows], probes=self.probes[:, rows])


def make_probes(normals: Tensor, law: Law = "rademacher") -> Tensor:
    """Probes of unit normals: their signs, -1 or 1 (``rademacher``), or themselves (``gaussian``); shape as given.

    Raises:
        UsageError: an unknown law.
    """
    if law not in get_args(Law):
        raise unknown_name("make_probes", "law", law, get_args(Law))
    return normals if law == "gaussian" else torch.where(normals < 0, -1.0, 1.0).to(normals.dtype)


def _pulled(network: Prediction, x: Tensor) -> tuple[Tensor, Product]:
    """The prediction, in its graph, and v -> J^T v of each sample; the graph is kept until the ``last`` product."""
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        raw = network(z)
    if not raw.requires_grad:
        raise UsageError(
            "score_and_divergence",
            "a likelihood differentiates the network's prediction",
            "a prediction without a gradient",
            "Remove its no_grad, inference_mode or detach",
        )

    def product(v: Tensor, last: bool) -> Tensor:
        return torch.autograd.grad(raw, z, v, retain_graph=not last)[0]

    return raw, product


def _pushed(network: Prediction, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction and J v of each sample."""
    raw, product = torch.func.jvp(network, (x,), (v,))[:2]
    return raw, product


def _dot(v: Tensor, w: Tensor) -> Tensor:
    """v . w of each sample, (n,)."""
    return (v.flatten(1) * w.flatten(1)).sum(1)


def _column(shift: Tensor | float, like: Tensor) -> Tensor | float:
    """A number as it is, (n,) as a column in the type of ``like``."""
    return shift[:, None].to(like.dtype) if isinstance(shift, Tensor) and shift.ndim else shift
