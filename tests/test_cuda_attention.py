"""Attention on a GPU by blocks of queries: no T × T array but those that are given.

Each block takes its own part of a mask, and of what dropout keeps.
"""

import tracemalloc

import cuda_on_cpu
import numpy as np
import pytest
from test_cuda_kernels import (
    cast,
    cupy,  # noqa: F401 (a fixture)
    device,
    leaves,
    module_of,
    specified,
    twinned,
    twins_of,
)

from numgpt import InputError, engine, ops

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")


@pytest.mark.parametrize(
    "options", [{}, {"keep": True, "p": 0.3}, {"mask": True}], ids=["plain", "dropout", "mask"]
)
def test_attention_holds_no_array_of_all_queries_by_all_keys(options):
    """But for the booleans that it is given."""
    T = 1500
    qkv = np.random.default_rng(0).standard_normal((T, 6)).astype("float32")
    given = np.random.default_rng(1).random((1, T, T)) < 0.7
    given |= np.eye(T, dtype=bool)
    options = {name: device(given) if value is True else value for name, value in options.items()}
    forward, backward = twins_of(ops.attention)
    peaks = {}
    for name, (f, b), move in (
        ("specification", (ops.attention.forward, ops.attention.backward), np.asarray),
        ("twin", (forward, backward), device),
    ):
        tracemalloc.start()
        y, saved = f(move(qkv), n_head=1, **options)
        b(y, saved)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert max(leaf.size for leaf in leaves(saved[0]) if leaf.dtype != bool) <= qkv.size
    assert peaks["twin"] < T * T * 4 < peaks["specification"]


@pytest.mark.parametrize("op", [ops.attend, ops.attention], ids=lambda op: op.name)
def test_masks_and_dropout_take_each_block_its_own_part(op):
    """Masks of all shapes that broadcast, over more queries than a block has, together with dropout.

    Hidden keys get exactly nothing.
    """
    rng, T = np.random.default_rng(0), 150
    arrays, options = op.draw(
        rng, {"D": 3, "K": 2, "G": 1, "S": T, "T": T}, (2, 2) if op is ops.attend else (2,)
    )
    keep, hidden = rng.random((2, 2, T, T)) < 0.7, rng.random((T, T)) < 0.5
    hidden[:, 0] = False
    hidden[:, 7] = True
    y = rng.standard_normal(op.forward(*arrays, **options)[0].shape)
    for mask in (
        ~hidden,
        ~hidden[None, None],
        ~hidden[-1:],
        ~hidden[-1],
        np.broadcast_to(~hidden, keep.shape),
    ):
        more = options | {"mask": mask, "keep": keep, "p": 0.3}
        found, expected = twinned(op, arrays, y, more), specified(op, arrays, y, more)
        for f, e in zip(found, expected, strict=True):
            # Sums of at most T terms.
            np.testing.assert_allclose(f, e, rtol=0, atol=T * np.finfo(float).eps * abs(e).max())
        others = [a.copy() for a in arrays]
        if op is ops.attention:
            others[0][..., 7, 6:] += 1  # of qkv's channels the keys and values
        else:
            others[1][..., 7, :] += 1
            others[2][..., 7, :] += 1
        assert twinned(op, others, y, more)[0].tobytes() == found[0].tobytes()


def windows(rng, T, rows):
    """First keys for rows of T queries: a window of 20 keys, or documents side by side."""
    begin = np.maximum(np.arange(T) - 19, 0)
    ends = np.sort(rng.choice(np.arange(1, T), (rows, 3), replace=False), axis=-1)
    documents = np.array([np.repeat([0, *e], np.diff([0, *e, T])) for e in ends])
    return {"window": begin, "documents": documents}


@pytest.mark.parametrize("kind", ["window", "documents"])
def test_keys_that_no_query_of_a_block_sees_are_not_computed_with(kind, monkeypatch):
    """Where the host knows the bounds; else it takes all keys and waits for nothing. Both are right."""
    T, K, G, D = 300, 1, 1, 3
    rng, module, sizes = np.random.default_rng(0), module_of(ops.attention.forward), []
    right = module.row_by_row

    def watched(name, scores, *args):
        sizes.append(scores[0].shape[-1])
        return right(name, scores, *args)

    monkeypatch.setattr(module, "row_by_row", watched)
    (qkv,), options = ops.attention.draw(rng, {"K": K, "G": G, "D": D, "T": T}, (2,))
    first = windows(rng, T, 2)[kind]
    last = np.minimum(np.arange(T) + 7, T - 1)
    dy = rng.standard_normal((2, T, K * G * D))
    for more in ({"first": first}, {"first": first, "last": last}):
        expected = specified(ops.attention, (qkv,), dy, options | more)
        forward, backward = twins_of(ops.attention)
        for tell in (engine.told, lambda array, like: device(array)):
            x, sizes[:] = device(qkv), []
            y, saved = forward(x, **options, **{n: tell(bound, x) for n, bound in more.items()})
            for found, right_one in zip((y, *backward(device(dy), saved)), expected, strict=True):
                atol = T * np.finfo(float).eps * abs(right_one).max()
                np.testing.assert_allclose(np.asarray(found), right_one, rtol=0, atol=atol)
            if tell is engine.told and kind != "documents":
                assert max(sizes) <= module.QUERIES + 19 + 7


