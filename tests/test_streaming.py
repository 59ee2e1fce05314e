"""Text without end in a cache of fixed size: the first positions stay, and places are counted within it."""

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError
from numgpt.architecture.parameters import Flat
from numgpt.layers import decoding_numba
from numgpt.layers.record import Record
from numgpt.layers.transformer import gpt_forward
from numgpt.model.decoding import logits_stream
from numgpt.model.streaming import endless_stream, streaming_cache
from numgpt.ops.attention import attention, attention_forward
from numgpt.ops.rotary import rotary, rotary_forward

W, S, PROMPT = 9, 2, 13  # positions of the cache, the first ones of them, tokens of a prompt
KINDS = {
    "rotary": {"positions": "rotary", "n_kv_head": 1},
    "half rotary": {"positions": "rotary", "rotary_dim": 2, "rotary_base": 50.0},
    "YaRN": {"positions": "rotary", "rotary_scaling": {"kind": "yarn", "factor": 4.0, "length": 20}},
    "ALiBi": {"positions": "alibi"},
    "none": {"positions": "none"},
    "window": {"positions": "rotary", "window": 7},
}
ROTARY = {"positions": "rotary"}
DYNAMIC = ROTARY | {"rotary_scaling": {"kind": "dynamic", "factor": 2.0, "length": 2}}
every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=list(KINDS))


def make(changes, dtype="float64", **more):
    shape = {"vocab_size": 11, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 8}
    model = GPT(Config(**shape | {"norm": "rmsnorm", "activation": "swiglu"} | changes | more), 1, dtype)
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    return model


def tokens(n, rows=2, V=11):
    return np.random.default_rng(5).integers(0, V, (rows, n))


def streamed(model, ids, prompt=PROMPT, size=W, keep_first=S):
    """The logits after each of ids from the prompt on, of a cache of fixed size."""
    steps = endless_stream(model, ids[:, :prompt], streaming_cache(model.config, size, keep_first))
    return np.stack([next(steps), *(steps.send(ids[:, t]) for t in range(prompt, ids.shape[1]))], axis=1)


@every_kind
def test_one_layer_reads_the_first_tokens_and_the_last_ones(changes):
    """What a position's key and value are depends on its own token alone where there is one layer."""
    model, ids = make(changes), tokens(60)
    size = min(W, model.config.window or W)
    for t, logits in enumerate(np.moveaxis(streamed(model, ids), 1, 0), PROMPT):
        seen = np.concatenate([ids[:, :S], ids[:, t - (size - S) : t]], axis=1)
        assert np.allclose(logits, model(seen)[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "keep_first"), [(1, 0), (5, 0), (2, 1), (5, 4)])
def test_any_number_of_first_tokens_below_the_size_is_kept(size, keep_first):
    model, ids = make(KINDS["rotary"]), tokens(30)
    found = streamed(model, ids, 7, size, keep_first)
    for i, t in enumerate(range(7, 31)):
        seen = np.concatenate([ids[:, :keep_first], ids[:, t - (size - keep_first) : t]], axis=1)
        assert np.allclose(found[:, i], model(seen)[:, -1], rtol=0, atol=1e-12)


class AsDescribed(Record):
    """Attention with sinks as its paper describes it: keys are turned anew at each token, by their places."""

    def __init__(self, params: Flat, config: Config, held, **options):
        super().__init__(params, config, **options)
        self.held = held

    def run(self, full, op, arrays, options):
        if op is rotary:
            self.rotation = options
            return arrays[0], None
        if op is not attention:
            return super().run(full, op, arrays, options)
        held = self.held.setdefault(full, [])
        held.append(arrays[0])
        size = min(W, self.config.window or W)
        if len(held) > size:
            del held[S]
        qkv = np.concatenate(held, axis=-2)
        if self.config.positions == "rotary":
            qkv, _ = rotary_forward(qkv, **self.rotation)
        options = {name: option for name, option in options.items() if name not in ("first", "last")}
        y, _ = attention_forward(qkv, **options)
        return y[..., -1:, :], None


