"""Pruning: masks are zeros that stay, scores are derivatives of gates, fewer units compute what zeros do."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import numgpt
from numgpt import GPT, AdamW, Config, Head, InputError, LoRA, Pruned, Trainer, Training, engine
from numgpt.architecture.pruned import UNITS, WITHIN, prunable
from numgpt.data import CHATML
from numgpt.layers.edits import Edit
from numgpt.pruning import masks, smaller, units
from numgpt.tuning.vocabulary import grown

SMALL = {"vocab_size": 11, "block_size": 12, "n_layer": 2, "n_head": 4, "n_embd": 16, "n_inner": 12}
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "bias": False}
CONFIGS = {
    "GPT-2": {},
    "LLaMA": {**LLAMA, "n_kv_head": 2},
    "one key for all": {**LLAMA, "n_kv_head": 1, "head_dim": 6, "tied": False},
    "norms of heads": {"qk_norm": "each", "sink": True},
    "one norm of heads": {"qk_norm": "head", "softcap": 3.0, "positions": "sinusoidal"},
    "experts": {"n_expert": 3, "n_expert_active": 2, "shared_inner": 7, "activation": "geglu"},
    "layers": {"layers": ({"n_head": 2, "window": 4}, {"n_inner": 9, "activation": "reglu"}), "n_layer": 3},
    "post": {"norm_position": "post", "attn_scale": 0.7},
}
RNG = np.random.default_rng(0)
ROWS = RNG.integers(0, 11, (5, 10))
TOKENS, TARGETS = ROWS[:, :-1], ROWS[:, 1:]
MASKED = Pruned()


@pytest.fixture(params=["reference", "numba"])
def on_engine(request):
    before = engine.current()
    engine.use(request.param)
    yield request.param
    engine.use(before)


def a_model(name, dtype="float64"):
    """A model whose biases and norms are no longer what they start as."""
    model = GPT(Config(**SMALL | CONFIGS[name]), seed=1, dtype="float64")
    model.params.flat[:] += 0.1 * np.random.default_rng(3).standard_normal(model.params.flat.size)
    return model.astype(dtype)


@pytest.fixture(params=CONFIGS)
def model(request):
    return a_model(request.param)


def masked_names(model):
    return [name.removesuffix("_mask") for name in model.params.integers]


def is_masked(model, name):
    return model.params[f"{name}_mask"] == 0


# Masks


def test_a_masked_model_is_the_one_with_zeros_in_value_and_gradient(model, on_engine):
    pruned = model.pruned(0.5)
    zeroed = pruned.merged()
    assert zeroed.additions == () and list(zeroed.params) == list(model.params)
    np.testing.assert_allclose(pruned(TOKENS), zeroed(TOKENS), rtol=0, atol=1e-12)
    assert np.abs(pruned(TOKENS) - model(TOKENS)).max() > 1e-3
    (loss, grads), (dense_loss, dense) = (m.loss_and_grads(TOKENS, TARGETS) for m in (pruned, zeroed))
    np.testing.assert_allclose(loss, dense_loss, rtol=1e-13)
    for name in grads:
        expected = dense[name].copy()
        if f"{name}_mask" in pruned.params:
            assert np.abs(expected[is_masked(pruned, name)]).max() > 1e-6  # there is something to leave out
            expected[is_masked(pruned, name)] = 0
            assert not grads[name][is_masked(pruned, name)].any()
        np.testing.assert_allclose(grads[name], expected, rtol=1e-10, atol=1e-12)


def test_what_lies_under_a_mask_does_not_count(on_engine):
    pruned = a_model("GPT-2").pruned(0.5)
    other = copy.deepcopy(pruned)
    for name in masked_names(pruned):
        other.params[name][is_masked(pruned, name)] = 7.0
    np.testing.assert_array_equal(other(TOKENS), pruned(TOKENS))
    np.testing.assert_array_equal(other.merged().params.flat, pruned.merged().params.flat)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.77])
def test_the_least_of_each_matrix_go_and_as_many_as_asked_for(model, sparsity):
    pruned = model.pruned(sparsity)
    assert masked_names(pruned) == [f"{name}.weight" for name in prunable(model.config)]
    for name in masked_names(pruned):
        weight, gone = np.abs(model.params[name]), is_masked(pruned, name)
        for w, g in zip(weight.reshape(-1, *weight.shape[-2:]), gone.reshape(-1, *gone.shape[-2:])):
            assert g.sum() == round(sparsity * g.size)
            assert w[g].max() <= w[~g].min()
        kept = np.where(gone, 0, model.params[name])
        np.testing.assert_array_equal(pruned.params[name], kept)
    others = [name for name in model.params if f"{name}_mask" not in pruned.params]
    assert all(np.array_equal(model.params[name], pruned.params[name]) for name in others)
    assert pruned.n_params == model.n_params


def test_the_least_of_all_matrices_together(model):
    pruned = model.pruned(0.4, within="model")
    pairs = [(np.abs(model.params[n]).ravel(), is_masked(pruned, n).ravel()) for n in masked_names(pruned)]
    weight, gone = (np.concatenate(parts) for parts in zip(*pairs))
    assert gone.sum() == round(0.4 * gone.size) and weight[gone].max() <= weight[~gone].min()
    assert len({g.mean() for _, g in pairs}) > 1


def test_of_equal_scores_as_many_go_as_asked_for():
    assert masks.least(np.zeros(7), 3).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert masks.least(np.array([2.0, 1, 2, 1, 2]), 3).tolist() == [0, 0, 1, 0, 1]
    assert masks.least(np.arange(3.0), 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("pattern", ["2:4", "1:2", "1:4"])
def test_a_pattern_leaves_the_largest_of_each_group_of_inputs(pattern):
    model = a_model("GPT-2")
    n, m = map(int, pattern.split(":"))
    pruned = model.pruned(pattern=pattern)
    for name in masked_names(pruned):
        weight = np.abs(model.params[name])
        groups = weight.reshape(-1, m, weight.shape[-1])
        kept = pruned.params[f"{name}_mask"].reshape(groups.shape) != 0
        assert (kept.sum(1) == n).all()
        largest = np.where(kept, groups, np.inf).min(1)
        assert (np.where(kept, 0, groups).max(1) <= largest).all()


def test_pruning_again_goes_on_from_what_is_masked():
    model = a_model("GPT-2")
    once = model.pruned(0.3)
    once.params.flat[:] += 0.01  # training would move what is left
    twice = once.pruned(0.6, "fisher", ROWS)
    for name in masked_names(twice):
        assert (is_masked(twice, name) | ~is_masked(once, name)).all()
        assert is_masked(twice, name).sum() == round(0.6 * model.params[name].size)
    with pytest.raises(InputError, match="sparsity is 0.2, expected more than 0.3"):
        once.pruned(0.2)
    some = model.pruned(0.5, targets=("h.0.*",))
    assert masked_names(some) == [n for n in masked_names(once) if n.startswith("h.0.")]
    assert masked_names(some.pruned(0.6, targets=("h.1.mlp.*",)))[-1] == "h.1.mlp.c_proj.weight"


def test_masks_are_saved_beside_the_weights(tmp_path, model):
    pruned = model.astype("float32").pruned(0.5)
    pruned.save(tmp_path / "m")
    again = GPT.load(tmp_path / "m")
    assert again.additions == pruned.additions == (MASKED,)
    for name in pruned.params:
        np.testing.assert_array_equal(again.params[name], pruned.params[name])
        assert again.params[name].dtype == pruned.params[name].dtype
    with pytest.raises(InputError, match=r"model\.merged\(\)"):
        pruned.save(tmp_path / "hf", layout="hf")


def test_copies_have_masks_of_their_own():
    pruned = a_model("GPT-2").pruned(0.5)
    for other in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), pruned.astype("float32")):
        np.testing.assert_allclose(other(TOKENS), pruned(TOKENS), rtol=1e-3, atol=1e-5)
        other.params["h.0.mlp.c_fc.weight_mask"][:] = 1
        assert is_masked(pruned, "h.0.mlp.c_fc.weight").any()
    with pytest.raises(InputError, match=r"h.0.attn.c_attn.weight_mask is missing"):
        GPT(pruned.config, params=pruned.merged().params, additions=pruned.additions)


def test_a_masked_model_writes_as_the_one_with_zeros_does(on_engine):
    pruned = a_model("LLaMA").pruned(0.5)
    prompt = [[1, 2, 3], [4, 5, 6]]
    written = pruned.generate(prompt, 9, temperature=1e-3)
    np.testing.assert_array_equal(written, pruned.merged().generate(prompt, 9, temperature=1e-3))


# Training


@pytest.mark.parametrize("name", ["GPT-2", "experts"])
def test_zeros_stay_zero_through_training(name, on_engine):
    model = a_model(name, "float32").pruned(0.5)
    before = copy.deepcopy(model)
    optimizer = AdamW(model, weight_decay=0.5)
    for _ in range(20):
        _, grads = model.loss_and_grads(TOKENS, TARGETS)
        optimizer.step(grads, 1e-2)
    assert float(model.loss(TOKENS, TARGETS)) < float(before.loss(TOKENS, TARGETS)) - 0.1
    for name in masked_names(model):
        gone = is_masked(model, name)
        assert (model.params[name][gone] == 0).all() and (model.params[name][~gone] != 0).all()
        assert not (optimizer.m[name][gone].any() or optimizer.v[name][gone].any())


def test_moments_of_before_the_pruning_revive_nothing():
    model = a_model("GPT-2")
    optimizer = AdamW(model)
    for _ in range(3):
        optimizer.step(model.loss_and_grads(TOKENS, TARGETS)[1], 1e-2)
    pruned = model.pruned(0.5)
    other = AdamW(pruned)
    other.load_state(optimizer.state(), optimizer.steps)
    assert other.m["h.0.mlp.c_fc.weight"].any()
    other.step(pruned.loss_and_grads(TOKENS, TARGETS)[1], 1e-2)
    assert all((pruned.params[name][is_masked(pruned, name)] == 0).all() for name in masked_names(pruned))


def test_a_run_of_a_pruned_model_goes_on_to_the_same_bits(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("she sells sea shells by the sea shore. " * 40)
    corpus = numgpt.prepare(path, split="tail")
    config = Config(vocab_size=corpus.tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16)
    ends = []
    for steps in ((6,), (3, 6)):
        model = GPT(config, seed=0, tokenizer=corpus.tokenizer).pruned(0.5)
        out = tmp_path / str(len(steps))
        for n, last in enumerate(steps):
            training = Training(steps=last, lr=1e-2, min_lr=1e-2, warmup=0, eval_iters=1, schedule="constant")
            trainer = Trainer(GPT.load(out / "last") if n else model, corpus, training, out)
            if n:
                trainer.resume()
            trainer.run()
        ends.append(GPT.load(out / "last"))
        assert is_masked(ends[-1], "h.0.mlp.c_fc.weight").mean() == 0.5
        assert (ends[-1].params["h.0.mlp.c_fc.weight"][is_masked(model, "h.0.mlp.c_fc.weight")] == 0).all()
    np.testing.assert_array_equal(ends[0].params.flat, ends[1].params.flat)


def test_an_adapter_learns_beside_masks(on_engine):
    adapted = a_model("GPT-2").pruned(0.5).extended(LoRA(rank=2))
    lora = [name for name in adapted.params if ".lora_" in name]
    np.testing.assert_allclose(adapted(TOKENS), a_model("GPT-2").pruned(0.5)(TOKENS), rtol=0, atol=1e-12)
    for name in lora:
        adapted.params[name] += 0.3 * np.random.default_rng(2).standard_normal(adapted.params[name].shape)
    np.testing.assert_allclose(adapted(TOKENS), adapted.merged()(TOKENS), rtol=0, atol=1e-12)
    _, grads = adapted.loss_and_grads(TOKENS, TARGETS)
    assert not grads["h.0.mlp.c_fc.weight"][is_masked(adapted, "h.0.mlp.c_fc.weight")].any()
    assert all(grads[name].any() for name in lora)


def test_a_pruned_model_gets_rows_for_new_tokens():
    tokenizer = numgpt.tokenizers.Bytes()
    config = Config(vocab_size=256, block_size=4, n_layer=1, n_head=1, n_embd=8)
    pruned = GPT(config, tokenizer=tokenizer, dtype="float64").pruned(0.5)
    larger = grown(pruned, CHATML.with_specials(tokenizer))
    assert larger.config.vocab_size == 258 and larger.additions == pruned.additions
    np.testing.assert_allclose(larger([5, 6])[..., :256], pruned([5, 6]), rtol=0, atol=1e-12)
    whole = grown(GPT(config, tokenizer=tokenizer, dtype="float64"), CHATML.with_specials(tokenizer))
    np.testing.assert_array_equal(larger.params["wte.weight"], whole.params["wte.weight"])


# Scores


def rise_by_gates(model, name, places):
    """∂L/∂ξ of gates at places of a value's last axis: ⟨a, ∂L/∂a⟩ there, for each row of data."""
    found = []
    for tokens, targets in zip(TOKENS, TARGETS):
        record = model.record(tokens[None], targets[None])
        along = (record.value[name] * record.grad[name]).reshape(-1, record.value[name].shape[-1]).sum(0)
        found.append(along[places].sum(-1))
    return np.array(found)  # (rows, gates)


