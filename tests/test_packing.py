"""Examples in rows: packed, padded or alone, a token has the same loss, and each is there once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import GPT, Config, InputError, Visibility, data
from numgpt.data import Example

SIZES = {"vocab_size": 11, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}
LENGTHS = st.lists(st.integers(2, 13), min_size=1, max_size=12)


def examples_of(lengths, seed=0):
    """Examples whose ids say which they are and which place they have; the last token is the assistant's."""
    draw = np.random.default_rng(seed)
    masks = [draw.integers(0, 2, n).astype(bool) | (np.arange(n) == n - 1) for n in lengths]
    return [Example(100 * i + np.arange(len(mask)), mask) for i, mask in enumerate(masks)]


def targets_of(examples):
    """Each target once: (its id, the ids before it, whether it counts)."""
    return sorted(
        (int(ids[n]), tuple(ids[:n].tolist()), bool(mask[n]))
        for ids, mask in examples
        for n in range(1, len(ids))
    )


def targets_in(batch):
    """The same, as they stand in rows."""
    found = []
    for inputs, targets, weights, lengths in zip(*batch, strict=True):
        place = 0
        for n in lengths:
            if targets[place] != -1:
                for t in range(place, place + n):
                    found.append((int(targets[t]), tuple(inputs[place : t + 1].tolist()), weights[t] == 1))
            else:
                padding = slice(place, place + n)
                assert (targets[padding] == -1).all() and not weights[padding].any()
                assert not inputs[padding].any() and place + n == len(inputs)
            place += n
        assert place == len(inputs)
    return sorted(found)


@given(LENGTHS, st.integers(0, 3))
def test_every_target_stands_once_behind_what_comes_before_it(lengths, seed):
    examples = examples_of(lengths)
    for rows in (data.packed(examples, 12, seed=seed), data.padded(examples, 12)):
        batch = rows.batch(range(len(rows)))
        assert targets_in(batch) == targets_of(examples)
        assert rows.counts.sum() == batch.weights.sum() == sum(e.is_response[1:].sum() for e in examples)


@given(LENGTHS, st.integers(0, 3))
def test_a_row_is_begun_only_by_what_no_earlier_row_takes(lengths, seed):
    """First-fit: what begins a row did not fit into any before it; so all but one are more than half full."""
    rows = data.packed(examples_of(lengths), 12, seed=seed)
    sizes = [[lengths[i] - 1 for i in row] for row in rows.plan]
    assert all(sum(row) <= 12 for row in sizes)
    assert sorted(i for row in rows.plan for i in row) == list(range(len(lengths)))
    for n, row in enumerate(sizes):
        assert all(sum(other) + row[0] > 12 for other in sizes[:n])
    assert sum(sum(row) * 2 <= 12 for row in sizes) <= 1


def naive(sizes, order, room):
    plan, free = [], []
    for i in order:
        row = next((n for n, f in enumerate(free) if f >= sizes[i]), len(free))
        if row == len(free):
            plan.append([])
            free.append(room)
        plan[row].append(int(i))
        free[row] -= sizes[i]
    return plan


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.randoms())
def test_first_fit_is_what_its_name_says(sizes, draw):
    order = list(range(len(sizes)))
    draw.shuffle(order)
    assert data.packing._first_fit(np.array(sizes), np.array(order), 20) == naive(sizes, order, 20)


def test_the_seed_draws_the_order_and_the_same_seed_the_same():
    examples = examples_of([5, 9, 3, 7, 4, 8, 6, 2] * 4)
    plans = [data.packed(examples, 12, seed=seed).plan for seed in (0, 1, 0)]
    assert plans[0] == plans[2] != plans[1]


@pytest.fixture(scope="module")
def model():
    model = GPT(Config(**SIZES), seed=0, dtype="float64")
    model.params.flat += 0.3 * np.random.default_rng(1).standard_normal(model.n_params)
    return model


