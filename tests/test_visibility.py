"""What each token sees: packed, padded and prefixed batches give what each row, or document, gives alone."""

import numpy as np
import pytest

import numgpt
from numgpt import engine, ops
from numgpt.errors import InputError
from numgpt.layers.visibility import Visibility

SMALL = {"vocab_size": 7, "block_size": 12, "n_layer": 2, "n_head": 4, "n_embd": 8}
MODELS = {
    "GPT-2": {},
    "GPT-1": {"norm_position": "post"},
    "grouped windows": {"n_kv_head": 2, "window": 3},
    "windows in turns": {"layers": ({"window": 2}, {})},
    "LLaMA": {
        "n_kv_head": 2,
        "head_dim": 4,
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
    },
    "ALiBi": {"positions": "alibi"},
    "sinusoidal": {"positions": "sinusoidal"},
}
RNG = np.random.default_rng(0)


@pytest.fixture(params=["reference", "numba"])
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


@pytest.fixture(params=MODELS)
def model(request, on_engine):
    model = numgpt.GPT(numgpt.Config(**SMALL | MODELS[request.param]), seed=1, dtype="float64")
    model.params.flat[...] += 0.3 * np.random.default_rng(0).standard_normal(model.n_params)
    return model


def near(actual, expected):
    """Equal but for the rounding of sums in another order."""
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13 * abs(expected).max())


def test_each_packed_document_is_alone(model):
    lengths = [[3, 5, 4], [7, 5]]
    tokens = RNG.integers(0, 7, (2, 12))
    logits = model(tokens, visibility=Visibility.packed(lengths))
    for row, documents in enumerate(lengths):
        ends = np.cumsum(documents)
        for begin, end in zip(ends - documents, ends):
            near(logits[row, begin:end], model(tokens[row, begin:end]))


def test_gradients_of_packed_documents_are_the_sum_of_each_alone(model):
    tokens, targets = RNG.integers(0, 7, (2, 1, 9))
    loss, grads = model.loss_and_grads(tokens, targets, visibility=Visibility.packed([[4, 5]]))
    alone = [model.loss_and_grads(tokens[:, s], targets[:, s], count=9) for s in (slice(4), slice(4, 9))]
    near(np.asarray(loss), sum(a[0] for a in alone))
    near(grads.flat, sum(a[1].flat for a in alone))


def test_gradients_from_values_of_packed_documents_are_the_sum_of_each_alone(model):
    tokens, dvalue = RNG.integers(0, 7, (1, 9)), RNG.standard_normal((1, 9, 8))
    gradient = model.vjp(tokens, {"h.1.mid": dvalue}, visibility=Visibility.packed([[4, 5]]))
    alone = [model.vjp(tokens[:, s], {"h.1.mid": dvalue[:, s]}) for s in (slice(4), slice(4, 9))]
    near(gradient.flat, sum(a.flat for a in alone))


def test_each_padded_row_is_alone_and_padding_changes_nothing(model):
    lengths = np.array([12, 5, 1])
    tokens = RNG.integers(0, 7, (3, 12))
    seen = Visibility.padded(lengths, 12)
    logits = model(tokens, visibility=seen)
    other = tokens.copy()
    other[1, :7] = 6 - other[1, :7]
    for row, n in enumerate(lengths):
        near(logits[row, 12 - n :], model(tokens[row, 12 - n :]))
    near(model(other, visibility=seen)[1, 7:], logits[1, 7:])


def test_a_prefix_sees_itself_and_what_follows_sees_what_came_before(model):
    tokens = RNG.integers(0, 7, (2, 8))
    seen = Visibility.prefix([3, 1], 8)
    logits = model(tokens, visibility=seen)
    other = tokens.copy()
    other[:, 2] = (other[:, 2] + 1) % 7
    changed = abs(model(other, visibility=seen) - logits).max(-1) > 1e-9
    assert changed[0, :3].all(), "the prefix sees its last token"
    assert not changed[1, :2].any(), "where the prefix is shorter, that token is later"
    near(logits[1], model(tokens[1]))


def test_the_derivative_is_exact_whatever_is_seen(model):
    tokens, targets = RNG.integers(0, 7, (2, 2, 8))
    first = RNG.integers(0, np.arange(8) + 1, (2, 8))
    last = RNG.integers(np.arange(8), 8, (2, 8))
    if model.config.window or model.config.layers:
        first, last = np.arange(8), np.arange(8, dtype=int)
        last = np.minimum(last + 1, 7)
    seen = Visibility(first=first, last=last)
    _, grads = model.loss_and_grads(tokens, targets, visibility=seen)
    direction = RNG.standard_normal(model.n_params)
    moved = model.astype("complex128")
    moved.params.flat[...] += 1e-30j * direction
    derivative = float(np.imag(moved.loss(tokens, targets, visibility=seen))) / 1e-30
    assert abs(derivative - grads.flat @ direction) < 1e-12 * abs(grads.flat * direction).sum()


