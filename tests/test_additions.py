"""What a model has besides its own: adapters start as nothing and merge exactly, heads score texts."""

import dataclasses
import json

import numpy as np
import pytest

import numgpt
from numgpt import GPT, AdamW, Config, Head, InputError, LoRA, Record, Trainer, Training, engine, tuning
from numgpt.data import Example
from numgpt.layers.transformer import loss as loss_of_gpt
from numgpt.model import differentiable

SMALL = {"vocab_size": 11, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
CONFIGS = {
    "GPT-2": {},
    "LLaMA": {
        "n_kv_head": 1,
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
    },
    "experts": {"n_expert": 3, "n_expert_active": 2, "tied": False},
    "parallel": {"norm_position": "parallel"},
}
FORMS = {
    "plain": LoRA(rank=2, alpha=3.0),
    "rsLoRA": LoRA(rank=4, alpha=3.0, rslora=True),
    "queries, keys and values": LoRA(rank=1, targets=("h.*.attn.c_attn",)),
    "by part": LoRA(rank=2, alpha=3.0, by_part=True),
}
RNG = np.random.default_rng(0)
TOKENS, TARGETS = RNG.integers(0, 11, (2, 3, 9))


@pytest.fixture(params=["reference", "numba"])
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


@pytest.fixture(params=CONFIGS)
def model(request, on_engine):
    return GPT(Config(**SMALL | CONFIGS[request.param]), seed=1, dtype="float64")


@pytest.fixture(params=FORMS)
def adapted(request, model):
    """A model with an adapter that has learned something."""
    made = model.extended(FORMS[request.param])
    for name in made.params:
        if name.endswith("lora_b"):
            made.params[name] = 0.3 * np.random.default_rng(2).standard_normal(made.params[name].shape)
    return made


def of_adapter(name):
    return name.endswith((".lora_a", ".lora_b"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_an_adapter_starts_as_nothing_to_the_bit(model, form, dtype):
    model = model.astype(dtype)
    adapted = model.extended(FORMS[form])
    np.testing.assert_array_equal(adapted(TOKENS), model(TOKENS))


def test_its_first_step_moves_b_alone(model):
    """With A and B both 0 neither would ever get a gradient."""
    _, grads = model.extended(LoRA(rank=2)).loss_and_grads(TOKENS, TARGETS)
    for name, grad in grads.items():
        if name.endswith("lora_a"):
            assert not grad.any()
        if name.endswith("lora_b"):
            assert grad.any(), name


def test_a_merged_model_computes_the_same(adapted):
    merged = adapted.merged()
    assert merged.additions == () and list(merged.params) == list(GPT(adapted.config).params)
    expected = adapted(TOKENS)
    assert abs(expected - merged(TOKENS)).max() <= 1e-12 * abs(expected).max()


def test_an_adapter_by_part_is_one_for_each_of_the_maps():
    """Queries, keys and values of grouped heads, gate and value, each corrected by s A_g B_g alone."""
    model = GPT(Config(**SMALL | CONFIGS["LLaMA"]), seed=1, dtype="float64").extended(FORMS["by part"])
    lora = model.additions[0]
    widths = lora.widths(model.config)
    assert widths["h.0.attn.c_attn"] == (8, 4, 4) and widths["h.1.attn.c_proj"] == (8,)
    assert len(widths["h.1.mlp.c_fc"]) == 2
    for name in model.params:
        if of_adapter(name):
            model.params[name] = RNG.standard_normal(model.params[name].shape)
    merged, base = model.merged().params, model.params
    for name, parts in widths.items():
        begin = 0
        for g, width in enumerate(parts):
            lora_a = base[f"{name}.lora_a"][:, 2 * g : 2 * g + 2]
            columns = slice(begin, begin + width)
            expected = base[f"{name}.weight"][:, columns] + 1.5 * lora_a @ base[f"{name}.lora_b"][:, columns]
            begin += width
            np.testing.assert_allclose(merged[f"{name}.weight"][:, columns], expected, rtol=1e-12, atol=1e-14)


def test_merging_takes_nothing_from_the_adapted_model(adapted):
    before = adapted.params.flat.copy()
    adapted.merged()
    np.testing.assert_array_equal(adapted.params.flat, before)


def test_gradients_of_an_adapter_are_those_of_the_complex_step(adapted):
    v = np.random.default_rng(3).standard_normal(adapted.n_params)
    _, grads = adapted.loss_and_grads(TOKENS, TARGETS)
    shifted = adapted.astype("complex128")
    shifted.params.flat[...] += 1e-30j * v
    slope = float(np.imag(shifted.loss(TOKENS, TARGETS))) / 1e-30
    assert abs(slope - grads.flat @ v) <= 1e-12 * np.linalg.norm(grads.flat) * np.linalg.norm(v)


def test_what_is_frozen_costs_no_gradient_and_holds_no_moment(adapted):
    names = tuning.trained_names(adapted)
    assert names == [n for n in adapted.params if of_adapter(n)]
    optimizer = AdamW(adapted, weight_decay=0.5, names=names)
    assert set(optimizer.m) == set(names)
    _, all_grads = adapted.loss_and_grads(TOKENS, TARGETS)
    _, grads = adapted.loss_and_grads(TOKENS, TARGETS, grads=names)
    assert set(grads) == set(names)
    expected = np.sqrt(sum((all_grads[n] ** 2).sum() for n in names))
    np.testing.assert_allclose(float(optimizer.norm(grads)), expected, rtol=1e-12)
    before = {n: adapted.params[n].copy() for n in adapted.params}
    optimizer.step(grads, lr=0.1)
    for name, array in before.items():
        assert np.array_equal(adapted.params[name], array) == (not of_adapter(name)), name


def test_the_product_of_a_frozen_matrix_is_not_computed(adapted, monkeypatch):
    """A backward is told which gradients nobody wants, and gives None for them."""
    asked = []
    back_op = Record._back_op

    def watched(self, full, entry, dy):
        found = back_op(self, full, entry, dy)
        if full.endswith(".adapted"):
            asked.append([n for n in entry.names if self._is_wanted(n)])
        return found

    monkeypatch.setattr(Record, "_back_op", watched)
    grads = adapted.params.like()
    record = Record(
        adapted.params,
        adapted.config,
        served=adapted.served,
        grads={n: grads[n] for n in tuning.trained_names(adapted)},
    )
    differentiable.both_ways(adapted, record, loss_of_gpt, (TOKENS, TARGETS))
    assert asked and all(of_adapter(name) for names in asked for name in names)
    assert all(len(names) == 2 for names in asked)


def test_additions_are_saved_and_loaded_with_the_model(adapted, tmp_path):
    both = adapted.extended(Head(labels=("yes", "no"), pool="mean"))
    both.template = {"type": "data"}
    both.save(tmp_path / "m")
    again = GPT.load(tmp_path / "m")
    assert again.additions == both.additions and again.template == both.template
    np.testing.assert_array_equal(again.params.flat, both.params.flat)
    np.testing.assert_array_equal(again(TOKENS), adapted(TOKENS))


def test_decoding_with_an_adapter_is_its_full_forward(adapted):
    row = adapted.generate(TOKENS[:1, :4], 5, temperature=0)[0]
    for n in range(4, 9):
        assert row[n] == adapted(row[:n])[-1].argmax()


def test_copies_and_casts_keep_additions(adapted):
    for other in (adapted.astype("float32"), adapted.to("reference"), adapted.extended()):
        assert other.additions == adapted.additions and other.served.keys() == adapted.served.keys()


def test_a_model_without_additions_is_saved_as_before(model, tmp_path):
    model.save(tmp_path / "m")
    assert set(json.loads((tmp_path / "m/config.json").read_text())) == {"numgpt", "dtype", "seed", "config"}


PLAIN = GPT(Config(**SMALL), dtype="float64")


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: LoRA(rank=0), "rank is 0, expected 1 to"),
        (lambda: LoRA(targets=()), "targets is .*, expected at least one pattern"),
        (lambda: PLAIN.extended(LoRA(targets=("h.*.attn.q_proj",))), "no name fits 'h.*.attn.q_proj'"),
        (lambda: PLAIN.extended(LoRA(targets=("wte",))), "no name fits 'wte'"),
        (lambda: PLAIN.extended(LoRA(), LoRA()), "LoRA: there is a h.0.attn.c_attn.lora_a already"),
        (
            lambda: PLAIN.extended(Head(task="reward")).extended(Head(task="reward")),
            "there is a score.bias already",
        ),
        (lambda: Head(labels=("one",)), "labels is .*, expected at least 2 for classes"),
        (lambda: Head(labels=("one", "one")), "expected names that differ"),
        (lambda: Head(task="value"), "pool is last, expected none for a value"),
        (lambda: Head(task="sums"), "task is 'sums', expected one of"),
        (lambda: PLAIN.extended(LoRA()).save("x", layout="hf"), "has no place for LoRA"),
        (lambda: tuning.predictions(PLAIN, [[1]]), "the model has no head, expected one for classes"),
    ],
)
def test_what_cannot_be_added_is_said_in_one_line(act, words):
    with pytest.raises(InputError, match=words.replace("*.attn", r"\*.attn").replace("(", r"\(")):
        act()


