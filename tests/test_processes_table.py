"""The report's section on one network under several processes, from records made by hand."""

import math

from records import cell, record

from bench.processes_table import processes_section
from bench.record import MetricValue, Record
from bench.standings import standings
from bench.tables import long_table


def row(problem: str, value: float, solver: str = "dpmpp_2m", budget: int = 10, metric: str = "fd_fashion") -> Record:
    """Replicates that differ between rows by a constant: every difference is decided."""
    made = tuple(value + 0.5 * math.sin(k) for k in range(20))
    one = MetricValue(value=value, standard_error=1.5, replicates=made)
    return record(cell(solver, problem=problem, n=2000, budget=budget), {metric: one})


def section(*records: Record) -> list[str]:
    return [line for text in processes_section(standings(long_table(records))) for line in text.splitlines() if line]


def test_rows_that_two_processes_share_stand_side_by_side() -> None:
    found = section(
        row("fashion", 90.0),
        row("fashion_vp", 100.0),
        row("fashion_ve", 90.0),
        row("fashion", 50.0, budget=20),
        row("fashion", 80.0, "heun"),
        row("fashion_vp", 70.0, "euler", 20),
        row("fashion_ve", 60.0, "euler", 20),
    )
    assert found[0] == "## Processes"
    assert found[1] == "### Fréchet distance (fashion-features) [squared feature units], lower is better"
    assert "`fashion-edm`" in found[2]
    assert found[3] == "| solver | grid | NFE | fashion | fashion_ve | fashion_vp |"
    assert found[5:] == [
        "| dpmpp_2m | log_snr | 10 | **90.0 ± 1.5** | **90.0 ± 1.5** | 100.0 ± 1.5 |",
        "| euler | log_snr | 20 | – | **60.0 ± 1.5** | 70.0 ± 1.5 |",
    ]


def test_a_cell_without_a_value_is_a_dash() -> None:
    failed = record(cell("dpmpp_2m", problem="fashion_subvp", n=2000), status="diverged")
    found = section(row("fashion", 90.0), row("fashion_vp", 100.0), failed)
    assert found[5] == "| dpmpp_2m | log_snr | 10 | **90.0 ± 1.5** | – | 100.0 ± 1.5 |"


def test_other_problems_are_not_compared() -> None:
    assert section(row("fashion", 90.0), row("digits", 80.0, metric="fd_digits")) == []
    assert section(row("fashion", 90.0), row("fashion_vp", 80.0, "euler")) == []
