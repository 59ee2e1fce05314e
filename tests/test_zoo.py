"""Every class of transformers that is read: its function, gradients and files both ways, and refusals."""

import functools
import itertools
import json
import re
import tracemalloc

import numpy as np
import pytest
from tiny_classes import said

from numgpt import GPT, Config, InputError
from numgpt.__main__ import main
from numgpt.architecture.by_layer import meaning
from numgpt.architecture.parameters import shapes
from numgpt.interchange import huggingface
from numgpt.interchange.architectures import ARCHITECTURES
from numgpt.interchange.classes import ROWS
from numgpt.interchange.mixture_classes import MIXTURES
from numgpt.interchange.parameter_names import line_of, lines, packed_order, placeholders
from numgpt.parity import zoo

every_case = pytest.mark.parametrize("case", zoo.CASES)
every_kind = pytest.mark.parametrize("kind", ROWS | MIXTURES)
every_class = pytest.mark.parametrize("kind", ARCHITECTURES)
TOKENS, TARGETS = zoo.batch()
# Keys that say what a file is, which tokens are special, and what a call gives besides.
NOT_COMPUTED = {"model_type", "architectures", "transformers_version", "dtype", "use_cache", "return_dict"}
NOT_COMPUTED |= {"bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type"}
NOT_COMPUTED |= {"output_hidden_states", "output_attentions", "output_router_logits"}


@functools.cache
def model_of(case):
    """A model of ours with the settings of a case, every parameter random."""
    transformers = pytest.importorskip(
        "transformers", minversion="5", reason="transformers 5 is not installed"
    )
    kind, changes = zoo.CASES[case]
    theirs = transformers.AutoConfig.for_model(kind, **zoo.SIZE | changes)
    config = ARCHITECTURES[kind].config(json.loads(theirs.to_json_string(use_diff=False)), "")
    model = GPT(config, 0, "float64")
    model.params.flat += 0.3 * np.random.default_rng(1).standard_normal(model.n_params)
    return model


@every_case
def test_logits_gradients_decoding_and_files_are_those_of_transformers(case, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")
    found = zoo.found(case, tmp_path)
    assert found.holds(), found


@every_case
def test_what_is_written_means_what_was_read(case, tmp_path):
    kind, model = zoo.CASES[case][0], model_of(case)
    row = ARCHITECTURES[kind]
    written = json.loads(json.dumps(row.write(model.config)))
    assert meaning(row.config(written, "")) == meaning(model.config)
    assert not row.differing(model.config)
    huggingface.save(tmp_path / "ours", model, kind=kind)
    again = GPT.load(tmp_path / "ours")
    assert meaning(again.config) == meaning(model.config)
    np.testing.assert_allclose(again.params.flat, model.params.flat, rtol=0, atol=1e-15)


@every_case
def test_every_parameter_has_a_line_and_every_order_is_a_permutation(case):
    config, row = model_of(case).config, ARCHITECTURES[zoo.CASES[case][0]]
    numbers = iter(range(1, 10**6))
    arrays = {
        name: np.fromiter(itertools.islice(numbers, int(np.prod(shape))), int).reshape(shape)
        for name, shape in shapes(config).items()
    }
    pieces = row.pieces(config, arrays)
    every = np.concatenate([p.elsewhere(arrays[p.ours], is_gradient=True).ravel() for p in pieces.values()])
    assert np.array_equal(np.sort(every[every > 0]), np.arange(1, next(numbers)))
    again = {name: np.zeros_like(array) for name, array in arrays.items()}
    for piece in pieces.values():
        piece.put(again[piece.ours], piece.elsewhere(arrays[piece.ours]))
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())


