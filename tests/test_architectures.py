"""Llama, Mistral and Qwen2 of transformers: the same functions, gradients and files; the rest is one line."""

import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from widened import CASES, SIZE, classes, expect_near, outcome, reference

from numgpt import GPT, Config, InputError, tokenizers
from numgpt.__main__ import main
from numgpt.architecture import presets
from numgpt.architecture.by_layer import meaning
from numgpt.architecture.parameters import shapes
from numgpt.interchange.architectures import ARCHITECTURES, fitting
from numgpt.interchange.llama_keys import GATES, shortest_cycle
from numgpt.interchange.parameter_names import lines, placeholders, split_name
from numgpt.model.generate import logits_stream
from numgpt.ops.activations import ACTIVATIONS
from numgpt.parity.zoo import float64_throughout

TOKENS, TARGETS = np.random.default_rng(0).integers(0, 19, (2, 2, 12))
every_case = pytest.mark.parametrize("case", CASES)
FORMS = {
    "vocab_size": 19,
    "block_size": 16,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 24,
    "n_inner": 20,
    "norm": "rmsnorm",
    "positions": "rotary",
    "activation": "swiglu",
    "bias": False,
    "tied": False,
}
# Configs that a class has, each with that class: what differs from FORMS.
FITTING = [
    ("llama", {}),
    ("llama", {"n_kv_head": 2, "rotary_base": 500.0, "tied": True}),
    ("llama", {"n_kv_head": 4, "n_inner": None, "head_dim": 6, "rotary_dim": 6}),  # what their defaults mean
    ("llama", {"head_dim": 10, "activation": "geglu_tanh", "dropout": 0.1}),
    ("llama", {"bias": True}),
    ("llama", {"bias": True, "biases": "qkv out mlp"}),
    ("llama", {"bias": True, "biases": "qkv out", "activation": "reglu"}),
    ("llama", {"bias": True, "biases": "mlp", "activation": "geglu"}),
    ("llama", {"rotary_scaling": {"kind": "linear", "factor": 4}}),
    ("llama", {"rotary_scaling": {"kind": "dynamic", "factor": 4, "length": 16}}),
    ("llama", {"rotary_scaling": {"kind": "llama3", "factor": 8, "low": 1, "high": 4, "length": 8}}),
    ("llama", {"rotary_scaling": {"kind": "yarn", "factor": 8, "length": 4}}),
    (
        "llama",
        {
            "rotary_scaling": {
                "kind": "yarn",
                "factor": 8,
                "length": 4,
                "slow": 2,
                "size": 1.5,
                "truncate": False,
            }
        },
    ),
    (
        "llama",
        {
            "rotary_scaling": {
                "kind": "longrope",
                "short": [1, 2, 3],
                "long": [4, 5, 6],
                "length": 8,
                "size": 1.5,
            }
        },
    ),
    ("llama", {"rotary_scaling": {"kind": "longrope", "short": [1, 2, 3], "long": [4, 5, 6], "length": 8}}),
    ("llama", {"n_inner": None, "layers": [{"n_inner": 20}]}),  # one kind, said in layers
    ("mistral", {"window": 5}),
    ("mistral", {"n_embd": 26, "head_dim": 6}),  # a Llama's heads divide its width
    ("qwen2", {"bias": True, "biases": "qkv"}),
    ("qwen2", {"bias": True, "biases": "qkv", "window": 5}),
    ("qwen2", {"bias": True, "biases": "qkv", "layers": [{}, {"window": 5}, {"window": 5}]}),
    ("qwen2", {"bias": True, "biases": "qkv", "window": 5, "layers": [{}, {"window": None}]}),
]


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(case, the folder that transformers wrote, its logits, loss and gradients, our model)."""
    classes(CASES[request.param][0])
    folder = tmp_path_factory.mktemp("theirs")
    with float64_throughout():
        theirs = reference(request.param)
        expected = outcome(theirs, TOKENS, TARGETS)
        theirs.save_pretrained(folder)
    return request.param, folder, expected, GPT.load(folder)


def architecture_of(case):
    return ARCHITECTURES[CASES[case][0]]


def test_logits_loss_and_gradients_are_those_of_transformers(pair, each_engine):
    case, _, (logits, loss, grads), model = pair
    assert model.params.dtype == np.float64
    expect_near(model(TOKENS), logits)
    ours, gradients = model.loss_and_grads(TOKENS, TARGETS)
    assert abs(ours - loss) <= 1e-13 * loss
    named = architecture_of(case).arrays(model.config, gradients)
    assert set(named) == set(grads)
    for name, gradient in named.items():
        expect_near(gradient, grads[name])


# What a reader may get wrong: a case, and a change of what it reads.
WRONG = [
    ("Llama", {"layer_norm_epsilon": 1.1e-6}),
    ("Llama", {"rotary_base": 10001.0}),
    ("Llama, llama3", {"rotary_scaling": None}),
    ("Llama, yarn", {"rotary_scaling": {"kind": "yarn", "factor": 2.0, "length": 8, "slow": 0.05}}),
    ("Llama with biases", {"activation": "geglu_tanh"}),
    ("Mistral", {"window": 4}),
    ("Mistral", {"window": 6}),
    ("Qwen2, a window from a layer on", {"layers": ({"window": 5}, {}, {})}),
]


@pytest.mark.parametrize("case, changes", WRONG, ids=str)
def test_the_oracle_tells_a_setting_that_is_read_wrongly(case, changes, tmp_path):
    classes(CASES[case][0])
    with float64_throughout():
        theirs = reference(case)
        logits, _, _ = outcome(theirs, TOKENS, TARGETS)
        theirs.save_pretrained(tmp_path)
    model = GPT.load(tmp_path)
    expect_near(model(TOKENS), logits)
    wrong = GPT(dataclasses.replace(model.config, **changes), params=model.params, dtype="float64")
    with pytest.raises(AssertionError, match="of the largest entry"):
        expect_near(wrong(TOKENS), logits)


def test_pytorch_is_as_it_was_after_a_widened_run():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with contextlib.suppress(ZeroDivisionError), float64_throughout():
        assert torch.float32 is torch.float64 and torch.ones(2).float().dtype == torch.float64
        raise ZeroDivisionError
    assert torch.float32 is torch.float is not torch.float64
    assert torch.get_default_dtype() == torch.float32 == torch.ones(2).double().float().dtype


def test_decoding_with_a_cache_gives_the_logits_of_the_whole(pair, each_engine):
    *_, (logits, _, _), model = pair
    if (model.config.rotary_scaling or {}).get("kind") in ("dynamic", "longrope"):
        pytest.skip("the angles of the whole are those of its length: see the next test")
    stream = logits_stream(model, TOKENS[:, :4])
    expect_near(next(stream), logits[:, 3])
    for t in range(4, 12):
        expect_near(stream.send(TOKENS[:, t]), logits[:, t])


def test_decoding_follows_angles_that_depend_on_the_length(pair, each_engine):
    *_, model = pair
    stream = logits_stream(model, TOKENS[:, :4])
    next(stream)
    for t in range(4, 12):
        expect_near(stream.send(TOKENS[:, t]), model(TOKENS[:, : t + 1])[:, -1])


def test_what_transformers_wrote_is_written_again_to_the_bit(pair, tmp_path):
    case, folder, _, model = pair
    model.save(tmp_path / "ours", layout="hf")
    theirs, ours = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "ours"))
    assert set(ours) == set(theirs)
    assert all(ours[name].tobytes() == array.tobytes() for name, array in theirs.items())
    assert GPT.load(tmp_path / "ours").config == model.config
    kind = json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"]
    assert kind == CASES[case][0] or case in ("Mistral without a window",)


def test_transformers_computes_what_we_wrote(pair, tmp_path, monkeypatch):
    case, _, (logits, _, _), model = pair
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model.save(tmp_path / "ours", layout="hf")
    kind = json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"]
    _, of_kind = classes(kind)
    with float64_throughout() as torch:
        theirs = of_kind.from_pretrained(
            tmp_path / "ours", dtype=torch.float64, attn_implementation="eager"
        ).eval()
        found, _, _ = outcome(theirs, TOKENS, TARGETS)
    expect_near(found, logits)


def test_older_versions_keys_mean_the_same(pair, tmp_path):
    """rope_theta and rope_scaling at the top, "type" for rope_type, names without their prefix."""
    _, folder, _, model = pair
    stored = json.loads((folder / "config.json").read_text())
    rope = stored.pop("rope_parameters")
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    stored |= {"rope_theta": theta, "rope_scaling": None if kind == "default" else rope | {"type": kind}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    arrays = {n.removeprefix("model."): a for n, a in load_file(folder / "model.safetensors").items()}
    arrays["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3)
    save_file(arrays, tmp_path / "model.safetensors")
    again = GPT.load(tmp_path)
    assert again.config == model.config and again.params.flat.tobytes() == model.params.flat.tobytes()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_what_a_file_leaves_out_is_its_classs_default(kind):
    """A file may say nothing but its model_type."""
    config, _ = classes(kind)
    row = ARCHITECTURES[kind]
    whole = json.loads(config().to_json_string(use_diff=False))
    assert row.config({"model_type": kind}, "") == row.config(whole, "")


@pytest.mark.parametrize("kind, changes", FITTING, ids=str)
def test_a_config_fits_the_class_that_gives_it_back(kind, changes, tmp_path):
    config = Config(**FORMS | changes)
    assert fitting(config) == (kind, ARCHITECTURES[kind])
    stored = json.loads(json.dumps(ARCHITECTURES[kind].write(config)))
    assert meaning(ARCHITECTURES[kind].config(stored, "")) == meaning(config)
    model = GPT(config, 1)
    model.save(tmp_path / "theirs", layout="hf")
    again = GPT.load(tmp_path / "theirs")
    assert meaning(again.config) == meaning(config)
    assert again.params.flat.tobytes() == model.params.flat.tobytes()
    model.save(tmp_path / "theirs", layout="hf")  # what is its own may be replaced


# The beginning of a preset's name → the class that it is saved as. A Phi-3 with a window is a Mistral.
KIND_OF = {
    **{
        "gpt": "gpt2",
        "gpt1": "openai-gpt",
        "gpt-oss": "gpt_oss",
        "llama": "llama",
        "tinyllama": "llama",
        "stories": "llama",
    },
    **{"mistral": "mistral", "moe": "mixtral", "mixtral": "mixtral", "granite3": "granite"},
    **{"qwen2": "qwen2", "qwen1.5-moe": "qwen2_moe", "qwen3": "qwen3"},
    **{"qwen3-30b": "qwen3_moe", "qwen3-235b": "qwen3_moe"},
    **{"gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text", "phi": "phi", "phi3": "mistral"},
    **{"falcon": "falcon", "olmo2": "olmo2", "olmoe": "olmoe"},
}


@pytest.mark.parametrize("name", presets.MODELS)
def test_every_preset_has_a_class(name):
    kind, _ = fitting(presets.preset(name))
    assert kind == KIND_OF[max((start for start in KIND_OF if name.startswith(start)), key=len)]


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"softcap": 3.0},
            "the model has softcap 3.0, which with its other settings no class of transformers has",
        ),
        ({"rotary_dim": 4, "softcap": 1.0}, "save it as numgpt's own"),
        ({"bias": True, "biases": "out"}, "biases out"),
        ({"activation": "silu", "head_dim": 4, "sink": True}, "the model has"),
        ({"norm": "layernorm"}, "norm layernorm"),
        ({"norm_position": "post"}, "norm_position post"),
        ({"positions": "learned"}, "positions learned"),
        ({"rotary_scaling": {"kind": "dynamic", "factor": 4, "length": 15}}, "rotary_scaling"),
        ({"bias": True, "biases": "qkv", "layers": [{"window": 4}, {"window": 5}]}, "window 4 and 5"),
        ({"layers": [{}, {"n_inner": 5}]}, "n_inner 20 and 5"),
    ],
    ids=str,
)
def test_a_model_that_no_class_computes_is_refused_by_what_differs(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        GPT(Config(**FORMS | changes)).save(tmp_path / "theirs", layout="hf")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen2"])
def test_every_line_of_a_table_is_of_a_parameter_and_every_parameter_has_one(kind):
    row = ARCHITECTURES[kind]
    sizes = {
        "vocab_size": 11,
        "block_size": 8,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 8,
        "n_inner": 10,
        "tied": False,
    }
    forms = {} if kind == "gpt2" else {key: FORMS[key] for key in ("norm", "positions", "activation")}
    config = Config(**sizes | forms | ({} if kind == "gpt2" else {"n_kv_head": 2}))
    named = lines(row.table)
    assert {split_name(name)[0] for name in shapes(config)} == set(named)
    numbers = iter(range(10**6))
    arrays = {
        name: np.fromiter(itertools.islice(numbers, int(np.prod(shape))), int).reshape(shape)
        for name, shape in shapes(config).items()
    }
    views = row.views(config, arrays)
    every = np.concatenate([view.ravel() for view in views.values()])
    assert np.array_equal(
        np.sort(every), np.arange(next(numbers))
    )  # a permutation: nothing lost, nothing twice
    assert {name: view.shape for name, view in views.items()} == row.shapes(config)
    assert all(np.shares_memory(view, array) for view, array in zip(views.values(), views.values()))
    assert sum(array.nbytes for array in placeholders(config).values()) > 0


def test_queries_keys_and_values_are_columns_and_gates_come_first():
    config = Config(**FORMS | {"n_kv_head": 2})
    arrays = {name: np.random.default_rng(0).standard_normal(shape) for name, shape in shapes(config).items()}
    views = ARCHITECTURES["llama"].views(config, arrays)
    qkv, both = arrays["h.1.attn.c_attn.weight"], arrays["h.1.mlp.c_fc.weight"]
    for name, columns in (("q", slice(0, 24)), ("k", slice(24, 36)), ("v", slice(36, 48))):
        assert np.array_equal(views[f"layers.1.self_attn.{name}_proj.weight"], qkv[:, columns].T)
    for name, columns in (("gate", slice(0, 20)), ("up", slice(20, 40))):
        assert np.array_equal(views[f"layers.1.mlp.{name}_proj.weight"], both[:, columns].T)
    views["layers.1.mlp.up_proj.weight"][...] = 7  # views: what is written there is in the array
    assert (both[:, 20:] == 7).all() and not (both[:, :20] == 7).any()


def test_every_gated_activation_has_the_name_of_its_gate():
    gated = {name for name, row in ACTIVATIONS.items() if row.gated}
    assert set(GATES) == gated - {"swiglu_clamped"}  # which is of GPT-OSS, whose files do not name it
    assert all(ACTIVATIONS[gate].transformers for gate in GATES.values())


@pytest.mark.parametrize(
    "sequence, cycle",
    [("aaaa", "a"), ("abab", "ab"), ("aba", "ab"), ("abcabca", "abc"), ("aab", "aab"), ("", "")],
)
def test_the_shortest_cycle(sequence, cycle):
    assert shortest_cycle(sequence) == cycle


KINDS = {"llama": {}, "mistral": {}, "qwen2": {}}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
LAYERS = ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        (
            "llama",
            {"num_key_value_heads": 3},
            "num_key_value_heads is 3, expected a divisor of num_attention_heads 4",
        ),
        (
            "llama",
            {"num_attention_heads": 5},
            "num_attention_heads is 5, expected a divisor of hidden_size 24",
        ),
        ("mistral", {"num_attention_heads": 5}, "hidden_size 24 is not divisible by num_attention_heads 5"),
        ("llama", {"head_dim": 5}, "head_dim is 5, expected an even number"),
        ("llama", {"hidden_size": "24"}, "hidden_size is '24', expected an integer"),
        ("qwen2", {"hidden_size": None}, "hidden_size is None, expected a value"),
        ("llama", {"intermediate_size": None}, "intermediate_size is None, expected a value"),
        ("mistral", {"rms_norm_eps": None}, "rms_norm_eps is None, expected a value"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps is 0.0, expected"),
        ("llama", {"hidden_act": "mish"}, "hidden_act is 'mish', expected one of silu, swish, gelu"),
        ("llama", {"hidden_act": ["silu"]}, "hidden_act is .'silu'., expected"),
        ("llama", {"attention_bias": 1}, "attention_bias is 1, expected true or false"),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected True or False"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters is .1., expected a mapping"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "cubic"}},
            "rope_type is 'cubic', expected one of default, linear",
        ),
        ("llama", {"rope_parameters": {"rope_type": 3}}, "rope_type is 3, expected one of"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear"}},
            "rope_parameters of rope_type linear has no factor",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "type": "yarn"}},
            "rope_type is 'linear', expected that",
        ),
        (
            "llama",
            {"rope_parameters": {"full_attention": LINEAR}},
            "rope_parameters is .* no parameters by layer",
        ),
        (
            "llama",
            {"rope_theta": 50.0, "rope_parameters": LINEAR},
            "rope_theta is 50.0, expected rope_theta 10000.0 as",
        ),
        (
            "llama",
            {"rope_scaling": {"factor": 3}, "rope_parameters": LINEAR},
            "rope_scaling is .* factor 2.0 as in",
        ),
        ("llama", {"rope_theta": "x", "rope_parameters": None}, "rope_theta is 'x', expected a number"),
        (
            "llama",
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor is 0.5, expected 1: this class turns whole",
        ),
        ("llama", {"sliding_window": 4}, "sliding_window is 4, expected none: a Llama has no window"),
        ("llama", {"layer_types": LAYERS}, "layer_types is .* expected full_attention in all layers"),
        ("llama", {"quantization_config": {"bits": 4}}, "has a quantization_config, expected none"),
        ("mistral", {"layer_types": LAYERS}, "layer_types is .* expected sliding_attention in all layers"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0, expected an integer from 1 to"),
        ("mistral", {"attention_bias": True}, "attention_bias is True, expected False or none"),
        ("qwen2", {"attention_bias": False}, "attention_bias is False, expected True or none"),
        ("qwen2", {"layer_types": LAYERS}, "use_sliding_window is False, expected true, for layer_types has"),
        ("qwen2", {"layer_types": LAYERS[:2]}, "layer_types is .* expected num_hidden_layers 3 of"),
        (
            "qwen2",
            {"layer_types": ["chunked_attention"] * 3},
            "layer_types is .* expected num_hidden_layers 3 of",
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": None},
            "sliding_window is None, expected an integer",
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": "1"},
            "max_window_layers is '1', expected",
        ),
        ("qwen2", {"num_hidden_layers": 2**24}, "num_hidden_layers is 16777216, expected 0 to 4,096"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": "2", "original_max_position_embeddings": 4}},
            "factor is '2', expected a number above 0",
        ),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0],
                    "long_factor": [1.0, 1.0, 1.0],
                }
            },
            "rope_parameters of rope_type longrope has 1 numbers in short_factor, expected 3",
        ),
    ],
    ids=str,
)
def test_what_a_config_says_wrongly_is_one_line_that_names_key_and_file(
    kind, changes, message, tmp_path, capsys
):
    settings = {key: value for key, value in SIZE.items() if value is not None}
    stored = {"model_type": kind} | settings | {"rope_parameters": None} | changes
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=message) as refused:
        GPT.load(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert main(["info", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda a: a.pop("model.layers.1.self_attn.k_proj.weight"),
            "layers.1.self_attn.k_proj.weight is missing",
        ),
        (
            lambda a: a.update({"model.layers.1.mlp.up_proj.bias": np.zeros(20)}),
            "up_proj.bias is not expected",
        ),
        (
            lambda a: a.update({"model.norm.weight": np.zeros(23)}),
            r"model.norm.weight has shape .23,., expected .24,.",
        ),
        (
            lambda a: a.update({"model.layers.0.self_attn.k_proj.weight": np.zeros((24, 24))}),
            r"k_proj.weight has shape .24, 24., expected .12, 24. from config.json",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_called_as_in_the_file(change, message, tmp_path):
    GPT(Config(**FORMS | {"n_kv_head": 2}), dtype="float64").save(tmp_path, layout="hf")
    arrays = load_file(tmp_path / "model.safetensors")
    change(arrays)
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message):
        GPT.load(tmp_path)


def test_a_model_of_another_class_is_told_which_are_known(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(
        InputError, match="model_type is 'mamba', a class that numgpt does not read, expected"
    ):
        GPT.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4"}))
    with pytest.raises(InputError, match="model_type is 'gemma4' .did you mean gemma"):
        GPT.load(tmp_path)


def test_a_folder_that_names_two_classes_is_refused(tmp_path):
    """Gemma's arrays are called as Llama's are: only the name says what is computed from them."""
    GPT(Config(**FORMS)).save(tmp_path, layout="hf")
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"architectures": ["GemmaForCausalLM"]}))
    with pytest.raises(
        InputError, match="architectures is .* expected LlamaForCausalLM, which model_type 'll"
    ):
        GPT.load(tmp_path)


@pytest.mark.parametrize("ends", [("<s>", "</s>"), ("<|begin_of_text|>", "<|end_of_text|>"), ()], ids=str)
def test_special_tokens_that_begin_and_end_a_text_are_named(ends, tmp_path):
    tokens = [bytes([b]) for b in range(256)]
    specials = {token: 256 + n for n, token in enumerate(ends)}
    tokenizer = tokenizers.BPE(tokens, [], "gpt2", specials)
    model = GPT(Config(**FORMS | {"vocab_size": 258}), tokenizer=tokenizer)
    model.save(tmp_path, layout="hf")
    stored = json.loads((tmp_path / "config.json").read_text())
    assert [stored["bos_token_id"], stored["eos_token_id"]] == (list(specials.values()) or [None, None])
    named = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert [named[key] for key in ("bos_token", "eos_token") if key in named] == list(ends)
    assert GPT.load(tmp_path).tokenizer.specials == specials


def test_a_loaded_model_learns_and_goes_both_ways_by_the_command(tmp_path, capsys):
    model = GPT(Config(**FORMS | {"n_kv_head": 2, "window": 5}), 3)
    model.save(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "hf"]) == 0
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    assert main(["info", str(tmp_path / "theirs")]) == 0
    assert "window 5" in capsys.readouterr().out
    again = GPT.load(tmp_path / "back")
    assert again.config == dataclasses.replace(model.config, n_kv_head=2)
    assert again.params.flat.tobytes() == model.params.flat.tobytes()
