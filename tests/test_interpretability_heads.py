"""Heads: planted patterns have the scores of their definitions; circuits, and names in another library."""

import numpy as np
import pytest
from interpretability_models import CONFIGS, FAMILIES, LLAMA, SIZES, a_model

import numgpt
from numgpt import InputError
from numgpt.interpretability import (
    attention_maps,
    copying_scores,
    detect_head,
    duplicate_token_score,
    first_token_score,
    head_scores,
    hook_names,
    induction_score,
    offset_score,
    ov_circuit,
    previous_token_score,
    qk_circuit,
)

N = 6  # the period of the planted patterns
ONCE = np.array([3, 1, 4, 0, 5, 2])
IDS = np.concatenate([ONCE, ONCE])


def attending(offset, otherwise=0):
    """The pattern (2N, 2N) of a head that in the second copy reads so far back, and elsewhere one place."""
    P = np.zeros((2 * N, 2 * N))
    for t in range(2 * N):
        P[t, t - offset if t >= N else otherwise] = 1
    return P


def test_a_perfect_induction_head_scores_1_and_one_that_reads_the_same_token_0():
    assert induction_score(attending(N - 1), N) == 1
    assert induction_score(attending(N), N) == 0, "t − n is the token itself, not the one that followed it"
    assert induction_score(attending(N - 2), N) == 0
    assert duplicate_token_score(attending(N), IDS) == 1
    assert duplicate_token_score(attending(N - 1), IDS) == 0
    half = 0.5 * attending(N - 1) + 0.5 * attending(N)
    assert induction_score(half, N) == duplicate_token_score(half, IDS) == 0.5


def test_transformerlens_share_of_a_perfect_head_is_a_half_for_the_first_copy_is_in_its_denominator():
    assert detect_head(attending(N - 1), IDS, "induction") == 0.5
    assert detect_head(attending(N), IDS, "duplicate token") == 0.5
    assert detect_head(attending(N), IDS, "induction") == 0
    assert detect_head(np.eye(2 * N, k=-1), IDS, "previous token") == 1
    assert detect_head(np.eye(2 * N, k=-1), IDS, "previous token", "abs") == 1
    # Rows of the first copy attend somewhere, to what the mask has nothing for: each is 1 off.
    assert detect_head(attending(N - 1), IDS, "induction", "abs") == 0.5
    assert detect_head(np.eye(2 * N), IDS, "previous token", "abs") == 1 - (2 * 2 * N - 1) / (2 * N)


def test_scores_of_a_head_that_spreads_its_attention_are_means():
    T = 8
    P = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    shares = 1 / np.arange(1, T + 1)
    assert abs(previous_token_score(P) - shares[1:].mean()) <= 1e-15
    assert abs(first_token_score(P) - shares[1:].mean()) <= 1e-15
    assert abs(offset_score(P, 3) - shares[3:].mean()) <= 1e-15
    assert abs(offset_score(P, 0) - shares.mean()) <= 1e-15
    assert abs(induction_score(P, 4) - shares[4:].mean()) <= 1e-15
    ids = [7, 1, 7, 7, 2, 3, 4, 1]
    expected = (1 * shares[2] + 2 * shares[3] + 1 * shares[7]) / 3
    assert abs(duplicate_token_score(P, ids) - expected) <= 1e-15
    assert np.isnan(duplicate_token_score(P, np.arange(T)))
    both = np.stack([P, np.eye(T)])
    assert previous_token_score(both).shape == (2,) and previous_token_score(both)[1] == 0


def test_a_mask_of_induction_is_what_followed_each_earlier_place_of_the_same_token():
    P = np.zeros((5, 5))
    P[[0, 1, 2, 3, 4], [0, 0, 2, 1, 3]] = (
        1  # tokens a b c a a: at 3 what followed 0; at 4 what followed 3 is itself
    )
    assert detect_head(P, [0, 1, 2, 0, 0], "induction") == 1 / 5
    P[4] = [0, 0.5, 0, 0, 0.5]
    assert detect_head(P, [0, 1, 2, 0, 0], "induction") == 2 / 5


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_and_scores_are_the_records(family):
    model = a_model(family)
    prompts = [[1, 2, 3, 1, 2], [4, 4, 0, 9, 4]]
    maps = attention_maps(model, prompts).maps
    values = model.record(prompts).value
    for layer in range(3):
        assert abs(maps[layer] - values[f"h.{layer}.attn.heads.probs"]).max() <= 1e-15
    scores = head_scores(model, prompts).scores
    assert abs(scores["previous token"][1] - previous_token_score(maps[1]).mean(0)).max() <= 1e-15
    drawn = head_scores(model, period=4, rows=3, seed=2)
    assert drawn.ids.shape == (3, 8) and (drawn.ids[:, :4] == drawn.ids[:, 4:]).all()
    maps = attention_maps(model, drawn.ids).maps
    assert abs(drawn.scores["induction"][2] - induction_score(maps[2], 4).mean(0)).max() <= 1e-15
    layer, head, score = drawn.best("induction")
    assert score == drawn.scores["induction"].max() == drawn.scores["induction"][layer, head]


