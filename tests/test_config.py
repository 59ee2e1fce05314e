"""Settings of the model family: what each means, what nothing reads, and what differs between layers."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest

from numgpt import GPT, Config, InputError
from numgpt.__main__ import main
from numgpt.architecture.by_layer import IN_LAYERS, meaning
from numgpt.architecture.fields import Frozen, from_dict, to_dict
from numgpt.architecture.parameters import shapes
from numgpt.ops import rotary, scalings

SIZE = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 4, "n_embd": 24}
ROTARY = {"positions": "rotary"}
# A value of every scaling, for heads of size 6.
SCALINGS = {
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 2.0, "length": 3},
    "llama3": {"factor": 8.0, "low": 1.0, "high": 4.0, "length": 16},
    "yarn": {"factor": 4.0, "length": 16, "fast": 4.0},
    "longrope": {"short": [1.0, 1.5, 2.0], "long": [2.0, 3.0, 5.0], "length": 4, "size": 1.25},
}
TURNING = [name for name in IN_LAYERS if name != "none"]  # where others are added for all layers at once
# A field → others that it needs, and values off its default.
VALUES = {
    "vocab_size": [{"vocab_size": 12}],
    "n_layer": [{"n_layer": 2}],
    "n_head": [{"n_head": 2}],
    "n_embd": [{"n_embd": 32}],
    "n_inner": [{"n_inner": 5}],
    "dropout": [],  # of training alone
    "block_size": [{"block_size": 9}],
    "layer_norm_epsilon": [{"layer_norm_epsilon": 0.1}],
    "rotary_base": [ROTARY | {"rotary_base": 50.0}],
    "rotary_dim": [ROTARY | {"rotary_dim": 4}],
    "rotary_scaling": [ROTARY | {"rotary_scaling": {"kind": k} | numbers} for k, numbers in SCALINGS.items()],
    "n_kv_head": [{"n_kv_head": 2}],
    "head_dim": [{"head_dim": 5}],
    "window": [{"window": 2}],
    "biases": [
        *({"biases": words} for words in ("qkv", "out mlp", "norm", "")),
        {"n_expert": 3, "biases": "router"},
    ],
    "n_expert": [{"n_expert": 3}],
    "n_expert_active": [{"n_expert": 3, "n_expert_active": 1}],
    "router": [{"n_expert": 3, "router": "raw"}],
    "shared_inner": [{"n_expert": 3, "shared_inner": 5}],
    "softcap": [{"softcap": 0.5}],
    "attn_scale": [{"attn_scale": 0.9}],
    "alibi_scale": [{"positions": "alibi", "alibi_scale": 0.5}],
    "embed_scale": [{"embed_scale": 2.0}],
    "residual_scale": [{"residual_scale": 0.5}],
    "logit_scale": [{"logit_scale": 0.5}],
    "final_softcap": [{"final_softcap": 0.5}],
    "layers": [{"layers": [{"window": 2}, {}]}],
}


def forms(field):
    """Changes of SIZE with a field off its default."""
    if field.name in VALUES:
        return VALUES[field.name]
    if field.metadata["choices"]:
        return [{field.name: choice} for choice in field.metadata["choices"] if choice != field.default]
    assert isinstance(field.default, bool), f"{field.name} has no values in VALUES"
    return [{field.name: not field.default}]


FORMS = [pytest.param(f.name, form, id=str(form)) for f in dataclasses.fields(Config) for form in forms(f)]
BY_LAYER = [f.name for f in dataclasses.fields(Config) if f.metadata["by_layer"]]


def logits_of(config):
    """Logits of a model whose parameters are drawn by name: what two models share is equal in both."""
    model = GPT(config, 0, "float64")
    for name, array in model.params.items():
        rng = np.random.default_rng(list(name.encode()))
        table = rng.standard_normal((256, 128, 256)[-array.ndim :])
        array += 0.3 * table[tuple(map(slice, array.shape))]
    return model(np.arange(7)[None] % 11)


@pytest.mark.parametrize("name, form", FORMS)
def test_every_field_off_its_default_changes_the_logits(name, form):
    others = {key: value for key, value in form.items() if key != name}
    if name == "block_size":  # of which learned positions have as many
        assert shapes(Config(**SIZE)) != shapes(Config(**SIZE | form))
        return
    before, after = logits_of(Config(**SIZE | others)), logits_of(Config(**SIZE | form))
    assert (
        before.shape != after.shape or abs(before - after).max() > 1e-10
    )  # Bloom has GELU's constant to eight digits


@pytest.mark.parametrize("name, form", FORMS)
def test_a_config_survives_json_pickle_and_copies(name, form):
    config = Config(**SIZE | form)
    for again in (
        from_dict(Config, json.loads(json.dumps(to_dict(config)))),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
        dataclasses.replace(config),
    ):
        assert again == config and hash(again) == hash(config) and meaning(again) == meaning(config)
        assert list(again.scopes().values()) == list(config.scopes().values())
    assert set(vars(config)) == {f.name for f in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", BY_LAYER)
def test_what_layers_may_differ_in_is_read_by_the_layer_that_says_it(name):
    """A model whose layers all say it is the model that says it; one of two kinds is neither."""
    (field,) = (f for f in dataclasses.fields(Config) if f.name == name)
    for form in forms(field):
        others = {key: value for key, value in form.items() if key != name}
        base = {"positions": "none"} if form.get("positions") == "none" or others else {}
        if name == "positions" and form[name] not in IN_LAYERS:
            continue
        kind = {key: value for key, value in form.items() if base.get(key) != value}
        if not kind:
            continue
        some = Config(**SIZE | base, layers=[kind, {}])
        assert [getattr(c, name) for c in some.scopes().values()][::2] == [
            getattr(Config(**SIZE | form), name)
        ] * 2
        every = logits_of(Config(**SIZE | base | form if not base else SIZE | form))
        none, half = logits_of(Config(**SIZE | base)), logits_of(some)
        for other in (every, none):
            assert other.shape != half.shape or abs(other - half).max() > 1e-10


def test_scopes_are_made_once_and_are_neither_in_files_nor_in_equality():
    config = Config(**SIZE, layers=[{"window": 2}, {"n_inner": 5, "activation": "relu"}])
    scopes = config.scopes()
    assert scopes is config.scopes() and list(scopes) == ["h.0.", "h.1.", "h.2."]
    assert scopes["h.0."] is scopes["h.2."]
    assert [kind.window for kind in scopes.values()] == [2, None, 2]
    assert scopes["h.1."] == Config(**SIZE, n_inner=5, activation="relu")
    assert shapes(config)["h.1.mlp.c_fc.weight"] == (24, 5)
    plain = Config(**SIZE)
    assert set(plain.scopes().values()) == {plain} and "_scopes" not in to_dict(config)
    with pytest.raises(TypeError):
        scopes["h.0."] = plain


def test_what_the_model_says_and_a_layer_does_not_read_is_left_out_of_the_layer():
    config = Config(**SIZE, positions="rotary", rotary_base=50.0, layers=[{}, {"positions": "none"}])
    assert config.scopes()["h.1."] == Config(**SIZE, positions="none")
    config = Config(**SIZE, bias=False, layers=[{}, {"biases": "qkv"}])
    assert config.scopes()["h.1."] == Config(**SIZE, biases="qkv")


OF_LAYERS = {  # what no model without layers reads
    "n_inner": 8,
    "activation": "relu",
    "positions": "rotary",
    "alibi_scale": 2.0,
    "n_kv_head": 2,
    "head_dim": 8,
    "window": 2,
    "softcap": 3.0,
    "qk_norm": "head",
    "sink": True,
    "attn_scale": 0.5,
    "residual_scale": 0.5,
    "n_expert": 4,
    "layers": [{"window": 2}],
}


def test_of_no_layers_there_is_a_field_for_each_that_they_read():
    of_layers = {f.name for f in dataclasses.fields(Config) if f.metadata.get("by_layer")}
    elsewhere = {"n_head", "norm", "layer_norm_epsilon", "biases"}  # what a model without layers reads
    only_with_another = {n for n in of_layers if n.startswith("rotary_")} | {
        "n_expert_active",
        "router",
        "shared_inner",
    }
    assert of_layers - elsewhere - only_with_another == {*OF_LAYERS} - {"residual_scale", "layers"}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"rotary_base": 50.0},
            r"rotary_base is 50.0, which nothing reads \(positions is learned\), expected",
        ),
        ({"rotary_dim": 4}, "rotary_dim is 4, which nothing reads"),
        ({"rotary_scaling": {"kind": "linear", "factor": 2}}, "rotary_scaling is .*, which nothing reads"),
        ({"bias": False, "biases": "qkv"}, "bias is False, which nothing reads .biases is 'qkv'"),
        ({"n_kv_head": 3}, "n_kv_head is 3, expected a divisor of n_head 4: choose 1, 2, 4"),
        ({"n_kv_head": 8}, "n_kv_head is 8, expected a divisor of n_head 4"),
        ({"n_kv_head": 0}, "n_kv_head is 0"),
        ({"head_dim": 0}, "head_dim is 0, expected 1 to"),
        ({"window": 0}, "window is 0, expected 1 to"),
        ({"softcap": 0.0}, "softcap is 0.0, expected more than 0"),
        ({"softcap": float("nan")}, "softcap is nan, expected a finite number"),
        ({"n_head": 5}, "n_embd 24 is not divisible by n_head 5, .* or give head_dim"),
        (ROTARY | {"rotary_dim": 3}, "rotary_dim is 3, expected an even number from 2 to the head's size 6"),
        (ROTARY | {"rotary_dim": 8}, "rotary_dim is 8, expected an even number"),
        (ROTARY | {"head_dim": 5}, "head_dim is 5, expected an even number"),
        (ROTARY | {"rotary_base": 1.0}, "rotary_base is 1.0, expected more than 1"),
        ({"biases": "qkv head"}, "biases is qkv head, expected no bias of the head, which is tied"),
        ({"biases": "qkv qkv"}, "biases has 'qkv', .* each once"),
        ({"norm": "rmsnorm", "biases": "qkv norm"}, "biases has norm, expected only the others"),
        ({"layers": []}, "layers has 0 kinds, expected 1 to n_layer 3"),
        ({"layers": [{}] * 4}, "layers has 4 kinds"),
        ({"layers": [{}]}, "layers says nothing that the model does not"),
        ({"layers": [{"window": None}, {}]}, "layers says nothing that the model does not"),
        ({"layers": "window"}, "layers is 'window', expected a tuple of which each is a mapping"),
        ({"layers": [3]}, "layers is .3., expected a tuple of which each is a mapping"),
        (
            {"layers": [{"windows": 3}]},
            r"layers\[0\] has 'windows', expected fields in which layers may differ",
        ),
        *[
            ({"layers": [{}, {name: 1}]}, rf"layers\[1\] has '{name}', expected fields")
            for name in ("vocab_size", "block_size", "n_layer", "n_embd", "tied", "dropout", "bias", "layers")
        ],
        ({"layers": [{}, {"window": 0}]}, r"config: layers\[1\]: window is 0, expected 1 to"),
        ({"layers": [{"window": "2"}]}, r"layers\[0\]: window is '2', expected an integer"),
        ({"layers": [{"n_kv_head": 3}]}, r"layers\[0\]: n_kv_head is 3, expected a divisor"),
        ({"layers": [{"rotary_base": 5.0}]}, r"layers\[0\]: rotary_base is 5.0, which nothing reads"),
        (
            {"layers": [{"positions": "learned"}]},
            rf"layers\[0\]: positions is learned, expected {' or '.join(TURNING)}",
        ),
        (
            {"layers": [{"positions": "none"}]},
            rf"layers\[0\]: positions is none, expected {' or '.join(TURNING)}:",
        ),
        (
            {"window": 2, "layers": [{"window": 3}, {"window": 4}]},
            "window is 2, which nothing reads .each kind",
        ),
        *[
            (
                {"n_layer": 0, name: value},
                rf"{name} is .*, which nothing reads \(n_layer is 0\), expected it left",
            )
            for name, value in OF_LAYERS.items()
        ],
        (
            {"n_layer": 0, "biases": "qkv norm"},
            "biases is qkv norm, expected no bias of a block, for n_layer is 0",
        ),
    ],
    ids=str,
)
def test_what_no_model_computes_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        Config(**SIZE | changes)


@pytest.mark.parametrize(
    "scaling, message",
    [
        ({}, "rotary_scaling has kind None, expected one of linear, dynamic"),
        ({"kind": "ntk"}, "rotary_scaling has kind 'ntk'"),
        ({"kind": "linear"}, "of kind linear has no factor, expected a finite number of 1 or more"),
        ({"kind": "linear", "factor": 0.5}, "has factor 0.5, expected"),
        ({"kind": "linear", "factor": "2"}, "has factor '2'"),
        ({"kind": "linear", "factor": 2, "facto": 3}, "has 'facto' .did you mean factor"),
        ({"kind": "dynamic", "factor": 2, "length": 2.5}, "has length 2.5, expected an integer"),
        (
            {"kind": "llama3", "factor": 2, "low": 4, "high": 1, "length": 8},
            "has low 4.0, expected less than its high 1.0",
        ),
        (SCALINGS["longrope"] | {"kind": "longrope", "short": [1.0]}, "has 1 numbers in short, expected 3"),
        (SCALINGS["longrope"] | {"kind": "longrope", "long": [1.0, 2.0, -1.0]}, "has long"),
    ],
    ids=str,
)
def test_a_scaling_with_other_numbers_is_refused_by_name(scaling, message):
    with pytest.raises(InputError, match=message):
        Config(**SIZE | ROTARY, rotary_scaling=scaling)


def test_a_scaling_holds_numbers_of_their_types_and_leaves_out_defaults():
    numbers = {"kind": "yarn", "factor": np.int64(4), "length": 16, "fast": 32, "slow": 1.0, "truncate": True}
    scaling = Config(**SIZE | ROTARY, rotary_scaling=numbers).rotary_scaling
    assert scaling == {"kind": "yarn", "factor": 4.0, "length": 16}
    assert type(scaling["factor"]) is float


def test_an_op_and_a_config_refuse_the_same_scalings_in_the_same_words():
    assert set(SCALINGS) == set(scalings.SCALINGS)
    for kind, numbers in SCALINGS.items():
        for name in numbers:
            for wrong in (0.0, -1, True, "2", None, np.inf):
                scaling = {"kind": kind} | numbers | {name: wrong}
                refused = []
                for call in (
                    lambda s=scaling: Config(**SIZE | ROTARY, rotary_scaling=s),
                    lambda s=scaling: rotary(np.ones((2, 3 * 24)), n_head=4, scaling=s),
                ):
                    with pytest.raises(InputError) as error:
                        call()
                    refused.append(str(error.value))
                assert refused[0] == refused[1].replace("rotary: scaling", "config: rotary_scaling")


def test_mappings_of_a_config_cannot_be_changed():
    config = Config(**SIZE, layers=[{"window": 2}, {}])
    with pytest.raises(TypeError, match="dataclasses.replace gives another"):
        config.layers[0]["window"] = 3
    for change in (dict.clear, dict.popitem):
        with pytest.raises(TypeError):
            getattr(config.layers[0], change.__name__)()
    assert copy.deepcopy(config.layers) == pickle.loads(pickle.dumps(config.layers)) == ({"window": 2}, {})
    assert isinstance(Frozen({"a": 1}) | {"b": 2}, dict)


def test_numbers_of_numpy_in_layers_become_pythons():
    config = Config(**SIZE, layers=[{"window": np.int64(2), "softcap": np.float32(0.5)}, {}])
    assert [type(v) for v in config.layers[0].values()] == [int, float]
    json.dumps(to_dict(config))


def test_flags_take_json_and_info_prints_it(capsys):
    layers = '[{"window": 16}, {}]'
    assert (
        main(["info", "gpt-nano", "--layers", layers, "--n-kv-head", "1", "--biases", "qkv out", "--bias"])
        == 0
    )
    out = capsys.readouterr().out
    assert f"layers {layers}" in out and "n_kv_head 1" in out and "biases qkv out" in out
    for flag, value, message in (
        ("--layers", "window", "'window' is not JSON, expected a list or a mapping"),
        ("--layers", "3", "'3' is not JSON, expected a list or a mapping"),
        ("--layers", '[{"window": 16}, {"windows": 3}]', "layers[1] has 'windows'"),
        ("--rotary-scaling", '{"kind": "linear"', "is not JSON"),
        ("--rotary-scaling", '{"kind": "cubic"}', "has kind 'cubic'"),
    ):
        assert main(["info", "gpt-nano", flag, value]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_old_files_hold_what_they_held():
    late = {f.name for f in dataclasses.fields(Config) if f.metadata["late"]}
    assert not late & to_dict(Config()).keys()
    assert list(to_dict(Config())) == [f.name for f in dataclasses.fields(Config) if f.name not in late]
