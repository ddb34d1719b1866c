"""On a GPU, where there is one: the values of the CPU, no waiting, and what the harness reads off the device.

Without one the module is skipped, and ``tests/test_devices.py`` follows devices and waits on fake tensors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import CLASSIFIER, SCORE, card_of
from records import cell, compute
from torch import Tensor

from bench.environment import resolve_device
from bench.problems.problem import get_problem
from bench.store import Store
from pretrained.train import train
from solvers.brownian import BrownianPath
from solvers.divergence import ExactDivergence, Hutchinson, HutchPlusPlus, make_probes
from solvers.grids import make_grid
from solvers.likelihood import log_density
from solvers.normals import Normals
from solvers.registry import get_solver, solver_names
from solvers.solver import integrate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

FIXED = [name for name in solver_names() if not get_solver(name).adaptive]
DEVICES = ("cpu", "cuda")


@pytest.fixture(autouse=True)
def _as_the_commands_do() -> None:
    resolve_device("cuda")


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Every wait for the device is an error."""
    yield torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


class FromHost:
    """The draws of a source on the CPU, on the GPU."""

    def __init__(self, source: BrownianPath) -> None:
        self._source = source

    def dw(self, t: Any, s: Any) -> Tensor:
        on_host = (time.cpu() if isinstance(time, Tensor) else time for time in (t, s))
        return self._source.dw(*on_host).cuda()

    def normal(self, stream: str) -> Tensor:
        return self._source.normal(stream).cuda()


def assert_agree(on_cuda: Tensor, on_cpu: Tensor, tolerance: float) -> None:
    """max |a - b| / (1 + |b|) of tensors on the two devices."""
    assert (on_cuda.device.type, on_cpu.device.type) == ("cuda", "cpu")
    error = (on_cuda.cpu() - on_cpu).abs() / (1 + on_cpu.abs())
    assert float(error.max()) < tolerance


@pytest.mark.parametrize("name", solver_names())
def test_samples_are_those_of_the_cpu(name: str) -> None:
    """From the same draws; the decisions of adaptive solvers round differently."""
    solver = get_solver(name)
    here, there = (get_problem("mixture_2d", device=device) for device in DEVICES)
    x, ts = here.prior(64, 0), make_grid("log_snr", here.sde, 12)
    samples = [
        integrate(solver, here.process(), x, ts, here.brownian(64, 0)),
        integrate(solver, there.process(), x.cuda(), ts, FromHost(here.brownian(64, 0))),
    ]
    assert_agree(samples[1], samples[0], 1e-9 if name in FIXED else 1e-5)


def test_draws_are_those_of_the_cpu_to_single_precision() -> None:
    draws = []
    for device in DEVICES:
        normals = Normals(0, (4096, 3), dtype=torch.float64, device=device)
        path = BrownianPath(normals, 1.0)
        times = torch.linspace(0.1, 0.9, 4096, dtype=torch.float64, device=device)
        parts = [normals.normal("start"), path.dw(1.0, 0.3), path.dw(0.3, 1e-4), path.dw(times, times / 3)]
        draws.append(torch.cat([*parts, normals.uniform("u")[:, None]], 1))
    assert_agree(draws[1], draws[0], 2e-6)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_steps_never_wait_for_the_device(name: str, no_waiting: None) -> None:
    problem = get_problem("mixture_2d", device="cuda")
    x, ts = problem.prior(64, 0), make_grid("log_snr", problem.sde, 12)
    integrate(get_solver(name), problem.process(), x, ts, problem.brownian(64, 0))


def test_a_wait_is_seen(no_waiting: None) -> None:
    with pytest.raises(RuntimeError, match="synchronizing"):
        float(torch.ones(1, device="cuda"))


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "rk45"])
def test_likelihoods_are_those_of_the_cpu(name: str) -> None:
    here = get_problem("mixture_2d")
    x, probe = here.reference(16, 0, 0), make_probes(here.normals(16, 0).normal("probe"))[None]
    ts = make_grid("log_snr", here.sde, 20, here.sde.t_min_likelihood, here.sde.t_max)
    found = []
    for device in DEVICES:
        probes, process = probe.to(device), get_problem("mixture_2d", device=device).process()
        kinds = (ExactDivergence(), Hutchinson(probes), HutchPlusPlus(probes, probes))
        solved = [log_density(get_solver(name), process, x.to(device), ts, kind).by_probe for kind in kinds]
        found.append(torch.cat(solved, 1))
    assert_agree(found[1], found[0], 1e-9 if name in FIXED else 1e-4)


@pytest.mark.parametrize("name", ["digits", "fashion", "fashion_ve"])
def test_networks_predict_what_they_do_on_the_cpu(name: str) -> None:
    """In single precision: 5e-5 at the highest noise, 1e-6 below; TensorFloat-32 differs by 2e-4 to 5e-4."""
    here, there = (get_problem(name, device=device) for device in DEVICES)
    sde = here.sde
    for t in make_grid("log_snr", sde, 4).tolist():
        x = sde.alpha(t) * 0.5 + sde.sigma(t) * here.normals(8, 0).normal("x")
        assert_agree(there.process().denoised(x.cuda(), t), here.process().denoised(x, t), 1e-4)


def test_a_cell_is_that_of_the_cpu_and_reads_its_cost_off_the_device(tmp_path: Path) -> None:
    records = {}
    for device in DEVICES:
        spec = cell("dpmpp_2m", device=str(resolve_device(device)), problem="mixture_2d", n=4096)
        records[device] = compute(spec, tmp_path / device)
        assert records[device].status == "done", records[device].traceback
    on_cpu, on_cuda = (records[device] for device in DEVICES)
    for key, metric in on_cpu.metrics.items():
        assert (metric.value is None) == (on_cuda.metrics[key].value is None), key
        if metric.value is not None:
            assert on_cuda.metrics[key].value == pytest.approx(metric.value, rel=1e-4, abs=1e-6), key
    cost = on_cuda.cost
    assert cost is not None
    assert (cost.nfe, cost.forwards) == (10.0, 10)
    assert 4096 * 2 * 8 < cost.peak_memory_bytes < 2**30, "the allocator's peak"
    assert cost.seconds > cost.network_seconds > 0
    assert on_cuda.environment.device == torch.cuda.get_device_name(0)
    samples = Store(tmp_path / "cuda").samples(on_cuda.spec)
    assert samples is not None
    assert samples.device.type == "cpu"


@pytest.mark.parametrize("content", [SCORE, CLASSIFIER], ids=lambda content: content["kind"])
def test_a_training_in_stretches_ends_with_the_weights_of_one_piece(tmp_path: Path, content: dict) -> None:
    """Dropout draws from the device's generator."""
    card = card_of(tmp_path, content)
    device = torch.device("cuda", 0)
    train(card, tmp_path / "whole", device, progress=False)
    for _ in range(100):
        torch.cuda.manual_seed(99)
        if train(card, tmp_path / "pieces", device, progress=False, resume=True, minutes=0.02 / 60).result is not None:
            break
    whole, pieces = ((tmp_path / where / f"{card.name}.safetensors").read_bytes() for where in ("whole", "pieces"))
    assert whole == pieces
