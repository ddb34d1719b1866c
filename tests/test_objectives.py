"""The denoising loss: against the reference's numbers, and against its closed form where the score is exact."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrained.networks.precondition import Preconditioned
from pretrained.objectives.denoising import Reduction, denoising_loss
from pretrained.objectives.times import LogNormal, LogSNR, TimeLaw, Uniform
from pretrained.objectives.weighting import Weighting, noise_weight
from solvers.process import Network, ReverseProcess
from solvers.sde import EDM, VE, VP, ForwardSDE, SubVP, expand, get_sde

GOLDEN = Path(__file__).parent / "golden"
CASES = [case for case in json.loads((GOLDEN / "sampling.json").read_text()) if "/loss/" in case["key"]]
SDES: list[ForwardSDE] = [VP(), SubVP(), VE(sigma_max=5.0)]


def golden_sde(case: dict[str, Any]) -> ForwardSDE:
    keys = ("sigma_min", "sigma_max") if case["sde"] == "ve" else ("beta_min", "beta_max")
    return get_sde(case["sde"], **{key: case[key] for key in keys})


def test_there_are_golden_losses_for_every_process_weighting_and_reduction() -> None:
    assert len(CASES) == 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_the_loss_is_the_reference_implementations(case: dict[str, Any]) -> None:
    with np.load(GOLDEN / "sampling.npz") as arrays:
        data, u, z, expected = (
            torch.from_numpy(arrays[f"{case['key']}/{name}"]) for name in ("data", "u", "z", "loss")
        )
    weighting, reduction = case["key"].split("/")[2:]
    sde = golden_sde(case)
    # The reference divides the network by -sigma for VP and sub-VP: there it predicts the noise.
    process = ReverseProcess(sde, lambda x, t: 0.3 * torch.tanh(x), "score" if sde.name == "ve" else "noise")
    t = Uniform().draw(sde, u, case["t_min"])
    loss = denoising_loss(process, data, t, z, weighting, reduction).mean()
    assert abs(loss - expected) / (1 + abs(expected)) < 1e-9


VAR = torch.linspace(0.1, 2.0, 8, dtype=torch.float64)
MEAN = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)


def gaussian_score(sde: ForwardSDE, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
    return -(x - alpha * MEAN) / (alpha**2 * VAR + sigma**2)


def losses(sde: ForwardSDE, network: Network, t: float, weighting: Weighting, n: int = 20_000) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x_0 = MEAN + VAR.sqrt() * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    z = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    times = torch.full((n,), t, dtype=torch.float64)
    return denoising_loss(ReverseProcess(sde, network), x_0, times, z, weighting, "half_sum")


def weight(sde: ForwardSDE, t: float, weighting: Weighting) -> float:
    return {"sigma2": sde.sigma(t) ** 2, "likelihood": sde.diffusion_squared(t), "unit": 1.0}[weighting]


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", "unit"])
@pytest.mark.parametrize("t", [0.02, 0.4])
def test_at_the_exact_score_the_loss_has_its_closed_form(sde: ForwardSDE, weighting: Weighting, t: float) -> None:
    """E|score + z/sigma|^2 = 1/sigma^2 - 1/(alpha^2 v + sigma^2) per coordinate."""
    found = losses(sde, lambda x, times: gaussian_score(sde, x, times), t, weighting)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    expected = weight(sde, t, weighting) * float((1 / sigma**2 - 1 / (alpha**2 * VAR + sigma**2)).sum()) / 2
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / len(found) ** 0.5)
    # ... which is told from every other weighting's.
    others = [w for w in ("sigma2", "likelihood", "unit") if w != weighting]
    for other in others:
        assert expected * weight(sde, t, other) / weight(sde, t, weighting) != pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", "unit"])
@pytest.mark.parametrize("direction", ["constant", "x", "sine"])
def test_the_exact_score_is_the_minimum(sde: ForwardSDE, weighting: Weighting, direction: str) -> None:
    """The derivative of the loss along a perturbation d vanishes, and its curvature is that of w |d|^2 / 2."""
    push = {"constant": torch.ones_like, "x": lambda x: x, "sine": torch.sin}[direction]
    t = 0.6

    def along(a: float) -> Tensor:
        return losses(sde, lambda x, times: gaussian_score(sde, x, times) + a * push(x), t, weighting)

    h = 1.0
    plus, zero, minus = along(h), along(0.0), along(-h)
    slope, curvature = (plus - minus) / (2 * h), (plus + minus - 2 * zero) / h**2
    assert abs(slope.mean().item()) < 4 * slope.std().item() / len(slope) ** 0.5
    assert curvature.mean().item() > 0
    if direction == "constant":
        assert curvature.mean().item() == pytest.approx(8 * weight(sde, t, weighting), rel=1e-9)
    # The slope's test has power: a score that is 10 % off is caught.
    off = losses(sde, lambda x, times: 1.1 * gaussian_score(sde, x, times), t, weighting) - zero
    assert off.mean().item() > 4 * off.std().item() / len(off) ** 0.5


@pytest.mark.parametrize("reduction", ["mean", "half_sum"])
def test_the_reductions_differ_by_half_the_dimension(reduction: Reduction) -> None:
    x_0, z = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    process = ReverseProcess(VP(), lambda x, t: torch.zeros_like(x), "noise")
    loss = denoising_loss(process, x_0, torch.full((3,), 0.3), z, "sigma2", reduction)
    assert loss.tolist() == [{"mean": 1.0, "half_sum": 16.0}[reduction]] * 3


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
@pytest.mark.parametrize("law", [Uniform(), LogSNR()], ids=lambda law: law.law)
def test_times_fill_the_interval_and_stay_in_it(sde: ForwardSDE, law: TimeLaw) -> None:
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    t = law.draw(sde, u, 1e-5)
    assert t.dtype == torch.float64
    assert t.min().item() == pytest.approx(1e-5, rel=1e-6)
    assert t.max().item() == pytest.approx(1.0, rel=1e-6)
    assert ((t >= 1e-5) & (t <= 1)).all()
    logarithmic = isinstance(law, LogSNR)
    middle = sde.lam(t[1:2]).item() if logarithmic else t[1].item()
    ends = (sde.lam(1e-5), sde.lam(1.0)) if logarithmic else (1e-5, 1.0)
    assert middle == pytest.approx(sum(ends) / 2, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=5.0)], ids=lambda sde: sde.name)
def test_log_snr_times_turn_sigma2_into_the_likelihood_weighting(sde: ForwardSDE) -> None:
    """E_uniform[g^2/sigma^2 L] = 2 (lam_max - lam_min)/(t_max - t_min) E_log_snr[L], by g^2 dt = -2 sigma^2 dlam."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t_min = 1e-2

    def mean_loss(weighting: Weighting, law: TimeLaw) -> float:
        t = law.draw(sde, u, t_min)
        x_0, z = torch.full((len(t), 1), 0.7, dtype=torch.float64), torch.full((len(t), 1), -1.3, dtype=torch.float64)
        process = ReverseProcess(sde, lambda x, times: torch.tanh(x), "noise")
        return denoising_loss(process, x_0, t, z, weighting, "mean").mean().item()

    factor = 2 * (sde.lam(t_min) - sde.lam(sde.t_max)) / (sde.t_max - t_min)
    assert mean_loss("likelihood", Uniform()) == pytest.approx(factor * mean_loss("sigma2", LogSNR()), rel=1e-6)