@every_case
def test_three_steps_lower_the_loss(case):
    model = model_of(case)
    flat, losses = model.params.flat.copy(), []
    for _ in range(4):
        loss, grads = model.loss_and_grads(TOKENS, TARGETS)
        losses.append(float(loss))
        model.params.flat -= 0.02 * grads.flat / np.linalg.norm(grads.flat)
    model.params.flat[...] = flat
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
@every_case
def test_transformers_computes_what_we_wrote(case, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    kind, model = zoo.CASES[case][0], model_of(case)
    of_kind = zoo.classes(kind)[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    huggingface.save(tmp_path / "ours", model, kind=kind)
    attention = "sdpa" if case in zoo.BY_SDPA else "eager"
    with zoo.float64_throughout() as torch:
        theirs = of_kind.from_pretrained(
            tmp_path / "ours", dtype=torch.float64, attn_implementation=attention
        )
        logits, _ = zoo.outcome(theirs.eval(), TOKENS, TARGETS)
    assert zoo.apart(model(TOKENS), logits) < 1e-12


def others_of(value):
    """Values of a key besides its own, of the types that it may have."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2 + 0.25, 2 * value + 3]
    return [True, 2, 0.5, "gelu", "relu"] if value is None or isinstance(value, str) else []


@pytest.mark.slow
@every_class
def test_a_key_that_is_not_read_changes_nothing(kind):
    """Whatever it says, transformers refuses it, has other arrays for it, or computes the same."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    case = next(case for case, (of, _) in zoo.CASES.items() if of == kind)
    row, (of_config, of_model) = ARCHITECTURES[kind], zoo.classes(kind)
    read = {*row.sizes.values(), *row.others, *row.older, *row.defaults}
    attention = "sdpa" if case in zoo.BY_SDPA else "eager"
    with zoo.float64_throughout() as torch:
        theirs = zoo.reference(case)
        expected, _ = zoo.outcome(theirs, TOKENS, TARGETS)
        whole = {**json.loads(theirs.config.to_json_string(use_diff=False)), "use_cache": False}
        for key in sorted(set(whole) - read - NOT_COMPUTED):
            for value in others_of(whole[key]):
                try:
                    config = of_config(**{**whole, key: value})
                    config._experts_implementation = "eager"
                    other = of_model._from_config(config, attn_implementation=attention, dtype=torch.float64)
                    other.load_state_dict(theirs.state_dict())
                    logits, _ = zoo.outcome(other.eval(), TOKENS, TARGETS)
                except Exception:  # refused, in one of many ways, or of other arrays
                    continue
                assert zoo.apart(logits, expected) < 1e-12, (key, value)


@every_kind
def test_no_line_of_a_table_is_unused(kind):
    """A tied model has no line of the head's, and a case whose queries have no norm none of that."""
    row, used, there = ARCHITECTURES[kind], {"lm_head"}, {"lm_head"}
    for config in (model_of(case).config for case, (of, _) in zoo.CASES.items() if of == kind):
        used |= {line_of(name, len(shape)) for name, shape in shapes(config).items()}
        there |= set(lines(row.table_of(config)))
    assert used == there


@every_kind
def test_what_a_file_leaves_out_is_its_classs_default(kind):
    transformers = pytest.importorskip(
        "transformers", minversion="5", reason="transformers 5 is not installed"
    )
    row, theirs = ARCHITECTURES[kind], transformers.AutoConfig.for_model(kind)
    whole = json.loads(theirs.to_json_string(use_diff=False))
    assert meaning(row.config({"model_type": kind}, "")) == meaning(row.config(whole, ""))


# Each is found in a model whose heads, groups and parts of heads differ.
@pytest.mark.parametrize(
    "case, wrong",
    [
        ("GPT-NeoX", ("grouped", "")),
        ("GPT-J", ("interleaved", "")),
        ("CodeGen", ("by_quarters", "grouped")),
        ("Gemma", ("plus_one", "")),
        ("Falcon, new", ("grouped", "")),
    ],
)
def test_an_order_that_is_read_wrongly_shows(case, wrong, tmp_path, monkeypatch):
    pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")
    kind = zoo.CASES[case][0]
    row = ARCHITECTURES[kind]

    def table(config):
        return row.table_of(config).replace(*wrong)

    monkeypatch.setitem(ARCHITECTURES, kind, row._replace(table=table))
    found = zoo.found(case, tmp_path)
    assert found.logits > 1e-2 and found.cached > 1e-2


def test_the_columns_of_an_order():
    """Two key heads, three query heads each, four features of which two turn."""
    kind = Config(n_layer=1, n_head=6, n_kv_head=2, n_embd=24, positions="rotary", rotary_dim=4)
    q, k, v = packed_order(kind, ["interleaved"])
    assert q[:4].tolist() == [0, 2, 1, 3] and k[:4].tolist() == [24, 26, 25, 27]
    assert v.tolist() == list(range(32, 40))
    (grouped,) = packed_order(kind, ["grouped"])
    assert grouped[:20].tolist() == [*range(12), *range(24, 28), *range(32, 36)]


KEYS = {"vocab_size": 19, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 4}
KEYS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "head_dim": 8}
TYPES = ["sliding_attention", "full_attention"] * 2


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("gpt_neo2", {}, "model_type is 'gpt_neo2' .did you mean gpt_neo"),
        ("mamba", {}, "model_type is 'mamba', a class that numgpt does not read, expected one of gpt2"),
        ("gemma2", {"layer_types": TYPES[:3]}, "layer_types is .* expected num_hidden_layers 4 of"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None, expected an integer .*, for layer"),
        ("gemma2", {"sliding_window": -1}, "sliding_window is -1, expected an integer from 1 to"),
        ("gemma2", {"query_pre_attn_scalar": "7"}, "query_pre_attn_scalar is '7', expected a number"),
        ("gemma2", {"final_logit_softcapping": -1.0}, "final_logit_softcapping is -1.0, expected a number a"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, expected Non"),
        ("gemma3_text", {"rope_parameters": {"full_attention": 3}}, "rope_parameters is .* a mapping for fu"),
        ("phi", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5, expected a number above 0, a"),
        ("phi", {"qk_layernorm": "yes"}, "qk_layernorm is 'yes', expected true or false"),
        ("nemotron", {"hidden_act": "swish2"}, "hidden_act is 'swish2', expected one of"),
        ("cohere", {"use_qk_norm": "yes"}, "use_qk_norm is 'yes', expected true or false"),
        ("falcon", {"multi_query": False, "num_kv_heads": 2}, "num_kv_heads is 2, expected num_attention_he"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn is 2, expected 1, or 2 in a new"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers is .1, 0., expected num_hidden_layers 4 of"),
        ("smollm3", {"layer_types": TYPES}, "layer_types is .* expected full_attention in all layers"),
        ("olmo", {"clip_qkv": 8.0}, "clip_qkv is 8.0, expected None: queries, keys and values are not clipp"),
        ("gpt_neo", {"num_layers": 4, "num_heads": 4, "attention_types": 3}, "attention_types is 3, expecte"),
        ("gpt_neo", {"num_hidden_layers": 5}, "attention_types is .* expected num_layers 5 of glob"),
        ("gptj", {"n_embd": 24, "n_head": 4, "rotary_dim": None}, "rotary_dim is None, expected a value"),
        ("gptj", {"n_embd": 24, "n_head": 4, "rotary_dim": 3}, "rotary_dim is 3, expected an even number"),
        ("gptj", {"n_embd": 24, "n_head": 4, "rotary_dim": 4, "tie_word_embeddings": True}, "tie_word_embe"),
        ("codegen", {"n_embd": 24, "num_attention_heads": 3, "rotary_dim": 4}, "n_head is 3, expected a mu"),
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config is {'alibi': False}, expected alibi True"),
        ("mpt", {"expansion_ratio": 2}, "expansion_ratio is 2, expected 4"),
        ("opt", {"word_embed_proj_dim": 12}, "word_embed_proj_dim is 12, expected hidden_size 24: embedding"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is False, expected"),
        ("granite", {"residual_multiplier": 0}, "residual_multiplier is 0, expected a number above 0"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layer"),
        ("gpt_bigcode", {"n_embd": 24, "n_head": 4, "scale_attn_weights": False}, "scale_attn_weights is Fa"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_config_says_wrongly_is_one_line_that_names_the_key(kind, changes, message, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind} | KEYS | changes))
    with pytest.raises(InputError, match=message):
        huggingface.config_from({"model_type": kind} | KEYS | changes, tmp_path / "config.json")
    if kind in ARCHITECTURES:
        assert main(["info", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


NONSENSE = [None, "x", -1, [], {}, True, 2**70, 0.5, 0, 1, 3, 1e300, ["x"], {"a": 1}, [1.0, "x"], "yarn"]
ROPES = (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "yarn", "factor": 2.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.1},
    {"rope_type": "yarn", "truncate": False, "mscale": 1.0, "mscale_all_dim": 1.0},
    {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0], "attention_factor": 1.1},
)


def expect_named(row, stored, *keys):
    """A Config, or one line that names one of some keys."""
    try:
        row.config(stored, "config.json")
    except InputError as error:
        text = str(error)
        assert text.startswith("config.json: ") and text.isprintable()
        assert any(re.search(rf"\b{key}\b", text) for key in keys), (keys, text)


@every_class
def test_whatever_a_key_says_is_a_config_or_one_line_that_names_the_key(kind):
    row, base = ARCHITECTURES[kind], said(kind)
    for key, value in itertools.product({*row.sizes.values(), *row.others, *base}, NONSENSE):
        expect_named(row, base | {key: value}, key)


@every_class
def test_whatever_stands_below_a_key_is_a_config_or_one_line_that_names_either(kind):
    row, base = ARCHITECTURES[kind], said(kind)
    inner = {key: value for key, value in base.items() if isinstance(value, dict)}
    rope = inner.pop("rope_parameters", None)
    for key, below in inner.items():
        for name, value in itertools.product(below, NONSENSE):
            expect_named(row, base | {key: below | {name: value}}, key, name)
    if rope is None:
        return
    alone = {key: value for key, value in base.items() if key not in ("rope_theta", "rope_scaling")}
    for own in ROPES:
        own = own | {"rope_theta": 1e4, "original_max_position_embeddings": 2}
        for name, value in itertools.product(own, NONSENSE):
            changed = own | {name: value}
            if "full_attention" in rope:
                changed = rope | {"full_attention": changed}
            expect_named(row, alone | {"rope_parameters": changed}, "rope_parameters", name)


@pytest.mark.parametrize(
    "kind, keys, named",
    [
        ("bloom", {"n_embed": 16}, "n_embed is 16, expected 8 as hidden_size says, or only one"),
        ("qwen3_moe", {"num_experts": 4}, "num_experts is 4, expected 3 as num_local_experts says"),
        ("gpt_neox", {"rotary_pct": 0.5}, "rotary_pct is 0.5, expected 1.0 as partial_rotary_factor says"),
        ("phi", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected .* as in rope_param"),
        ("llama", {"rope_theta": 5.0}, "rope_theta is 5.0, expected rope_theta 10000.0 as in rope_"),
        ("gpt_neo", {"attention_layers": ["local"] * 2}, "attention_layers is .* the kinds of attention_typ"),
        ("cohere2", {"layer_types": TYPES[1:3], "sliding_window_pattern": 2}, "layer_types is .* in every"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types is .* as the other keys say"),
        ("mixtral", {"num_experts_per_tok": 4}, "num_experts_per_tok is 4, expected at most num_local_expe"),
        ("qwen2_moe", {"num_experts": 1}, "num_experts_per_tok is 2, expected at most num_experts 1"),
    ],
    ids=str,
)  # fmt: skip
def test_keys_that_contradict_each_other_are_one_line(kind, keys, named):
    with pytest.raises(InputError, match=named):
        ARCHITECTURES[kind].config(said(kind) | {"layer_types": None} | keys, "config.json")


@every_class
@pytest.mark.parametrize("key", ["n_embd", "n_inner", "n_kv_head", "head_dim", "vocab_size", "n_expert"])
def test_a_size_that_no_file_has_takes_no_memory(kind, key):
    """Names and shapes are asked for before a file is looked at."""
    row, stored = ARCHITECTURES[kind], said(kind)
    named = [row.sizes.get(key), *(k for k in ("num_experts", "num_local_experts") if key == "n_expert")]
    changes = {name: 2**24 for name in named if name in stored}
    tracemalloc.start()
    try:
        row.shapes(row.config(stored | changes, "config.json"))
    except InputError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2**20, f"{peak:,} bytes"


@pytest.mark.parametrize("kind", ["cohere2", "gemma3_text"])
def test_an_older_file_says_every_how_many_layers_one_sees_all(kind):
    stored = said(kind) | {"layer_types": None, "num_hidden_layers": 4, "sliding_window_pattern": 2}
    windows = [k.window for k in ARCHITECTURES[kind].config(stored, "config.json").scopes().values()]
    assert windows == [2, None, 2, None]


def test_a_mixture_whose_layers_all_have_experts_says_a_width_that_none_has():
    stored = said("qwen2_moe") | {"mlp_only_layers": [], "intermediate_size": 7}
    kinds = ARCHITECTURES["qwen2_moe"].config(stored, "config.json").scopes().values()
    assert [(kind.ffn_width, kind.window) for kind in kinds] == [(4, None), (4, 2)]


def test_placeholders_are_enough_to_ask_for_shapes():
    config = Config(
        n_layer=1, n_head=4, n_embd=32, positions="rotary", rotary_dim=4, norm_position="parallel"
    )
    row = ARCHITECTURES["gptj"]
    assert row.shapes(config)["h.0.attn.q_proj.weight"] == (32, 32) and placeholders(config)


@every_kind
def test_info_prints_our_names_beside_those_of_a_class(kind, capsys):
    """Every name that a file of the class has is one of a line's, for some block and some expert."""
    assert main(["info", "--names", kind]) == 0
    (heading, *rows) = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert heading == ["numgpt", ARCHITECTURES[kind].model, "there"]
    assert ["h.{i}.attn.c_attn"] in [row[:1] for row in rows]
    config = ARCHITECTURES[kind].config({}, "config.json")
    table = ARCHITECTURES[kind].table_of(config)
    assert len(rows) == len(lines(table))


def test_info_refuses_the_names_of_a_class_that_is_not_there(capsys):
    assert main(["info", "--names", "lama"]) == 2
    assert "'lama' is no class that is known here (did you mean llama?)" in capsys.readouterr().err


def test_verify_prints_a_line_a_class_and_refuses_one_that_is_not_there(capsys):
    pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")
    assert main(["verify", "--zoo", "arcee", "glm-4"]) == 0
    out = capsys.readouterr().out
    assert "Arcee" in out and "GLM-4" in out and "2 models of transformers, 0 failed" in out
    assert main(["verify", "--zoo", "gemma9"]) == 2
    assert "the zoo has no class 'gemma9' (did you mean" in capsys.readouterr().err


def test_what_is_no_number_or_of_another_shape_is_infinitely_far():
    ones = np.ones(3)
    assert zoo.apart(ones, ones * 2) == 0.5 and zoo.apart(ones, ones * 2, least=4.0) == 0.25
    assert zoo.apart(ones * np.nan, ones) == zoo.apart(ones, np.ones(2)) == np.inf
    assert zoo.gradients_apart({"a": ones}, {"b": ones}) == zoo.files_apart({}, {"b": ones}) == np.inf
    assert zoo.gradients_apart({"a": ones * np.nan, "b": ones}, {"a": ones, "b": ones}) == np.inf
    assert not zoo.Found("", "gemma", 1e-15, 1e-15, np.inf, 0.0).holds()
    assert not zoo.Found("", "gemma", 1e-15, 1e-11, 1e-15, 0.0).holds()
