"""A report: figures, page and provenance from records made by hand and from real cells."""

import re
from pathlib import Path

import pytest
import torch
from records import cell, compute, cost, environment, fill, record

from bench.kinds.likelihood import ERRORS_APART
from bench.metrics.bias import FdDigitsAtInfinity
from bench.metrics.metric import Outcome
from bench.problems.gaussian import Gaussian
from bench.problems.problem import ImageProblem, Problem, get_problem
from bench.record import Record
from bench.report import provenance_text, write_report
from bench.store import Store
from solvers.errors import UsageError
from solvers.registry import get_solver

PNG = b"\x89PNG\r\n\x1a\n"


def gaussian_records() -> list[Record]:
    made = []
    for seed in (0, 1):
        for budget in (5, 10):
            for solver, factor in (("euler", 2.0), ("heun", 1.0)):
                values = {"pathwise_rmse": (factor / budget + 0.01 * seed, 0.01), "w2_gaussian": (factor, 0.1)}
                made.append(record(cell(solver, budget=budget, seed=seed), values))
        settings = {"rtol": 0.1, "atol": 0.1}
        spec = cell("torchdiffeq", budget=None, grid="adaptive", settings=settings, seed=seed)
        made.append(record(spec, {"pathwise_rmse": 0.1, "w2_gaussian": 0.7}, cost=cost(nfe=9.0)))
    made.append(record(cell("ddim", budget=5), status="error", reason="it | broke\nbadly"))
    made.append(record(cell("ddim", budget=10), status="timeout", reason="took longer than 3 s"))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hand-made cells of the Gaussian, and digits with samples, in one folder, reported."""
    path = tmp_path_factory.mktemp("run")
    store = fill(path, gaussian_records())
    for solver in ("euler", "heun"):
        item = record(cell(solver, problem="digits", n=8), {"fd_digits": (3.0, 0.1)})
        store.write(item, torch.rand(8, 1, 8, 8))
    values = dict.fromkeys(ERRORS_APART, 0.002) | {"bits_per_dim": (2.0, 0.1), "bits_probe_error": 0.03}
    for budget, error in ((10, 0.5), (20, 0.004), (50, 0.05), (100, 0.008)):
        spec = cell("heun", problem="digits", n=8, kind="likelihood", budget=budget)
        store.write(record(spec, {**values, "bits_per_dim_error": (error, 0.001)}))
    write_report(path)
    return path


def test_every_figure_is_there_as_png_and_svg(folder: Path) -> None:
    figures = {path.name for path in (folder / "figures").iterdir()}
    stems = {f"gaussian_{metric}_{x}" for metric in ("pathwise_rmse", "w2_gaussian") for x in ("nfe", "seconds")}
    views = ("ranks", "pairs", "frontier")
    stems |= {f"gaussian_pathwise_rmse_{x}" for x in (*views, "targets")}
    stems |= {f"digits_bits_per_dim_error_{x}" for x in ("nfe", "seconds", "targets")}
    stems |= {f"digits_bits_per_dim_{x}" for x in ("nfe", "seconds")}
    stems |= {f"digits_fd_digits_{x}" for x in ("nfe", "seconds", *views)} | {"digits_samples"}
    assert figures == {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".svg")}
    for name in figures:
        content = (folder / "figures" / name).read_bytes()
        assert len(content) > 5000, name
        assert content.startswith(PNG) == name.endswith(".png")


def test_curves_hold_a_line_a_solver(folder: Path) -> None:
    svg = (folder / "figures" / "gaussian_pathwise_rmse_nfe.svg").read_text()
    assert svg.rstrip().endswith("</svg>")
    for text in ("euler", "heun", "torchdiffeq"):
        assert f"<!-- {text} -->" in svg, "named in the legend"
    assert "<!-- ddim -->" not in svg, "it has no value to show"
    assert "pathwise RMS error" in svg


def test_the_figure_against_n_carries_the_best_rows_to_infinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines end at the metric's own value, of rows at the budget and grid that most share."""
    problem, n = get_problem("digits"), 80
    assert isinstance(problem, ImageProblem)
    # As on CIFAR-10: features are compared with training images, likelihoods taken of held-out ones.
    monkeypatch.setattr(type(problem), "compared_with", lambda self, n, seed, draw: self.reference(n, seed, 1 - draw))
    levels = problem.reference(n, 0, 1)
    for solver, grid, budget, noise in (
        ("euler", "log_snr", 20, 2),
        ("heun", "log_snr", 20, 4),
        ("heun", "log_snr", 10, 6),
        ("heun", "karras", 20, 1),
        ("ancestral", "log_snr", 50, 1),
    ):
        seen = levels + noise * torch.rand(levels.shape, generator=torch.Generator().manual_seed(0))
        samples = problem.scale * seen / problem.levels + problem.offset
        spec = cell(solver, problem="digits", grid=grid, budget=budget, n=n)
        value = FdDigitsAtInfinity().measure(Outcome(spec, problem, get_solver(solver), samples))
        item = record(spec).model_copy(update={"metrics": {"fd_digits_infinity": value}})
        fill(tmp_path, []).write(item, samples)
    report = write_report(tmp_path)
    assert "## Fréchet distance against n" in report.page.read_text()
    drawn = (tmp_path / "figures" / "digits_fd_digits_infinity_n.svg").read_text()
    shown = dict(re.findall(r"<!-- ([a-z ]+): (-?[\d.]+) -->", drawn))
    assert set(shown) == {"euler", "heun", "other real images"}
    for path in (tmp_path / "records").glob("*log_snr-nfe20*"):
        kept = Store(tmp_path).read(path)
        value = kept.metrics["fd_digits_infinity"]
        assert value.value is not None
        assert value.floor is not None
        assert float(shown[kept.spec.solver]) == pytest.approx(value.value, abs=0.06)
        assert float(shown["other real images"]) == pytest.approx(value.floor, abs=0.06)
    # A report drawn where the network is missing goes without the figure.
    monkeypatch.setattr("bench.bias_figure.get_problem", _missing)
    assert "## Fréchet distance against n" not in write_report(tmp_path).page.read_text()


