"""Positions: learned, sinusoidal and rotary, from where on and for each row; scalings as in transformers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, ops
from numgpt.ops.positions import alibi_slopes
from numgpt.ops.rotary import frequencies
from numgpt.ops.scalings import SCALINGS, depends_on_length

EPS = np.finfo(float).eps
H, K, D, T = 4, 2, 6, 5
HEADS = {"n_head": H, "n_kv_head": K}
LENGTH = 16
KINDS = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0, "length": LENGTH},
    "llama3": {"factor": 8.0, "low": 1.0, "high": 4.0, "length": LENGTH},
    "yarn": {"factor": 4.0, "length": LENGTH},
    "longrope": {"short": [1.0, 1.5, 2.0], "long": [2.0, 3.5, 8.0], "length": LENGTH, "size": 1.2},
}
SCALED = [None, *({"kind": kind, **numbers} for kind, numbers in KINDS.items())]
every_scaling = pytest.mark.parametrize("scaling", SCALED, ids=[s["kind"] if s else "none" for s in SCALED])
seeds = st.integers(0, 2**32 - 1)


def packed(seed, lead=(2,), T=T):
    return np.random.default_rng(seed).standard_normal((*lead, T, (H + 2 * K) * D))


def heads(qkv):
    """Queries with their keys repeated beside them, and values: each (..., T, H or K, D)."""
    parts = qkv.reshape(*qkv.shape[:-1], H + 2 * K, D)
    q, k, v = np.split(parts, [H, H + K], axis=-2)
    return q, np.repeat(k, H // K, axis=-2), v


def scores(qkv):
    q, k, _ = heads(qkv)
    return np.einsum("...thd,...shd->...hts", q, k)


# What is common to all.


def call(name, x, **options):
    """The op of a name at x, with a table of learned positions or heads where it takes such."""
    if name == "learned":
        weight = np.random.default_rng(9).standard_normal((40, x.shape[-1]))
        return ops.positions(x, weight, **options)
    return ops.rotary(x, **HEADS, **options) if name == "rotary" else ops.sinusoidal(x, **options)


every_kind = pytest.mark.parametrize("name", ["learned", "sinusoidal", "rotary"])


@every_kind
@given(seed=seeds, start=st.integers(0, 30))
def test_positions_that_are_given_are_those_counted_from_a_start(name, seed, start):
    x = packed(seed)
    counted = call(name, x, start=start)
    for given_ in (np.arange(start, start + T), np.tile(np.arange(start, start + T, dtype=np.int32), (2, 1))):
        assert np.array_equal(call(name, x, positions=given_), counted)


@every_kind
@given(seed=seeds)
def test_each_row_has_the_positions_that_are_given_for_it(name, seed):
    rng = np.random.default_rng(seed)
    x, places = packed(seed, (3,)), rng.integers(0, 40, (3, T))
    together = call(name, x, positions=places)
    for row in range(3):
        for t in range(T):
            alone = call(name, x[row, t : t + 1], start=int(places[row, t]))
            assert np.array_equal(together[row, t : t + 1], alone)


@every_kind
@pytest.mark.parametrize(
    "given_, message",
    [
        (np.arange(3), r"positions has shape \(3,\), expected \(2, 5\)"),
        (np.zeros((3, 5), int), r"positions has shape \(3, 5\), expected \(2, 5\)"),
        (np.array(3), r"positions has shape \(\), expected \(2, 5\)"),
        (np.arange(5.0), "positions has dtype float64, expected integers"),
    ],
)
def test_positions_that_do_not_fit_are_named(name, given_, message):
    with pytest.raises(InputError, match=message):
        call(name, packed(0), positions=given_)


def test_a_learned_position_beyond_the_last_is_named():
    with pytest.raises(InputError, match=r"positions: positions has 40 at \(1,\), expected 0 to 39"):
        call("learned", packed(0, T=2), positions=np.array([0, 40]))


def test_the_gradient_of_a_learned_position_is_that_of_all_its_places():
    places = np.array([[0, 1, 0, 2, 2], [2, 2, 2, 0, 1]])
    dy = np.random.default_rng(0).standard_normal((2, 5, 3))
    _, saved = ops.positions.forward(np.zeros((2, 5, 3)), np.zeros((4, 3)), positions=places)
    dx, dweight = ops.positions.backward(dy, saved)
    assert np.array_equal(dx, dy) and not dweight[3].any()
    for p in range(3):
        np.testing.assert_allclose(dweight[p], dy[places == p].sum(0), rtol=1e-14)


# Sinusoidal.


@given(start=st.integers(0, 10_000), C=st.integers(1, 9))
def test_sinusoidal_positions_are_the_papers(start, C):
    waves = ops.sinusoidal(np.zeros((3, C)), start=start)
    for t in range(3):
        for c in range(C):
            angle = np.float64(start + t) / 10000.0 ** (2 * (c // 2) / C)
            expected = np.cos(angle) if c % 2 else np.sin(angle)
            assert abs(waves[t, c] - expected) <= 8 * EPS * (1 + start)


@given(start=st.integers(0, 1000), distance=st.integers(0, 50))
def test_how_alike_two_sinusoidal_positions_are_depends_on_their_distance_alone(start, distance):
    p = ops.sinusoidal(np.zeros((distance + 1, 8)), start=start)
    origin = ops.sinusoidal(np.zeros((distance + 1, 8)))
    assert abs(p[0] @ p[-1] - origin[0] @ origin[-1]) <= 64 * EPS * (1 + start)


# Linear biases.


def test_slopes_of_linear_biases_are_those_of_published_models():
    """A power of two: one geometric series from 2^(−8/H) to 2^−8; else every other one of a longer series."""
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert alibi_slopes(1).tolist() == [2.0**-8]
    for H in range(1, 40):
        slopes = alibi_slopes(H)
        assert slopes.shape == (H,) and len(set(slopes)) == H and slopes.min() >= 2.0**-8 and slopes.max() < 1


@pytest.mark.parametrize("H", [1, 2, 3, 6, 8, 12, 20, 71])
def test_slopes_are_those_of_transformers(H):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    bloom = pytest.importorskip(
        "transformers.models.bloom.modeling_bloom", reason="transformers is not installed"
    )
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2), H, torch.float64)[:, 0, 1]
    np.testing.assert_allclose(alibi_slopes(H), theirs, rtol=1e-6)  # they find them in float32


# Rotary.


@every_scaling
@given(seed=seeds, common=st.sampled_from([1, 7, 1000, 100_000]))
def test_scores_do_not_change_where_all_positions_are_moved_alike(scaling, seed, common):
    """q and k turn by the difference of their angles. An angle is rounded by eps of itself."""
    if depends_on_length(scaling):
        scaling = scaling | {"length": 200_000}
    qkv = packed(seed)
    here, there = (scores(ops.rotary(qkv, **HEADS, scaling=scaling, start=s)) for s in (3, 3 + common))
    assert abs(here - there).max() <= 16 * EPS * (8 + common) * abs(qkv).max() ** 2


@every_scaling
@given(seed=seeds, dim=st.sampled_from([None, 2, 4]), start=st.integers(0, 50))
def test_lengths_are_kept_and_values_and_features_beyond_dim_are_as_they_were(scaling, seed, dim, start):
    if scaling is not None and scaling["kind"] == "longrope":
        scaling = scaling | {part: scaling[part][: (dim or D) // 2] for part in ("short", "long")}
    qkv, R = packed(seed), dim or D
    size = frequencies(R, 1e4, scaling, start + T)[1]
    before, after = heads(qkv), heads(ops.rotary(qkv, **HEADS, dim=dim, scaling=scaling, start=start))
    for x, y in zip(before[:2], after[:2]):
        a, b = ((z[..., :R] ** 2).sum(-1) for z in (x, y))
        np.testing.assert_allclose(b, a * size**2, rtol=1e-13)
        assert np.array_equal(x[..., R:], y[..., R:])
    assert np.array_equal(before[2], after[2])


@given(seed=seeds, start=st.integers(0, 1000))
def test_the_backward_turns_back(seed, start):
    qkv = packed(seed)
    turned, saved = ops.rotary.forward(qkv, **HEADS, start=start)
    (back,) = ops.rotary.backward(turned, saved)
    np.testing.assert_allclose(back, qkv, rtol=0, atol=8 * EPS * abs(qkv).max())


def test_position_0_turns_nothing_and_position_1_by_the_angle_of_each_pair():
    qkv = packed(0, ())
    turned = ops.rotary(qkv, **HEADS)
    assert np.array_equal(turned[0], qkv[0])
    (q, _, _), (x, _, _) = heads(turned), heads(qkv)
    for i in range(D // 2):
        angle = 10000.0 ** (-2 * i / D)
        pair = x[1, :, i] + 1j * x[1, :, i + D // 2]  # the second of a pair is half a head away
        expected = pair * np.exp(1j * angle)
        np.testing.assert_allclose(q[1, :, i] + 1j * q[1, :, i + D // 2], expected, rtol=1e-14)


def test_pairs_that_stand_side_by_side_are_another_function_but_at_position_0():
    """As in Meta's files: half-split of permuted columns is that of neighbours, permuted."""
    qkv = packed(0, ())
    perm = np.r_[0:D:2, 1:D:2]
    columns = (np.arange(H + 2 * K)[:, None] * D + perm).reshape(-1)
    columns[(H + K) * D :] = np.arange((H + K) * D, (H + 2 * K) * D)
    neighbours = np.empty_like(qkv)
    neighbours[:, columns] = ops.rotary(qkv[:, columns], **HEADS)
    halves = ops.rotary(qkv, **HEADS)
    assert np.array_equal(neighbours[0], halves[0]) and abs(neighbours[1] - halves[1]).max() > 0.1


