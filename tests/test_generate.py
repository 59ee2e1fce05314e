"""Decoding: cached as uncached, sampling by its definition, stop strings, streams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, Config, InputError
from numgpt.model.generate import KeyValueCache, advance, choose, logits_stream, stream, texts
from numgpt.model.sampling import penalised
from numgpt.proofs.subjects import SMALL, VARIANTS
from numgpt.tokenizers import BPE, Bytes, Characters

every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
PROMPT = np.random.default_rng(0).integers(0, 7, (3, 2))


def make(changes=(), dtype="float64"):
    model = GPT(Config(**SMALL | dict(changes)), 1, dtype, Characters("abcdefg"))
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    return model


@every_variant
@pytest.mark.parametrize("slide", [1, 2, 3, 5])
def test_cached_logits_are_those_of_the_full_forward_past_the_window_too(changes, slide):
    model, P = make(changes), SMALL["block_size"]
    draw = np.random.default_rng(1)
    steps = logits_stream(model, PROMPT, slide)
    logits, ids, shown = next(steps), PROMPT, PROMPT.shape[1]
    for _ in range(3 * P):
        window = ids[:, -shown:] if model.config.positions == "learned" else ids
        assert np.allclose(logits, model(window)[:, -1], rtol=0, atol=1e-12)
        new = draw.integers(0, 7, 3)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        shown = shown + 1 if shown < P else P + 1 - slide
        logits = steps.send(new)


@every_variant
def test_a_prompt_read_in_parts_gives_the_same_logits(changes):
    model, cache = make(changes), KeyValueCache(5)
    tokens = np.random.default_rng(2).integers(0, 7, (2, 5))
    advance(model, tokens[:, :2], cache)
    advance(model, tokens[:, 2:4], cache)
    assert np.allclose(advance(model, tokens[:, 4:], cache), model(tokens)[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, np.array([2, 1, 2])], ids=["of one length", "padded"])
def test_what_no_later_query_sees_is_let_go(lengths, monkeypatch):
    """Layers with a window hold no more as the text grows; those without one hold all of it."""
    caches, W = [], 5
    made = KeyValueCache.__init__
    monkeypatch.setattr(
        KeyValueCache, "__init__", lambda self, *a, **k: (caches.append(self), made(self, *a, **k))[0]
    )
    model = make({"positions": "rotary", "head_dim": 2, "n_kv_head": 1, "layers": ({"window": W}, {})})
    steps, ids = logits_stream(model, PROMPT, lengths=lengths), PROMPT
    logits = next(steps)
    for _ in range(400):
        ids = np.concatenate([ids, logits.argmax(-1)[:, None]], axis=1)
        logits = steps.send(ids[:, -1])
    assert np.allclose(logits[[0, 2]], model(ids[[0, 2]])[:, -1], rtol=0, atol=1e-12)
    assert np.allclose(
        logits[1], model(ids[1:2, 1 if lengths is not None else 0 :])[0, -1], rtol=0, atol=1e-12
    )
    (rooms,) = ({name: store.shape[-2] for name, store in cache._store.items()} for cache in caches)
    assert rooms["h.0.attn.heads"] == 64 and rooms["h.1.attn.heads"] >= 402


def test_a_prompt_longer_than_the_window_shows_its_end():
    model, tokens = make(), np.random.default_rng(3).integers(0, 7, (1, 12))
    assert np.allclose(next(logits_stream(model, tokens)), model(tokens[:, -5:])[:, -1], rtol=0, atol=1e-12)


def test_greedy_decoding_is_the_argmax_of_the_full_forward():
    model = make()
    ids = model.generate(PROMPT, max_new_tokens=9, temperature=0)
    for n in range(2, 11):
        assert np.array_equal(ids[:, n], model(ids[:, max(0, n - 5) : n])[:, -1].argmax(-1))


def test_generate_keeps_prompt_shape_and_seed():
    model = make()
    ids = model.generate(PROMPT, max_new_tokens=20, seed=3)
    assert ids.shape == (3, 22)
    assert np.array_equal(ids[:, :2], PROMPT)
    assert np.array_equal(ids, model.generate(PROMPT, max_new_tokens=20, seed=3))
    assert not np.array_equal(ids, model.generate(PROMPT, max_new_tokens=20, seed=4))
    assert np.array_equal(model.generate(PROMPT[0], max_new_tokens=20, seed=3), ids[0])
    assert np.array_equal(model.generate(PROMPT, max_new_tokens=0), PROMPT)


def test_a_sample_does_not_depend_on_the_others_beside_it():
    model = make()
    assert np.array_equal(model.generate(PROMPT, 15, seed=1)[:1], model.generate(PROMPT[:1], 15, seed=1))


def probabilities(logits, **options):
    """What choose() does, counted over many evenly spaced draws."""
    draws = (np.arange(4000) + 0.5) / 4000
    return np.bincount([choose(logits, u, **options) for u in draws], minlength=len(logits)) / 4000


LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"top_k": 99}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"top_p": 0.5}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"top_k": 3, "top_p": 0.6}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"temperature": 0.5}, np.array([0.01, 0.16, 0.0025, 0.0625, 0.04]) / 0.275),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-3}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_defined_probabilities(options, expected):
    assert np.allclose(probabilities(LOGITS, **options), expected, atol=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_sampling_is_defined_on_sorted_probabilities(seed):
    """Renaming the tokens renames the choice and changes nothing else."""
    rng = np.random.default_rng(seed)
    logits, order, u = rng.standard_normal(9), rng.permutation(9), rng.random()
    assert order[choose(logits[order], u, top_p=0.8)] == choose(logits, u, top_p=0.8)


@given(data=st.data())
def test_an_id_is_chosen_as_if_all_were_sorted(data):
    """However few ids are sorted, among thousands too, and with many ties."""
    size, digits = data.draw(st.sampled_from([1, 5, 257, 3000])), data.draw(st.integers(0, 4))
    spread, seed = data.draw(st.sampled_from([0.1, 1, 6])), data.draw(st.integers(0, 2**32 - 1))
    logits = np.round(spread * np.random.default_rng(seed).standard_normal(size), digits)
    draw, temperature = data.draw(st.floats(0, 0.999999)), data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    top_k = data.draw(st.none() | st.integers(1, size + 2))
    top_p = data.draw(st.none() | st.floats(1e-6, 0.999999))
    order = np.argsort(-logits, kind="stable")
    candidates = np.exp((logits[order] - logits.max()) / temperature)[:top_k]
    if top_p:
        reached = np.searchsorted(np.cumsum(candidates), top_p * candidates.sum())
        candidates = candidates[: 1 + reached]
    share = np.cumsum(candidates) / candidates.sum()
    place = int(np.flatnonzero(order == choose(logits, draw, temperature, top_k, top_p))[0])
    assert place < len(candidates) + 1
    assert share[min(place, len(candidates) - 1)] > draw - 1e-9
    assert place == 0 or share[place - 1] <= draw + 1e-9


def test_equal_probabilities_are_ordered_by_id_and_a_draw_of_almost_one_is_in_range():
    assert [choose(np.zeros(4), u) for u in (0.0, 0.3, 0.6, np.nextafter(1, 0))] == [0, 1, 2, 3]
    assert choose(np.zeros(4), 0.5, temperature=0) == 0


def test_float32_and_float64_write_the_same_text():
    assert np.array_equal(
        make().generate(PROMPT, 30, seed=5), make(dtype="float32").generate(PROMPT, 30, seed=5)
    )


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(InputError, match="logits are not finite"):
        choose(np.array([0.0, np.nan]), 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "generate: temperature is -1, expected a finite number of 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0, expected an integer of 1 or more"),
        ({"top_p": 0}, "top_p is 0, expected a finite number more than 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"top_k": 1.5}, "top_k is 1.5, expected an integer"),
        ({"slide": 1.5}, "slide is 1.5, expected an integer"),
        ({"temperature": "x"}, "temperature is 'x', expected a finite number"),
        ({"seed": 1.5}, "seed is 1.5, expected an integer"),
        ({"min_p": 1.1}, "min_p is 1.1, expected a finite number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, expected a finite number more than 0"),
        ({"slide": 6}, "slide is 6, expected 1 to block_size 5"),
    ],
)
def test_sampling_options_that_cannot_be_used_are_named(options, message):
    with pytest.raises(InputError, match=message):
        make().generate(PROMPT, **options)


class Scripted:
    """A model that says a given text whatever it is asked."""

    def __init__(self, monkeypatch, text, tokenizer, special="refuse"):
        self.tokenizer, self.config = tokenizer, Config(**SMALL | {"vocab_size": tokenizer.vocab_size})
        self.params = None
        ids = tokenizer.encode(text, special)

        def logits(model, tokens, slide=1, lengths=None):
            for i in ids:
                yield np.where(np.arange(tokenizer.vocab_size) == i, 50.0, 0.0)[None].repeat(len(tokens), 0)

        monkeypatch.setattr("numgpt.model.generate.logits_stream", logits)
        self.length = len(ids)

    def say(self, **options):
        parts = [p[0] for p in texts(self, "a", self.length, **options)]
        return "".join(parts), parts


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), "abcabd efg"),
        (("abd",), "abc"),
        (("g", "d e"), "abcab"),
        (("",), "abcabd efg"),
        (("zzz",), "abcabd efg"),
        (("a",), ""),
    ],
)
def test_text_ends_before_a_stop_string_and_never_shows_a_part_of_it(monkeypatch, stop, expected):
    model = Scripted(monkeypatch, "abcabd efg", Characters("".join(sorted("abcdefg z"))))
    text, parts = model.say(stop=stop)
    assert text == expected
    assert all(expected.startswith("".join(parts[:n])) for n in range(len(parts)))


ENDED = BPE([bytes([i]) for i in range(256)], [], specials={"<|endoftext|>": 256, "<|other|>": 257})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "ab<|other|>é"),
        ({"ignore_eos": True}, "ab<|other|>é<|endoftext|>more"),
        ({"stop": "b"}, "a"),
        ({"stop": "é<|endoftext|>m", "ignore_eos": True}, "ab<|other|>"),
        ({"stop": ["é<|"]}, "ab<|other|>é"),
    ],
)
def test_a_sample_ends_at_the_tokenizers_end_of_text(monkeypatch, options, expected):
    script = "ab<|other|>é<|endoftext|>more"
    assert Scripted(monkeypatch, script, ENDED, "allow").say(**options)[0] == expected


def test_one_sample_that_ends_does_not_end_the_others(monkeypatch):
    def logits(model, tokens, slide=1, lengths=None):
        for ids in ([97, 97], [256, 98], [99, 99], [100, 256], [101, 101]):
            yield np.where(np.arange(258) == np.array(ids)[:, None], 50.0, 0.0)

    model = Scripted(monkeypatch, "a", ENDED)
    monkeypatch.setattr("numgpt.model.generate.logits_stream", logits)
    columns = list(zip(*texts(model, "a", 5, samples=2)))
    assert ["".join(c) for c in columns] == ["a", "abc"]
    assert len(columns[0]) == 4


@pytest.mark.parametrize(
    ("specials", "end"),
    [
        ({"<|endoftext|>": 256}, 256),
        ({"<s>": 256, "</s>": 257}, 257),
        ({"<|im_end|>": 256, "<|endoftext|>": 257}, 257),
        ({"<|user|>": 256}, None),
        ({}, None),
    ],
)
def test_the_end_of_text_is_the_special_token_that_says_so(specials, end):
    assert BPE([bytes([i]) for i in range(256)], [], specials=specials).end_of_text == end


@given(st.data())
def test_each_draw_is_the_one_of_transformers_processors(data):
    """Repetition penalty, temperature, top_k, top_p and min_p, in the order of its generate()."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    seed, V = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(2, 300))
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((1, V)) * 3
    present = rng.integers(0, V, (1, 5))
    penalty, temperature = data.draw(st.floats(0.5, 2)), data.draw(st.floats(0.3, 3))
    top_k = data.draw(st.none() | st.integers(1, V))
    top_p = data.draw(st.none() | st.floats(0.05, 0.95))
    min_p = data.draw(st.just(0.0) | st.floats(0.01, 0.9))
    processors = [
        transformers.RepetitionPenaltyLogitsProcessor(penalty),
        transformers.TemperatureLogitsWarper(temperature),
        *([transformers.TopKLogitsWarper(top_k)] if top_k else ()),
        *([transformers.TopPLogitsWarper(top_p)] if top_p else ()),
        transformers.MinPLogitsWarper(min_p),
    ]
    scores = torch.tensor(logits)
    for processor in processors:
        scores = processor(torch.tensor(present), scores)
    probs = scores.softmax(-1)[0].numpy()
    mask = np.zeros((1, V), bool)
    mask[0, present[0]] = True
    ours = penalised(logits, mask, penalty)[0]
    order = np.argsort(-ours, kind="stable")
    ends = np.cumsum(probs[order])
    for n, i in enumerate(order):
        if probs[i] > 1e-9:
            middle = ends[n] - probs[i] / 2
            assert choose(ours, middle, temperature, top_k, top_p, min_p) == i


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("penalty", [1.7976931348623157e308, 1e39, 1e-40, 5e-324])
def test_a_penalty_of_any_size_makes_numbers_of_numbers_alone(dtype, penalty):
    logits = np.array([[-3.0, 0.0, 2.0, np.nan, np.inf, -np.inf]], dtype)
    lowered = penalised(logits, np.ones(logits.shape, bool), penalty)
    assert lowered.dtype == logits.dtype
    assert np.array_equal(np.isfinite(lowered), np.isfinite(logits))
    assert list(np.argsort(lowered[0, :3])) == [0, 1, 2]


