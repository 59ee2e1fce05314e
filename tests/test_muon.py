"""Muon: what its steps are, and that they are those of the literature."""

import copy
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import GPT, AdamW, Config, InputError, Muon, Training
from numgpt.training.muon import A, B, C, matrix_parts, orthogonalised

GATED = Config(
    vocab_size=7,
    block_size=4,
    n_layer=2,
    n_head=4,
    n_embd=8,
    n_kv_head=2,
    activation="swiglu",
    norm="rmsnorm",
)
MIXTURE = Config(vocab_size=7, block_size=4, n_layer=1, n_head=2, n_embd=8, n_expert=3)


def a_model(config=GATED, **options):
    return GPT(config, seed=1, dtype="float64", **options)


def gradients(model, seed=0):
    grads = model.params.like()
    grads.flat[:] = np.random.default_rng(seed).standard_normal(grads.flat.shape)
    return grads


shapes = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


@given(shapes, st.integers(0, 2**32 - 1))
def test_singular_values_follow_the_polynomial_and_directions_stay(shape, seed):
    """Against the singular value decomposition: U p(σ) Vᵀ, p five times the quintic."""
    G = np.random.default_rng(seed).standard_normal(shape)
    U, values, Vt = np.linalg.svd(G, full_matrices=False)
    x = values / np.sqrt((values**2).sum(-1, keepdims=True))
    for _ in range(5):
        x = A * x + B * x**3 + C * x**5
    np.testing.assert_allclose(orthogonalised(G), (U * x[:, None]) @ Vt, atol=1e-10)


@given(st.integers(0, 2**32 - 1))
def test_values_that_are_not_tiny_end_near_one(seed):
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    V, _ = np.linalg.qr(rng.standard_normal((9, 6)))
    values = 10 ** rng.uniform(-2, 0, 6)
    ended = np.linalg.svd((U * values) @ V.T / np.linalg.norm(values), compute_uv=False)
    got = np.linalg.svd(orthogonalised((U * values) @ V.T), compute_uv=False)
    assert got.max() < 1.21
    assert got[ended > 0.02].min() > 0.67