def surprises(model, batch, visibility=None):
    """(target id, surprise) of each target that counts, by the model's probabilities."""
    logits = (
        model(batch.inputs)
        if visibility is None
        else model.record(batch.inputs, visibility=visibility).value["lm_head"]
    )
    logits = logits - logits.max(-1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [float(-logp[b, t, batch.targets[b, t]]) for b, t in np.argwhere(batch.weights == 1)]


@settings(max_examples=15)
@given(LENGTHS, st.integers(0, 3))
def test_a_token_has_the_same_loss_packed_padded_and_alone(model, lengths, seed):
    """In float64, to the rounding of sums of 16 terms in another order."""
    draw = np.random.default_rng(seed)
    examples = [
        Example(draw.integers(0, 11, n), e.is_response) for n, e in zip(lengths, examples_of(lengths))
    ]
    alone = [s for e in examples for s in surprises(model, data.padded([e], 12).batch([0]))]
    padded = data.padded(examples, 12).batch(range(len(examples)))
    rows = data.packed(examples, 12, seed=seed)
    packed = rows.batch(range(len(rows)))
    np.testing.assert_allclose(surprises(model, padded), alone, rtol=1e-12)
    by_lengths = surprises(model, padded, Visibility.packed(padded.lengths))
    np.testing.assert_allclose(by_lengths, alone, rtol=1e-12)
    in_rows = surprises(model, packed, Visibility.packed(packed.lengths))
    order = [i for row in rows.plan for i in row]
    counts = np.cumsum([0, *(int(e.is_response[1:].sum()) for e in examples)])
    expected = np.concatenate([alone[counts[i] : counts[i + 1]] for i in order])
    np.testing.assert_allclose(in_rows, expected, rtol=1e-12)


def test_packing_without_visibility_would_leak(model):
    """The law above sees a leak: the second of two examples has another loss where it sees the first."""
    examples = [Example(np.arange(6), np.arange(6) > 0), Example(np.arange(6) + 3, np.arange(6) > 0)]
    batch = data.packed(examples, 12).batch([0])
    leaking = surprises(model, batch)
    right = surprises(model, batch, Visibility.packed(batch.lengths))
    assert not np.allclose(leaking, right, rtol=1e-3)


def test_padded_rows_are_as_long_as_the_longest_of_a_batch():
    rows = data.padded(examples_of([3, 9, 5]), 12)
    assert [rows.batch([i]).inputs.shape for i in range(3)] == [(1, 2), (1, 8), (1, 4)]
    assert rows.batch([2, 0]).inputs.shape == (2, 4) and rows.batch([2, 0]).lengths == [[4], [2, 2]]
    assert rows.density == pytest.approx(14 / 24)
    assert data.packed(examples_of([3, 9, 5]), 12).density == pytest.approx(14 / 24)


def test_the_end_of_what_is_too_long_is_cut_off_where_asked_and_said():
    examples = examples_of([4, 20])
    examples[1].is_response[5] = True
    with pytest.raises(
        InputError, match="1 of 2 are longer than 12 places, the longest 19, .*or truncate=True"
    ):
        data.packed(examples, 12)
    for make in (data.packed, data.padded):
        with pytest.warns(UserWarning, match="1 of 2 are longer than 12 places and are cut there") as caught:
            rows = make(examples, 12, truncate=True)
        assert caught[0].filename == __file__
        cut = [examples[0], Example(examples[1].ids[:13], examples[1].is_response[:13])]
        assert targets_in(rows.batch(range(len(rows)))) == targets_of(cut)
    with pytest.raises(InputError, match="1 of 1 have no response within 12 places"):
        data.padded([Example(np.arange(20), np.arange(20) == 19)], 12, truncate=True)


def test_sequences_are_stacked_with_their_lengths():
    ids, lengths = data.stacked([[5, 6], np.array([7], np.uint8), (1, 2, 3)])
    assert ids.tolist() == [[5, 6, 0], [7, 0, 0], [1, 2, 3]] and lengths.tolist() == [2, 1, 3]


GOOD = Example(np.arange(3), np.arange(3) > 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.packed([], 4), "^examples: there are none, expected one or more"),
        (lambda: data.packed([3], 4), "^packed: examples is .*, expected a sequence of which each is"),
        (lambda: data.padded([Example([1.5], [True])], 4), "^examples: the ids of 0 is float64 of shape"),
        (lambda: data.padded([Example([], [])], 4), "^examples: the ids of 0 is"),
        (lambda: data.padded([Example([1, -2], [True, True])], 4), "^examples: the ids of 0 has -2, expect"),
        (lambda: data.padded([GOOD, Example([1, 2], [0, 1])], 4), "^examples: is_response of 1 is int64 of"),
        (lambda: data.padded([Example([1, 2], [True])], 4), r"is_response of 0 is bool of shape \(1,\)"),
        (lambda: data.padded([Example([1, 2], [True, False])], 4), "0 has no response behind its first"),
        (lambda: data.padded([GOOD], 4).batch([1]), "^rows: row 1 is asked for, expected numbers from 0"),
        (lambda: data.padded([GOOD], 4).batch([]), "^rows: no row is asked for"),
        (lambda: data.Rows([GOOD], [[1]]), "^rows: a row of the plan has example 1, expected numbers"),
        (lambda: data.Rows([GOOD], [[]]), "^rows: a row of the plan is empty"),
        (lambda: data.Rows([GOOD], [[0]], 1), "^rows: a row has 2 places, expected at most T = 1"),
        (lambda: data.packed([GOOD], 10**14).batch([0]), "^rows: 1 rows of 100,000,000,000,000 places"),
        (lambda: data.stacked([]), "^stacked: there are no sequences"),
        (lambda: data.stacked([[1], ["a"]]), "^stacked: sequence 1 is <U1 of shape"),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_cannot_be_a_row_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()