def test_all_heads_have_a_key_head_of_their_own_unless_it_is_said_how_many():
    qkv = np.random.default_rng(0).standard_normal((T, 3 * 2 * D))
    assert np.array_equal(ops.rotary(qkv, n_head=2), ops.rotary(qkv, n_head=2, n_kv_head=2))


def test_angles_of_float32_are_found_in_float64():
    """At position 131,072 an angle of float32 would err by 2e-3."""
    qkv = packed(0).astype("float32")
    exact = ops.rotary(qkv.astype(float), **HEADS, start=131_072)
    found = ops.rotary(qkv, **HEADS, start=131_072)
    assert found.dtype == np.float32
    assert abs(found - exact).max() <= 4 * np.finfo("float32").eps * abs(exact).max()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 3}, "dim is 3, expected an even number up to the size of a head, 6"),
        ({"dim": 8}, "dim is 8, expected an even number up to the size of a head, 6"),
        ({"base": 1.0}, "base is 1.0, expected more than 1"),
        ({"n_kv_head": 3}, "n_head is 4, expected KG with K = 3"),
        ({"scaling": 2.0}, "scaling is 2.0, expected a mapping"),
    ],
)
def test_what_rotary_positions_cannot_do_is_named(options, message):
    with pytest.raises(InputError, match=f"^rotary: {message}"):
        ops.rotary(packed(0), **HEADS | options)