@pytest.mark.parametrize("sde", [*SDES, EDM()], ids=lambda sde: sde.name)
def test_log_normal_levels_have_their_law_under_every_process(sde: ForwardSDE) -> None:
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    level = -sde.lam(LogNormal().draw(sde, u, sde.t_min))
    assert level.mean().item() == pytest.approx(-0.8, abs=1e-3)
    assert level.std().item() == pytest.approx(1.2, abs=2e-3)
    assert (level > -0.8 + 1.2).double().mean().item() == pytest.approx(0.158655, abs=1e-4)
    # A fifth of the draws uniform over the whole range, half of those below its middle.
    mixed = -sde.lam(LogNormal(tails=0.2, lowest=1e-3, highest=100.0).draw(sde, u, sde.t_min))
    assert mixed.min().item() == pytest.approx(math.log(1e-3), abs=1e-3)
    assert mixed.max().item() == pytest.approx(math.log(100), abs=1e-3)
    expected = 0.2 * (math.log(10) / math.log(1e5)) + 0.8 * 0.5 * math.erfc((math.log(10) + 0.8) / 1.2 / math.sqrt(2))
    assert (mixed > math.log(10)).double().mean().item() == pytest.approx(expected, abs=1e-4)
    # Every number is a time, the ends too.
    ends = LogNormal(tails=0.0).draw(sde, torch.tensor([0.0, 1 - 2**-24, 1.0]), sde.t_min)
    assert torch.isfinite(ends).all()


@pytest.mark.parametrize("sde", [*SDES, EDM()], ids=lambda sde: sde.name)
def test_the_edm_weighting_is_that_of_its_denoised(sde: ForwardSDE) -> None:
    """w/sigma^2 |noise - z|^2 = (r^2 + s^2)/(r s)^2 |D - x_0|^2, and for a preconditioned core |F - target|^2."""
    s, t = 0.7, torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x_0, z, answer = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(3))

    class Core(nn.Module):
        def forward(self, scaled: Tensor, lam: Tensor) -> Tensor:
            return answer

    process = ReverseProcess(sde, Preconditioned(Core(), sde, s), "noise")
    found = denoising_loss(process, x_0, t, z, "edm", "mean", s)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    r = sigma / alpha
    x = alpha * x_0 + sigma * z
    error = process.denoised(x, t) - x_0
    weight = (r**2 + s**2) / (r * s) ** 2
    torch.testing.assert_close(found, (weight * error**2).mean(1), rtol=1e-9, atol=0)
    # Karras et al. 2022, table 1: D(y; r) = c_skip y + c_out F, so the target of F is (x_0 - c_skip y)/c_out.
    c_skip, c_out = s**2 / (r**2 + s**2), r * s / (r**2 + s**2).sqrt()
    target = (x_0 - c_skip * x / alpha) / c_out
    torch.testing.assert_close(found, ((answer - target) ** 2).mean(1), rtol=1e-9, atol=0)
    assert noise_weight("edm", sde, t, s).shape == t.shape
