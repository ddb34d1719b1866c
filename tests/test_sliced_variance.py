"""The variance that random directions bring into sliced score matching, against its closed form on a Gaussian.

Every e is v . A v plus what does not depend on v; A = n n^T - 2 sigma J, or -2 sigma J in the variance-reduced form.
"""

import pytest
import torch
from torch import Tensor

from pretrained.objectives.directions import Directions
from pretrained.objectives.finite_difference import FiniteDifference
from pretrained.objectives.sliced import Sliced
from solvers.process import ReverseProcess
from solvers.sde import VP

D, T = 8, 0.3
SDE = VP()
ALPHA, SIGMA = SDE.alpha(T), SDE.sigma(T)


def variance(law: Directions, matrix: Tensor) -> Tensor:
    """Var v . A v for a matrix A (..., D, D), from the fourth moments of v."""
    symmetric = (matrix + matrix.mT) / 2
    diagonal = symmetric.diagonal(dim1=-2, dim2=-1)
    square = symmetric.square().sum((-2, -1))
    return {
        "rademacher": 2 * (square - diagonal.square().sum(-1)),
        "gaussian": 2 * square,
        "sphere": 2 * D / (D + 2) * (square - diagonal.sum(-1).square() / D),
    }[law]


@pytest.mark.parametrize("kind", [Sliced, FiniteDifference])
@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
def test_the_variance_over_directions_is_that_of_the_quadratic_form(
    kind: type[Sliced] | type[FiniteDifference], variance_reduced: bool, law: Directions
) -> None:
    """At one state of a Gaussian with correlated coordinates, whose score is linear: finite differences are exact."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(D, D, generator=generator, dtype=torch.float64) / D**0.5
    jacobian = SIGMA * torch.linalg.inv(ALPHA**2 * root @ root.T + SIGMA**2 * torch.eye(D, dtype=torch.float64))
    one = torch.randn(D, generator=generator, dtype=torch.float64)
    x = one.expand(100_000, D)
    process = ReverseProcess(SDE, lambda x, t: x @ jacobian, "noise")
    noise = jacobian @ one
    matrix = -2 * SIGMA * jacobian + (0 if variance_reduced else torch.outer(noise, noise))
    objective = kind(directions=law, variance_reduced=variance_reduced, count=2)
    t = torch.full((len(x),), T, dtype=torch.float64)
    found = objective.error(process, x, t, x, generator).detach()
    assert found.var().item() == pytest.approx(variance(law, matrix).item() / 2, rel=0.04)
    mean = noise @ noise - 2 * SIGMA * jacobian.trace() + D
    assert abs(found.mean() - mean).item() < 4 * (found.var().item() / len(found)) ** 0.5


def test_the_plain_form_pays_for_the_noise_it_predicts() -> None:
    """Independent coordinates of variance V, signs: 2 sum_{i != j} a_i a_j, a = E n^2 = sigma^2/V; reduced, nothing.

    Where the noise drowns the data, a = 1: 2 D (D - 1), more than the 2 D of |n|^2 itself.
    """
    var = ALPHA**2 * torch.linspace(0.1, 2.0, D, dtype=torch.float64) + SIGMA**2
    generator = torch.Generator().manual_seed(0)
    x = var.sqrt() * torch.randn(100_000, D, generator=generator, dtype=torch.float64)
    process = ReverseProcess(SDE, lambda x, t: SIGMA * x / var, "noise")
    t = torch.full((len(x),), T, dtype=torch.float64)

    def over_directions(objective: Sliced) -> float:
        first, second = (objective.error(process, x, t, x, generator).detach() for _ in range(2))
        return ((first - second).square().mean() / 2).item()

    a = SIGMA**2 / var
    assert over_directions(Sliced(variance_reduced=False)) == pytest.approx(
        2 * (a.sum() ** 2 - a.square().sum()).item(), rel=0.05
    )
    assert over_directions(Sliced()) == pytest.approx(0, abs=1e-20)
