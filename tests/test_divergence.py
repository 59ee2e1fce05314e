"""The differ names the first place where two models part, and why: it finds every cause that it knows."""

import numpy as np
import pytest

from numgpt import GPT, AdamW, Config, InputError, parity

SIZE = {"vocab_size": 19, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
BOTH = pytest.mark.parametrize("dtype", ["float64", "float32"])


def model_of(seed=0, **changes):
    """A model whose parameters are all away from 0 and 1, so that every fault shows."""
    model = GPT(Config(**SIZE | changes), seed)
    model.params.flat += 0.2 * np.random.default_rng(1).standard_normal(model.n_params).astype(np.float32)
    return model


def torch_gpt(model, **fault):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpt

    return torch_gpt.GPT(**fault).load(model.params)


def faults():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpt

    return torch_gpt.FAULTS


WHERE = {
    "GELU in its erf form": ("value", "h.0.mlp.act"),
    "epsilon is 1e-05 in A, 1e-12 in B": ("value", "h.0.ln_1"),
    "by C − 1 in B": ("value", "h.0.ln_1"),
    "(out, in) in B": ("value", "h.0.attn.c_proj"),
    "a copy of it in B": ("gradient", "wte.weight"),
    "padded from 19 tokens to 64 in B": ("value", "loss"),
    "1/√D in A, not scaled in B": ("value", "h.0.attn.heads"),
    "divided by the block's number too": ("value", "h.1.attn.heads"),
    "after each sum in B (post-norm)": ("value", "h.0.ln_1"),
    "the order is k, q, v": ("value", "h.0.attn.heads"),
    "the order is v, k, q": ("value", "h.0.attn.heads"),
    "own token in B, not the next": ("value", "loss"),
    "off by one": ("value", "loss"),
    "the sum in B": ("value", "loss"),
}


@BOTH
@pytest.mark.parametrize("said", WHERE)
def test_a_planted_fault_is_found_where_it_is_and_called_what_it_is(said, dtype):
    model = model_of()
    found = parity.first_divergence(model, torch_gpt(model, **faults()[said]), dtype=dtype)
    assert (found.first.stage, found.first.name) == WHERE[said]
    assert len(found.causes) == 1 and said in found.causes[0] and found.left is None, str(found)


def test_every_fault_is_planted():
    assert set(faults()) == set(WHERE)


@BOTH
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_models_that_compute_the_same_do_not_part(dtype, seed, scale):
    model = GPT(Config(**SIZE), seed)
    model.params.flat += scale * np.random.default_rng(seed).standard_normal(model.n_params).astype(
        np.float32
    )
    found = parity.first_divergence(model, torch_gpt(model), dtype=dtype, seed=seed)
    assert found.first is None and not found.causes, str(found)
    assert {r.stage for r in found.comparison.rows} == {"parameter", "value", "gradient"}
    assert "no difference that rounding" in str(found)


@BOTH
def test_the_order_of_the_two_does_not_matter_and_two_modules_can_be_compared(dtype):
    model = model_of()
    right, wrong = torch_gpt(model), torch_gpt(model, **faults()["the sum in B"])
    for a, b in ((wrong, model), (right, wrong)):
        found = parity.first_divergence(a, b, dtype=dtype)
        assert found.causes == ("the loss is the mean in A, the sum in B",) and found.left is None, str(found)
    found = parity.first_divergence(wrong, right, dtype=dtype)
    # A is not what numgpt computes, so nothing can be tried
    assert found.first.name == "loss" and not found.causes
    assert parity.first_divergence(wrong, wrong, dtype=dtype).first is None


def test_two_faults_at_once_are_both_named():
    model = model_of()
    found = parity.first_divergence(
        model,
        torch_gpt(model, **faults()["epsilon is 1e-05 in A, 1e-12 in B"], **faults()["GELU in its erf form"]),
    )
    assert found.first.name == "h.0.ln_1" and found.left is None
    assert ["epsilon" in found.causes[0], "erf" in found.causes[1]] == [True, True], str(found)


@pytest.mark.parametrize(
    "fault, said",
    [
        (
            {"scale": 1.0, "order": (2, 1, 0)},
            "not scaled in B; c_attn gives q, k, v in A; in B the order is v, k, q",
        ),
        ({"by_block": True, "order": (0, 2, 1)}, "the order is q, v, k / divided by the block's number too"),
        (
            {"shift": 1, "reduction": "sum"},
            "off by one, the token after the next; the loss is the mean in A, the sum in B",
        ),
        ({"unbiased": True, "epsilon": 1e-12}, "by C − 1 in B / epsilon is 1e-05 in A, 1e-12 in B"),
    ],
    ids=lambda fault: " ".join(fault) if isinstance(fault, dict) else "",
)
def test_two_faults_at_one_place_are_both_named(fault, said):
    model = model_of()
    found = parity.first_divergence(model, torch_gpt(model, **fault))
    assert found.left is None, str(found)
    assert all(part in " / ".join(found.causes) for part in said.split(" / ")), str(found)


def set_to(module, name, value):
    """Set what a dotted name of a part leads to."""
    *path, last = name.split(".")
    for part in path:
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    setattr(module, last, value)


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("h.1.mlp.act", "erf", "GELU in its tanh form in A, GELU in its erf form in B, in h.1 alone"),
        ("h.0.mlp.act", "erf", "GELU in its tanh form in A, GELU in its erf form in B, in h.0 alone"),
        ("h.1.ln_2.eps", 1e-3, "the norm's epsilon is 1e-05 in A, 0.001 in B, in h.1.ln_2 alone"),
        ("ln_f.eps", 1e-3, "the norm's epsilon is 1e-05 in A, 0.001 in B, in ln_f alone"),
        (
            "h.1.attn.f",
            {"scale": 1.0},
            "attention's scores are scaled by 1/√D in A, not scaled in B, in h.1 alone",
        ),
        (
            "h.1.attn.f",
            {"order": (1, 0, 2)},
            "c_attn gives q, k, v in A; in B the order is k, q, v, in h.1 alone",
        ),
        ("h.1.attn.n_head", 4, "attention has 2 heads in A, 4 in B, in h.1 alone"),
        (
            "h.1.post",
            True,
            "norms stand before each part in A (pre-norm), after each sum in B (post-norm), in h.1 alone",
        ),
    ],
)
@BOTH
def test_a_fault_in_one_block_is_said_to_be_there(name, value, said, dtype):
    model = model_of()
    theirs = torch_gpt(model)
    set_to(theirs.transformer, name, theirs.transformer.h[0].mlp.act.__class__() if value == "erf" else value)
    found = parity.first_divergence(model, theirs, dtype=dtype)
    assert found.causes == (said,) and found.left is None, str(found)


