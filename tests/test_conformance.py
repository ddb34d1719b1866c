"""Conformance: the reference implementation's recorded runs, and what the command says of wrong ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.cli import app
from bench.conformance import conformance
from bench.problems.gaussian import Gaussian
from solvers.brownian import BrownianPath, Tape
from solvers.constraints import Colorization, Inpainting
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import EDM, VE, VP, ForwardSDE, SubVP
from solvers.solver import integrate

GOLDEN = Path(__file__).parent / "golden"
VECTORS, INDEX = GOLDEN / "sampling.npz", GOLDEN / "sampling.json"

Files = tuple[Path, Path]


def edited(folder: Path, cases: list[dict[str, Any]], **changes: Any) -> Files:
    """The golden vectors with some arrays replaced, under an index of their own."""
    with np.load(VECTORS) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez(folder / "v.npz", **arrays)
    (folder / "i.json").write_text(json.dumps(cases))
    return folder / "v.npz", folder / "i.json"


def case(golden: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in json.loads(INDEX.read_text()) if entry["key"] == golden)
    return found | changes


def test_every_golden_case_passes() -> None:
    results = conformance(VECTORS, INDEX)
    assert len(results) == 54
    assert [r for r in results if r.verdict != "pass"] == []
    # Far below the tolerance wherever the reference computes in double precision.
    assert all(r.error is not None and r.error < 1e-11 for r in results if "colorize" not in r.key)


NETWORKS = ["ve_ncsnpp", "vp_ddpmpp", "subvp_ncsnpp"]


def network_command(name: str, **files: Path) -> Any:
    """The command on a golden network, with some of its files replaced."""
    suffixes = {"checkpoint": "pth", "config": "json", "vectors": "npz"}
    chosen = {option: GOLDEN / f"network_{name}.{suffix}" for option, suffix in suffixes.items()} | files
    options = [text for option, path in chosen.items() for text in (f"--{option}", str(path))]
    return CliRunner().invoke(app, ["conformance", *options, "--json"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_golden_network_passes(name: str) -> None:
    result = network_command(name)
    assert result.exit_code == 0
    (line,) = json.loads(result.stdout)
    assert (line["key"], line["verdict"], line["tolerance"]) == (f"network_{name}", "pass", 1e-5)
    # Single precision, in the reference's own order of operations.
    assert line["error"] < 5e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_of_a_network_without_its_checkpoint_are_skipped_not_passed(name: str) -> None:
    (result,) = conformance(GOLDEN / f"network_{name}.npz", GOLDEN / f"network_{name}.json")
    assert (result.verdict, result.error) == ("skipped", None)
    assert result.reason is not None
    assert "--checkpoint" in result.reason


@pytest.mark.parametrize("array", ["x", "t", "labels", "output", "score"])
def test_a_perturbed_vector_of_a_network_fails(tmp_path: Path, array: str) -> None:
    with np.load(GOLDEN / "network_ve_ncsnpp.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays[array] = arrays[array] * np.float32(1.001)
    np.savez(tmp_path / "v.npz", **arrays)
    result = network_command("ve_ncsnpp", vectors=tmp_path / "v.npz")
    assert result.exit_code == 1
    (line,) = json.loads(result.stdout)
    assert line["verdict"] == "fail"
    assert line["error"] > 1e-5


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ve_ncsnpp", "centered", True),
        ("ve_ncsnpp", "sde", "vpsde"),
        ("ve_ncsnpp", "model.scale_by_sigma", False),
        ("ve_ncsnpp", "model.skip_rescale", False),
        ("ve_ncsnpp", "model.nonlinearity", "elu"),
        ("ve_ncsnpp", "model.fir_kernel", [1, 2, 2, 1]),
        ("ve_ncsnpp", "model.sigma_max", 40),
        ("vp_ddpmpp", "model.fir", True),
        ("vp_ddpmpp", "sde", "subvpsde"),
        ("vp_ddpmpp", "model.beta_max", 19.0),
        ("subvp_ncsnpp", "model.fir_kernel", [1, 3, 2, 1]),
    ],
)
def test_every_setting_of_a_network_is_read(tmp_path: Path, name: str, key: str, value: Any) -> None:
    settings = json.loads((GOLDEN / f"network_{name}.json").read_text())
    *section, last = key.split(".")
    (settings[section[0]] if section else settings)[last] = value
    (tmp_path / "c.json").write_text(json.dumps(settings))
    result = network_command(name, config=tmp_path / "c.json")
    assert result.exit_code == 1, result.output


def test_a_network_without_what_it_takes_ends_in_a_usage_error(tmp_path: Path) -> None:
    with np.load(GOLDEN / "network_vp_ddpmpp.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    for change, text in (
        ({"x": arrays["x"][:, :, :8]}, "'x' is"),
        ({"t": None}, "lacks the array 't'"),
        ({"output": None, "score": None}, "records a result"),
    ):
        kept = {name: value for name, value in (arrays | change).items() if value is not None}
        np.savez(tmp_path / "v.npz", **kept)
        with pytest.raises(UsageError, match=text):
            raise network_command("vp_ddpmpp", vectors=tmp_path / "v.npz").exception
    for option in ("checkpoint", "config", "vectors"):
        with pytest.raises(UsageError, match="there is no such file"):
            raise network_command("vp_ddpmpp", **{option: tmp_path / "none"}).exception
    for arguments in ([str(VECTORS)], [], [str(VECTORS), str(INDEX), "--config", str(INDEX)]):
        with pytest.raises(UsageError, match="it takes VECTORS and INDEX, or --checkpoint"):
            raise CliRunner().invoke(app, ["conformance", *arguments]).exception  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("vp/reverse_diffusion/langevin", "x"),
        ("vp/reverse_diffusion/langevin", "x_mean"),
        ("ve/none/ald", "noise"),
        ("vp/inpaint/reverse_diffusion+langevin", "x_mean"),
        ("vp/colorize/euler_maruyama+none", "data"),
        ("subvp/ode_rk45", "x"),
        ("vp/loss/likelihood/mean", "loss"),
    ],
)
def test_a_perturbed_vector_fails(tmp_path: Path, key: str, array: str) -> None:
    vectors, index = edited(tmp_path, [case(key)], **{f"{key}/{array}": lambda a: a + 1e-3})
    result = CliRunner().invoke(app, ["conformance", str(vectors), str(index), "--json"])
    assert result.exit_code == 1
    (line,) = json.loads(result.stdout)
    assert set(line) == {"key", "error", "tolerance", "verdict", "reason"}
    assert line["verdict"] == "fail"
    assert line["error"] > line["tolerance"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("vp/reverse_diffusion/langevin", {"snr": 0.1}),
        ("vp/reverse_diffusion/none", {"beta_max": 19.0}),
        ("ve/ancestral_sampling/ald", {"sigma_min": 0.02}),
        ("vp/euler_maruyama/none", {"t_min": 1e-2}),
        ("vp/reverse_diffusion_ode/none", {"probability_flow": False}),
        ("vp/reverse_diffusion/langevin", {"corrector_steps": 2}),
        ("vp/inpaint/euler_maruyama+none", {"sde": "subvp"}),
    ],
)
def test_every_setting_is_read_from_the_index(tmp_path: Path, key: str, change: dict[str, Any]) -> None:
    (result,) = conformance(*edited(tmp_path, [case(key, **change)]))
    assert result.verdict == "fail"


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("vp/reverse_diffusion/none", {"predictor": "leapfrog"}),
        ("vp/reverse_diffusion/none", {"corrector": "hmc"}),
        ("vp/reverse_diffusion/none", {"sde": "edm"}),
        ("vp/euler_maruyama/none", {"probability_flow": True}),
        ("vp/inpaint/euler_maruyama+none", {"task": "deblur"}),
        ("vp/loss/sigma2/mean", {"network": "x"}),
        ("vp/ode_rk45", {"key": "vp/ode_dop853"}),
    ],
)
def test_an_unknown_kind_is_skipped_with_its_reason(tmp_path: Path, key: str, change: dict[str, Any]) -> None:
    vectors, index = edited(tmp_path, [case(key, **change)])
    result = CliRunner().invoke(app, ["conformance", str(vectors), str(index), "--json"])
    assert result.exit_code == 0
    (line,) = json.loads(result.stdout)
    assert line["verdict"] == "skipped"
    assert line["error"] is line["tolerance"] is None
    assert line["reason"]


def test_values_that_are_not_finite_agree_only_with_themselves(tmp_path: Path) -> None:
    key = "vp/reverse_diffusion/none"
    ten = {f"{key}/noise": lambda a: a[:10]}
    nan = {f"{key}/{name}": lambda a: np.full_like(a, np.nan) for name in ("x", "x_mean")}
    assert conformance(*edited(tmp_path, [case(key, steps=10)], **ten, **nan))[0].verdict == "pass"
    failed = conformance(*edited(tmp_path, [case(key, steps=10)], **ten))[0]
    assert (failed.verdict, failed.error) == ("fail", None)
    assert conformance(*edited(tmp_path, [case(key)], **nan))[0].verdict == "fail"


def test_files_that_are_wrong_end_in_a_usage_error(tmp_path: Path) -> None:
    key = "vp/euler_maruyama/none"
    text = tmp_path / "text"
    text.write_text("not an archive")
    vectors, index = edited(tmp_path, [case(key)])
    no_key, number = tmp_path / "no_key.json", tmp_path / "number.json"
    no_key.write_text(json.dumps([{"sde": "vp"}]))
    number.write_text("3")
    for files in [(tmp_path / "none", index), (vectors, tmp_path / "none"), (text, index), (vectors, text)]:
        with pytest.raises(UsageError, match="conformance: "):
            conformance(*files)
    for wrong in (no_key, number):
        with pytest.raises(UsageError, match="list of cases"):
            conformance(vectors, wrong)


def test_a_malformed_case_fails_and_costs_no_other_its_verdict(tmp_path: Path) -> None:
    key = "vp/euler_maruyama/none"
    wrong: list[tuple[dict[str, Any], str]] = [
        (case(key, steps="many"), "'steps'"),
        (case(key, key="vp/other"), "vp/other/"),
        (case(key, probability_flow="yes"), "probability_flow is true or false"),
        (case(key, predictor=["a"]), "TypeError"),
        ({name: value for name, value in case(key).items() if name != "steps"}, "lacks 'steps'"),
    ]
    vectors, index = edited(tmp_path, [entry for entry, _ in wrong] + [case(key)])
    *failed, good = conformance(vectors, index)
    assert good.verdict == "pass"
    for result, (_, text) in zip(failed, wrong, strict=True):
        assert result.verdict == "fail"
        assert result.reason is not None
        assert text in result.reason


@pytest.mark.parametrize(
    "change",
    [lambda a: a + 0j, lambda a: a[:0], lambda a: a[..., :1], lambda a: a[0, 0, 0]],
    ids=["complex", "empty", "narrow", "a number"],
)
def test_arrays_that_are_not_what_they_should_be_fail(tmp_path: Path, change: Any) -> None:
    key = "vp/euler_maruyama/none"
    for name in ("x_init", "noise", "x"):
        found = conformance(*edited(tmp_path, [case(key)], **{f"{key}/{name}": change}))[0]
        assert found.verdict == "fail", name
        assert found.reason or found.error


def test_the_command_ends_with_exit_code_2_on_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench import cli

    monkeypatch.setattr("sys.argv", ["scorebench", "conformance", str(tmp_path / "none.npz"), str(INDEX)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "conformance: there is no such file; got" in capsys.readouterr().err


# The reference's discretisation beyond its vectors.


def gaussian(sde: ForwardSDE, n: int) -> tuple[Gaussian, torch.Tensor]:
    problem = Gaussian(sde=sde)
    return problem, problem.marginal_sample(sde.t_max, problem.normals(n, 0), "start")


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "ancestral", "probability_flow"])
@pytest.mark.parametrize("sde", [VP(), SubVP(), VE()], ids=lambda sde: sde.name)
def test_song_counts_one_evaluation_a_step_and_nears_the_grid_form(name: str, sde: ForwardSDE) -> None:
    problem, x = gaussian(sde, 4)
    errors = []
    for steps in (100, 1000):
        ts = make_grid("uniform", sde, steps)
        brownian = BrownianPath(problem.normals(4, 1), sde.t_max)
        process = problem.process()
        ours = integrate(get_solver(name, discretisation="song"), process, x, ts, brownian, "mean")
        assert process.evaluations.calls == steps
        errors.append(float((ours - integrate(get_solver(name), problem.process(), x, ts, brownian, "mean")).norm()))
    # sub-VP's and VE's "grid" forms use other coefficients of the same order; all distances fall as 1/N.
    assert errors[1] < errors[0] / 5
    assert errors[0] > 1e-6


def test_song_is_refused_where_the_reference_has_no_chain() -> None:
    problem, x = gaussian(EDM(), 2)
    with pytest.raises(UsageError, match="vp, subvp and ve"):
        integrate(
            get_solver("ancestral", discretisation="song"),
            problem.process(),
            x,
            make_grid("uniform", EDM(), 4),
            Tape(torch.zeros(4, 2, 8)),
        )
    with pytest.raises(UsageError, match="knows discretisation 'song'"):
        get_solver("predictor_corrector", predictor="heun", discretisation="song")
    with pytest.raises(UsageError, match="no discretisation 'sung'"):
        get_solver("ancestral", discretisation="sung")


# Constraints on the project's own grids.

IMAGES = (16, 3, 2, 2)


def image_process(constraint: Any) -> ReverseProcess:
    """Unit Gaussian images with a common part in all pixels: what is unknown depends on what is known."""
    cov = 0.2 * torch.eye(12, dtype=torch.float64) + 0.8
    sde = VP()

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = float(sde.alpha(t)[0]), float(sde.sigma(t)[0])
        law = alpha**2 * cov + sigma**2 * torch.eye(12, dtype=torch.float64)
        return -torch.linalg.solve(law, x.flatten(1).T).T.reshape(x.shape)

    return ReverseProcess(sde, score, "score", constraint)


@pytest.mark.parametrize(("solver", "least"), [("euler_maruyama", 1.0), ("predictor_corrector", 1.0), ("heun", 0.5)])
def test_inpainting_keeps_what_is_known_and_conditions_the_rest(solver: str, least: float) -> None:
    data = torch.full(IMAGES, 1.5, dtype=torch.float64)
    mask = torch.ones(1, 1, 2, 2)
    mask[..., 1] = 0
    normals = Normals(3, IMAGES, dtype=torch.float64)
    settings = {"corrector": "ald", "corrector_steps": 2} if solver == "predictor_corrector" else {}
    x = integrate(
        get_solver(solver, **settings),
        image_process(Inpainting(data, mask)),
        normals.normal("x"),
        make_grid("uniform", VP(), 200),
        BrownianPath(normals, 1.0),
        "mean",
    )
    assert torch.allclose(x[..., 0], VP().alpha(1e-3) * data[..., 0], atol=1e-12)
    # E[unknown | known = 1.5] = 1.5 * 6 * 0.8 / (0.2 + 6 * 0.8) = 1.44, without the constraint 0. Replacement is an
    # approximation, best where noise lets the rest forget its start.
    assert least < float(x[..., 1].mean()) < 1.6


def test_colorization_keeps_the_grey_channel_and_leaves_colour_free() -> None:
    normals = Normals(4, IMAGES, dtype=torch.float64)
    data = normals.normal("data")
    constraint = Colorization(data)
    assert torch.allclose(constraint.couple(constraint.decouple(data)), data, atol=1e-14)
    ts = make_grid("uniform", VP(), 50)
    start = normals.normal("x")
    solver = get_solver("reverse_diffusion")
    x = integrate(solver, image_process(constraint), start, ts, BrownianPath(normals, 1.0), "mean")
    assert torch.allclose(x.mean(1), VP().alpha(1e-3) * data.mean(1), atol=1e-12)
    assert float((x - data).std()) > 0.1
    with pytest.raises(UsageError, match="shape"):
        Colorization(data[:, :2])


def test_a_constraint_is_refused_by_solvers_that_do_not_impose_it() -> None:
    process = image_process(Inpainting(torch.zeros(IMAGES), torch.ones(1)))
    x = torch.zeros(IMAGES, dtype=torch.float64)
    ts = make_grid("uniform", VP(), 4)
    for name in ("scipy_rk45", "torchsde"):
        with pytest.raises(UsageError, match="constraint"):
            integrate(get_solver(name), process, x, ts, Tape(torch.zeros(9, *IMAGES)))
    with pytest.raises(UsageError, match="draws noise"):
        integrate(get_solver("euler"), process, x, ts)