@pytest.mark.parametrize(
    "stored, words",
    [
        ("lora", "additions: is str, expected a list"),
        ([{"kind": "ia3"}], "kind is 'ia3', expected one of lora, head"),
        ([{"kind": "lora", "rang": 3}], "unknown field rang"),
        ([{"kind": "lora", "rank": 3}], "is missing|lora"),
    ],
)
def test_a_file_of_unknown_additions_is_refused(tmp_path, stored, words):
    PLAIN.save(tmp_path / "m")
    path = tmp_path / "m/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"additions": stored}))
    with pytest.raises(InputError, match=words):
        GPT.load(tmp_path / "m")


# Heads.


def test_a_head_reads_the_last_token_or_the_mean_of_all(on_engine):
    model = GPT(Config(**SMALL), seed=1, dtype="float64")
    texts = [RNG.integers(0, 11, n) for n in (3, 7, 1)]
    for pool in ("last", "mean"):
        scored = model.extended(Head(labels=("a", "b", "c"), pool=pool))
        found = tuning.predictions(scored, texts)
        for text, scores in zip(texts, found):
            x = scored.record(text[None], text[None]).value["ln_f"][0]
            h = x[-1] if pool == "last" else x.mean(0)
            expected = h @ scored.params["score.weight"] + scored.params["score.bias"]
            np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-13)


