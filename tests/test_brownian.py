"""Sources of randomness: the law of the path, what it is a function of, and what it refuses."""

import itertools
import math
import pickle
import random

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from solvers.brownian import FINE_LEVELS, LEVELS, OCTAVES, BrownianPath, StoppedPath, Tape, UnitProbes
from solvers.errors import UsageError
from solvers.normals import Normals

# Across octaves, at their ends, at ends of cells, inside neighbouring cells, and at 0.
RATIOS = [1.0, 0.93, 0.7, 0.7 - 1.2 * 2.0**-15, 0.5 + 2.0**-14, 0.5, 0.5 - 2.0**-15]
RATIOS += [0.37, 0.3, 0.25, 0.1, 3e-3, 2.9e-3, 1e-5, 2.0**-OCTAVES, 0.0]


def path(n: int = 64, dim: int = 3, t_max: float = 1.0, seed: int = 0, **kwargs) -> BrownianPath:
    return BrownianPath(Normals(seed, (n, dim), **{"dtype": torch.float64, **kwargs}), t_max)


def increments(source: BrownianPath, times: list[float]) -> Tensor:
    """Increments over neighbouring decreasing times as unit normals, (len(times) - 1, n)."""
    return torch.stack([source.dw(t, s).flatten() / math.sqrt(t - s) for t, s in itertools.pairwise(times)])


@pytest.mark.parametrize("t_max", [1.0, 80.0, 0.999])
def test_increments_over_disjoint_intervals_are_independent_unit_normals(t_max: float):
    n = 200_000 if t_max == 1 else 50_000
    z = increments(path(n, 1, t_max), [t_max * r for r in RATIOS])
    assert z.mean(1).abs().max() < 4.5 / math.sqrt(n)
    cov = z @ z.T / n
    # Standard errors: sqrt(2/n) of a variance, 1/sqrt(n) of a covariance of independent unit normals.
    error = (cov - torch.eye(len(z))).abs() * math.sqrt(n)
    assert error.diagonal().max() < 4.5 * math.sqrt(2)
    assert (error - error.diagonal().diag()).max() < 4.5
    # Squares too are uncorrelated: the increments are independent, not only uncorrelated.
    square = torch.corrcoef(z.square()) - torch.eye(len(z))
    assert square.abs().max() * math.sqrt(n) < 4.5
    for row in z:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-4


def test_per_sample_increments_have_the_law():
    n = 50_000
    t = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source = path(n, 1)
    z = torch.stack([source.dw(t, 0.6 * t)[:, 0] / (0.4 * t).sqrt(), source.dw(0.6 * t, 0.0)[:, 0] / (0.6 * t).sqrt()])
    assert (z.square().mean(1) - 1).abs().max() < 4.5 * math.sqrt(2 / n)
    assert (z[0] * z[1]).mean().abs() < 4.5 / math.sqrt(n)
    assert min(stats.kstest(row.numpy(), "norm").pvalue for row in z) > 1e-4


def test_samples_and_coordinates_are_independent():
    n = 2000
    dw = path(n, 30).dw(1.0, 0.4) / math.sqrt(0.6)
    for matrix, count in ((dw.T, n), (dw[:60], 30)):
        correlation = torch.corrcoef(matrix) - torch.eye(len(matrix))
        assert correlation.abs().max() * math.sqrt(count) < 5


def test_increments_add_up():
    source = path()
    for t, m, s in itertools.combinations(RATIOS, 3):
        assert torch.allclose(source.dw(t, s), source.dw(t, m) + source.dw(m, s), rtol=0, atol=1e-14)
    assert source.dw(0.5, 0.5).abs().max() == 0
    assert torch.equal(source.dw(0.2, 0.7), -source.dw(0.7, 0.2))


def test_values_do_not_depend_on_the_order_of_calls():
    pairs = list(itertools.pairwise(RATIOS))
    source = path()
    expected = {pair: source.dw(*pair) for pair in pairs}
    for seed in range(5):
        shuffled, other = random.Random(seed).sample(pairs, len(pairs)), path()
        for pair in shuffled:
            assert torch.allclose(other.dw(*pair), expected[pair], rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [4, 64, 3000])
