"""The audit: its findings are measurements, asserted here on fewer levels, and its files say what it found."""

import csv
import json
from pathlib import Path

import pytest
import torch

from bench import audit, certify, native
from bench.audit import CASES, AuditRow, Measured, audit_one
from bench.audit_tables import write_audit
from bench.environment import environment
from bench.native import LevelRun, native_evaluations
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from solvers.errors import UsageError
from solvers.peers.diffusers import DiffusersSolver
from solvers.peers.peer import Peer
from solvers.registry import parse_solver
from solvers.solver import FixedStepSolver

# Their own calls of numpy and of what they deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

FEW = (36, 72, 144)


@pytest.fixture(autouse=True)
def _few_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "STEPS", FEW)
    monkeypatch.setattr(audit, "FLOOR_STEPS", 100)


def ours(text: str, problem: Gaussian | Mixture2d) -> float:
    solver = parse_solver(text)
    assert isinstance(solver, FixedStepSolver)
    return certify.order(solver, problem, levels=FEW).slope


@pytest.mark.parametrize("problem", [Gaussian, Mixture2d])
def test_the_third_order_multistep_of_diffusers_is_of_second_order_and_ours_of_third(
    problem: type[Gaussian] | type[Mixture2d],
) -> None:
    theirs = audit_one("diffusers:DPMSolverMultistepScheduler?solver_order=3")
    slopes = {measured.problem: measured.slope for measured in theirs.measured}
    slope = slopes[problem.key]
    assert slope is not None
    assert slope < 2.5
    assert ours("dpmpp_3m", problem()) >= 2.8
    assert theirs.finding.startswith("order 2, claimed 3")


def test_its_stochastic_form_is_of_first_order() -> None:
    """The second difference enters with the wrong sign of 1/2: a local error of O(h^2)."""
    name = "diffusers:DPMSolverMultistepScheduler?solver_order=3&algorithm_type=sde-dpmsolver++"
    found = certify.order(_peer(name), Gaussian(), levels=FEW)
    assert found.verdict == "fail"
    assert found.slope < 1.5
    own = parse_solver("dpmpp_3m_sde")
    assert isinstance(own, FixedStepSolver)
    correct = certify.order(own, Gaussian(), levels=(128, 256, 512))
    assert correct.slope >= 1.7
    assert correct.errors[0] < found.errors[-1] / 20


@pytest.mark.parametrize("order", [2, 3])
def test_reab_of_azula_is_of_first_order(order: int) -> None:
    row = audit_one(f"azula:REABSampler?order={order}")
    assert all(measured.slope is not None and measured.slope < 1.3 for measured in row.measured)
    assert row.finding == f"order 1, claimed {order}"


@pytest.mark.parametrize(("name", "claimed"), [("zABSampler", 2), ("xEABSampler", 3), ("HeunSampler", 2)])
def test_the_rest_of_azula_is_as_claimed(name: str, claimed: int) -> None:
    row = audit_one(f"azula:{name}" + (f"?order={claimed}" if name != "HeunSampler" else ""))
    assert row.claimed == claimed
    assert [measured.verdict for measured in row.measured] == ["pass", "pass"]
    assert row.finding.startswith("order as claimed")
    assert row.single_floor is None


def test_fixed_coefficients_of_ipndm_are_of_second_order() -> None:
    assert audit_one("diffusers:IPNDMScheduler").finding.startswith("order 2, claimed 4")


def test_what_the_library_raises_is_a_finding() -> None:
    row = audit_one("diffusers:DPMSolverMultistepScheduler?solver_order=3&algorithm_type=sde-dpmsolver")
    assert [measured.verdict for measured in row.measured] == ["fail", "fail"]
    assert row.finding.startswith("fails, UnboundLocalError")
    assert row.evaluations_counted is None


def test_a_solver_of_ours_is_not_audited() -> None:
    with pytest.raises(UsageError, match="it is of other libraries' samplers; got 'heun'"):
        audit_one("heun")


def test_cases_are_peers_each_once() -> None:
    assert len(set(CASES)) == len(CASES)
    names = {parse_solver(case).key for case in CASES}
    assert all(":" in name for name in names)


# Evaluations in the library's own loop


def _peer(text: str) -> Peer:
    solver = parse_solver(text)
    assert isinstance(solver, Peer)
    return solver


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("diffusers:DDIMScheduler", 20),
        ("diffusers:HeunDiscreteScheduler", 39),
        ("diffusers:KDPM2DiscreteScheduler", 39),
        ("diffusers:PNDMScheduler", 29),
        ("diffusers:PNDMScheduler?skip_prk_steps=true", 21),
        ("diffusers:UniPCMultistepScheduler", 20),
        ("diffusers:ScoreSdeVeScheduler", 40),
        ("azula:HeunSampler", 40),
        ("azula:PCSampler?corrections=2", 60),
    ],
)
def test_evaluations_of_twenty_steps(name: str, counted: int) -> None:
    assert native_evaluations(_peer(name), 20) == counted


def _run(name: str, steps: int, **levels: object) -> LevelRun:
    solver = _peer(f"diffusers:{name}")
    assert isinstance(solver, DiffusersSolver)
    return native._loop(solver, steps, dict(levels))