@pytest.mark.parametrize("name", ["GPT-2", "LLaMA", "one key for all", "norms of heads", "post", "layers"])
@pytest.mark.parametrize("kind", UNITS)
def test_scores_of_units_are_derivatives_by_their_gates(name, kind):
    model = a_model(name)
    step = {"heads": "attn.heads", "neurons": "mlp.act"}[kind]
    for u in units.units_of(model.config, kind)[:2]:
        scope = u.scope.split("mlp")[0]
        expected = rise_by_gates(model, f"{scope}{step}", u.entries[u.output].places)
        found = {
            criterion: numgpt.pruning.criteria.from_data(
                model, criterion, [u.output], ROWS, lambda _, products, u=u: units.gates(u, products)
            )[u.output]
            for criterion in ("gradient", "fisher")
        }
        np.testing.assert_allclose(found["gradient"], abs(expected.mean(0)), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found["fisher"], (expected**2).mean(0) / 2, rtol=1e-9, atol=1e-16)
        assert abs(found["gradient"] - abs(expected).mean(0)).max() > 1e-6  # the mean is of signed numbers


def test_scores_of_weights_are_of_each_examples_gradient():
    model = a_model("GPT-2")
    names = ["h.0.attn.c_attn.weight", "h.1.mlp.c_proj.weight"]
    each = list(numgpt.calculus.per_example_gradients(model, TOKENS, TARGETS))
    for name in names:
        w, g = model.params[name], np.stack([grads[name] for grads in each])
        scores = {
            c: numgpt.pruning.criteria.from_data(model, c, names, ROWS)[name] for c in ("gradient", "fisher")
        }
        np.testing.assert_allclose(scores["gradient"], abs(w * g.mean(0)), rtol=1e-9, atol=1e-16)
        np.testing.assert_allclose(scores["fisher"], w**2 * (g**2).mean(0) / 2, rtol=1e-9, atol=1e-18)


