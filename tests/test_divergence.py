"""The trace of a network's Jacobian: exact in both modes, and by probes, in the mean."""

import math

import pytest
import torch
from densities import RotatedMixture
from torch import Tensor

from solvers.divergence import Divergence, ExactDivergence, Hutchinson, HutchPlusPlus, Law, make_probes
from solvers.errors import UsageError
from solvers.process import PARAMETRISATIONS, Parametrisation, ReverseProcess
from solvers.sde import VP

DIM, TIME = 8, 0.3
MIXTURE = RotatedMixture(DIM, 3, VP())


def states(n: int) -> Tensor:
    """n times the same state, so that the spread over samples is the probes' alone."""
    return MIXTURE.sample(TIME, MIXTURE.normals(1, 0), "x").expand(n, DIM)


def probes(k: int, n: int, law: Law = "rademacher", stream: str = "probe") -> Tensor:
    normals = MIXTURE.normals(n, 1)
    return make_probes(torch.stack([normals.normal(f"{stream} {i}") for i in range(k)]), law)


def divergences(divergence: Divergence, n: int, kind: Parametrisation = "score") -> Tensor:
    inner = MIXTURE.process()
    process = ReverseProcess(MIXTURE.sde, lambda x, t: getattr(inner, kind)(x, t), kind)
    return process.score_and_divergence(states(n), TIME, divergence)[1]


def jacobian() -> Tensor:
    time = torch.tensor([TIME], dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda x: MIXTURE._score(x[None], time)[0], states(1)[0])
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_both_modes_give_the_trace(kind: Parametrisation) -> None:
    for mode in ("reverse", "forward"):
        found = divergences(ExactDivergence(mode), 2, kind)
        assert found.shape == (2, 1)
        assert found[0].item() == pytest.approx(jacobian().trace().item(), rel=1e-9)


def test_a_probe_is_the_quadratic_form() -> None:
    """Of the denoiser's Jacobian, whose multiple of the unit matrix is set apart."""
    v = probes(3, 2, "gaussian")
    sigma = VP().sigma(TIME)
    forms = torch.einsum("knd,de,kne->nk", v, jacobian() + torch.eye(DIM, dtype=v.dtype) / sigma**2, v) - DIM / sigma**2
    torch.testing.assert_close(divergences(Hutchinson(v), 2), forms, rtol=1e-9, atol=1e-9)


ESTIMATES = {
    "rademacher": lambda n: Hutchinson(probes(2, n)),
    "gaussian": lambda n: Hutchinson(probes(2, n, "gaussian")),
    "hutch++": lambda n: HutchPlusPlus(probes(3, n, stream="sketch"), probes(2, n)),
    "hutch++ gaussian": lambda n: HutchPlusPlus(probes(3, n, "gaussian", "sketch"), probes(2, n, "gaussian")),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_are_unbiased(name: str) -> None:
    n = 4000
    found = divergences(ESTIMATES[name](n), n)
    assert found.shape == (n, 2)
    gap = found - jacobian().trace()
    error = gap.mean(1).std() / math.sqrt(n)
    assert error > 1e-3, "here the estimate has a variance"
    assert abs(gap.mean()) < 3 * error


def test_a_sketch_is_exact_on_low_rank() -> None:
    """A denoiser of data in a plane has a Jacobian of rank two, the score's multiple of the unit matrix set apart."""
    plane = torch.linalg.qr(MIXTURE.normals(2, 9).normal("plane").T).Q
    sigma = VP().sigma(TIME)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return ((x @ plane).tanh() @ plane.T - x) / sigma**2

    process, x = ReverseProcess(VP(), score), states(20)
    exact = process.score_and_divergence(x, TIME, ExactDivergence())[1]
    for law in ("rademacher", "gaussian"):
        v = probes(2, 20, law)
        sketched = process.score_and_divergence(x, TIME, HutchPlusPlus(probes(2, 20, law, "sketch"), v))[1]
        torch.testing.assert_close(sketched, exact.expand(20, 2), rtol=1e-9, atol=1e-9)
        plain = process.score_and_divergence(x, TIME, Hutchinson(v))[1]
        assert (plain - exact).std() > 0.1


def test_what_is_set_apart_takes_the_norm_out_of_gaussian_probes() -> None:
    """Where noise hides the data the score is -x / sigma^2: nothing is left to estimate."""
    v = probes(1, 500, "gaussian")
    x = MIXTURE.sample(1.0, MIXTURE.normals(500, 0), "x")
    score = -(v.square().sum(2).T - DIM)
    assert score.std() > 3
    found = MIXTURE.process().score_and_divergence(x, 1.0, Hutchinson(v))[1]
    assert (found + DIM).abs().max() < 1e-2


def test_a_sketch_of_every_direction_is_exact() -> None:
    found = divergences(HutchPlusPlus(probes(DIM, 2, "gaussian", "sketch"), probes(1, 2)), 2)
    torch.testing.assert_close(found, jacobian().trace().expand(2, 1), rtol=1e-8, atol=1e-8)


def test_every_derivative_pass_is_counted() -> None:
    sketched = HutchPlusPlus(probes(3, 2), probes(2, 2))
    for divergence, passes in ((ExactDivergence(), DIM), (Hutchinson(probes(2, 2)), 2), (sketched, 8)):
        process, done = MIXTURE.process(), []
        network = process.network

        def spy(x: Tensor, t: Tensor, network=network, done=done) -> Tensor:  # type: ignore[no-untyped-def]
            raw = network(x, t)
            raw.register_hook(lambda grad: done.append(1))
            return raw

        process.network = spy
        process.score_and_divergence(states(2), TIME, divergence)
        assert process.evaluations.calls == 1
        assert process.evaluations.derivative_passes == len(done) == passes


def test_a_part_of_the_batch_keeps_its_probes() -> None:
    rows = torch.tensor([3, 1])
    sketched = HutchPlusPlus(probes(2, 4, stream="sketch"), probes(2, 4))
    for divergence in (Hutchinson(probes(2, 4)), sketched, ExactDivergence()):
        whole = divergences(divergence, 4)
        torch.testing.assert_close(divergences(divergence.at(rows), 2), whole[rows])


def test_refusals() -> None:
    with pytest.raises(UsageError, match="ExactDivergence: no mode 'backward'"):
        ExactDivergence("backward")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="make_probes: no law 'rademacker'; did you mean 'rademacher'"):
        make_probes(torch.zeros(2), "rademacker")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="HutchPlusPlus: a sketch has at most 8 directions, the dimension; got 9"):
        HutchPlusPlus(probes(9, 2), probes(1, 2))