@pytest.mark.parametrize(
    "scaling, message",
    [
        ({"kind": "ntk"}, "scaling has kind 'ntk', expected one of linear, dynamic, llama3"),
        ({"factor": 2.0}, "scaling has kind None, expected one of"),
        ({"kind": "linear"}, "scaling of kind linear has no factor, expected a finite number of"),
        ({"kind": "linear", "factor": 2.0, "low": 1}, "scaling of kind linear has 'low', expected factor"),
        ({"kind": "linear", "factor": np.inf}, "scaling of kind linear has factor inf, expected a finite"),
        ({"kind": "linear", "factor": "2"}, "scaling of kind linear has factor '2', expected a finite"),
        ({"kind": "linear", "factor": 0}, "scaling of kind linear has factor 0, expected a finite"),
        (
            {"kind": "llama3", **KINDS["llama3"], "low": 4},
            "scaling of kind llama3 has low 4.0, expected less than its high",
        ),
        (
            {"kind": "longrope", "short": [1.0], "long": [1.0], "length": 9},
            "scaling of kind longrope has 1 numbers in short, expected 3",
        ),
    ],
)
def test_a_scaling_that_cannot_be_is_named(scaling, message):
    with pytest.raises(InputError, match=f"^rotary: {message}"):
        ops.rotary(packed(0), **HEADS, scaling=scaling)


