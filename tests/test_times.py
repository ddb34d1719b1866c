"""Laws of training times: where they lie, with which density, and what that makes of a loss."""

import math

import pytest
import torch

from pretrained.objectives.denoising import Denoising
from pretrained.objectives.times import DDPM, NCSN, Importance, LogNormal, LogSNR, TimeLaw, Uniform
from pretrained.objectives.weighting import Weighting
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import EDM, VE, VP, ForwardSDE, SubVP

SDES: list[ForwardSDE] = [VP(), SubVP(), VE(sigma_max=5.0)]
GRID = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
@pytest.mark.parametrize("law", [Uniform(), LogSNR(), Importance()], ids=lambda law: law.law)
def test_times_fill_the_interval_and_stay_in_it(sde: ForwardSDE, law: TimeLaw) -> None:
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    t = law.draw(sde, u, 1e-5)
    assert t.dtype == torch.float64
    assert t.min().item() == pytest.approx(1e-5, rel=1e-6)
    assert t.max().item() == pytest.approx(1.0, rel=1e-6)
    assert ((t >= 1e-5) & (t <= 1)).all()
    uniform = isinstance(law, Uniform)
    middle = t[1].item() if uniform else sde.lam(t[1:2]).item()
    ends = (1e-5, 1.0) if uniform else (sde.lam(1e-5), sde.lam(1.0))
    assert middle == pytest.approx(sum(ends) / 2, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
def test_log_snr_times_have_the_density_of_importance_sampling(sde: ForwardSDE) -> None:
    """Density g^2/sigma^2: the share below t against the quadrature of it."""
    t_min = 1e-2
    t = LogSNR().draw(sde, GRID, t_min)
    fine = t_min + (1 - t_min) * GRID
    density = sde.diffusion_squared(fine) / sde.sigma(fine) ** 2
    share = density.cumsum(0) / density.sum()
    for time in (0.02, 0.1, 0.5):
        expected = share[int((time - t_min) / (1 - t_min) * len(fine)) - 1].item()
        assert (t < time).double().mean().item() == pytest.approx(expected, abs=1e-3)


def mean_loss(sde: ForwardSDE, weighting: Weighting, law: TimeLaw, t_min: float) -> torch.Tensor:
    t = law.draw(sde, GRID, t_min)
    x_0, z = torch.full((len(t), 1), 0.7, dtype=torch.float64), torch.full((len(t), 1), -1.3, dtype=torch.float64)
    process = ReverseProcess(sde, lambda x, times: torch.tanh(x), "noise")
    loss = Denoising().loss(process, x_0, t, z, torch.Generator(), weighting)
    return loss * law.correction(sde, t, t_min)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
def test_importance_sampling_keeps_the_likelihoods_loss_and_lowers_its_variance(sde: ForwardSDE) -> None:
    plain, important = (mean_loss(sde, "likelihood", law, 1e-2) for law in (Uniform(), Importance()))
    assert important.mean().item() == pytest.approx(plain.mean().item(), rel=2e-5)
    if sde.name == "ve":  # g^2/sigma^2 is constant there
        torch.testing.assert_close(important, plain, rtol=1e-9, atol=0)
    else:
        assert important.std().item() < 0.5 * plain.std().item()
    # log_snr with sigma2 is the same up to the factor 2 (lam_max - lam_min)/(t_max - t_min).
    factor = 2 * (sde.lam(1e-2) - sde.lam(sde.t_max)) / (sde.t_max - 1e-2)
    torch.testing.assert_close(important, factor * mean_loss(sde, "sigma2", LogSNR(), 1e-2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", [*SDES, EDM()], ids=lambda sde: sde.name)
def test_log_normal_levels_have_their_law_under_every_process(sde: ForwardSDE) -> None:
    level = -sde.lam(LogNormal().draw(sde, GRID, sde.t_min))
    assert level.mean().item() == pytest.approx(-0.8, abs=1e-3)
    assert level.std().item() == pytest.approx(1.2, abs=2e-3)
    assert (level > -0.8 + 1.2).double().mean().item() == pytest.approx(0.158655, abs=1e-4)
    # A fifth of the draws uniform over the whole range.
    mixed = -sde.lam(LogNormal(tails=0.2, lowest=1e-3, highest=100.0).draw(sde, GRID, sde.t_min))
    assert mixed.min().item() == pytest.approx(math.log(1e-3), abs=1e-3)
    assert mixed.max().item() == pytest.approx(math.log(100), abs=1e-3)
    expected = 0.2 * (math.log(10) / math.log(1e5)) + 0.8 * 0.5 * math.erfc((math.log(10) + 0.8) / 1.2 / math.sqrt(2))
    assert (mixed > math.log(10)).double().mean().item() == pytest.approx(expected, abs=1e-4)
    # Every number is a time, the ends too.
    ends = LogNormal().draw(sde, torch.tensor([0.0, 1 - 2**-24, 1.0]), sde.t_min)
    assert torch.isfinite(ends).all()


def test_levels_of_ncsn_are_in_geometric_progression() -> None:
    sde = VE(sigma_min=0.01, sigma_max=50.0)
    sigma = sde.sigma(NCSN(count=10).draw(sde, GRID, 1e-5))
    levels, counts = torch.unique(sigma.log().round(decimals=9), return_counts=True)
    expected = torch.linspace(math.log(0.01), math.log(50), 10, dtype=torch.float64)
    torch.testing.assert_close(levels, expected, rtol=0, atol=1e-8)
    assert counts.tolist() == [10_000] * 10
    # Stratified numbers in single precision may be rounded to 1: that is the last level.
    ends = sde.sigma(NCSN(count=10).draw(sde, torch.tensor([0.0, 1.0]), 1e-5))
    assert ends.tolist() == pytest.approx([0.01, 50.0])


@pytest.mark.parametrize("count", [1000, 50])
def test_levels_of_ddpm_are_those_of_its_chain(count: int) -> None:
    """beta_j from 0.1/count to 20/count; of a thousand, Ho et al.'s 1e-4 to 0.02."""
    sde = VP()
    t = DDPM(count=count).draw(sde, GRID, 1e-5).reshape(count, -1)
    assert torch.equal(t, t[:, :1].expand_as(t))
    alpha2, product = sde.alpha(t[:, 0]) ** 2, 1.0
    for i in range(count):
        product *= 1 - (0.1 + 19.9 * i / (count - 1)) / count
        assert alpha2[i].item() == pytest.approx(product, rel=1e-9)
    if count == 1000:
        assert t[-1, 0].item() == pytest.approx(1.003, abs=1e-3)
    assert DDPM(count=count).draw(sde, torch.tensor([1.0]), 1e-5).item() == t[-1, 0].item()


def test_a_chain_too_short_for_its_betas_is_refused() -> None:
    with pytest.raises(UsageError, match=r"times ddpm: count is more than beta_max, 20: .*below 1; got 20\. Take more"):
        DDPM(count=20).check(VP())
    DDPM(count=21).check(VP())


def test_levels_of_another_process_are_refused() -> None:
    for law, sde, known in (
        (NCSN(), VP(), "ve with two noise levels"),
        (NCSN(), VE(base=25.0), "ve with"),
        (DDPM(), SubVP(), "vp"),
    ):
        with pytest.raises(UsageError, match=f"times {law.law}: the process is {known}"):
            law.check(sde)
    for law, sde in ((NCSN(), VE()), (DDPM(), VP()), (LogNormal(), SubVP())):
        law.check(sde)