def test_announced_times_are_only_prepared_for(n: int):
    """Asked for in the order announced, in another one, and among times that were not; small and large batches."""
    plain, told, shuffled = (path(n, 1) for _ in range(3))
    pairs = list(itertools.pairwise(RATIOS))
    for source in (told, shuffled):
        source.follow(RATIOS)
    for t, s in pairs:
        assert torch.equal(told.dw(t, s), plain.dw(t, s))
        assert torch.equal(told.dw(t, t / 3), plain.dw(t, t / 3))
    for t, s in random.Random(0).sample(pairs, len(pairs)):
        assert torch.equal(shuffled.dw(t, s), plain.dw(t, s))
    told.follow([1.0, 0.6, 0.2])
    assert torch.equal(told.dw(1.0, 0.6), plain.dw(1.0, 0.6))
    # Several are drawn at once where the batch is small, and one at a time where it is not.
    assert bool(told._rows) == (n < 3000)


def test_a_returned_increment_is_never_changed_by_later_queries():
    source = path()
    first = source.dw(1.0, 0.7)
    kept = first.clone()
    for t, s in itertools.pairwise(RATIOS):
        source.dw(t, s)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_chunks_continue_the_batch(dim: int):
    whole, parts = path(70, dim), [path(30, dim, first=0), path(40, dim, first=30)]
    t = torch.linspace(0.2, 1, 70, dtype=torch.float64)
    for draw in (
        lambda p, t: p.dw(0.9, 0.2),
        lambda p, t: p.dw(t, t / 3),
        lambda p, t: p.normal("a"),
        lambda p, t: p._normals.uniform("a"),
    ):
        split = torch.cat([draw(parts[0], t[:30]), draw(parts[1], t[30:])])
        assert torch.allclose(draw(whole, t), split, rtol=0, atol=1e-14)


def test_large_batches_are_made_in_blocks_of_the_same_numbers():
    # 3000 x 40 exceeds a block of words, 7 x 40 does not.
    large, small = path(3000, 40), path(7, 40, first=1490)
    t = torch.linspace(0.2, 1, 3000, dtype=torch.float64)
    part = slice(1490, 1497)
    assert torch.allclose(large.dw(0.9, 0.2)[part], small.dw(0.9, 0.2), rtol=0, atol=1e-14)
    assert torch.allclose(large.dw(t, t / 3)[part], small.dw(t[part], t[part] / 3), rtol=0, atol=1e-14)
    assert torch.equal(large.normal("a")[part], small.normal("a"))


@pytest.mark.parametrize("t_max", [1.0, 80.0, 0.999])
def test_one_time_a_sample_is_the_same_path(t_max: float):
    times = [t_max * r for r in RATIOS]
    at_once = path(len(times), t_max=t_max).dw(torch.tensor(times, dtype=torch.float64), 0.0)
    normals = Normals(0, (len(times), 3), dtype=torch.float64)
    for levels, tolerance in ((FINE_LEVELS, 1e-13), (LEVELS, 4.5 * 2 ** (-(LEVELS + 1) / 2))):
        source = BrownianPath(normals, t_max, levels)
        one_by_one = torch.stack([source.dw(t, 0.0)[i] for i, t in enumerate(times)])
        assert torch.allclose(at_once, one_by_one, rtol=0, atol=tolerance * math.sqrt(t_max))


@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7])
def test_the_short_steps_of_adaptive_solvers_have_the_law(step: float):
    n = 100_000
    t = 0.5 + 0.5 * torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source, m, s = path(n, 1), t - step / 3, t - step
    z = torch.stack([source.dw(t, m)[:, 0] / (t - m).sqrt(), source.dw(m, s)[:, 0] / (m - s).sqrt()])
    assert (z.square().mean(1) - 1).abs().max() < 4.5 * math.sqrt(2 / n)
    assert (z[0] * z[1]).mean().abs() < 4.5 / math.sqrt(n)


def test_both_types_get_the_same_numbers():
    double, single = path(), path(dtype=torch.float32)
    for t, s in itertools.pairwise(RATIOS):
        assert single.dw(t, s).dtype == torch.float32
        assert torch.allclose(single.dw(t, s).double(), double.dw(t, s), rtol=0, atol=1e-6)
    assert torch.equal(single.normal("a").double(), double.normal("a"))


