"""The lines of ops: how sizes follow from shapes and options, and what is said where they contradict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, gradcheck, ops
from numgpt.ops.line import read
from numgpt.ops.op import Op, _check_shapes
from numgpt.proofs.subjects import op_subjects


def op_of(line, sizes=None, at_least=None):
    """An op that does nothing, for its line."""

    def nothing_forward(x, y=None, z=None, *, n_head=None, n_kv_head=None):
        return x, None

    return Op(line, nothing_forward, lambda dy, saved: (dy,), sizes=sizes or {}, at_least=at_least or {})


def bound(op, *shapes, **options):
    return _check_shapes(op, shapes, tuple(options.get(name) for name in op.sizes))


PACKED = "...T(KGD+2KD) -> ...T(KGD)"
HEADS = {"n_head": "KG", "n_kv_head": "K"}
LINES = [PACKED, "...(KG)TD, ...KSD -> ...(KG)TD", "...C, C? -> ...C", "...(2F) -> ...F", "T(3HD), D -> ()"]


@pytest.mark.parametrize("line", LINES)
@given(data=st.data())
def test_the_sizes_of_arrays_that_were_drawn_are_found_again(line, data):
    op = op_of(line, HEADS if line == PACKED else {})
    sizes = {c: data.draw(st.integers(1, 5), label=c) for c in sorted(set(filter(str.isupper, line)))}
    arrays, options = op.draw(np.random.default_rng(0), sizes, (2,))
    assert bound(op, *(a.shape for a in arrays), **options) == sizes


@given(K=st.integers(1, 4), G=st.integers(1, 4), D=st.integers(1, 4))
def test_what_options_leave_open_is_one_key_head_for_each_query_head(K, G, D):
    """n_head alone: as many key heads, so that calls from before grouped attention keep their meaning."""
    for sizes in (HEADS, dict(reversed(HEADS.items()))):
        op = op_of(PACKED, sizes)
        assert bound(op, (3, 3 * K * D), n_head=K) == {"T": 3, "K": K, "G": 1, "D": D}
        grouped = bound(op, (3, (G + 2) * K * D), n_head=K * G, n_kv_head=K)
        assert grouped == {"T": 3, "K": K, "G": G, "D": D}
        assert bound(op, (3, (G + 2) * K * D), n_kv_head=K)["K"] == K


def test_axes_with_two_unknown_letters_wait_for_what_says_more():
    op = op_of("...(KG)TD, ...KSD -> ...(KG)TD")
    assert bound(op, (2, 6, 4, 5), (2, 3, 7, 5)) == {"K": 3, "G": 2, "T": 4, "D": 5, "S": 7}
    assert bound(op_of("(KG), G -> ()"), (6,), (3,)) == {"K": 2, "G": 3}
    assert bound(op_of("(KG) -> ()"), (6,)) == {"K": 6, "G": 1}


@pytest.mark.parametrize(
    "line, shapes, options, message",
    [
        (PACKED, [(3, 8)], {"n_head": 2}, "x has shape (3, 8), expected (...T(KGD+2KD)) with G = 1, K = 2"),
        (PACKED, [(3, 16)], {"n_head": 4, "n_kv_head": 3}, "n_head is 4, expected KG with K = 3"),
        (PACKED, [(3, 0)], {"n_head": 2}, "D is 0, expected 1 or more"),
        (PACKED, [(16,)], {"n_head": 2}, "x has shape (16,), expected (...T(KGD+2KD))"),
        ("...C, C -> ...C", [(2, 5), (4,)], {}, "y has shape (4,), expected (C) with C = 5"),
        ("...C, C -> ...C", [(2, 5), (1, 5)], {}, "y has shape (1, 5), expected (C) with C = 5"),
        ("...C, C -> ...C", [(2, 5), None], {}, "y is missing, expected an array (C)"),
        ("...C, ...C -> ...C", [(2, 5), (3, 5)], {}, "y has leading axes (3,), expected (2,)"),
        ("...(2F) -> ...F", [(2, 5)], {}, "x has shape (2, 5), expected (...(2F))"),
        ("(KG), K -> ()", [(6,), (4,)], {}, "x has shape (6,), expected ((KG)) with K = 4"),
        ("C(C+2K), K -> ()", [(5, 4), (1,)], {}, "x has shape (5, 4), expected (C(C+2K)) with C = 5"),
    ],
)  # fmt: skip
def test_what_contradicts_the_line_is_named_with_its_letters_and_sizes(line, shapes, options, message):
    op = op_of(line, HEADS if line == PACKED else {})
    with pytest.raises(InputError) as error:
        bound(op, *shapes, **options)
    assert str(error.value).splitlines()[0].split(": ", 1)[1].startswith(message)


def test_a_number_bounds_what_is_drawn_and_a_letter_what_is_called():
    op = op_of("SC, TC -> C", at_least={"S": "T", "C": 3})
    assert op.fitted({"S": 2, "T": 4, "C": 1}) == {"S": 6, "T": 4, "C": 3}
    assert op.fitted({"S": 2, "T": 4, "C": 5}) == {"S": 6, "T": 4, "C": 5}
    assert bound(op, (2, 1), (2, 1)) == {"S": 2, "C": 1, "T": 2}
    with pytest.raises(InputError, match="T = 3 is more than S = 2, expected T ≤ S"):
        bound(op, (2, 1), (3, 1))
    assert all(s.arrays[0].shape[1] >= 3 for s in op_subjects(op, 0, dict.fromkeys("STC", 1)))


@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
def test_every_ops_value_has_the_shape_that_its_line_says(op):
    for subject in op_subjects(op, 0):
        shapes = [None if a is None else a.shape for a in subject.arrays]
        sizes = bound(op, *shapes, **subject.options)
        value, _ = op.forward(*subject.arrays, **subject.options)
        lead = (2, 3) if op.result.lead else ()
        assert np.shape(value) == lead + op.result.shape(sizes)


@pytest.mark.parametrize("text", ["(CC)", "(G+2)", "(K+)", "CC)", "()C", "...()", "C<V!", "C?!"])
def test_what_is_no_line_cannot_be_read(text):
    with pytest.raises(AssertionError, match="op line: "):
        read("x", text)


def scaled_by_constant():
    """An op whose second array is a constant, whose third one may be left out."""

    def weighed_forward(x, weights, offset=None):
        return x * weights + (0.0 if offset is None else offset), weights

    def weighed_backward(dy, saved):
        return dy * saved, None, None

    return Op("...T, ...T!, ()!? -> ...T", weighed_forward, weighed_backward, weights="weights")


def test_a_constant_has_numbers_and_no_gradient():
    op = scaled_by_constant()
    assert [(a.constant, a.has_gradient, a.optional) for a in op.arguments] == [
        (False, True, False),
        (True, False, False),
        (True, False, True),
    ]
    for subject in op_subjects(op, 0):
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)
        assert [a.name for a in gradcheck.verdict(op.forward, op.backward, *subject.arrays).arguments] == [
            "x"
        ]
    assert op([1, 2], [True, False]).tolist() == [1.0, 0.0]
    assert "a constant: numbers that have no gradient" in op.__doc__
    with pytest.raises(InputError, match=r"weights has shape \(3,\), expected \(...T!\) with T = 2"):
        op([1, 2], [1, 2, 3])


def test_a_gradient_of_a_constant_is_refused_and_a_missing_one_of_another_array_still_is():
    op = scaled_by_constant()
    arrays, _ = op.draw(np.random.default_rng(0), {"T": 4}, (3,))
    for grads, message in (
        (lambda dy, w: (dy * w, dy, None), "gradient 1 is an array, expected None"),
        (lambda dy, w: (None, None, None), "gradient 0 is None, expected an array: it is missing"),
    ):
        with pytest.raises(gradcheck.GradientError, match=message):
            gradcheck.check(op.forward, grads, *arrays)


def test_weights_are_drawn_from_0_to_1_and_in_each_row_something_counts():
    op = scaled_by_constant()
    (_, weights, _), _ = op.draw(np.random.default_rng(0), {"T": 4}, (200,))
    assert weights.min() == 0 and weights.max() <= 1.5 and (weights.sum(-1) >= 0.5).all()
    assert 0.15 < (weights == 0).mean() < 0.35