def test_a_head_padded_with_large_rows_is_named_and_a_value_that_is_none_is_not():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = GPT(Config(**SIZE))
    theirs = torch_gpt(model, padded=64)
    with torch.no_grad():
        theirs.lm_head.weight[19:] *= 1e4
    found = parity.first_divergence(model, theirs)
    assert found.left is None and "padded from 19 tokens to 64" in found.causes[0], str(found)
    theirs = torch_gpt(model)
    with torch.no_grad():
        theirs.transformer.h[0].ln_1.weight.fill_(torch.nan)
    found = parity.first_divergence(model, theirs)
    # post-norm would compute it later
    assert (found.first.name, found.causes) == ("h.0.ln_1", ()), str(found)


def test_a_fault_that_is_not_known_is_said_to_be_none():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = model_of()
    theirs = torch_gpt(model, activation=torch.nn.Softsign())
    found = parity.first_divergence(model, theirs)
    assert found.first.name == "h.0.mlp.act" and not found.causes and "no likely cause" in str(found)


def test_a_step_that_decays_all_tensors_is_told_from_one_that_decays_matrices():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model, ours = model_of(), {"betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 0}
    theirs = torch_gpt(model)
    everything = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    matrices, vectors = (
        [p for p in theirs.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False)
    )
    right = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.95),
        weight_decay=0.1,
    )
    for dtype in ("float64", "float32"):
        agrees = parity.first_divergence(model, theirs, optimizers=(AdamW(model, **ours), right), dtype=dtype)
        assert agrees.first is None, str(agrees)
        assert any(r.stage == "update" for r in agrees.comparison.rows)
        found = parity.first_divergence(
            model, theirs, optimizers=(AdamW(model, **ours), everything), dtype=dtype
        )
        assert (found.first.stage, found.causes, found.left) == (
            "update",
            ("weight decay acts on matrices in A, on all tensors in B",),
            None,
        ), str(found)


def test_a_checkpoint_shows_decay_on_all_tensors_after_a_step(tmp_path):
    model, (tokens, targets) = GPT(Config(**SIZE)), np.random.default_rng(0).integers(0, 19, (2, 4, 8))
    for name, all_tensors in (("a", False), ("b", True)):
        moved = model.astype("float32")
        optimizer = AdamW(moved, weight_decay=0.1)
        if all_tensors:
            moved.params.decayed = moved.params.flat
        optimizer.step(moved.loss_and_grads(tokens, targets)[1], 1e-2)
        moved.save(tmp_path / name)
    found = parity.first_divergence(tmp_path / "a", tmp_path / "b", dtype="float32")
    assert found.causes == ("weight decay acts on matrices in A, on all tensors in B",), str(found)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_parameters_that_went_through_a_shorter_format_are_recognised(half):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = model_of()
    found = parity.first_divergence(model, torch_gpt(model).to(getattr(torch, half)))
    assert found.causes == (f"B's parameters are A's rounded to {half}",), str(found)


