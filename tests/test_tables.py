"""One table an idea: what is added to it is known everywhere, or refused in one line where it cannot be."""

import json

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, ops, parity
from numgpt.__main__ import main
from numgpt.architecture.config import from_dict, to_dict
from numgpt.architecture.parameters import kinds, parts, shapes
from numgpt.interchange import llmc
from numgpt.model import accounting
from numgpt.ops import Op
from numgpt.ops.activations import ACTIVATIONS, Activation
from numgpt.ops.norms import NORMS
from numgpt.ops.positions import POSITIONS

SMALL = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 11, (2, 3, 8))


def squared_relu_forward(x):
    """y = max(x, 0)²"""
    positive = x * (x.real > 0)
    return positive * positive, (positive,)


def squared_relu_backward(dy, saved):
    """dx = 2 max(x, 0) dy"""
    (positive,) = saved
    return (2 * positive * dy,)


squared_relu = Op("... -> ...", squared_relu_forward, squared_relu_backward)


def scalenorm_forward(x, weight, *, eps=1e-5):
    """y = w x r,  r = (⟨x²⟩ + ε)^(−½)"""
    r = ((x * x).mean(-1, keepdims=True) + eps) ** -0.5
    return weight * x * r, (x, weight, r)


def scalenorm_backward(dy, saved):
    """dw = Σ dy x r,  dx = r (g − x r² ⟨g x⟩) with g = dy w"""
    x, weight, r = saved
    g = dy * weight
    dx = r * (g - x * r * r * (g * x).mean(-1, keepdims=True))
    return dx, (dy * x * r).reshape(-1, x.shape[-1]).sum(0)


scalenorm = Op("...C, C -> ...C", scalenorm_forward, scalenorm_backward, parameters=("weight",))


@pytest.fixture
def squared(monkeypatch):
    """A model with an activation that has a row in the table, and nothing else."""
    monkeypatch.setitem(ACTIVATIONS, "squared_relu", Activation(squared_relu, "squared ReLU"))
    return GPT(Config(**SMALL, activation="squared_relu"), dtype="float64")


@pytest.fixture
def scaled(monkeypatch):
    """A model with a norm that has a row in the table, and nothing else."""
    monkeypatch.setitem(NORMS, "scalenorm", scalenorm)
    return GPT(Config(**SMALL, norm="scalenorm"), dtype="float64")


def gradients(model, engine):
    before = numgpt.engine.current()
    numgpt.use(engine)
    try:
        loss, grads = model.loss_and_grads(TOKENS, TARGETS)
        return float(loss), grads.flat.copy()
    finally:
        numgpt.use(before)


def expect_whole(model, folder):
    """Trained alike by both engines, right by central differences, saved, loaded, and counted."""
    (loss, reference), (other, numba) = gradients(model, "reference"), gradients(model, "numba")
    np.testing.assert_allclose(other, loss, rtol=1e-13)
    np.testing.assert_allclose(numba, reference, rtol=1e-9, atol=1e-13)
    direction = np.random.default_rng(1).standard_normal(model.n_params)
    along = float(numgpt.calculus.jvp(model, TOKENS, direction, targets=TARGETS))
    np.testing.assert_allclose(along, reference @ direction, rtol=1e-12)
    model.save(folder)
    again = GPT.load(folder)
    assert again.config == model.config and again.params.flat.tobytes() == model.params.flat.tobytes()
    assert sum(accounting.parameter_groups(model.config).values()) == model.n_params
    assert min(accounting.training_bytes(model.config, 2, 8).values()) > 0


def test_a_row_in_the_table_of_activations_is_an_activation_everywhere(squared, tmp_path, capsys):
    expect_whole(squared, tmp_path / "own")
    with pytest.raises(InputError, match="transformers has no name for the activation squared_relu"):
        squared.save(tmp_path / "theirs", layout="hf")
    with pytest.raises(InputError, match="activation squared_relu, expected gelu_tanh"):
        llmc.save_model(tmp_path / "model.bin", squared)
    smooth = GPT(Config(**SMALL), params=squared.params, dtype="float64")
    said = str(parity.first_divergence(smooth, squared))
    assert "GELU in its tanh form in A, squared ReLU in B" in said
    assert main(["info", "gpt-nano", "--activation", "squared_relu"]) == 0
    assert "squared_relu" in capsys.readouterr().out


def test_a_row_in_the_table_of_norms_is_a_norm_everywhere(scaled, tmp_path, capsys):
    assert "h.0.ln_1.weight" in scaled.params and "h.0.ln_1.bias" not in scaled.params  # it learns no bias
    assert (scaled.params["ln_f.weight"] == 1).all()
    expect_whole(scaled, tmp_path / "own")
    with pytest.raises(InputError, match="norm"):
        scaled.save(tmp_path / "theirs", layout="hf")
    with pytest.raises(InputError, match="norm scalenorm, expected layernorm"):
        llmc.save_model(tmp_path / "model.bin", scaled)
    assert main(["info", "gpt-nano", "--norm", "scalenorm"]) == 0
    assert "scalenorm" in capsys.readouterr().out


def test_what_can_be_chosen_in_one_way_only_is_no_flag(capsys):
    assert len(NORMS) == len(POSITIONS) == 1
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "--activation" in text and "--norm " not in text and "--positions" not in text


@pytest.mark.parametrize(
    "changes", [{}, {"norm_position": "post"}, {"tied": False}, {"bias": False}, {"n_layer": 0}]
)
def test_every_parameter_belongs_to_a_part(changes):
    config = Config(**SMALL | changes)
    names = [part.name for part in parts(config)]
    assert len(set(names)) == len(names)
    assert list(kinds(config)) == list(shapes(config))
    assert {name.rpartition(".")[0] for name in shapes(config)} == set(names)


def test_the_flat_buffer_keeps_its_order():
    """Checkpoints know names; bits of a run depend on the order of these."""
    block = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    expected = ["wte.weight", "wpe.weight"]
    expected += [f"h.{i}.{name}.{p}" for i in range(2) for name in block for p in ("weight", "bias")]
    assert list(shapes(Config(**SMALL, tied=False))) == [
        *expected,
        "ln_f.weight",
        "ln_f.bias",
        "lm_head.weight",
    ]


def test_a_late_field_is_in_a_file_only_where_it_differs(monkeypatch):
    monkeypatch.setitem(NORMS, "scalenorm", scalenorm)
    assert not {"norm", "positions"} & to_dict(Config()).keys()
    changed = Config(norm="scalenorm")
    assert json.loads(json.dumps(to_dict(changed)))["norm"] == "scalenorm"
    assert from_dict(Config, to_dict(changed)) == changed and from_dict(Config, to_dict(Config())) == Config()


def test_every_op_of_a_table_is_an_op_of_the_package():
    chosen = [*POSITIONS.values(), *NORMS.values(), *(row.op for row in ACTIVATIONS.values())]
    assert all(ops.ALL[op.name] is op and getattr(ops, op.name) is op for op in chosen)


def test_no_two_activations_share_a_name_of_others():
    for names in (
        [n for row in ACTIVATIONS.values() for n in getattr(row, kind)] for kind in ("transformers", "torch")
    ):
        assert len(set(names)) == len(names)
    assert len({row.title for row in ACTIVATIONS.values()}) == len(ACTIVATIONS)