@every_kind
def test_layers_of_layers_are_as_the_paper_describes_them(changes):
    model, ids, held = make(changes, n_layer=3), tokens(50), {}
    found = streamed(model, ids)
    for t in range(50):
        record = AsDescribed(model.params, model.config, held)
        logits = gpt_forward(record, ids[:, t : t + 1])[:, -1]
        if t + 1 >= PROMPT:
            assert np.allclose(found[:, t + 1 - PROMPT], logits, rtol=0, atol=1e-12)


@every_kind
def test_until_the_cache_is_full_it_is_one_that_grows(changes):
    model, ids = make(changes, n_layer=2), tokens(7)
    grown = logits_stream(model, ids[:, :3])
    expected = np.stack([next(grown), *(grown.send(ids[:, t]) for t in range(3, 7))], axis=1)
    assert np.array_equal(streamed(model, ids, 3), expected)


def test_a_long_text_takes_no_more_memory_and_its_logits_err_no_more():
    model, ids = make(KINDS["rotary"]), tokens(3000, rows=1)
    cache = streaming_cache(model.config, W, S)
    steps = endless_stream(model, ids[:, :1], cache)
    next(steps)
    (store,) = cache._store.values()
    for t in range(1, 3000):
        logits = steps.send(ids[:, t])
    assert store.shape[-2] == 2 * W and next(iter(cache._store.values())) is store
    assert np.allclose(logits, model(np.concatenate([ids[:, :S], ids[:, -(W - S) :]], 1))[:, -1], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changes", [KINDS["rotary"], KINDS["window"]], ids=["rotary", "window"])
def test_the_fused_block_decodes_in_such_a_cache(changes, dtype, monkeypatch):
    pytest.importorskip("numba", reason="Numba is not installed")
    model, ids, launched = make(changes, dtype, n_embd=64, n_layer=2), tokens(40, rows=1), []
    launch = decoding_numba.launch
    monkeypatch.setattr(decoding_numba, "launch", lambda *a: (launched.append(1), launch(*a)))
    expected = streamed(model, ids)
    assert not launched
    numgpt.use("numba")
    try:
        found = streamed(model, ids)
    finally:
        numgpt.use("reference")
    assert len(launched) >= 2 * (40 - PROMPT)
    if dtype == "float64":
        assert np.allclose(found, expected, rtol=0, atol=1e-12)
        return
    wider = make(changes, "float64", n_embd=64, n_layer=2)
    wider.params.flat[...] = model.params.flat
    errors = [np.sqrt(np.mean((logits - streamed(wider, ids)) ** 2)) for logits in (found, expected)]
    assert errors[0] <= 1.5 * errors[1]


def test_a_model_writes_on_and_on():
    model = make(KINDS["rotary"])
    ids = model.generate(tokens(3), 40, temperature=0, keep_first=3)
    assert ids.shape == (2, 43)
    by_hand = streamed(model, ids[:, :-1], 3, model.config.block_size, 3)
    assert np.array_equal(ids[:, 3:], by_hand.argmax(-1))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"positions": "learned"},
            {"cache_size": 4},
            "cache_size is 4, expected .* this model's are 'learned'",
        ),
        ({"positions": "sinusoidal"}, {"keep_first": 4}, "keep_first is 4, expected .* are 'sinusoidal'"),
        (DYNAMIC, {"cache_size": 4}, "cache_size is 4, expected .* a rotation does not depend on the text's"),
        (ROTARY, {"cache_size": 4, "keep_first": 4}, "keep_first is 4, expected less than cache_size, 4"),
        (
            ROTARY | {"window": 3},
            {"keep_first": 3},
            "keep_first is 3, expected less than the model's window, 3",
        ),
        (ROTARY, {"cache_size": 0}, "cache_size is 0, expected an integer of 1 or more"),
        (ROTARY, {"keep_first": -1}, "keep_first is -1, expected"),
    ],
)
def test_what_cannot_be_kept_is_refused(changes, options, message):
    with pytest.raises(InputError, match=message):
        make(changes).generate(tokens(3), 2, **options)


def test_prompts_of_different_length_are_refused():
    with pytest.raises(InputError, match="prompts of 1 to 2 tokens, expected one length with cache_size"):
        make(KINDS["rotary"]).generate([[1, 2], [3]], 2, cache_size=4)