def test_a_first_score_says_what_removing_a_little_costs():
    """All weights shrunk by a millionth: the loss changes by the sum of w ∂L/∂w, the gradient's terms."""
    model = a_model("GPT-2")
    name = "h.0.mlp.c_fc.weight"
    _, grads = model.loss_and_grads(TOKENS, TARGETS)
    terms = model.params[name] * grads[name]
    scores = numgpt.pruning.criteria.from_data(model, "gradient", [name], ROWS)[name]
    np.testing.assert_allclose(scores, abs(terms), rtol=1e-10, atol=1e-16)
    other = copy.deepcopy(model)
    other.params[name] *= 1 - 1e-6
    change = float(other.loss(TOKENS, TARGETS) - model.loss(TOKENS, TARGETS))
    np.testing.assert_allclose(change, -1e-6 * terms.sum(), rtol=1e-4)


# Heads and neurons


def zeroed_outputs(model, some, kept):
    """Edits that set what the units that go give to 0."""
    edits = {}
    for u, left in zip(some, kept):
        step = "attn.heads" if u.field == "n_head" else f"{u.scope.split('.', 2)[2]}act"
        gone = np.setdiff1d(np.arange(u.n), left)
        places = u.entries[u.output].places[gone].ravel()
        name = f"{'.'.join(u.scope.split('.')[:2])}.{step}"

        def forward(value, places=places):
            value = value.copy()
            value[..., places] = 0
            return value

        edits[name] = Edit.of(name, forward)
    return edits


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("criterion", ["magnitude", "fisher"])
def test_a_smaller_model_is_the_one_with_zeroed_outputs(model, kind, within, criterion, on_engine):
    rows = None if criterion == "magnitude" else ROWS
    if kind == "neurons" and model.config.n_expert:
        pytest.skip("experts lose other neurons each: below")
    pruned = model.pruned(0.5, criterion, rows, structured=kind, within=within)
    some = units.units_of(model.config, kind)
    params = model.params
    if rows is None:
        scores = [units.magnitudes(u, params) for u in some]
    else:
        by_output = {u.output: u for u in some}
        found = numgpt.pruning.criteria.from_data(
            model, criterion, [*by_output], rows, lambda name, p: units.gates(by_output[name], p)
        )
        scores = [found[u.output] for u in some]
    kept = units.left(some, scores, 0.5, within)
    record = model.record(TOKENS, TARGETS, edit=zeroed_outputs(model, some, kept))
    smaller_record = pruned.record(TOKENS, TARGETS)
    np.testing.assert_allclose(smaller_record.value["lm_head"], record.value["lm_head"], rtol=0, atol=1e-12)
    assert pruned.n_params < model.n_params
    for left in zip(kept, scores):
        assert len(left[0]) == len(left[1]) or min(left[1][left[0]]) >= max(np.delete(left[1], left[0]))