def test_layers_with_fewer_heads_have_no_score_there():
    config = numgpt.Config(**SIZES, layers=({}, {"n_head": 2}))
    scores = head_scores(numgpt.GPT(config)).scores["first token"]
    assert np.isnan(scores).tolist() == [[False] * 4, [False, False, True, True], [False] * 4]


# Circuits.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (2, 3)])
def test_circuits_are_what_the_weights_do_to_a_normalised_stream(family, layer, head):
    """Scores and results of a run whose biases are 0, at position 0, at which nothing is turned."""
    model = a_model(family)
    for name, array in model.params.items():
        if name.endswith("bias"):
            array[...] = 0
    values = model.record([[3], [5]]).value
    stream = values["drop" if layer == 0 else f"h.{layer - 1}"][:, 0]
    gain = model.params[f"h.{layer}.ln_1.weight"]
    xhat = values[f"h.{layer}.ln_1"][:, 0] / gain
    assert stream.shape == xhat.shape
    heads, group = values[f"h.{layer}.attn.heads.q"], 4 // model.config.kv_heads
    keys = values[f"h.{layer}.attn.heads.k"][:, head // group, 0]
    scores = heads[:, head, 0] @ keys.T
    assert abs(xhat @ qk_circuit(model, layer, head, "stream").matrix @ xhat.T - scores).max() <= 1e-12
    mix = values[f"h.{layer}.attn.heads"][:, 0, 2 * head : 2 * head + 2]
    written = mix @ model.params[f"h.{layer}.attn.c_proj.weight"][2 * head : 2 * head + 2]
    assert abs(xhat @ ov_circuit(model, layer, head, "stream").matrix - written).max() <= 1e-12
    plain = ov_circuit(model, layer, head, "stream", fold=False).matrix
    assert abs((xhat * gain) @ plain - written).max() <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_circuit_between_tokens_has_the_eigenvalues_of_the_whole_matrix(family):
    model = a_model(family)
    for circuit in (qk_circuit(model, 1, 2), ov_circuit(model, 1, 2)):
        assert circuit.matrix.shape == (11, 11)
        whole = np.linalg.eigvals(circuit.matrix)
        largest = whole[np.argsort(-abs(whole))][:2]
        assert abs(np.sort_complex(largest) - np.sort_complex(circuit.eigenvalues)).max() <= 1e-9
        assert (abs(np.sort(abs(whole))[:-2]) <= 1e-6).all()
    table = model.params["wte.weight"]
    last = table if model.config.tied else model.params["lm_head.weight"]
    stream = ov_circuit(model, 1, 2, "stream").matrix
    expected = table @ stream @ (last * model.params["ln_f.weight"]).T
    assert abs(ov_circuit(model, 1, 2).matrix - expected).max() <= 1e-12


@pytest.mark.parametrize("sign", [1, -1])
def test_a_head_that_writes_what_it_reads_copies(sign):
    config = numgpt.Config(vocab_size=4, block_size=4, n_layer=1, n_head=1, n_embd=4, bias=False)
    model = numgpt.GPT(config, dtype="float64")
    model.params["wte.weight"][...] = np.eye(4)
    model.params["h.0.attn.c_attn.weight"][:, 8:] = np.eye(4)
    model.params["h.0.attn.c_proj.weight"][...] = sign * np.eye(4)
    assert copying_scores(model) == [[sign]]
    model.params["h.0.attn.c_proj.weight"][...] = np.roll(
        np.eye(4), 1, axis=0
    )  # each token makes the next likely
    assert abs(copying_scores(model)) <= 1e-12


# Names.


def softmax(x):
    exps = np.exp(x - x.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_by_their_names_and_turned_the_values_obey_transformerlens_equations(family):
    model = a_model(family)
    names = hook_names(model.config)
    values = model.record([[1, 2, 3, 4]] * 2, keep=names.patterns()).value
    theirs = names.translated(values)
    assert set(theirs) == {hook.theirs for hook in names.hooks}
    K, D = model.config.kv_heads, 2
    for layer in range(3):
        block = {k.removeprefix(f"blocks.{layer}."): v for k, v in theirs.items()}
        q, k = (block[f"attn.hook_{'rot_' if family == 'llama' else ''}{x}"] for x in "qk")
        v, z, P = block["attn.hook_v"], block["attn.hook_z"], block["attn.hook_pattern"]
        assert q.shape == (2, 4, 4, D) and k.shape == v.shape == (2, 4, K, D) and P.shape == (2, 4, 4, 4)
        k, v = (np.repeat(a, 4 // K, axis=2) for a in (k, v))
        scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(D)
        scores = np.where(np.tri(4, dtype=bool), scores, -np.inf)
        given = block["attn.hook_attn_scores"]
        assert (np.isinf(given) == np.isinf(scores)).all()
        assert abs(np.exp(given) - np.exp(scores)).max() <= 1e-12
        assert abs(P - softmax(scores)).max() <= 1e-12
        assert abs(z - np.einsum("bhts,bshd->bthd", P, v)).max() <= 1e-12
        out = z.reshape(2, 4, 8) @ model.params[f"h.{layer}.attn.c_proj.weight"]
        out = out + model.params.get(f"h.{layer}.attn.c_proj.bias", 0)
        assert abs(block["hook_attn_out"] - out).max() <= 1e-12
        assert abs(block["hook_resid_mid"] - block["hook_resid_pre"] - out).max() <= 1e-12
        assert abs(block["hook_resid_post"] - block["hook_resid_mid"] - block["hook_mlp_out"]).max() <= 1e-12
        if family == "llama":
            gate = block["mlp.hook_pre"]
            made = gate / (1 + np.exp(-gate)) * block["mlp.hook_pre_linear"]
            assert abs(block["mlp.hook_post"] - made).max() <= 1e-12
            packed = values[f"h.{layer}.attn.c_attn"]
            assert (block["attn.hook_q"].reshape(2, 4, 8) == packed[..., :8]).all()
            assert (block["attn.hook_k"].reshape(2, 4, 4) == packed[..., 8:12]).all()
            first = abs(block["attn.hook_q"] - block["attn.hook_rot_q"])[:, 0]
            assert first.max() <= 1e-12, "at position 0 nothing is turned"
        else:
            assert block["mlp.hook_pre"].shape == (2, 4, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hook_turns_back_what_it_turned(family):
    model = a_model(family)
    names = hook_names(model.config)
    values = model.record([[1, 2, 3, 4]], keep=names.patterns()).value
    for hook in names.hooks:
        ours = values[hook.ours]
        back = hook.to_ours(hook.to_theirs(ours))
        if hook.turn == "part":
            assert (back == ours[..., hook.begin : hook.end]).all()
        elif hook.turn == "masked":
            seen = np.tri(4, dtype=bool)
            assert (back == ours)[..., seen].all() and np.isinf(back[..., ~seen]).all()
        else:
            assert back.shape == ours.shape and (back == ours).all()
        assert names.theirs(hook.theirs) == hook and hook in names.ours(hook.ours)


def test_hooks_without_a_counterpart_say_why():
    gpt2, llama = (hook_names(CONFIGS[family]) for family in FAMILIES)
    assert "hook_pos_embed" in gpt2.without and "hook_pos_embed" not in llama.without
    assert "ln_final.hook_normalized" in llama.without and "ln_final.hook_normalized" in gpt2.without
    assert gpt2.theirs("ln_final.hook_out").ours == llama.theirs("ln_final.hook_out").ours == "ln_f"
    with pytest.raises(InputError, match=r"blocks.1.attn.hook_result has no counterpart: .*z W_O"):
        gpt2.theirs("blocks.1.attn.hook_result")
    with pytest.raises(InputError, match="no hook 'blocks.9.hook_z', expected a name such as blocks"):
        gpt2.theirs("blocks.9.hook_z")
    with pytest.raises(InputError, match="norms stand both, expected one of pre, parallel, parallel2"):
        hook_names(numgpt.Config(**SIZES, **LLAMA, norm_position="both"))