def test_a_score_depends_neither_on_the_batch_nor_on_padding(on_engine):
    model = GPT(Config(**SMALL), seed=1, dtype="float64").extended(Head(task="reward"))
    texts = [RNG.integers(0, 11, n) for n in (3, 7, 1, 12)]
    alone = np.concatenate([tuning.predictions(model, [text]) for text in texts])
    np.testing.assert_allclose(tuning.predictions(model, texts), alone, rtol=1e-12, atol=1e-14)


def test_a_model_with_a_head_still_writes(on_engine):
    model = GPT(Config(**SMALL), seed=1, dtype="float64")
    np.testing.assert_array_equal(model.extended(Head(labels=("a", "b")))(TOKENS), model(TOKENS))


@dataclasses.dataclass
class Sums:
    """A task that two layers can learn: which half of the vocabulary the first token is of."""

    texts = [RNG.integers(0, 11, RNG.integers(2, 9)) for _ in range(300)]
    labels = np.array([int(text[0] > 5) for text in texts])


@pytest.mark.parametrize("lora", [(), (LoRA(rank=4),)], ids=["all parameters", "LoRA"])
def test_a_head_learns_a_task(lora):
    model = GPT(Config(**SMALL | {"n_embd": 32}), seed=1).extended(*lora, Head(labels=("low", "high")))
    training = Training(steps=250, batch_size=32, lr=1e-2, warmup=10, eval_interval=250)
    objective = tuning.Tasks(model, Sums.texts[:240], Sums.labels[:240], training)
    optimizer = AdamW(model, names=tuning.trained_names(model))
    Trainer(model, None, training, objective=objective, optimizer=optimizer).run()
    found = tuning.predictions(model, Sums.texts[240:]).argmax(-1)
    assert (found == Sums.labels[240:]).mean() > 0.9


def test_examples_are_tuples_of_ids_and_flags():
    """What the objectives are given may be made by hand."""
    example = Example(np.array([1, 2, 3]), np.array([False, False, True]))
    training = Training(steps=1, batch_size=1)
    assert tuning.Responses([example], training, 8).size == 1
    assert numgpt.tuning.Responses is tuning.Responses