def test_experts_lose_as_many_neurons_each_their_own(on_engine):
    model = a_model("experts")
    pruned = model.pruned(0.5, structured="neurons")
    assert pruned.config.n_inner == 6 and pruned.config.shared_inner == round(7 / 2 - 0.1)
    zeroed = copy.deepcopy(model)
    for u in units.units_of(model.config, "neurons"):
        scores = units.magnitudes(u, model.params)
        gone = np.argsort(scores, axis=-1)[..., : round(0.5 * u.n)]
        weight = zeroed.params[u.output]
        if u.experts is None:
            weight[gone] = 0
        else:
            assert len({tuple(sorted(g)) for g in gone}) > 1
            for e, g in enumerate(gone):
                weight[e, g] = 0
    np.testing.assert_allclose(pruned(TOKENS), zeroed(TOKENS), rtol=0, atol=1e-12)


def test_a_smaller_model_is_saved_trained_and_adapted(tmp_path, on_engine):
    model = a_model("LLaMA", "float32").extended(Head(labels=("a", "b")))
    pruned = model.pruned(0.5, structured="heads").pruned(0.25, "fisher", ROWS, structured="neurons")
    assert (pruned.config.n_head, pruned.config.n_kv_head, pruned.config.head_size) == (2, 1, 4)
    assert pruned.additions == model.additions
    pruned.save(tmp_path / "m")
    again = GPT.load(tmp_path / "m")
    assert again.config == pruned.config
    np.testing.assert_array_equal(again.params.flat, pruned.params.flat)
    optimizer, before = AdamW(again), float(again.loss(TOKENS, TARGETS))
    for _ in range(10):
        optimizer.step(again.loss_and_grads(TOKENS, TARGETS)[1], 1e-2)
    assert float(again.loss(TOKENS, TARGETS)) < before - 0.1
    masked = again.pruned(0.5)
    assert is_masked(masked, "h.0.attn.c_attn.weight").mean() == 0.5


