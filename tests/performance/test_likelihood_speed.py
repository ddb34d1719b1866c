"""A likelihood beside the reference's procedure, in one run: half its time at the same error, memory flat in steps."""

import pandas as pd
import pytest

from bench.performance import likelihood


@pytest.fixture(scope="module", params=likelihood.trained())
def table(request: pytest.FixtureRequest) -> pd.DataFrame:
    return likelihood.measure(request.param, repeats=1)


def test_the_reference_procedure_is_the_published_one(table: pd.DataFrame) -> None:
    """It reaches the error, and calls the network twice where this project calls it once."""
    rows = table.set_index("procedure")
    reference = rows.loc[likelihood.REFERENCE]
    assert reference.error < likelihood.ERROR
    assert reference.calls == 2 * reference.derivative_passes
    own = rows[~rows.index.str.startswith("reference")]
    assert (own.calls == own.derivative_passes).all()


def test_half_the_time_of_the_reference_at_the_same_error(table: pd.DataFrame) -> None:
    chosen = likelihood.best(table)
    assert chosen is not None
    assert chosen.error <= likelihood.ERROR
    assert chosen.ratio <= likelihood.RATIO


def test_memory_is_flat_in_the_number_of_steps() -> None:
    few, many = (likelihood.peak_bytes("digits", nfe) for nfe in likelihood.MEMORY_BUDGETS)
    assert many <= few


def test_what_does_not_keep_the_error_is_told() -> None:
    rows = [("fashion", likelihood.REFERENCE, 0.5, 1.0, 2.0), ("fashion", "dpmpp_3m, NFE 50", 0.2, 0.3, 1.0)]
    columns = ["problem", "procedure", "error", "ratio", "seconds"]
    found = likelihood.targets(pd.DataFrame(rows, columns=columns))
    assert found.iloc[0, 1:3].tolist() == ["none within the error", 0.2]
    assert found.iloc[0, 4] == "missed"