# Scalings.


def test_only_those_scalings_depend_on_the_length_whose_angles_do():
    assert not depends_on_length(None)
    for scaling in SCALED[1:]:
        f = [frequencies(D, 1e4, scaling, n)[0] for n in (1, LENGTH, LENGTH + 1, 10 * LENGTH)]
        assert np.array_equal(f[0], f[1])
        assert depends_on_length(scaling) == (not np.array_equal(f[1], f[2]))
        assert (scaling["kind"] == "dynamic") == (not np.array_equal(f[2], f[3]))


def test_a_text_that_is_longer_turns_by_the_angles_of_its_length_however_its_positions_are_given():
    qkv, scaling = packed(0, T=LENGTH + 4), {"kind": "dynamic", **KINDS["dynamic"]}
    counted = ops.rotary(qkv, **HEADS, scaling=scaling)
    assert np.array_equal(ops.rotary(qkv, **HEADS, scaling=scaling, positions=np.arange(LENGTH + 4)), counted)
    short = ops.rotary(qkv[:, :LENGTH], **HEADS, scaling=scaling)
    assert not np.array_equal(counted[:, :LENGTH], short)
    assert np.array_equal(short, ops.rotary(qkv[:, :LENGTH], **HEADS))


THEIRS = {
    "factor": "factor", "length": "original_max_position_embeddings", "low": "low_freq_factor",
    "high": "high_freq_factor", "fast": "beta_fast", "slow": "beta_slow", "truncate": "truncate",
    "short": "short_factor", "long": "long_factor", "size": "attention_factor",
}  # fmt: skip


@pytest.mark.parametrize("R, base", [(128, 1e4), (64, 5e5), (6, 100.0)])
@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("more", [{}, {"fast": 20.0, "slow": 2.0, "truncate": False}, {"size": 0.7}], ids=str)
def test_frequencies_are_those_of_transformers(kind, R, base, more, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rope = pytest.importorskip("transformers.modeling_rope_utils", reason="transformers is not installed")
    from transformers import LlamaConfig

    monkeypatch.setattr(torch, "float", torch.float64)  # which they compute in
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    if kind == "longrope":
        rng = np.random.default_rng(0)
        numbers = {n: list(rng.uniform(1, 9, R // 2)) for n in ("short", "long")} | {"length": 4096}
    else:
        numbers = {n: 4096 if n == "length" else value for n, value in KINDS[kind].items()}
    if kind in ("yarn", "longrope"):
        numbers |= {n: v for n, v in more.items() if kind == "yarn" or n == "size"}
    parameters = {"rope_type": kind, "rope_theta": base} | {THEIRS[n]: v for n, v in numbers.items()}
    if kind == "longrope":
        parameters = {"attention_factor": 1.0} | parameters
    config = LlamaConfig(
        hidden_size=R,
        num_attention_heads=1,
        head_dim=R,
        max_position_embeddings=4096,
        rope_parameters=parameters,
    )
    for n in (100, 4096, 4097, 9999):
        f, size = frequencies(R, base, {"kind": kind, **numbers}, n)
        theirs, their_size = rope.ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=n)
        assert theirs.dtype == torch.float64
        assert abs(f / theirs.numpy() - 1).max() <= 1e-15 * (20 if kind == "dynamic" else 4)
        assert abs(size - their_size) <= 1e-15