def _missing(name: str) -> Problem:
    raise UsageError(name, "its network's weights are missing")


def test_the_sample_grid_shows_the_kept_samples(folder: Path, tmp_path: Path) -> None:
    with_samples = (folder / "figures" / "digits_samples.svg").read_text()
    assert with_samples.count("<image") == 2
    assert "samples not kept" not in with_samples
    fill(tmp_path, [record(cell("euler", problem="digits", n=8), {"fd_digits": 3.0})])
    write_report(tmp_path)
    without = (tmp_path / "figures" / "digits_samples.svg").read_text()
    assert without.count("<image") == 0
    assert "samples not kept" in without


def test_damaged_samples_are_told(tmp_path: Path) -> None:
    item = record(cell("euler", problem="digits", n=8), {"fd_digits": 3.0})
    store = fill(tmp_path, [])
    store.write(item, torch.rand(8, 1, 8, 8))
    store.sample_path(item.spec).write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"samples .*the file is whole and valid; got "):
        write_report(tmp_path)


def test_a_second_report_is_the_same_bytes(folder: Path) -> None:
    paths = [
        path
        for path in folder.rglob("*")
        if "records" not in path.parts and path.suffix in (".csv", ".md", ".svg", ".parquet", ".png", ".tex", ".json")
    ]
    before = {path: path.read_bytes() for path in paths}
    assert len(before) == 48
    write_report(folder)
    for path in paths:
        assert path.read_bytes() == before[path], path.name


