"""TransformerLens beside numgpt.interpretability: hooked values, gradients, patches and scores are the same.

It asks for versions of its own, so it runs in a Python of its own, which NUMGPT_TRANSFORMER_LENS names;
CONTRIBUTING.md says how one is made. Without it these tests skip.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from interpretability_models import FAMILIES, a_model

from numgpt.interpretability import (
    activation_patching,
    attention_maps,
    detect_head,
    hook_names,
    logit_difference,
    runs,
)

PYTHON = os.environ.get("NUMGPT_TRANSFORMER_LENS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PYTHON is None, reason="NUMGPT_TRANSFORMER_LENS names no Python that has TransformerLens"
    ),
]
CLEAN, CORRUPTED = [[1, 2, 3, 1, 2], [1, 7, 3, 2, 2]], [[1, 6, 3, 9, 5], [8, 7, 3, 0, 2]]
ANSWERS, WRONG = [3, 4], [1, 2]
PATCHED = {
    "resid_pre": ("hook_resid_pre", False),
    "resid_mid": ("hook_resid_mid", False),
    "attn": ("hook_attn_out", False),
    "mlp": ("hook_mlp_out", False),
    "heads": ("attn.hook_z", True),
    "v": ("attn.hook_v", True),
}


def fields(model):
    """What a HookedTransformerConfig is told of a model."""
    c = model.config
    sizes = {"n_layers": c.n_layer, "d_model": c.n_embd, "n_ctx": c.block_size, "d_head": c.head_size}
    sizes |= {"n_heads": c.n_head, "d_vocab": c.vocab_size, "d_mlp": c.ffn_width, "eps": c.layer_norm_epsilon}
    if c.norm == "layernorm":
        return sizes | {"act_fn": "gelu_new", "normalization_type": "LN"}
    kinds = {"act_fn": "silu", "normalization_type": "RMS", "gated_mlp": True, "final_rms": True}
    kinds |= {"positional_embedding_type": "rotary", "rotary_dim": c.head_size}
    return sizes | kinds | {"n_key_value_heads": c.n_kv_head, "rotary_adjacent_pairs": False}


def theirs(model):
    """The parameters under the names of a HookedTransformer, turned as it has them."""
    c, p = model.config, model.params
    found = {"embed.W_E": p["wte.weight"], "ln_final.w": p["ln_f.weight"]}
    found["unembed.W_U"] = p["wte.weight" if c.tied else "lm_head.weight"].T
    if c.norm == "layernorm":
        found |= {"pos_embed.W_pos": p["wpe.weight"], "ln_final.b": p["ln_f.bias"]}
    for layer in range(c.n_layer):
        own = {k.removeprefix(f"h.{layer}."): v for k, v in p.items() if k.startswith(f"h.{layer}.")}
        found |= {f"blocks.{layer}.{name}": array for name, array in of_block(c, own).items()}
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def of_block(c, own):
    """The parameters of one block."""
    H, K, D, C = c.n_head, c.kv_heads, c.head_size, c.n_embd
    found = {"attn.W_O": own["attn.c_proj.weight"].reshape(H, D, C), "mlp.W_out": own["mlp.c_proj.weight"]}
    found |= {"ln1.w": own["ln_1.weight"], "ln2.w": own["ln_2.weight"]}
    underscore = "" if K == H else "_"  # where heads share keys, the repeated ones have the plain name
    begin = 0
    for name, n in (("Q", H), (f"{underscore}K", K), (f"{underscore}V", K)):
        end, mark = begin + n * D, "_" if name.startswith("_") else ""
        weight = own["attn.c_attn.weight"][:, begin:end]
        found[f"attn.{mark}W_{name.strip('_')}"] = weight.reshape(C, n, D).swapaxes(0, 1)
        if "attn.c_attn.bias" in own:
            found[f"attn.{mark}b_{name.strip('_')}"] = own["attn.c_attn.bias"][begin:end].reshape(n, D)
        begin = end
    if c.norm == "rmsnorm":
        gate, value = np.split(own["mlp.c_fc.weight"], 2, axis=1)
        return found | {"mlp.W_gate": gate, "mlp.W_in": value}
    found |= {"ln1.b": own["ln_1.bias"], "ln2.b": own["ln_2.bias"], "attn.b_O": own["attn.c_proj.bias"]}
    found |= {"mlp.W_in": own["mlp.c_fc.weight"], "mlp.b_in": own["mlp.c_fc.bias"]}
    return found | {"mlp.b_out": own["mlp.c_proj.bias"]}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Family → what TransformerLens computed."""
    folder = tmp_path_factory.mktemp("transformer_lens")
    asked = {}
    for family in FAMILIES:
        model = a_model(family)
        given = {"clean": CLEAN, "corrupted": CORRUPTED, "answers": ANSWERS, "wrong": WRONG}
        np.savez(folder / f"{family}.npz", **theirs(model), **{k: np.array(v) for k, v in given.items()})
        asked[family] = {"config": fields(model), "patched": PATCHED}
    (folder / "asked.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("transformer_lens_runs.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, script, folder], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {family: dict(np.load(folder / f"{family}.out.npz")) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_hooked_values_are_ours(family, answered):
    model, found = a_model(family), answered[family]
    names = hook_names(model.config)
    values = names.translated(model.record(CLEAN, keep=names.patterns()).value)
    assert abs(found["logits"] - model(CLEAN)).max() <= 1e-10
    known = {name.removeprefix("value ") for name in found if name.startswith("value ")}
    assert set(values) <= known and known - set(values) <= set(names.without)
    for name, ours in values.items():
        other = found[f"value {name}"]
        seen = np.isfinite(other)
        assert ours.shape == other.shape and (np.isfinite(ours) == seen).all(), name
        assert abs(ours[seen] - other[seen]).max() <= 1e-10, name


@pytest.mark.parametrize("family", FAMILIES)
def test_hooked_gradients_are_ours(family, answered):
    """Added up where TransformerLens passes a hook for queries, keys and values each: its first norm."""
    model, names = a_model(family), hook_names(a_model(family).config)
    metric = logit_difference(model, ANSWERS, WRONG)
    grads = runs.run_with_gradients(model, np.array(CORRUPTED), metric, names.patterns()).grad
    for hook in names.hooks:
        if hook.turn != "masked":  # whose hidden scores have no gradient, and are no numbers
            ours = hook.to_theirs(grads[hook.ours])
            assert abs(ours - answered[family][f"gradient {hook.theirs}"]).max() <= 1e-10, hook.theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", PATCHED)
def test_patches_bring_back_what_they_do_there(family, at, answered):
    model = a_model(family)
    ours = activation_patching(model, CLEAN, CORRUPTED, logit_difference(model, ANSWERS, WRONG), at)
    assert abs(ours.metric - answered[family][f"patched {at}"]).max() <= 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_attention_are_those_of_its_head_detector(family, answered):
    maps = attention_maps(a_model(family), CLEAN[0]).maps[1][0]
    for kind in ("previous token", "duplicate token", "induction"):
        for measure, tolerance in (("mul", 1e-10), ("abs", 6e-4)):  # which it rounds to three digits
            ours = detect_head(maps, CLEAN[0], kind, measure)
            assert abs(ours - answered[family][f"{kind} {measure}"]).max() <= tolerance
