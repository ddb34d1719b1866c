"""Variational dequantisation: the flow's density, what it is trained on, and that it finds the best one."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cards
import pytest
import torch
from torch import Tensor

from pretrained import dequantisation, zoo
from pretrained.card import DequantiserCard, load_card
from pretrained.data import ImageData, get_data_set, load_data
from pretrained.dequantisation import DequantiserTask, held_out_bits
from pretrained.networks.dequantiser import Dequantiser
from pretrained.tasks import build_task
from pretrained.train import train
from pretrained.training.loop import Loop
from pretrained.training.processes import processes_on
from solvers.divergence import DifferentiableHutchinson, Hutchinson
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.likelihood import log_density
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import VP, expand

CPU = torch.device("cpu")


def flow(shape: tuple[int, ...] = (1, 2, 3), levels: int = 4, std: float = 0.3) -> Dequantiser:
    """Not trained, but with weights as if."""
    torch.manual_seed(0)
    network = Dequantiser(shape, levels, width=6, couplings=2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return network


def levels_of(shape: tuple[int, ...], n: int, levels: int = 4) -> Tensor:
    return torch.randint(levels, (n, *shape), generator=torch.Generator().manual_seed(1))


# The flow.


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2, 1)])
def test_its_density_is_that_of_the_map(shape: tuple[int, ...]) -> None:
    """log q(u | k) = -log |det du/dw| of a uniform w, the determinant by autograd."""
    network, k = flow(shape), levels_of(shape, 1)
    w = torch.rand((1, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u, log_q = network(k, w)
    jacobian = torch.func.jacrev(lambda w: network(k, w)[0])(w).reshape(6, 6)
    assert log_q.item() == pytest.approx(-torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)
    assert abs(log_q.item()) > 0.1
    assert 0 < u.min() < u.max() < 1


def test_each_half_is_mapped_given_the_other_and_the_levels() -> None:
    network, k = flow(), levels_of((1, 2, 3), 1)
    w = torch.full((1, 1, 2, 3), 0.4, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda w: network(k, w)[0])(w).reshape(6, 6)
    assert (jacobian.abs() > 1e-9).double().mean() > 0.6
    changed = k.clone()
    changed[..., 0, 0] = (k[..., 0, 0] + 1) % 4
    assert ((network(changed, w)[0] - network(k, w)[0]).abs() > 1e-6).all()


def test_untrained_it_is_uniform_dequantisation() -> None:
    network = Dequantiser((1, 8, 8), 17, width=8, couplings=2)
    w = torch.rand(2, 1, 8, 8)
    w[0, 0, 0, :2] = torch.tensor([0.0, 1 - 2**-24])
    u, log_q = network(levels_of((1, 8, 8), 2, 17), w)
    torch.testing.assert_close(u, w, rtol=1e-5, atol=1e-6)
    assert torch.equal(log_q, torch.zeros(2))


# The solve that its loss differentiates.


def test_the_gradient_of_a_solve_is_its_slope() -> None:
    sde, generator = VP(), torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    process = ReverseProcess(sde, lambda x, t: torch.tanh(x @ matrix) * (1 + t[:, None]), "noise")
    x, d = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    probes = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    ts = make_grid("log_snr", sde, 5, sde.t_min_likelihood, sde.t_max)
    solver = get_solver("dpmpp_2m")

    def log_p(x: Tensor) -> Tensor:
        return log_density(solver, process, x, ts, Hutchinson(probes)).by_probe

    z = x.requires_grad_()
    found = log_density(solver, process, z, ts, DifferentiableHutchinson(probes)).by_probe
    torch.testing.assert_close(found.detach(), log_p(x.detach()), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), z)
    h = 1e-6
    slope = (log_p(x.detach() + h * d) - log_p(x.detach() - h * d)).sum() / (2 * h)
    assert (gradient * d).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_other_solves_keep_no_graph() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    ts = make_grid("log_snr", VP(), 3, 1e-5, 1.0)
    process = ReverseProcess(VP(), lambda x, t: x * x, "noise")
    found = log_density(get_solver("heun"), process, x, ts, Hutchinson(torch.ones(1, 2, 3)))
    assert not found.by_probe.requires_grad


# The best flow is the law of u given the levels, and the bound is then -log P(k).


class Correlated:
    """Pairs of pixels under two Gaussians of correlated pixels, every pixel of two levels: x = 2 (k + u)/2 - 1."""

    sde = VP()
    means = torch.tensor([[0.45, 0.35], [-0.5, -0.2]], dtype=torch.float64)
    covs = torch.tensor([[[0.06, 0.045], [0.045, 0.06]], [[0.05, -0.03], [-0.03, 0.05]]], dtype=torch.float64)

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x), nats, (n,); x (n, 1, 1, 2)."""
        return torch.logsumexp(self._parts(x, t)[0], 1) - math.log(2)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        logs, slopes = self._parts(x, t)
        return torch.einsum("nk,nkd->nd", torch.softmax(logs, 1), slopes).view(x.shape)

    def _parts(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """log N of each component, (n, 2), and its gradient, (n, 2, 2)."""
        column = x.view(-1, 2)[:, :1]
        t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        alpha, square = expand(self.sde.alpha(t), column), expand(self.sde.sigma(t), column) ** 2
        a, b, c = (alpha**2 * self.covs[:, i, j].to(x) for i, j in ((0, 0), (0, 1), (1, 1)))
        a, c = a + square, c + square
        y, z = (x.view(-1, 1, 2) - expand(alpha, x.view(-1, 1, 2)) * self.means.to(x)).unbind(2)
        det = a * c - b * b
        slopes = torch.stack([b * z - c * y, b * y - a * z], 2) / det[:, :, None]
        return (slopes[..., 0] * y + slopes[..., 1] * z) / 2 - (4 * math.pi**2 * det).log() / 2, slopes

    def checkpoint(self) -> Any:
        state = SimpleNamespace(scale=2.0, offset=-1.0)
        card = SimpleNamespace(data=state)
        return SimpleNamespace(
            network=self.score, sde=self.sde, parametrisation="score", shape=(1, 1, 2), levels=2, card=card, sha256="0"
        )

    def grid(self, k: Tensor, side: int = 400) -> tuple[Tensor, Tensor]:
        """Middles of cells of the unit square, and the density of u there times P(k), for one image k (1, 1, 2)."""
        middles = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        u = torch.cartesian_prod(middles, middles).view(-1, 1, 1, 2)
        return u, self.log_density(k + u - 1, VP().t_min_likelihood).exp()


def test_training_finds_the_law_of_u_given_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits/dim come down from those of uniform dequantisation to -log2 P(k)/D, which no q can go below."""
    law = Correlated()
    monkeypatch.setattr(zoo, "load", lambda *arguments: law.checkpoint())
    images = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.uint8).view(4, 1, 1, 2)
    data = ImageData("pairs", (1, 1, 2), 2, 1, False, images, torch.zeros(4, dtype=torch.int64))
    changes = {"steps": 100, "batch": 256, "nfe": 16, "learning_rate": 0.03, "ema": 0.9}
    content = cards.changed(cards.DEQUANTISER, network__width=12, network__couplings=4)
    content["training"] |= changes
    card = DequantiserCard.model_validate(content)
    torch.manual_seed(0)
    loop = Loop(card.training, build_task(card, data, CPU), data, "float32", processes_on(CPU))
    for _ in range(card.training.steps):
        loop.step()
    w = torch.rand((20000, 1, 1, 2), generator=torch.Generator().manual_seed(5))
    for k in images:
        with torch.no_grad():
            u, log_q = loop.average(k.expand(len(w), 1, 1, 2), w)
        grid, joint = law.grid(k)
        best, uniform = -joint.mean().log() / 2, -joint.log().mean() / 2
        bounds = (log_q - law.log_density(k + u.double() - 1, VP().t_min_likelihood)) / 2
        error = bounds.std() / len(w) ** 0.5
        assert best - 4 * error < bounds.mean() < best + 0.06 * (uniform - best)
        mean = (grid * joint[:, None, None, None]).mean(0) / joint.mean()
        torch.testing.assert_close(u.double().mean(0), mean, rtol=0, atol=0.05)


# Cards, and what is written.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dequantiser of digits that has seen a few images."""
    folder = tmp_path_factory.mktemp("dequantiser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dequantisation, "IMAGES", 4)
        patch.setattr(dequantisation, "NFE", 4)
        train(cards.card_of(folder, cards.DEQUANTISER), folder, progress=False)
    return folder


def test_its_card_says_what_it_was_trained_for(trained: Path) -> None:
    flow = zoo.load_dequantiser("tiny-dequantiser", folder=trained)
    result, checkpoint = flow.card.result, zoo.load("digits-vp")
    assert result is not None
    assert result.checkpoint_sha256 == checkpoint.sha256
    assert result.held_out_bits != result.uniform_bits
    assert result.trained_on is not None
    assert result.trained_on.dequantisation == "variational"
    w = torch.rand(2, 1, 8, 8)
    assert not torch.equal(flow.network(load_data("digits", "test").values[:2], w)[0], w)


def test_held_out_bits_are_paired() -> None:
    """A flow that was never trained has the bits of uniform dequantisation, on the same draws and probes."""
    card = load_card("digits-dequantiser")
    task = build_task(card, load_data("digits", "test"), CPU)
    assert isinstance(task, DequantiserTask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dequantisation, "IMAGES", 4)
        patch.setattr(dequantisation, "NFE", 20)
        bits, uniform = held_out_bits(task.network, task)
    assert bits == pytest.approx(uniform, abs=1e-4)
    assert 1 < uniform < 3


def test_a_dequantiser_of_other_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"tiny-dequantiser: .* images of digits-vp, of .*17\); got \(\(3, 16, 16\), 256"
    ):
        build_task(
            DequantiserCard.model_validate(cards.changed(cards.DEQUANTISER, data__name="patches")),
            get_data_set("patches").spec,
            CPU,
        )
    with pytest.raises(UsageError, match="images with levels; got 'rings'"):
        cards.card_of(tmp_path, cards.changed(cards.DEQUANTISER, data__name="rings"))
    with pytest.raises(UsageError, match=r"Use load_dequantiser\('digits-dequantiser'\)"):
        zoo.load("digits-dequantiser")
    with pytest.raises(UsageError, match=r"load_dequantiser digits-vp: .*'dequantiser'.* Use load\('digits-vp'\)"):
        zoo.load_dequantiser("digits-vp")
