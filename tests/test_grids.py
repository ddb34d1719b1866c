"""Time grids: ends, order and spacing, for any SDE and interval."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import UsageError
from solvers.grids import GRIDS, make_grid
from solvers.sde import SDES, ForwardSDE

sdes = st.sampled_from([cls() for cls in SDES.values()])
EVERY = [*sorted(GRIDS), "karras_3", "karras_0.5"]
names = st.sampled_from(EVERY)
counts = st.integers(1, 300)


@st.composite
def intervals(draw) -> tuple[ForwardSDE, float, float]:
    """An SDE with two times of its interval at least 10 % apart, in either order."""
    sde = draw(sdes)
    low, high = math.log(sde.t_min_likelihood), math.log(sde.t_max)
    start, end = (draw(st.floats(low, high)) for _ in range(2))
    if abs(start - end) < 0.1:
        start, end = low, high
    clip = min(math.exp(start), sde.t_max), min(math.exp(end), sde.t_max)
    return sde, *clip


def space(name: str, sde: ForwardSDE, ts: torch.Tensor) -> torch.Tensor:
    """The coordinate in which a grid's steps are equal."""
    return {
        "uniform": lambda: ts,
        "quadratic": lambda: ts.sqrt(),
        "log_snr": lambda: (sde.alpha(ts) / sde.sigma(ts)).log(),
        "karras": lambda: (sde.sigma(ts) / sde.alpha(ts)) ** (1 / 7),
        "karras_3": lambda: (sde.sigma(ts) / sde.alpha(ts)) ** (1 / 3),
        "karras_0.5": lambda: (sde.sigma(ts) / sde.alpha(ts)) ** 2,
        "edm": lambda: (sde.sigma(ts) / sde.alpha(ts)) ** (1 / 7),
    }[name]()


@settings(max_examples=150, deadline=None)
@given(intervals(), names, counts)
def test_a_grid_is_monotone_equally_spaced_and_ends_exactly(interval, name: str, steps: int):
    sde, start, end = interval
    ts = make_grid(name, sde, steps, start, end)
    assert ts.dtype == torch.float64
    assert ts.shape == (steps + 1,)
    assert (ts[0].item(), ts[-1].item()) == (start, end)
    assert (ts.diff() * math.copysign(1, end - start) > 0).all()
    coordinate = space(name, sde, ts)
    first, last = coordinate[[0, -1]].tolist()
    unit = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if name == "edm":
        low, high = sorted((first, last))
        bottom, top = (level ** (1 / 7) for level in (0.002, 80.0))
        ends = {low: bottom if low < bottom < high else low, high: top if low < top < high else high}
        coordinate, unit, first, last = coordinate[1:-1], unit[1:-1], ends[first], ends[last]
    assert torch.allclose(coordinate, first + (last - first) * unit, rtol=1e-9, atol=1e-9 * abs(last - first))


@settings(max_examples=30, deadline=None)
@given(intervals(), names, counts)
def test_the_upward_grid_is_the_downward_one_reversed(interval, name: str, steps: int):
    sde, start, end = interval
    there, back = make_grid(name, sde, steps, start, end), make_grid(name, sde, steps, end, start)
    assert torch.allclose(there, back.flip(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=lambda sde: sde.name)
def test_a_grid_runs_from_t_max_to_t_min_by_default(name: str, sde: ForwardSDE):
    ts = make_grid(name, sde, 1000)
    assert (ts[0].item(), ts[-1].item()) == (sde.t_max, sde.t_min)


def test_karras_on_edm_is_the_papers_formula():
    """Karras et al. 2022, eq. 5, without its final 0."""
    i = torch.arange(18, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert torch.allclose(make_grid("karras", SDES["edm"](), 17), expected, rtol=1e-12)
    assert torch.equal(make_grid("edm", SDES["edm"](), 17), make_grid("karras", SDES["edm"](), 17))


@pytest.mark.parametrize(("sde", "differs"), [("ve", False), ("vp", True), ("subvp", True), ("rectifiedflow", True)])
def test_edm_keeps_its_own_levels_on_other_sdes(sde: str, differs: bool):
    """Their noise at the ends is another than 0.002 ... 80 or, on VE, lies inside."""
    process = SDES[sde]()
    edm, karras = make_grid("edm", process, 10), make_grid("karras", process, 10)
    assert (edm[0], edm[-1]) == (karras[0], karras[-1])
    assert torch.allclose(edm, karras) != differs
    levels = process.sigma(edm) / process.alpha(edm)
    if differs:
        assert levels[0] > 80 or levels[-1] < 0.002
    root = 80 ** (1 / 7) if levels[0] > 80 else levels[0].item() ** (1 / 7)
    foot = 0.002 ** (1 / 7) if levels[-1] < 0.002 else levels[-1].item() ** (1 / 7)
    assert levels[3].item() == pytest.approx((root + 0.3 * (foot - root)) ** 7, rel=1e-9)


def test_karras_with_the_papers_rho_is_karras():
    assert torch.equal(make_grid("karras_7", SDES["vp"](), 20), make_grid("karras", SDES["vp"](), 20))
    assert not torch.allclose(make_grid("karras_3", SDES["vp"](), 20), make_grid("karras", SDES["vp"](), 20))


@pytest.mark.parametrize("name", ["karras_", "karras_0", "karras_x", "karras_inf", "karras_nan", "karras_1e-3"])
def test_rho_is_a_number(name: str):
    with pytest.raises(UsageError, match=f"make_grid: the exponent of karras_RHO is 0.1 to 1000 in size; got '{name}'"):
        make_grid(name, SDES["vp"](), 5)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0), (1.0, -0.1)])
def test_zero_is_never_on_a_grid(start: float, end: float):
    with pytest.raises(
        UsageError, match=r"make_grid: times are positive; got \(.*\). End at t_min; last step 'tweedie'"
    ):
        make_grid("uniform", SDES["vp"](), 5, start, end)


@pytest.mark.parametrize("steps", [0, -3])
def test_a_grid_has_steps(steps: int):
    with pytest.raises(UsageError, match=f"make_grid: a grid has at least one step; got {steps}. Raise the budget"):
        make_grid("uniform", SDES["vp"](), steps)


@pytest.mark.parametrize(("start", "end", "steps"), [(0.5, 0.5, 1), (0.5, 0.5 - 1e-15, 100), (1.0, 1.0 - 1e-14, 1000)])
@pytest.mark.parametrize("name", GRIDS)
def test_equal_neighbours_are_refused(name: str, start: float, end: float, steps: int):
    with pytest.raises(UsageError, match=f"make_grid: neighbouring times differ; got '{name} with {steps} steps'"):
        make_grid(name, SDES["vp"](), steps, start, end)


def test_an_unknown_name_gets_a_near_one():
    with pytest.raises(
        UsageError, match=r"make_grid: no grid 'karas'; did you mean 'karras'.* Known: edm, karras, log_snr"
    ):
        make_grid("karas", SDES["vp"](), 5)
