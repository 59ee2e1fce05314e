"""The same numbers as PyTorch and transformers, in float64: op by op, then whole models, values and gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import GPT, AdamW, Config, ops
from numgpt.check import op_subjects
from numgpt.parity.op_table import TORCH

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# Two float64 programs that add in different orders part by some eps times the largest term; 1e-12 leaves room for hundreds.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def tensor(array):
    if isinstance(array, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.requires_grad_() if array.dtype.kind == "f" else tensor
    return array


@pytest.mark.parametrize("op", ops.ALL.values(), ids=list(ops.ALL))
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_op_agrees_with_pytorch(op, seed):
    for subject in op_subjects(op, seed):
        y, saved = subject.forward(*subject.arrays, **subject.options)
        dy = np.random.default_rng(seed).standard_normal(np.shape(y))
        arrays = [tensor(a) for a in subject.arrays]
        theirs = TORCH[op.name](torch, *arrays, **{k: tensor(v) for k, v in subject.options.items()})
        np.testing.assert_allclose(y, theirs.detach().numpy(), **CLOSE, err_msg=subject.name)
        if not theirs.requires_grad:
            continue
        theirs.backward(torch.from_numpy(np.asarray(dy)))
        for ours, a in zip(subject.backward(dy, saved), arrays):
            if ours is not None:
                np.testing.assert_allclose(ours, np.zeros_like(ours) if a.grad is None else a.grad.numpy(), **CLOSE, err_msg=subject.name)


def compare_model(model, theirs, prefix):
    """Logits, loss and every gradient of a transformers model with the same parameters."""
    theirs = theirs.double().eval()
    state = theirs.state_dict()
    for name, value in model.params.items():
        value += 0.1 * np.random.default_rng(0).standard_normal(value.shape)
        state[prefix(name)].copy_(torch.from_numpy(value))
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, model.config.vocab_size, (2, 3, model.config.block_size))
    targets[0, :2] = -1
    logits = theirs(torch.from_numpy(tokens)).logits
    np.testing.assert_allclose(model(tokens), logits.detach().numpy(), **CLOSE)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), torch.from_numpy(targets).reshape(-1), ignore_index=-1)
    loss.backward()
    our_loss, grads = model.loss_and_grads(tokens, targets)
    assert abs(our_loss - loss.item()) < 1e-13
    parameters = dict(theirs.named_parameters())
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, parameters[prefix(name)].grad.numpy(), **CLOSE, err_msg=name)


SIZE = {"vocab_size": 13, "n_layer": 2, "n_head": 2, "n_embd": 8}


@pytest.mark.parametrize("activation, theirs", [("gelu_tanh", "gelu_new"), ("gelu", "gelu"), ("relu", "relu")])
def test_gpt2_agrees_with_transformers(activation, theirs):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = GPT(Config(block_size=6, activation=activation, **SIZE), dtype="float64")
    config = transformers.GPT2Config(
        n_positions=6, activation_function=theirs, attn_implementation="eager", bos_token_id=0, eos_token_id=0, **SIZE
    )
    compare_model(model, transformers.GPT2LMHeadModel(config), lambda name: f"transformer.{name}")


def test_gpt1_agrees_with_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = GPT(Config(block_size=6, norm_position="post", **SIZE), dtype="float64")
    theirs = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(n_positions=6, **SIZE))
    names = {"wte": "tokens_embed", "wpe": "positions_embed"}
    compare_model(model, theirs, lambda name: "transformer." + names.get(name.split(".")[0], name.split(".")[0]) + name[len(name.split(".")[0]) :])


def test_adamw_agrees_with_pytorch_step_by_step():
    model = GPT(Config(block_size=6, **SIZE), dtype="float64")
    optimizer = AdamW(model, betas=(0.9, 0.95), weight_decay=0.1, clip=0.5)
    tensors = {n: torch.nn.Parameter(torch.from_numpy(p.copy())) for n, p in model.params.items()}
    groups = [{"params": [t for t in tensors.values() if t.ndim > 1], "weight_decay": 0.1}, {"params": [t for t in tensors.values() if t.ndim <= 1], "weight_decay": 0.0}]
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
        for name, t in tensors.items():  # PyTorch scales by clip/(norm + 1e-6): a difference of 1e-8, which Adam all but cancels
            np.testing.assert_allclose(model.params[name], t.detach().numpy(), rtol=1e-8, atol=1e-9)