def test_a_query_that_sees_no_key_is_no_number():
    """As in the specification, on the host and on the GPU: nothing is made up."""
    x = np.random.default_rng(0).standard_normal((2, 9, 3))
    first = np.arange(9)
    first[4] = 5
    y = twins_of(ops.attend)[0](*map(device, (x, x, x)), first=device(first))[0]
    assert np.isnan(y[:, 4]).all() and np.isfinite(np.delete(y, 4, axis=1)).all()


@pytest.mark.parametrize("before, after", [
    ("s = cap > 0 ? tanh(s * (1 / cap)) * cap : s;", "s = cap > 0 ? tanh(s / cap) : s;"),
    ("s + (real)(slope * distance)", "s - (real)(slope * distance)"),
    ("slopes[blockIdx.x / block % n_slopes]", "slopes[blockIdx.x % n_slopes]"),
    ("return 4 * e / ((1 + e) * (1 + e))", "return 1"),
    ("first[QUERY % firsts] - low", "first[QUERY % firsts]"),
    ("last[QUERY % lasts] + 1 - low", "last[QUERY % lasts] - low"),
    ("m = sink > m ? sink : m;", ""),
    ("sinks[blockIdx.x / block % n_sinks]", "sinks[0]"),
])  # fmt: skip
def test_a_mistake_in_what_changes_scores_is_found(before, after, monkeypatch):
    module = module_of(ops.attention.forward)
    assert module.ATTENTION_SOURCE.count(before) == 1
    assert_scores_are_changed()
    monkeypatch.setattr(module, "ATTENTION_SOURCE", module.ATTENTION_SOURCE.replace(before, after))
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        assert_scores_are_changed()


def assert_scores_are_changed():
    """Cap, slopes, bounds and sinks together, over more than one block of queries."""
    T, rng = 140, np.random.default_rng(0)
    (qkv, _), options = ops.sink_attention.draw(rng, {"K": 1, "G": 2, "D": 3, "T": T}, (1,))
    sink = np.array([120.0, 4.0])  # of which exp overflows float32 unless m knows it
    own = np.arange(T)
    more = {"cap": 2.0, "slopes": np.array([0.1, 0.03])} | {
        "first": np.maximum(own - 9, 0),
        "last": np.minimum(own + 5, T - 1),
    }
    arrays = [a.astype("float32") for a in (qkv * 3, sink)]
    forward, backward = twins_of(ops.sink_attention)
    x = device(arrays[0])
    told = {name: engine.told(value, x) for name, value in more.items()}
    y, saved = forward(x, device(arrays[1]), **options, **told)
    dy = rng.standard_normal(y.shape)
    expected = specified(ops.sink_attention, cast(arrays, "float64"), dy, options | more)
    for found, right in zip((y, *backward(device(dy.astype("float32")), saved)), expected, strict=True):
        assert abs(np.asarray(found) - right).max() <= 1e-4 * abs(right).max()


@pytest.mark.parametrize("query", [0, 200])
def test_a_mask_that_leaves_a_query_without_a_key_is_an_error_in_any_block(query):
    mask, x = np.ones((300, 300), bool), device(np.ones((300, 2)))
    mask[query, : query + 1] = False
    with pytest.raises(InputError, match="the mask leaves a query without a key"):
        twins_of(ops.attend)[0](x, x, x, mask=device(mask))


@pytest.mark.parametrize("option", ["mask", "keep"])
def test_another_querys_part_of_a_mask_is_found(option, monkeypatch):
    module = module_of(ops.attend.forward)
    right, taken = module.part_of, iter(range(10**9))

    def wrong(mask, *args):
        part, is_mask = right(mask, *args), next(taken) % 2 == 0
        return part[..., ::-1, :] if is_mask == (option == "mask") else part

    x, rng = np.random.default_rng(0).standard_normal((3, 9, 2)), np.random.default_rng(1)
    more = {
        "mask": np.eye(9, dtype=bool) | (rng.random((9, 9)) < 0.5),
        "keep": rng.random((9, 9)) < 0.7,
        "p": 0.3,
    }
    more["mask"][:, 0] = True
    expected = specified(ops.attend, tuple(x), x[0], more)[0]
    np.testing.assert_allclose(twinned(ops.attend, tuple(x), x[0], more)[0], expected, rtol=1e-12)
    monkeypatch.setattr(module, "part_of", wrong)
    assert abs(twinned(ops.attend, tuple(x), x[0], more)[0] - expected).max() > 0.01
