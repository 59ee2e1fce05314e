"""Attention on a GPU by blocks of queries: no T × T array but those that are given.

Each block takes its own part of a mask, and of what dropout keeps.
"""

import tracemalloc

import cuda_on_cpu
import numpy as np
import pytest
from test_cuda_kernels import (
    cupy,  # noqa: F401 (a fixture)
    device,
    leaves,
    module_of,
    specified,
    twinned,
    twins_of,
)

from numgpt import InputError, ops

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
