"""The exercises beyond the first: what they compute is what the library does, at any seed and size."""

import dataclasses

import numpy as np
import pytest

import numgpt
from numgpt import ops
from numgpt.architecture.parameters import Flat
from numgpt.learn import judging, starting
from numgpt.learn.exercises import NAMES, adamw, rope
from numgpt.learn.variation import exercise

EXTRAS = [
    name for name in NAMES if name in ("adamw", "rmsnorm", "swiglu", "rope", "dropout", "accumulation", "hvp")
]


def case(name, seed=0):
    wanted = exercise(name)
    return wanted, wanted.case(np.random.default_rng(seed), **wanted.sizes)


def solved(wanted, made):
    returned = wanted.solution(*made.arguments)
    return returned if isinstance(returned, tuple) else (returned,)


@pytest.mark.parametrize("name", ["rmsnorm", "swiglu"])
def test_the_norm_and_the_gate_are_those_of_the_ops(name):
    wanted, made = case(name)
    op = getattr(ops, name)
    _, saved = op.forward(*made.inputs.values())
    for ours, theirs in zip(solved(wanted, made), op.backward(made.arguments[0], saved)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_the_turn_is_that_of_the_op_from_position_1():
    wanted, made = case("rope")
    x, dy = made.inputs["x"], made.arguments[0]
    packed = np.concatenate([x, x, x], axis=-1)  # queries, keys and values of one head
    y, saved = ops.rotary.forward(packed, n_head=1, base=rope.BASE, start=1)
    D = x.shape[-1]
    np.testing.assert_allclose(rope.rope_forward(x)[0], y[..., :D], rtol=1e-12, atol=1e-13)
    (dpacked,) = ops.rotary.backward(np.concatenate([dy, dy, dy], axis=-1), saved)
    np.testing.assert_allclose(solved(wanted, made)[0], dpacked[..., :D], rtol=1e-12, atol=1e-13)


def test_dropout_on_probabilities_is_that_of_the_op():
    wanted, made = case("dropout")
    dy, (probs, v, keep) = made.arguments
    rate = 1 - made.numbers["q"]
    dropped, saved = ops.dropout.forward(probs, keep=keep, p=rate)
    (dprobs,) = ops.dropout.backward(dy @ v.swapaxes(-1, -2), saved)
    for ours, theirs in zip(solved(wanted, made), (dprobs, dropped.swapaxes(-1, -2) @ dy)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_the_step_is_that_of_the_optimizer():
    shapes = {"h.0.attn.c_attn.weight": (5, 7), "h.0.attn.c_attn.bias": (7,)}
    params, grads = (Flat(shapes, np.float64) for _ in range(2))
    rng = np.random.default_rng(1)
    params.flat[:] = rng.standard_normal(params.flat.size)
    betas = (adamw.BETA1, adamw.BETA2)
    optimizer = numgpt.AdamW(params, betas, adamw.EPS, adamw.DECAY, adamw.CLIP)
    W, b = (np.array(params[name]) for name in shapes)
    moments = tuple(np.zeros_like(a) for a in (W, W, b, b))
    for t, size in ((1, 1.0), (2, 0.01)):
        grads.flat[:] = size * rng.standard_normal(grads.flat.size)
        norm, _, _, mW, vW, mb, vb, W, b = adamw.clip_and_adamw_step(W, b, *grads.values(), moments, t)
        moments = (mW, vW, mb, vb)
        np.testing.assert_allclose(optimizer.step(grads, lr=adamw.LR), norm, rtol=1e-12)
        for ours, name in zip((W, b), shapes):
            np.testing.assert_allclose(ours, params[name], rtol=1e-11, atol=1e-13)


def test_the_product_with_the_hessian_is_the_complex_derivative_of_the_gradient():
    wanted, made = case("hvp")
    W, V, x, u, target = made.arguments
    moved = wanted.forward(W + 1e-30j * V, x, u, target)[1]
    np.testing.assert_allclose(solved(wanted, made)[0], moved.imag / 1e-30, rtol=1e-12, atol=1e-13)


def test_a_cut_batch_has_the_loss_and_gradient_of_the_whole():
    wanted, made = case("accumulation")
    W, batches = made.arguments
    whole = wanted.forward(W, *map(np.concatenate, zip(*batches)))
    for ours, theirs in zip(solved(wanted, made), whole):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed, more", [(11, 1)])
@pytest.mark.parametrize("name", EXTRAS)
def test_faults_are_named_at_other_seeds_and_sizes(name, seed, more):
    wanted = exercise(name)
    seeded = dataclasses.replace(
        wanted,
        sizes={letter: size + more for letter, size in wanted.sizes.items()},
        case=lambda rng, **sizes: wanted.case(np.random.default_rng(seed), **sizes),
    )
    reports = [
        (fault, judging.judge(seeded, starting.loaded(wanted, text)))
        for fault, text in starting.wrong(wanted)
    ]
    assert not [fault.seen for fault, report in reports if report.right]
    unnamed = [
        (fault.seen, report.codes) for fault, report in reports if set(report.codes) != set(fault.codes)
    ]
    assert len(unnamed) <= 0.05 * len(reports), unnamed
    for body in wanted.alternatives:
        text = starting.page(wanted, stub=False, body=body)
        assert judging.judge(seeded, starting.loaded(wanted, text)).right


def test_what_follows_from_a_wrong_step_is_not_called_wrong_itself():
    """A norm that is wrong is told once; what is right whatever was returned before it is right."""
    text = {
        fault.seen: judging.judge(exercise("adamw"), starting.loaded(exercise("adamw"), page))
        for fault, page in starting.wrong(exercise("adamw"))
        if fault.codes in (("ADAMW_NORM_SQUARED",), ("ADAMW_NORM_AFTER_CLIP",))
    }
    words = [{g.name: g.word for g in report.gradients} for report in text.values()]
    assert [w["norm"] for w in words] == ["WRONG", "WRONG"]
    assert set(words[0].values()) == {"WRONG", "follows"}
    assert set(words[1].values()) == {"WRONG", "ok"}
