"""What benchmarks say of a language model: n-grams sum to one, and a word is real where it was read."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """A benchmark's module, by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield lambda name: __import__(name)
    for name in ("kneser_ney", "real_words"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_probabilities_of_all_tokens_behind_a_context_sum_to_one(module, order):
    V = 4
    tokens = np.random.default_rng(0).integers(0, V, 400) ** 2 % V
    counted = module("kneser_ney").KneserNey(tokens, V, order)
    for context in (tokens[: order - 1], np.full(order - 1, 2)):  # one that occurs, and one that may not
        rows = [np.append(context, w) for w in range(V)]
        assert sum(counted.probabilities(row)[-1] for row in rows) == pytest.approx(1, abs=1e-12)


def test_n_grams_of_a_text_worked_by_hand(module):
    # Of 0 1 0 1 0 2: c(01) = 2, c(10) = 2, c(02) = 1, so n1 = 1, n2 = 2 and D = 1/5. Before 1 stands 0 alone,
    # as before 2, and before 0 stands 1 alone: each has N1+ = 1 of 3, so D = 1 there, and p1 = 1/V = 1/3.
    counted = module("kneser_ney").KneserNey([0, 1, 0, 1, 0, 2], 3, 2)
    p = counted.probabilities([0, 1, 0, 2])
    after_0 = 2 / 5 / 3 * (1 / 3)  # D N1+(0·) / c(0·) p1
    expected = [(2 - 1 / 5) / 3 + after_0, (2 - 1 / 5) / 2 + 1 / 5 / 2 * (1 / 3), (1 - 1 / 5) / 3 + after_0]
    np.testing.assert_allclose(p, expected, rtol=1e-14)


def test_a_word_is_real_where_the_text_has_it_and_the_last_of_a_sample_does_not_count(module):
    measure = module("real_words").measure
    text = "One two three four five six seven eight nine."
    found = measure(["One, TWO! thrice four cu", "two three four five six seven eight nine ni"], text)
    assert (found.words, found.real, found.real_long) == (12, 11 / 12, 7 / 8)
    assert found.copied == 1, "the only sequence of eight words is the text's"
    assert measure([""], text) == (0, 0, 0, 0)