def test_the_penalty_is_for_all_that_stands_in_a_row_also_what_has_left_the_window():
    model, P, penalty = make(), SMALL["block_size"], 1.7
    ids = PROMPT
    for _ in range(3 * P):
        logits = model(ids[:, -P:])[:, -1]
        present = np.stack([np.isin(np.arange(logits.shape[1]), row) for row in ids])
        chosen = penalised(logits, present, penalty).argmax(1)
        ids = np.concatenate([ids, chosen[:, None]], axis=1)
    assert np.array_equal(model.generate(PROMPT, 3 * P, temperature=0, repetition_penalty=penalty), ids)
    plain = model.generate(PROMPT, 3 * P, temperature=0)
    assert not np.array_equal(ids, plain)
    assert np.array_equal(model.generate(PROMPT, 3 * P, temperature=0, repetition_penalty=1), plain)


def test_a_character_of_several_bytes_is_shown_when_it_is_whole(monkeypatch):
    text, parts = Scripted(monkeypatch, "é€", Bytes()).say()
    assert text == "é€"
    assert parts == ["", "é", "", "", "€", ""]


def test_several_samples_are_made_at_once():
    model = make()
    columns = list(zip(*texts(model, "ab", 12, samples=3, seed=2)))
    assert len(columns) == 3
    assert len({"".join(c) for c in columns}) == 3
    alone = "".join(p[0] for p in texts(model, "ab", 12, seed=2))
    assert "".join(columns[0]) == alone


def test_an_empty_prompt_and_a_missing_tokenizer_are_errors():
    with pytest.raises(InputError, match="the prompt is empty"):
        next(texts(make(), "", 5))
    with pytest.raises(InputError, match="no tokenizer"):
        next(texts(GPT(Config(**SMALL)), "a", 5))


def test_the_stream_gives_one_token_after_the_other():
    model = make()
    tokens = stream(model, PROMPT, 4, seed=3)
    assert np.array_equal(np.stack(list(tokens), 1), model.generate(PROMPT, 4, seed=3)[:, 2:])