def test_memory_does_not_grow_with_the_number_of_queries():
    source = path(n=100, dim=8)
    source.dw(1.0, 0.0)
    source.dw(2.0**-OCTAVES, 0.0)
    times = torch.linspace(1, 1e-3, 500, dtype=torch.float64).tolist()
    source.follow(times)
    source.dw(*times[:2])
    before = len(pickle.dumps(source))
    for t, s in itertools.pairwise(times):
        source.dw(t, s)
        source.normal(f"corrector at {t}")
    assert len(pickle.dumps(source)) <= before + 100
    draw = 100 * 8 * 8
    # And the words that are hashed at once, of two normals each.
    assert before < 60 * draw + 2 * 8 * 2**15


@pytest.mark.parametrize(("t", "s"), [(0.7, 0.7 - 1e-6), (1e-5, 1e-5 - 1e-11)])
def test_an_increment_inside_a_smallest_cell_is_refused(t: float, s: float):
    with pytest.raises(
        UsageError, match=r"BrownianPath: an increment must span more than a smallest cell; got \(.*levels"
    ):
        path().dw(t, s)
    fine = BrownianPath(Normals(0, (4, 1), dtype=torch.float64), 1.0, levels=30)
    assert fine.dw(t, s).abs().max() > 0


def test_two_times_in_a_smallest_cell_may_be_asked_for_one_after_the_other():
    source, t, s = path(), 0.7, 0.7 - 1e-6
    assert torch.equal(source.dw(t, 0.1), path().dw(t, 0.1))
    assert torch.equal(source.dw(s, 0.1), path().dw(s, 0.1))
    assert torch.equal(source.dw(0.9, t), path().dw(0.9, t))
    assert torch.equal(source.dw(s, 0.2), path().dw(s, 0.2))


def test_one_inside_a_smallest_cell_of_the_fine_tree_is_nan():
    t = torch.tensor([0.7, 0.7, 0.7], dtype=torch.float64)
    dw = path(3).dw(t, t - torch.tensor([1e-8, 1e-11, 0.0], dtype=torch.float64))
    assert dw.isnan().all(1).tolist() == [False, True, False]
    assert dw[2].abs().max() == 0


@pytest.mark.parametrize(("t", "s"), [(1.0001, 0.5), (0.5, -1e-9), (math.nan, 0.5)])
def test_times_outside_the_path_are_refused(t: float, s: float):
    with pytest.raises(UsageError, match=r"BrownianPath: times lie in \[0, 1.0\]; got"):
        path().dw(t, s)
    # One time a sample: no value of a tensor is looked at, a wrong time gives no number.
    assert path(2).dw(torch.full((2,), t), torch.full((2,), s)).isnan().all()


def test_streams_are_independent_of_each_other_and_of_the_path():
    n = 100_000
    source = path(n, 1)
    uniform = source._normals.uniform("a")
    assert uniform.min() > 0
    assert uniform.max() <= 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-4
    draws = [source.normal(name)[:, 0] for name in ("a", "b", "prior", "path")]
    draws += [source.dw(t, s)[:, 0] for t, s in itertools.pairwise(RATIOS[:8])]
    draws = torch.stack([*draws, torch.special.ndtri(uniform.clamp(max=1 - 1e-9))])
    for z in (draws, draws.square()):
        correlation = torch.corrcoef(z) - torch.eye(len(z))
        assert correlation.abs().max() * math.sqrt(n) < 4.5


def test_seeds_are_different_families():
    seeds = [*range(300), -1, 2**31, 2**63, 2**64]
    draws = torch.stack([Normals(seed, (40, 25), dtype=torch.float64).normal("a").flatten() for seed in seeds])
    correlation = torch.corrcoef(draws) - torch.eye(len(seeds))
    assert correlation.abs().max() * math.sqrt(1000) < 5.5
    assert torch.equal(Normals(7, (40, 25)).normal("a"), Normals(7, (40, 25)).normal("a"))