def test_layers_say_what_differs_and_the_model_what_is_common():
    config = Config(**SMALL | {"n_layer": 4})
    same = smaller.by_layer(config, [{"n_inner": 5}] * 4)
    assert (same.n_inner, same.layers) == (5, None)
    one = smaller.by_layer(config, [{"n_inner": n} for n in (5, 5, 3, 5)])
    assert [c.n_inner for c in one.scopes().values()] == [5, 5, 3, 5] and one.n_inner == 5
    cycle = smaller.by_layer(dataclasses.replace(config, layers=({"window": 3}, {})), [{"n_inner": 7}] * 4)
    assert [dict(layer) for layer in cycle.layers] == [{"window": 3}, {}] and cycle.n_inner == 7
    last = smaller.by_layer(config, [{"n_inner": n} for n in (5, 3, 5, 3)])
    assert len(last.layers) == 2


def test_no_layer_loses_its_last_head():
    some = units.units_of(Config(**SMALL), "heads")
    scores = [np.full(4, 1e-9) * np.arange(4), np.arange(4) + 1.0]
    kept = units.left(some, scores, 0.75, "model")
    assert [k.tolist() for k in kept] == [[3], [3]]
    assert [k.tolist() for k in units.left(some, scores, 0.5, "model")] == [[3], [1, 2, 3]]


# Bad input

