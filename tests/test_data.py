"""Digits: what is in them, that both parts are apart; levels survive the way to the unit interval and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pretrained.data import dequantise, load_data, quantise
from solvers.errors import UsageError

BELOW_ONE = 1 - torch.finfo(torch.float32).eps / 2
FIRST_TEST_LABELS = [1, 2, 1, 5, 5, 0, 3, 1, 9, 2, 3, 4]


def test_the_two_parts_of_digits_are_the_whole_of_it() -> None:
    train, test = load_data("digits", "train"), load_data("digits", "test")
    assert (len(train.values), len(test.values)) == (1198, 599)
    assert train.shape == (1, 8, 8)
    assert train.values.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    raw = load_digits()
    whole = torch.cat([train.values, test.values]).flatten(1).tolist()
    with_labels = sorted(zip(whole, torch.cat([train.labels, test.labels]).tolist(), strict=True))
    expected = sorted(zip(raw.images.astype(int).reshape(-1, 64).tolist(), raw.target.tolist(), strict=True))
    assert with_labels == expected


def test_digits_have_seventeen_levels_and_every_class_in_both_parts() -> None:
    for split in ("train", "test"):
        data = load_data("digits", split)
        assert data.levels == 17
        assert sorted(set(data.values.flatten().tolist())) == list(range(17))
        assert sorted(set(data.labels.tolist())) == list(range(10))


def test_the_split_does_not_move() -> None:
    """Figures on the test part are comparable over time only while it stays what it was."""
    torch.manual_seed(123)
    assert load_data("digits", "test").labels[:12].tolist() == FIRST_TEST_LABELS


def test_an_unknown_data_set_or_split_names_the_near_one() -> None:
    with pytest.raises(UsageError, match=r"load_data: no data set 'digit'; did you mean 'digits'\?"):
        load_data("digit", "train")
    with pytest.raises(UsageError, match=r"load_data: no split 'tset'; did you mean 'test'\? Known: test, train"):
        load_data("digits", "tset")


@given(
    st.sampled_from([2, 17, 256]), st.floats(0, BELOW_ONE, width=32), st.sampled_from([torch.float32, torch.float64])
)
def test_quantise_undoes_dequantise(levels: int, u: float, dtype: torch.dtype) -> None:
    values = torch.arange(levels)
    v = dequantise(values, levels, torch.full((levels,), u, dtype=dtype))
    assert v.dtype == dtype
    assert ((v >= 0) & (v < 1)).all()
    assert torch.equal(quantise(v, levels).long(), values)


@pytest.mark.parametrize("u", [0.0, BELOW_ONE])
def test_the_ends_of_a_bin_stay_in_it(u: float) -> None:
    """(16 + u)/17 rounds to 1 in single precision: the last bin would be left."""
    values = torch.arange(17)
    assert torch.equal(quantise(dequantise(values, 17, torch.full((17,), u)), 17).long(), values)


def test_dequantised_values_fill_their_bin_evenly() -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    v = dequantise(torch.full((20_000,), 5), 17, uniform).double() * 17
    assert v.mean().item() == pytest.approx(5.5, abs=4 * (1 / 12 / 20_000) ** 0.5)
    assert v.var().item() == pytest.approx(1 / 12, rel=0.03)


def test_quantise_clips_what_lies_outside() -> None:
    assert quantise(torch.tensor([-0.3, 0.999, 1.0, 7.0]), 17).tolist() == [0, 16, 16, 16]
