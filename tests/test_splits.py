"""The random split: all there once, nobody on both sides, and no kind of them held out by a rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, data


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_parts_of_a_split_are_the_whole_and_neither_is_empty(n, share, seed):
    train, held_out = data.permuted_split(n, share, seed)
    assert sorted([*train, *held_out]) == list(range(n))
    assert abs(len(held_out) - share * n) <= 1 and len(train) and len(held_out)
    assert [part.tolist() for part in data.permuted_split(n, share, seed)] == [
        train.tolist(),
        held_out.tolist(),
    ]


@given(st.lists(st.sampled_from("abcdef"), min_size=4).filter(lambda g: len(set(g)) > 1), st.integers(0, 5))
def test_a_group_stays_on_one_side(groups, seed):
    train, held_out = data.permuted_split(len(groups), 0.3, seed, groups=groups)
    sides = [{groups[n] for n in part} for part in (train, held_out)]
    assert not sides[0] & sides[1] and len(train) + len(held_out) == len(groups)


def test_no_residue_of_a_number_is_held_out_more_than_others():
    """Where a hash held out exactly the sums that end in 0: each last digit has its share, within 5 σ."""
    n, share = 10_000, 0.1
    _, held_out = data.permuted_split(n, share, 3)
    counts = np.bincount((held_out // 100 + held_out % 100) % 10, minlength=10)
    assert (abs(counts - 100) < 5 * np.sqrt(100 * 0.9)).all()


def test_the_seed_draws_another_split():
    assert data.permuted_split(100, 0.5, 0)[0].tolist() != data.permuted_split(100, 0.5, 1)[0].tolist()


def test_a_split_that_cannot_be_is_refused():
    assert data.permuted_split(3, 0.0)[1].tolist() == []
    with pytest.raises(InputError, match="split: there are 1 items, expected two or more"):
        data.permuted_split(1, 0.5)
    with pytest.raises(InputError, match="split: there are 1 groups, expected two or more"):
        data.permuted_split(3, 0.5, groups="aaa".split() * 3)
    with pytest.raises(InputError, match="split: there are 2 groups, expected n = 3"):
        data.permuted_split(3, 0.5, groups=["a", "b"])
    with pytest.raises(InputError, match="a group cannot be told apart"):
        data.permuted_split(2, 0.5, groups=[[1], [2]])