def test_a_level_given_twice_wastes_an_evaluation() -> None:
    assert _run("DEISMultistepScheduler", 20).wasted == 0
    wasted = _run("DEISMultistepScheduler", 20, use_karras_sigmas=True)
    assert (wasted.wasted, wasted.evaluations, wasted.finding) == (1, 20, "1 of 20 evaluations wasted")
    last = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    assert _run("DPMSolverMultistepScheduler", 20, **last).wasted == 1
    assert _run("DPMSolverMultistepScheduler", 20, use_karras_sigmas=True).wasted == 0


def test_as_many_steps_as_training_steps_are_not_finite() -> None:
    assert _run("DPMSolverMultistepScheduler", 999).finding == ""
    assert _run("DPMSolverMultistepScheduler", 1000).finding.startswith("not finite in 1000 steps")


# Findings and files


def measured(problem: str, slope: float | None, verdict: str) -> Measured:
    return Measured(problem, FEW, (1e-2, 1e-3, 1e-4), slope, None, verdict)


@pytest.mark.parametrize(
    ("claimed", "slopes", "counted", "floor", "finding"),
    [
        (3, ((2.02, "fail"), (1.98, "fail")), 20, 1e-7, "order 2, claimed 3"),
        (3, ((3.01, "pass"), (1.98, "fail")), 20, None, "order 2, claimed 3"),
        (4, ((4.0, "pass"), (3.7, "fail")), 20, None, "3.7 of order 4"),
        (2, ((2.0, "pass"), (2.7, "pass")), 39, None, "order as claimed; 2n − 1 evaluations for n steps"),
        (3, ((1.1, "fail"), (-0.01, "fail")), 20, None, "order 1, claimed 3"),
        (2, ((3.0, "pass"), (3.0, "pass")), 40, None, "order 3, claimed 2; 2n evaluations for n steps"),
        (
            None,
            ((None, "not claimed"), (None, "not claimed")),
            21,
            None,
            "no order claimed; n + 1 evaluations for n steps",
        ),
        (
            1,
            ((None, "unresolved"), (None, "unresolved")),
            20,
            4e-2,
            "order unresolved; single precision inside costs 4e-02",
        ),
    ],
)
def test_the_finding_follows_from_the_numbers(
    claimed: int | None,
    slopes: tuple[tuple[float | None, str], ...],
    counted: int,
    floor: float | None,
    finding: str,
) -> None:
    both = [measured(problem, *entry) for problem, entry in zip(("gaussian", "mixture_2d"), slopes, strict=True)]
    assert audit._finding(claimed, both, counted, floor) == finding


def test_the_three_files_hold_the_same_rows(tmp_path: Path) -> None:
    both = (measured("gaussian", 1.0, "fail"), measured("mixture_2d", 0.99, "fail"))
    row = AuditRow(
        "azula:REABSampler?order=2",
        "azula",
        "0.11",
        "vp",
        False,
        False,
        2,
        "docstring",
        both,
        20,
        20,
        None,
        "order 1, claimed 2",
    )
    run = LevelRun("DEISMultistepScheduler", "use_karras_sigmas=True", 20, 20, 1, False, "1 of 20 evaluations wasted")
    paths = write_audit([row], [run], environment(torch.device("cpu")), tmp_path / "audit")
    assert [path.name for path in paths] == ["audit.json", "audit.csv", "audit.md"]
    content = json.loads(paths[0].read_text(encoding="utf-8"))
    assert content["rows"][0]["finding"] == "order 1, claimed 2"
    assert content["rows"][0]["measured"][1]["slope"] == 0.99
    assert {"azula", "diffusers", "torch"} <= content["environment"]["versions"].keys()
    (line,) = csv.DictReader(paths[1].open(encoding="utf-8"))
    assert (line["solver"], line["claimed"], line["measured, Gaussian"]) == ("azula:REABSampler?order=2", "2", "1.00")
    text = paths[2].read_text(encoding="utf-8")
    assert "| azula:REABSampler?order=2 | 0.11 | vp | 2 |" in text
    assert "1 of 20 evaluations wasted" in text


# The audit that is committed

REFERENCE = Path(__file__).parent.parent / "results" / "reference" / "audit" / "audit.json"


def test_the_committed_audit_has_every_case_and_the_known_defects() -> None:
    content = json.loads(REFERENCE.read_text(encoding="utf-8"))
    rows = {row["solver"]: row for row in content["rows"]}
    assert list(rows) == list(CASES)
    known = {
        "diffusers:DPMSolverMultistepScheduler?solver_order=3&algorithm_type=dpmsolver++": "order 2, claimed 3",
        "diffusers:DPMSolverMultistepInverseScheduler?solver_order=3": "order 2, claimed 3",
        "diffusers:EDMDPMSolverMultistepScheduler?solver_order=3": "order 2, claimed 3",
        "diffusers:IPNDMScheduler": "order 2, claimed 4",
        "azula:REABSampler?order=2": "order 1, claimed 2",
        "azula:REABSampler?order=3": "order 1, claimed 3",
    }
    for case, finding in known.items():
        assert rows[case]["finding"].startswith(finding)
    assert not content["environment"]["dirty"]