def test_the_numbers_are_the_documented_generators():
    """SplitMix with degski's mixing function and Box-Muller, written once more in whole numbers of Python."""
    from solvers.normals import key_of

    mask, weyl, factor = 2**64 - 1, 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93

    def mix(h: int) -> int:
        h &= mask
        h = (h ^ h >> 32) * factor & mask
        h = (h ^ h >> 32) * factor & mask
        return h ^ h >> 32

    def signed(k: int) -> int:
        return k - 2**32 if k >= 2**31 else k

    draw = Normals(5, (3, 3), first=10, dtype=torch.float64).normal("prior")
    for i, d in itertools.product(range(3), range(3)):
        counter = mix(mix((10 + i) * weyl + key_of("scorebench", 5)) + d // 2 * weyl)
        h = mix(counter + key_of("prior"))
        radius = math.sqrt(-2 * math.log(abs(signed(h >> 32) + 0.5) / 2**31))
        angle = signed(h & 0xFFFFFFFF) * math.pi / 2**31
        assert draw[i, d].item() == pytest.approx(radius * (math.sin if d % 2 else math.cos)(angle), abs=2e-6)


def test_no_global_generator_is_touched():
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    source = path()
    source.dw(1.0, 0.5)
    source.dw(torch.full((64,), 0.9), 0.1)
    source.normal("a")
    source._normals.uniform("a")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert random.getstate() == python_state
    torch.manual_seed(123)
    assert torch.equal(path().dw(1.0, 0.5), source.dw(1.0, 0.5))


def test_everything_is_made_on_the_device():
    with FakeTensorMode():
        source = path(device="cuda")
        stopped = StoppedPath(source, 0.3)
        t = torch.full((64,), 0.9, dtype=torch.float64, device="cuda")
        for draw in (
            source.dw(1.0, 0.5),
            source.dw(0.5, 1e-3),
            source.dw(t, t / 2),
            source.dw(t, 0.1),
            stopped.dw(t, t / 2),
            source.normal("a"),
            source._normals.uniform("a"),
            UnitProbes(t).dw(1.0, 0.5),
        ):
            assert draw.device.type == "cuda"


def test_tape_hands_out_its_draws_in_order():
    draws = torch.arange(6, dtype=torch.float64).reshape(3, 2, 1)
    tape = Tape(draws)
    assert torch.equal(tape.dw(0.5, 0.25), 0.5 * draws[0])
    assert torch.equal(tape.normal("corrector"), draws[1])
    assert torch.equal(tape.dw(1.0, 0.0), draws[2])
    with pytest.raises(UsageError, match="Tape: only 3 draws were recorded"):
        tape.normal("corrector")


def test_a_stopped_path_stands_still():
    source = path()
    stopped = StoppedPath(source, 0.3)
    assert torch.equal(stopped.dw(0.9, 0.5), source.dw(0.9, 0.5))
    assert torch.equal(stopped.dw(0.9, 0.1), source.dw(0.9, 0.3))
    assert stopped.dw(0.3, 0.1).abs().max() == 0
    assert torch.equal(stopped.normal("a"), source.normal("a"))
    t = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)
    assert torch.equal(stopped.dw(t, 0.05), source.dw(t.clamp(min=0.3), 0.3))


def test_unit_probes_are_one_impulse_a_draw():
    probes = UnitProbes(torch.zeros(4, 2), first=1)
    first = probes.dw(1.0, 0.75)
    assert torch.equal(first, 0.5 * torch.tensor([[0.0], [1.0], [0.0], [0.0]]).expand(4, 2))
    assert torch.equal(probes.normal("a"), torch.tensor([[0.0], [0.0], [1.0], [0.0]]).expand(4, 2))
    assert torch.equal(probes.dw(0.75, 0.5), 0.5 * torch.tensor([[0.0], [0.0], [0.0], [1.0]]).expand(4, 2))
    # The same interval again is the same draw; one beyond the rows is counted and 0.
    assert torch.equal(probes.dw(1.0, 0.75), first)
    assert probes.normal("b").abs().max() == 0
    assert probes.count == 4


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.3), (0.6, 0.4), (0.9, 0.45), (0.45, 0.3), (1.0, 0.1)])
def test_unit_probes_refuse_overlapping_intervals(t: float, s: float):
    probes = UnitProbes(torch.zeros(4, 2))
    probes.dw(0.5, 0.4)
    probes.dw(0.8, 0.7)
    probes.dw(0.7, 0.5)
    probes.dw(0.4, 0.2)
    with pytest.raises(UsageError, match="UnitProbes: increments are over disjoint intervals"):
        probes.dw(t, s)