@given(shapes, st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_the_size_of_a_gradient_does_not_matter(shape, seed, power):
    """By a power of two not even to the bit; and a transposed gradient gives a transposed step."""
    G = np.random.default_rng(seed).standard_normal(shape)
    assert np.array_equal(orthogonalised(G * 2.0**power), orthogonalised(G))
    np.testing.assert_allclose(orthogonalised(-G), -orthogonalised(G), atol=0)
    turned = orthogonalised(np.ascontiguousarray(G.swapaxes(1, 2))).swapaxes(1, 2)
    np.testing.assert_allclose(turned, orthogonalised(G), atol=1e-12)


def test_a_gradient_of_zeros_gives_no_step():
    assert not orthogonalised(np.zeros((3, 4))).any()


def test_each_map_of_a_packed_matrix_is_turned_by_itself():
    cut = matrix_parts(GATED)
    assert cut["h.1.attn.c_attn.weight"] == (8, 4, 4)
    assert cut["h.1.mlp.c_fc.weight"] == (GATED.ffn_width,) * 2
    assert cut["h.1.attn.c_proj.weight"] == (8,)
    assert all(sum(widths) == a_model().params.shapes[name][-1] for name, widths in cut.items())
    assert not any(name.startswith(("wte", "wpe", "lm_head")) or "ln_" in name for name in cut)
    assert "h.0.mlp.router.weight" not in matrix_parts(MIXTURE)
    assert len(GPT(MIXTURE).params.shapes["h.0.mlp.c_fc.weight"]) == 3


@pytest.mark.parametrize("config", [GATED, MIXTURE], ids=["gated", "mixture"])
def test_steps_are_those_of_the_equations(config):
    model = a_model(config)
    name = "h.0.mlp.c_fc.weight"
    optimizer = Muon(model, momentum=0.9, weight_decay=0.1, clip=0.7)
    W, M = model.params[name].copy(), 0.0
    for t in range(1, 4):
        grads = gradients(model, t)
        norm = math.sqrt((grads.flat**2).sum())
        G = grads[name] * min(1, 0.7 / norm)
        M = 0.9 * M + G
        W = W * (1 - 0.01 * 0.1)
        for part in np.split(np.arange(W.shape[-1]), np.cumsum(matrix_parts(config)[name])[:-1]):
            D = orthogonalised((G + 0.9 * M)[..., part])
            W[..., part] -= 0.01 * 0.2 * math.sqrt(max(D.shape[-2:])) * D
        assert optimizer.step(grads, lr=0.01) == pytest.approx(norm, rel=1e-14)
        np.testing.assert_allclose(model.params[name], W, rtol=1e-12)


def test_the_rest_moves_as_by_adamw():
    model, other = a_model(), a_model()
    muon, adamw = Muon(model), AdamW(other)
    for t in range(3):
        grads = gradients(model, t)
        muon.step(grads, lr=0.01)
        adamw.step(grads, lr=0.01)
    matrices = matrix_parts(GATED)
    for name in model.params:
        same = np.array_equal(model.params[name], other.params[name])
        assert same == (name not in matrices), name


def test_a_step_is_as_large_as_adamws():
    """The root mean square of both is about 0.2 of the rate where gradients are noise."""
    config = Config(vocab_size=7, block_size=4, n_layer=1, n_head=2, n_embd=64)
    model = a_model(config)
    before = model.params["h.0.mlp.c_fc.weight"].copy()
    Muon(model, weight_decay=0.0).step(gradients(model), lr=1.0)
    moved = model.params["h.0.mlp.c_fc.weight"] - before
    assert 0.15 < np.sqrt((moved**2).mean()) < 0.25


def test_a_state_taken_over_goes_on_with_the_same_bits():
    model = a_model()
    optimizer = Muon(model)
    for t in range(2):
        optimizer.step(gradients(model, t), lr=0.01)
    again = copy.deepcopy(model)
    other = Muon(again)
    other.load_state({name: array.copy() for name, array in optimizer.state().items()}, 2)
    for one, which in ((optimizer, model), (other, again)):
        one.step(gradients(which, 5), lr=0.01)
    assert model.params.flat.tobytes() == again.params.flat.tobytes()
    with pytest.raises(InputError, match="Muon.load_state: the arrays' names differ"):
        other.load_state({"m.wte.weight": np.zeros((7, 8))}, 2)


def test_a_copy_has_sums_and_moments_of_its_own():
    model = a_model()
    optimizer = Muon(model)
    optimizer.step(gradients(model), lr=0.01)
    other = copy.copy(optimizer)
    before = {name: array.copy() for name, array in optimizer.state().items()}
    other.step(gradients(model, 1), lr=0.01)
    assert optimizer.steps == 1
    assert all(np.array_equal(array, before[name]) for name, array in optimizer.state().items())


def test_only_what_is_named_moves_and_what_is_masked_stays_zero():
    pruned = a_model().pruned(0.5)
    zero = {name: array == 0 for name, array in pruned.params.items() if name.endswith("_mask")}
    muon = Muon(pruned, names=["h.*.weight"])
    before = pruned.params["wte.weight"].copy()
    muon.step(gradients(pruned), lr=0.1)
    assert np.array_equal(pruned.params["wte.weight"], before)
    for name, hidden in zero.items():
        assert not pruned.params[name.removesuffix("_mask")][hidden].any(), name


def test_gradients_that_are_not_finite_move_nothing():
    model = a_model()
    grads = gradients(model)
    grads["h.1.mlp.c_proj.weight"][0, 0] = np.nan
    before = model.params.flat.copy()
    expected = re.escape("Muon: the gradient of h.1.mlp.c_proj.weight is not finite")
    with pytest.raises(InputError, match=expected):
        Muon(model).step(grads, lr=0.1)
    assert np.array_equal(model.params.flat, before)


def test_a_run_by_muon_resumes_to_the_same_bits(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("she sells sea shells by the sea shore. " * 60)
    corpus = numgpt.prepare(text, split="tail")
    config = Config(vocab_size=corpus.tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)

    def trainer(steps, out, model=None):
        settings = Training(
            steps=steps, lr=1e-2, min_lr=1e-3, schedule="constant", warmup=2, eval_iters=1, optimizer="muon"
        )
        model = model or GPT(config, seed=0, tokenizer=corpus.tokenizer)
        return numgpt.Trainer(model, corpus, settings, out)

    whole = trainer(20, tmp_path / "whole")
    whole.run()
    assert whole.best < 2.0  # from 2.7
    trainer(10, tmp_path / "cut").run()
    cut = trainer(20, tmp_path / "cut", GPT.load(tmp_path / "cut" / "last"))
    cut.resume()
    cut.run()
    assert cut.model.params.flat.tobytes() == whole.model.params.flat.tobytes()
    with pytest.raises(InputError, match="was trained with the optimizer Muon, and this Trainer has AdamW"):
        numgpt.Trainer(
            GPT.load(tmp_path / "cut" / "last"), corpus, Training(steps=30), tmp_path / "cut"
        ).resume()


def test_steps_turn_as_pytorchs_do():
    """torch.optim.Muon iterates in bfloat16, so its step has some percent of noise around ours."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    W = np.random.default_rng(0).standard_normal((16, 32)).astype("float32")
    theirs = torch.nn.Parameter(torch.tensor(W))
    other = torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    config = Config(vocab_size=7, block_size=4, n_layer=1, n_head=2, n_embd=16, n_inner=32)
    model = GPT(config, dtype="float32")
    model.params["h.0.mlp.c_fc.weight"] = W
    muon = Muon(model, momentum=0.95, weight_decay=0.1, clip=None)
    for t in range(3):
        grads = gradients(model, t)
        muon.step(grads, lr=0.1)
        theirs.grad = torch.tensor(grads["h.0.mlp.c_fc.weight"])
        other.step()
    ours, there = model.params["h.0.mlp.c_fc.weight"] - W, theirs.detach().numpy() - W
    assert np.linalg.norm(ours - there) < 0.03 * np.linalg.norm(ours)
