"""The differ names what parts two models of the wider family, planted one by one."""

import dataclasses

import numpy as np
import pytest

from numgpt import GPT, Config, ops, parity
from numgpt.ops import Op
from numgpt.parity.family_causes import FAMILY

LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False}
SIZE = {"vocab_size": 19, "block_size": 8, "n_layer": 2, "n_head": 4, "n_embd": 16}
# What is said → (settings of A, settings of B, a change of B's parameters).
PLANTED = {
    "rotary positions have base 10000 in A, 500000 in B": ({}, {"rotary_base": 500000.0}),
    "rotary positions are divided by 4 in B": ({}, {"rotary_scaling": {"kind": "linear", "factor": 4.0}}),
    "rotary positions are scaled in A (yarn), not in B": (
        {"rotary_scaling": {"kind": "yarn", "factor": 4.0, "length": 4}},
        {"rotary_scaling": None},
    ),
    "a window holds 4 positions in A, its own included, 3 in B": ({"window": 4}, {"window": 3}),
    "a window holds 4 positions in A, its own included, 5 in B": ({"window": 4}, {"window": 5}),
    "a window holds 4 positions in A, its own included, none in B": ({"window": 4}, {"window": None}),
    "a window holds 3 positions in A, its own included, 4 in B": (
        {"layers": ({"window": 3}, {})},
        {"layers": ({"window": 4}, {})},
    ),
    "norm_position 'pre' in A, as in 'out' in B": ({}, {"norm_position": "out"}),
    "the norm's epsilon is 1e-05 in A, 1e-06 in B": ({}, {"layer_norm_epsilon": 1e-6}),
    "add up to 1 in A, are their part of a softmax over all in B": ({"n_expert": 4}, {"router": "raw"}),
    "are their part of a softmax over all in A, add up to 1 in B": (
        {"n_expert": 4, "router": "raw"},
        {"router": "renorm"},
    ),
}


def model_of(**changes):
    model = GPT(Config(**SIZE | LLAMA | changes), 0, "float64")
    model.params.flat += 0.3 * np.random.default_rng(1).standard_normal(model.n_params)
    return model


def said_of(a, b):
    found = parity.first_divergence(a, b)
    assert found.first is not None and found.left is None, str(found)
    return found.causes


@pytest.mark.parametrize("said", PLANTED)
def test_a_setting_of_the_family_that_differs_is_named(said):
    ours, theirs = PLANTED[said]
    a = model_of(**ours)
    b = GPT(dataclasses.replace(a.config, **theirs), params=a.params)
    causes = said_of(a, b)
    assert len(causes) == 1 and said in causes[0], causes


def served(name, of):
    """A model in which another op runs, and what is said of it."""
    a = model_of(n_kv_head=2)
    return a, GPT(a.config, params=a.params, served={name: of})


def test_neighbours_that_turn_together_are_named():
    """Written anew: channels 2i and 2i + 1 of each head as a complex number, turned."""
    H, K, D = 4, 2, 4

    def forward(qkv, *, n_head, n_kv_head=None, base=1e4, **_):
        heads = qkv.reshape(*qkv.shape[:-1], H + 2 * K, D)
        z = heads[..., : H + K, 0::2] + 1j * heads[..., : H + K, 1::2]
        T = qkv.shape[-2]
        angles = np.arange(T)[:, None] / base ** (np.arange(D // 2) * 2 / D)
        z = z * np.exp(1j * angles)[:, None]
        y = heads.copy()
        y[..., : H + K, 0::2], y[..., : H + K, 1::2] = z.real, z.imag
        return y.reshape(qkv.shape), angles

    def backward(dy, angles):
        heads = dy.reshape(*dy.shape[:-1], H + 2 * K, D)
        z = heads[..., : H + K, 0::2] + 1j * heads[..., : H + K, 1::2]
        z = z * np.exp(-1j * angles)[:, None]
        dx = heads.copy()
        dx[..., : H + K, 0::2], dx[..., : H + K, 1::2] = z.real, z.imag
        return (dx.reshape(dy.shape),)

    turned = Op(ops.rotary.line, forward, backward, sizes=ops.rotary.sizes)
    (cause,) = said_of(*served("h.*.attn.turned", turned))
    assert "with its neighbour in B: interleaved" in cause


def test_key_heads_that_are_tiled_are_named():
    H, K, D = 4, 2, 4
    order = np.array([0, 2, 1, 3])  # query heads 0 and 2 read key head 0
    columns = (order[:, None] * D + np.arange(D)).reshape(-1)
    every = np.concatenate([columns, np.arange(H * D, (H + 2 * K) * D)])

    def forward(qkv, **options):
        y, saved = ops.attention.forward(qkv[..., every], **options)
        return y[..., np.argsort(columns)], saved

    def backward(dy, saved):
        (taken,) = ops.attention.backward(dy[..., columns], saved)
        dqkv = np.empty_like(taken)
        dqkv[..., every] = taken
        return (dqkv,)

    tiled = Op(ops.attention.line, forward, backward, sizes=ops.attention.sizes, noise=ops.attention.noise)
    (cause,) = said_of(*served("h.*.attn.heads", tiled))
    assert "repeated, and tiled" in cause


def test_gate_and_value_in_the_other_order_are_named():
    a = model_of()
    b = GPT(a.config, params=a.params.astype("float64"))
    for name in (name for name in a.params if ".c_fc." in name):
        F = a.params[name].shape[-1] // 2
        b.params[name] = np.roll(a.params[name], F, axis=-1)
    assert any("the value, then the gate in B" in cause for cause in parity.first_divergence(a, b).causes)


@pytest.mark.parametrize("shift, said", [(1.0, "1 + w in B"), (-1.0, "w − 1 in B")])
def test_a_weight_that_is_one_more_is_named(shift, said):
    a = model_of()
    b = GPT(a.config, params=a.params.astype("float64"))
    for name in (name for name in a.params if "ln_" in name):
        b.params[name] += shift
    assert any(said in cause for cause in parity.first_divergence(a, b).causes)


def test_positions_counted_from_1_are_named():
    a = model_of()

    def forward(qkv, *, start=0, **options):
        return ops.rotary.forward(qkv, start=start + 1, **options)

    later = Op(ops.rotary.line, forward, ops.rotary.backward, sizes=ops.rotary.sizes)
    b = GPT(a.config, params=a.params, served={"h.*.attn.turned": later})
    (cause,) = said_of(a, b)
    assert "counted from 0 in A, from 1 in B" in cause


def test_every_cause_of_the_family_is_planted():
    assert {cause.__name__ for cause in FAMILY} == {
        *("rotation", "groups", "window", "gate", "one_plus", "place_of_norms", "router")
    }
