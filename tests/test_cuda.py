"""On a GPU, where there is one: the values of the CPU, no waiting, and what the harness reads off the device.

Without one the module is skipped, and ``tests/test_devices.py`` follows devices and waits on fake tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cards import CLASSIFIER, SCORE, card_of
from records import cell, compute
from torch import Tensor

from bench.problems.problem import Problem, get_problem
from bench.store import Store
from pretrained.train import train
from solvers.divergence import ExactDivergence, Hutchinson, HutchPlusPlus, make_probes
from solvers.grids import make_grid
from solvers.likelihood import log_density
from solvers.registry import get_solver, solver_names
from solvers.solver import integrate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

FIXED = [name for name in solver_names() if not get_solver(name).adaptive]
DEVICES = ("cpu", "cuda")


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """Every wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def solve(name: str, problem: Problem, n: int = 64, steps: int = 12) -> Tensor:
    brownian = problem.brownian(n, 0)
    return integrate(
        get_solver(name), problem.process(), problem.prior(n, 0), make_grid("log_snr", problem.sde, steps), brownian
    )


def assert_agree(on_cuda: Tensor, on_cpu: Tensor, tolerance: float) -> None:
    """max |a - b| / (1 + |b|) of tensors on the two devices."""
    assert (on_cuda.device.type, on_cpu.device.type) == ("cuda", "cpu")
    error = (on_cuda.cpu() - on_cpu).abs() / (1 + on_cpu.abs())
    assert float(error.max()) < tolerance


@pytest.mark.parametrize("name", solver_names())
def test_samples_are_those_of_the_cpu(name: str) -> None:
    """Noise is addressed, so one seed is one path on any device; an adaptive solver's decisions round differently."""
    on_cpu, on_cuda = (solve(name, get_problem("mixture_2d", device=device)) for device in DEVICES)
    assert_agree(on_cuda, on_cpu, 1e-9 if name in FIXED else 1e-5)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_steps_never_wait_for_the_device(name: str) -> None:
    """On the second solve of a grid: the first puts tables of times and of noise there."""
    problem = get_problem("mixture_2d", device="cuda")
    x, ts = problem.prior(64, 0), make_grid("log_snr", problem.sde, 12)
    solver, process = get_solver(name), problem.process()
    integrate(solver, process, x, ts, problem.brownian(64, 0))
    brownian = problem.brownian(64, 1)
    with refusing_to_wait():
        integrate(solver, process, x, ts, brownian)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "rk45"])
def test_likelihoods_are_those_of_the_cpu(name: str) -> None:
    found = []
    for device in DEVICES:
        problem = get_problem("mixture_2d", device=device)
        sde, x = problem.sde, problem.reference(16, 0, 0).to(device)
        ts = make_grid("log_snr", sde, 20, sde.t_min_likelihood, sde.t_max)
        probes = make_probes(problem.normals(16, 0).normal("probe"))[None]
        kinds = (ExactDivergence(), Hutchinson(probes), HutchPlusPlus(probes, probes))
        solved = [log_density(get_solver(name), problem.process(), x, ts, kind).by_probe for kind in kinds]
        found.append(torch.cat(solved, 1))
    assert_agree(found[1], found[0], 1e-9 if name in FIXED else 1e-4)


@pytest.mark.parametrize("problem", ["digits", "fashion", "fashion_ve"])
def test_networks_predict_what_they_do_on_the_cpu(problem: str) -> None:
    """In single precision, through sums of thousands of terms in another order."""
    on_cpu, on_cuda = (solve("dpmpp_2m", get_problem(problem, device=device), n=8) for device in DEVICES)
    assert_agree(on_cuda, on_cpu, 2e-3)


def test_a_cell_is_that_of_the_cpu_and_reads_its_cost_off_the_device(tmp_path: Path) -> None:
    records = {}
    for device in DEVICES:
        spec = cell("dpmpp_2m", device=device.replace("cuda", "cuda:0"), problem="mixture_2d", n=4096)
        records[device] = compute(spec, tmp_path / device)
        assert records[device].status == "done", records[device].traceback
    on_cpu, on_cuda = (records[device] for device in DEVICES)
    for key, metric in on_cpu.metrics.items():
        assert (metric.value is None) == (on_cuda.metrics[key].value is None), key
        if metric.value is not None:
            assert on_cuda.metrics[key].value == pytest.approx(metric.value, rel=1e-6, abs=1e-9), key
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