def test_the_page_names_its_figures_and_they_are_there(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    shown = re.findall(r"!\[\w+\]\((.+?)\)", page)
    assert len(shown) == len(set(shown)) == 19
    for path in shown:
        assert (folder / path).is_file()


def test_the_page_has_the_leaderboards_of_the_tables_folder(folder: Path) -> None:
    page, boards = (folder / "report.md").read_text(), (folder / "tables" / "leaderboard.md").read_text()
    headings = re.findall(r"^### .*$", boards, re.MULTILINE)
    assert len(headings) >= 4
    lines = [line for line in boards.splitlines() if line.startswith(("### ", "| "))]
    assert all(line in page for line in lines)
    assert "| heun | log_snr |" in boards


def test_every_table_of_the_page_is_well_formed(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
        assert re.fullmatch(r"(\|-+)+\|", table.splitlines()[1])


def test_a_likelihood_has_its_cost_and_its_errors_apart(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    part = page[page.index("## Likelihood") : page.index("## Samples")]
    # 0.004 at 20 evaluations is no better than it looks: at 50 the error is larger again.
    assert "| heun | log_snr | 20 | 100 | not reached | not reached | 4.0e-03 |" in part
    assert "| heun | log_snr | 100 | 2.00 ± 0.10 | 0.0080 ± 0.0010 | 0.0300 | 0.00200 |" in part
    assert "Variational bound (reverse SDE): 0.002 ± 0.010" in part


def test_cells_without_a_result_are_listed_with_their_reasons(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    part = page[page.index("## Cells without a result") :]
    assert f"| {cell('ddim', budget=5).name} | error | it \\| broke badly |" in part
    assert f"| {cell('ddim').name} | timeout | took longer than 3 s |" in part
    assert part.count("\n| gaussian-") == 2
    assert "18 cells (" in page
    assert "1 error" in page
    assert "1 timeout" in page


def test_times_are_medians_over_cells(tmp_path: Path) -> None:
    seconds = (0.2, 0.4, 0.9)
    records = [
        record(
            cell(seed=seed),
            {"w2_gaussian": 1.0, "pathwise_rmse": 1.0},
            cost=cost(
                seconds=s, network_seconds=s / 4, overhead_per_evaluation=1e-6 * (seed + 1), peak_memory_bytes=3e8
            ),
        )
        for seed, s in enumerate(seconds)
    ]
    fill(tmp_path, records)
    write_report(tmp_path)
    assert "| gaussian | euler | log_snr | 40 (20 to 90) | 25% | 2 | 300 |" in (tmp_path / "report.md").read_text()


def test_a_run_of_failures_alone_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, [record(cell(), status="error", reason="no luck"), record(cell("heun"), status="skipped")])
    report = write_report(tmp_path)
    assert report.figures == []
    page = report.page.read_text()
    assert "| error | no luck |" in page
    assert "| euler | log_snr | error |" in page


def test_a_report_of_real_cells(tmp_path: Path) -> None:
    for solver, grid in (("heun", "karras"), ("heun", "log_snr"), ("euler_maruyama", "log_snr")):
        for seed in (0, 1):
            assert compute(cell(solver, grid=grid, n=64, seed=seed), tmp_path).status == "done"
    report = write_report(tmp_path)
    assert [board.metric for board in report.boards] == list(Gaussian.metrics)
    rows = {(solver, grid): entries[0].text for solver, grid, entries in report.boards[0].rows}
    assert rows["euler_maruyama", "log_snr"] == "not an ODE solver"
    errors = [
        Store(tmp_path).read(path).metrics["pathwise_rmse"].value for path in (tmp_path / "records").glob("*karras*")
    ]
    assert len(errors) == 2
    shown = float(rows["heun", "karras"].split(" ± ")[0])
    assert shown == pytest.approx(sum(error for error in errors if error) / 2, rel=1e-3)
    shown = {path.stem for path in report.figures}
    assert {f"gaussian_{metric}_nfe" for metric in Gaussian.metrics} <= shown
    assert {name for name in shown if name.endswith("_seconds")} == {
        f"gaussian_{m}_seconds" for m in Gaussian.metrics[:2]
    }


# Provenance.


def test_records_of_one_piece_carry_no_warning() -> None:
    text = provenance_text([record(cell(seed=seed), hashes={"net": "a", "features": "b"}) for seed in (0, 1)])
    assert "compare with care" not in text
    assert "2 cells (2 done), 2026-01-02" in text
    assert "a processor, 2 cores, 1 threads, device cpu" in text
    assert "Commit: 0123456789abcdef0123456789abcdef01234567." in text


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (record(cell(seed=1), environment=environment(commit="f" * 40)), "commits"),
        (record(cell(seed=1), environment=environment(dirty=True)), "commits"),
        (record(cell(seed=1), environment=environment(commit=None, dirty=None)), "commits"),
        (record(cell(seed=1), environment=environment(cpu="another processor")), "machines or threads"),
        (record(cell(seed=1), environment=environment(device="a GPU")), "machines or threads"),
        (record(cell(seed=1), environment=environment(threads=7)), "machines or threads"),
        (record(cell(seed=1), environment=environment(versions={"torch": "0"})), "versions"),
        (record(cell(seed=1), hashes={"net": "another"}), "checkpoints"),
    ],
)
def test_records_of_several_origins_carry_a_warning(other: Record, what: str) -> None:
    text = provenance_text([record(cell(), hashes={"net": "a"}), other])
    assert f"**These records were made with different {what}: compare with care.**" in text


def test_uncommitted_changes_are_told() -> None:
    assert "(with changes)" in provenance_text([record(cell(), environment=environment(dirty=True))])


def test_dates_span_the_run() -> None:
    made = [record(cell(seed=s), environment=environment(date=f"2026-01-0{s + 1}T00:00:00+00:00")) for s in (2, 0, 1)]
    assert "2026-01-01T00:00:00+00:00 to 2026-01-03T00:00:00+00:00" in provenance_text(made)