def test_the_module_is_left_as_it_was():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = torch_gpt(model_of()).train()
    optimizer = torch.optim.AdamW(theirs.parameters())
    theirs(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))[1].backward()
    optimizer.step()
    before = [(p.data_ptr(), p.detach().clone(), p.grad.clone()) for p in theirs.parameters()]
    parity.first_divergence(model_of(), theirs, optimizers=(AdamW(model_of(), clip=0), optimizer))
    parity.compare(theirs)
    for p, (place, value, grad) in zip(theirs.parameters(), before):
        assert p.data_ptr() == place and torch.equal(p, value) and torch.equal(p.grad, grad)
    assert all(m.training for m in theirs.modules()) and len(optimizer.state) == len(before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in theirs.modules())


def test_compare_loads_the_modules_weights_and_raises_where_it_computes_otherwise():
    theirs = torch_gpt(model_of())
    parity.compare(theirs).check()
    parity.compare(theirs, Config(**SIZE), dtype="float32").check()
    with pytest.raises(
        AssertionError, match="parts from numgpt with the weights of B at value h.0.mlp.act: .*DIFFERS"
    ):
        parity.compare(theirs, model_of(activation="relu")).check()
    with pytest.raises(InputError, match=r"h\.0\.mlp\.c_fc\.weight has shape"):
        parity.compare(theirs, Config(**SIZE, n_inner=16))


def test_a_module_with_names_of_its_own_is_compared_by_a_map():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    inner = torch_gpt(model_of())

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            t = inner.transformer
            self.tokens, self.places, self.drop = t.wte, t.wpe.weight, t.drop
            self.blocks, self.norm, self.out = t.h, t.ln_f, inner.lm_head

        def forward(self, ids):
            x = self.drop(self.tokens(ids) + self.places[: ids.shape[1]])
            for block in self.blocks:
                x = block(x)
            return self.out(self.norm(x))

    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    names = {
        "wte": "tokens",
        "wpe.weight": "places",
        "h.{i}": "blocks.{i}",
        "ln_f": "norm",
        "lm_head": "out",
    } | {f"h.{{i}}.{p}": f"blocks.{{i}}.{p}" for p in parts}
    found = parity.compare(Mine(), names=names)
    found.check()
    assert {"h.1.attn.c_attn", "lm_head", "loss"} <= {r.name for r in found.rows if r.stage == "value"}
    with pytest.raises(
        InputError, match="has no transformer.wte for wte, expected a path, for it has tokens"
    ):
        parity.compare(Mine())
    with pytest.raises(InputError, match="has no blocks.0.mlp.fc for h.0.mlp.c_fc, expected"):
        parity.compare(Mine(), names=names | {"h.{i}.mlp.c_fc": "blocks.{i}.mlp.fc"})
    with pytest.raises(InputError, match="ln_f.bias is missing"):
        parity.compare(
            Mine(), names={n: p for n, p in names.items() if n != "ln_f"} | {"ln_f.weight": "norm.weight"}
        )


def test_models_of_other_sizes_are_said_to_be_so():
    with pytest.raises(InputError, match="have n_embd 8 and 16"):
        parity.first_divergence(model_of(), GPT(Config(**SIZE | {"n_embd": 16})))


@pytest.mark.parametrize("config", [{}, {"tied": False}, {"activation": "gelu"}])
def test_parameters_that_differ_alone_have_no_cause_in_what_is_computed(config):
    one, other = model_of(**config), model_of(**config)
    other.params["wpe.weight"][-1] += 1
    found = parity.first_divergence(one, other, shape=(2, 4))
    assert (found.first.stage, found.first.name, found.causes) == ("parameter", "wpe.weight", ())
    assert "does not act on this batch" in str(found) and "likely cause" not in str(found)


@BOTH
@pytest.mark.parametrize("size", [1e5, 1e6, 1e12])
def test_a_model_whose_softmax_is_saturated_agrees_with_itself_and_shows_what_differs(size, dtype):
    one, other = model_of(), model_of()
    for name, array in one.params.items():
        if "c_attn" in name:
            array[...] *= size
    other.params.flat[...] = one.params.flat
    found = parity.first_divergence(one, other, dtype=dtype)
    assert found.first is None, str(found)
    other.params["h.1.mlp.c_proj.bias"] += 0.1
    found = parity.first_divergence(one, other, dtype=dtype)
    assert found.first.name == "h.1.mlp.c_proj", str(found)