def test_steps_see_what_the_whole_sees(model):
    tokens, targets = RNG.integers(0, 7, (2, 1, 9))
    seen = Visibility.packed([[4, 5]])
    record = model.record(tokens, targets, visibility=seen)
    _, grads = model.loss_and_grads(tokens, targets, visibility=seen)
    near(record.grads.flat, grads.flat)
    assert not record.value["h.1.attn.heads.probs"][0, :, 4:, :4].any()


def test_kernels_see_the_intervals_that_the_specification_sees():
    """Intervals of every kind, over several blocks of queries, T < S and T = S."""
    numgpt.use("numba")
    q = RNG.standard_normal((2, 2, 2, 130, 4))
    k, v = RNG.standard_normal((2, 2, 2, 140, 4))
    own = np.arange(10, 140)
    for first, last in (
        (np.maximum(own - 7, 0), None),
        (None, np.minimum(own + 9, 139)),
        (RNG.integers(0, own + 1, (2, 130)), RNG.integers(own, 140, (2, 130))),
    ):
        options = {n: a for n, a in (("first", first), ("last", last)) if a is not None}
        y, saved = ops.attend_groups.forward(q, k, v, **options)
        twin, twin_saved = engine.forward(ops.attend_groups, [q])(q, k, v, **options)
        near(twin, y)
        dy = RNG.standard_normal(y.shape)
        for mine, theirs in zip(
            engine.backward(ops.attend_groups, dy)(dy, twin_saved), ops.attend_groups.backward(dy, saved)
        ):
            near(mine, theirs)


def test_prompts_of_different_length_are_continued_as_each_alone(model):
    prompts = [list(RNG.integers(0, 7, n)) for n in (5, 1, 9, 12)]
    rows = model.generate(prompts, 8, temperature=0)
    assert [len(row) for row in rows] == [13, 9, 17, 20]
    for row, prompt in zip(rows, prompts):
        np.testing.assert_array_equal(row, model.generate(prompt, 8, temperature=0))


@pytest.mark.parametrize("slide", [1, 4])
def test_logits_of_prompts_of_different_length_are_those_of_each_alone(model, slide):
    from numgpt.model.decoding import logits_stream

    prompts = [RNG.integers(0, 7, n) for n in (3, 11)]
    side_by_side = np.zeros((2, 11), int)
    for row, prompt in zip(side_by_side, prompts):
        row[-len(prompt) :] = prompt
    together = logits_stream(model, side_by_side, slide, np.array([3, 11]))
    alone = [logits_stream(model, prompt[None], slide) for prompt in prompts]
    logits, each = next(together), [next(stream) for stream in alone]
    for _ in range(14):
        near(logits, np.concatenate(each))
        ids = RNG.integers(0, 7, 2)
        logits, each = together.send(ids), [stream.send(ids[i : i + 1]) for i, stream in enumerate(alone)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Visibility.packed([[2, 0]]), "a length is 0, expected 1 or more"),
        (lambda: Visibility.padded([0, 3], 4), "a length is 0, expected 1 or more"),
        (lambda: Visibility.padded([5], 4), "a row has 5 tokens, expected at most T = 4"),
        (lambda: Visibility.prefix([5], 4), "a prefix has 5 tokens, expected at most T = 4"),
        (lambda: Visibility.packed([[2, 3], [4]]), "rows of 4, 5 tokens, expected as many in each"),
        (lambda: Visibility(first=[0.5]), r"first is float64 of shape \(1,\), expected integers"),
        (lambda: Visibility(positions=[-1, 0]), "positions has -1, expected 0 or more"),
        (lambda: Visibility(first=[0, 2]).checked((2,)), r"the query at \(1,\) sees no key, from 2 to 1"),
        (lambda: Visibility(last=[0, -1]).checked((2,)), r"the query at \(1,\) sees no key, from 0 to -1"),
        (lambda: Visibility(last=[0, 2]).checked((2,)), "last has 2, expected at most 1, the last of T keys"),
        (lambda: Visibility(last=[0, 1]).checked((3,)), r"last has shape \(2,\), expected \(3,\)"),
    ],
)
def test_what_cannot_be_seen_is_refused(make, message):
    with pytest.raises(InputError, match=f"visibility: .*{message}"):
        make()


def test_a_position_beyond_the_learned_ones_is_refused():
    model = numgpt.GPT(numgpt.Config(**SMALL), seed=0)
    with pytest.raises(InputError, match="visibility: positions has 12, expected at most 11"):
        model([0, 1], visibility=Visibility(positions=[0, 12]))


def test_a_query_without_a_key_is_refused_by_the_op(on_engine):
    x = np.ones((1, 3, 6))
    with pytest.raises(InputError, match="attention: the visibility leaves a query without a key"):
        ops.attention(x, n_head=1, first=[0, 2, 1])


def test_an_empty_prompt_among_others_is_refused():
    model = numgpt.GPT(numgpt.Config(**SMALL), seed=0)
    with pytest.raises(InputError, match=r"tokens: have shape \(0,\), expected"):
        model.generate([[1, 2], []], 3)