REFUSED = {
    "sparsity of 1": ({"sparsity": 1.0}, "sparsity is 1, expected more than 0 and less than 1"),
    "more than 1": ({"sparsity": 1.5}, "sparsity is 1.5"),
    "less than 0": ({"sparsity": -0.1}, "sparsity is -0.1"),
    "none": ({}, "sparsity is missing"),
    "no weight": ({"sparsity": 1e-5}, "masks none of the 768 weights of a matrix, .*: 0.0013 or more"),
    "no weight of all": ({"sparsity": 1e-6, "within": "model"}, "masks none of the .* weights"),
    "all weights": ({"sparsity": 0.9999}, "leaves none of the 768 weights of h.0.attn.c_attn"),
    "all weights of all": ({"sparsity": 1 - 1e-9, "within": "model"}, "leaves none .* of the model"),
    "criterion without data": ({"sparsity": 0.5, "criterion": "fisher"}, "fisher without data"),
    "data for nothing": ({"sparsity": 0.5, "data": ROWS}, "data is given with magnitude"),
    "unknown criterion": ({"sparsity": 0.5, "criterion": "size"}, "criterion is 'size'"),
    "short rows": ({"sparsity": 0.5, "criterion": "fisher", "data": [[1]]}, "rows of 1 token"),
    "long rows": ({"sparsity": 0.5, "criterion": "fisher", "data": [[1] * 14]}, "13 positions"),
    "no pattern": ({"pattern": "4:2"}, "pattern is '4:2'"),
    "pattern that does not divide": ({"pattern": "2:5"}, "expected 5 to divide the 16 inputs of h.0.attn"),
    "pattern and another share": ({"pattern": "2:4", "sparsity": 0.3}, "expected 0.5"),
    "pattern of the model": ({"pattern": "2:4", "within": "model"}, "within is model with the pattern"),
    "pattern of heads": ({"pattern": "2:4", "structured": "heads"}, "pattern is 2:4 with structured heads"),
    "unknown units": ({"sparsity": 0.5, "structured": "layers"}, "structured is 'layers'"),
    "unknown place": ({"sparsity": 0.5, "within": "layer"}, "within is 'layer'"),
    "all heads": ({"sparsity": 0.9, "structured": "heads"}, "none of the 4 heads of h.0, .* at most 0.75"),
    "no head": ({"sparsity": 0.1, "structured": "heads"}, "removes none of the 4 heads .*: 0.25 or more"),
    "no matrix": ({"sparsity": 0.5, "targets": ("wte",)}, "no name fits 'wte'"),
    "no such units": (
        {"sparsity": 0.5, "targets": ("h.*.mlp.*",), "structured": "heads"},
        "targets has no c_proj of heads",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_pruned_is_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        a_model("GPT-2").pruned(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "alibi"}, "slopes follow from the number of heads"),
        ({"qk_norm": "full"}, "measures all heads together"),
        ({"n_layer": 0, "n_inner": None}, "it has no layers"),
        ({"n_head": 1}, "none of the 1 heads .* prune neurons or weights"),
    ],
)
def test_heads_that_depend_on_each_other_stay(changes, message):
    model = GPT(Config(**SMALL | changes))
    with pytest.raises(InputError, match=message):
        model.pruned(0.5, structured="heads")
    if model.config.n_layer == 0:
        with pytest.raises(InputError, match="no matrices to prune"):
            model.pruned(0.5)


def test_models_that_hold_their_matrices_otherwise_are_refused():
    model = a_model("GPT-2")
    with pytest.raises(InputError, match="the model is quantized"):
        model.quantize().pruned(0.5)
    with pytest.raises(InputError, match="the model has an adapter"):
        model.extended(LoRA(rank=1)).pruned(0.5)
    with pytest.raises(InputError, match="the model has masks"):
        model.pruned(0.5).pruned(0.5, structured="heads")
    with pytest.raises(InputError, match="the model has masks"):
        model.pruned(0.5).quantize()
    rounded = model.pruned(0.5).merged().quantize()
    assert (rounded.dequantized().params["h.0.mlp.c_fc.weight"] == 0).mean() >= 0.5
    served = GPT(model.config, params=model.params, served={"h.0.mlp.c_fc": numgpt.ops.linear})
    with pytest.raises(InputError, match="other ops are served"):
        served.pruned(0.5)
    with pytest.raises(InputError, match="Pruned is there twice"):
        Pruned() and GPT(model.config, additions=(Pruned(), Pruned()))
    with pytest.raises(InputError, match="Quantized or Pruned"):
        GPT(model.config, additions=(Pruned(),))
