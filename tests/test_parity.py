"""The same numbers as PyTorch and transformers: ops, layers, models, steps of AdamW, and smaller errors."""

import importlib
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import GPT, AdamW, Config, ops
from numgpt.__main__ import main
from numgpt.engine import precision
from numgpt.parity import op_table, verify

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from numgpt.parity import truth


def holds(line):
    assert line.holds, str(line)


@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_op_agrees_with_pytorch(op, seed):
    for subject in (s for s in verify.variants(op, seed) if s.name not in verify.LOST):
        for dtype in verify.DTYPES:
            holds(verify.subject_line(subject, dtype, seed))


@pytest.mark.parametrize("dtype", verify.DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_every_layer_and_model_agrees_with_pytorch(seed, dtype):
    for subject in verify.subjects(seed):
        if subject.op is None:
            holds(verify.subject_line(subject, dtype, seed))


@pytest.mark.parametrize("name", verify.in_bf16())
@pytest.mark.parametrize("seed", range(3))
def test_products_of_bf16_err_no_more_than_those_of_pytorchs_autocast(name, seed, each_engine):
    holds(verify.bf16_line(name, verify.in_bf16()[name], seed))


def test_sums_in_bf16_are_said_to_fail(monkeypatch, capsys):
    """Eight terms at a time, and what they add up to rounded."""
    module = importlib.import_module("numgpt.ops.linear")
    right = module.product

    def in_parts(a, b):
        total = right(a[..., :8], b[..., :8, :])
        for k in range(8, a.shape[-1], 8) if precision.current() else ():
            total = precision.rounded(total + right(a[..., k : k + 8], b[..., k : k + 8, :]), "bf16")
        return total if precision.current() else right(a, b)

    monkeypatch.setattr(module, "product", in_parts)
    assert main(["verify", "unembedding in bf16"]) == 1
    assert "FAILS  ours to PyTorch's error against float64" in capsys.readouterr().out


@pytest.mark.parametrize("name", verify.TRANSFORMERS)
def test_transformers_models_and_ten_steps_of_adamw_agree(name):
    pytest.importorskip("transformers", reason="transformers is not installed")
    lines = list(verify.transformers_lines(name, verify.TRANSFORMERS[name], seed=1))
    assert len(lines) == 4
    for line in lines:
        holds(line)


@pytest.mark.parametrize("planted", ["value", "gradient", "nan", "small"])
def test_an_op_that_differs_is_said_to_fail(planted, monkeypatch, capsys):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy * (torch.nan if planted == "nan" else 1 + 1e-3)

    right = op_table.TORCH["gelu"]
    rows = {
        "value": lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
        "gradient": lambda t, x: Wrong.apply(right(t, x)),
        "nan": lambda t, x: Wrong.apply(right(t, x)),
        "small": lambda t, x: right(t, x) * (1 + 1e-11),
    }
    monkeypatch.setitem(op_table.TORCH, "gelu", rows[planted])
    subject = next(verify.variants(ops.gelu, 0))
    assert not verify.subject_line(subject, "float64", 0).holds
    is_hidden = planted == "small"  # which float32 cannot show
    assert verify.subject_line(subject, "float32", 0).holds is is_hidden
    assert main(["verify", "gelu"]) == 1
    assert " FAILS " in capsys.readouterr().out


@pytest.mark.parametrize("op", [ops.gelu, ops.gelu_tanh], ids=lambda o: o.name)
def test_what_is_skipped_is_what_pytorch_has_no_digits_of(op):
    subject = next(s for s in verify.variants(op, 0) if s.name in verify.LOST)
    x = subject.arrays[0].astype(np.longdouble)
    exact = op.forward(x)[0]
    theirs = op_table.TORCH[op.name](torch, torch.from_numpy(subject.arrays[0])).numpy()
    assert abs(subject.forward(*subject.arrays)[0] / exact - 1).max() < 1e-13
    assert abs(theirs / exact - 1).max() > 0.5


def test_numgpt_is_no_further_from_the_truth_than_pytorch():
    for line in verify.truth_lines(truth.measure()):
        holds(line)


def test_what_is_measured_is_a_block_in_one_piece_where_numba_runs_it_so(monkeypatch):
    """As people train: a smaller batch would go op by op, and say nothing of the fused kernels."""
    pytest.importorskip("numba")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from numgpt import engine
    from numgpt.layers import transformer_numba

    launched, launch = [], transformer_numba.launch
    monkeypatch.setattr(engine.choice, "_engine", "numba")
    monkeypatch.setattr(
        transformer_numba, "launch", lambda kernel, *args: launched.append(kernel) or launch(kernel, *args)
    )
    for measured in (
        lambda: truth.measure(seeds=range(1)),
        lambda: verify.steps(verify.gpt2(0), "float32", 0),
    ):
        launched.clear()
        measured()
        assert {transformer_numba.block_forward, transformer_numba.block_backward} <= set(launched)


def test_a_side_that_errs_more_is_said_to_be_further_from_the_truth(monkeypatch):
    exact = GPT.loss_and_grads

    def worse(model, tokens, targets, **more):
        loss, grads = exact(model, tokens, targets, **more)
        grads.flat *= 1 + 2.0**-20 * np.random.default_rng(0).standard_normal(grads.flat.shape).astype(
            np.float32
        )
        return loss, grads

    monkeypatch.setattr(GPT, "loss_and_grads", worse)
    found = {x.name: x for x in truth.measure(seeds=range(1)) if x.stage == "gradient"}
    assert found["h.0.attn.c_attn.weight"].ratio > 2 and found["h.0.attn"].ratio < 2
    assert 6 < found["h.0.attn.c_attn.weight"].ours < 12  # 2⁻²⁰ is 8 ulps


def test_adamw_with_clipping_agrees_with_pytorch_step_by_step():
    model = GPT(Config(vocab_size=13, n_layer=2, n_head=2, n_embd=8, block_size=6), dtype="float64")
    optimizer = AdamW(model, betas=(0.9, 0.95), weight_decay=0.1, clip=0.5)
    tensors = {n: torch.nn.Parameter(torch.from_numpy(p.copy())) for n, p in model.params.items()}
    groups = [
        {"params": [t for t in tensors.values() if t.ndim > 1], "weight_decay": 0.1},
        {"params": [t for t in tensors.values() if t.ndim <= 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = model.params.like()
        grads.flat[:] = rng.standard_normal(grads.flat.shape)
        for name, t in tensors.items():
            t.grad = torch.from_numpy(grads[name].copy())
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), 0.5)
        theirs.step()
        assert abs(optimizer.step(grads, lr=1e-2) - norm.item()) < 1e-12
        # PyTorch scales by clip/(norm + 1e-6): a difference of 1e-8, which Adam all but cancels
        for name, t in tensors.items():
            np.testing.assert_allclose(model.params[name], t.detach().numpy(), rtol=1e-8, atol=1e-9)


def test_the_command_prints_a_table_and_writes_a_page(tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["verify", "layernorm", "--html", str(page)]) == 0
    (count,) = re.findall(r"(\d+) comparisons with PyTorch, 0 failed", capsys.readouterr().out)
    assert int(count) >= 12 and f"All {count} comparisons hold" in page.read_text("utf-8")
    assert main(["verify", "closer", "--seeds", "1", "--html", str(page)]) == 0
    assert page.read_text("utf-8").count('class="bar ours"') == len(truth.measure(seeds=range(1)))
    for args in (
        ["verify", "nothing of this name"],
        ["verify", "gelu", "--html", str(tmp_path / "no" / "page.html")],
        ["verify", "gelu", "--html", str(tmp_path)],
    ):
        capsys.readouterr()
        assert main(args) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and captured.out == ""


def test_without_transformers_its_lines_are_skipped(monkeypatch, capsys):
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    assert main(["verify", "transformers"]) == 0
    assert "0 comparisons with PyTorch, 0 failed, 2 skipped" in capsys.readouterr().out


def test_without_pytorch_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for names in (["gelu"], ["closer"], []):
        assert main(["verify", *names]) == 2
        captured = capsys.readouterr()
        assert "pip install numgpt[verify]" in captured.err and captured.out == ""
