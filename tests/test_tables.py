"""One table an idea: what is added to it is known everywhere, or refused in one line where it cannot be."""

import json

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, Visibility, ops, parity
from numgpt.__main__ import main
from numgpt.architecture.fields import from_dict, to_dict
from numgpt.architecture.parameters import kinds, parts, shapes
from numgpt.interchange import llmc
from numgpt.model import accounting
from numgpt.ops import Op
from numgpt.ops.activations import ACTIVATIONS, Activation
from numgpt.ops.norms import NORMS
from numgpt.ops.positions import POSITIONS

SMALL = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
TOKENS, TARGETS = np.random.default_rng(0).integers(0, 11, (2, 3, 8))


def cubed_relu_forward(x):
    """y = max(x, 0)³"""
    positive = x * (x.real > 0)
    return positive * positive * positive, (positive,)


def cubed_relu_backward(dy, saved):
    """dx = 3 max(x, 0)² dy"""
    (positive,) = saved
    return (3 * positive * positive * dy,)


cubed_relu = Op("... -> ...", cubed_relu_forward, cubed_relu_backward)


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


def places(x, start, positions):
    """The position of each vector, in a last axis of one."""
    return (start + np.arange(x.shape[-2]) if positions is None else positions)[..., None]


def ramp_forward(x, *, start=0, positions=None):
    """y_t = x_t + p_t/100"""
    return x + (places(x, start, positions) / 100).astype(x.dtype), ()


def ramp_backward(dy, saved):
    """dx = dy"""
    return (dy,)


ramp = Op("...TC -> ...TC", ramp_forward, ramp_backward)


def fading_forward(qkv, *, n_head, n_kv_head=None, start=0, positions=None):
    """q'_t = q_t γ^p_t,  k'_s = k_s γ^(−p_s),  so that a score falls by γ^(p_t − p_s)"""
    K = n_head if n_kv_head is None else n_kv_head
    D = qkv.shape[-1] // (n_head + 2 * K)
    powers = np.repeat([1, -1, 0], [n_head * D, K * D, K * D])
    factors = (0.9 ** (powers * places(qkv, start, positions))).astype(qkv.dtype)
    return qkv * factors, (factors,)


def fading_backward(dy, saved):
    """dqkv = dy γ^(±p)"""
    (factors,) = saved
    return (dy * factors,)


QKV = "...T(KGD+2KD)"
fading = Op(f"{QKV} -> {QKV}", fading_forward, fading_backward, sizes={"n_head": "KG", "n_kv_head": "K"})


@pytest.fixture
def cubed(monkeypatch):
    """A model with an activation that has a row in the table, and nothing else."""
    monkeypatch.setitem(ACTIVATIONS, "cubed_relu", Activation(cubed_relu, "cubed ReLU"))
    return GPT(Config(**SMALL, activation="cubed_relu"), dtype="float64")


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


def test_a_row_in_the_table_of_activations_is_an_activation_everywhere(cubed, tmp_path, capsys):
    expect_whole(cubed, tmp_path / "own")
    with pytest.raises(InputError, match="activation cubed_relu, which .* no class of transformers"):
        cubed.save(tmp_path / "theirs", layout="hf")
    with pytest.raises(InputError, match="activation cubed_relu, expected gelu_tanh"):
        llmc.save_model(tmp_path / "model.bin", cubed)
    smooth = GPT(Config(**SMALL), params=cubed.params, dtype="float64")
    said = str(parity.first_divergence(smooth, cubed))
    assert "GELU in its tanh form in A, cubed ReLU in B" in said
    assert main(["info", "gpt-nano", "--activation", "cubed_relu"]) == 0
    assert "cubed_relu" in capsys.readouterr().out


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


@pytest.mark.parametrize("op", [ramp, fading], ids=lambda op: op.name)
def test_a_row_in_the_table_of_positions_is_a_kind_of_positions_everywhere(op, monkeypatch, tmp_path, capsys):
    """Added to the embeddings or acting on queries and keys, as the op's line says."""
    monkeypatch.setitem(POSITIONS, op.name, op)
    model = GPT(Config(**SMALL, positions=op.name, n_kv_head=1), dtype="float64")
    model.params.flat[...] += np.random.default_rng(0).standard_normal(model.n_params) / 4
    assert "wpe.weight" not in model.params
    step = "wpe" if op is ramp else "h.1.attn.turned"
    assert [n for n, o in model.record(TOKENS).ops.items() if o is op][-1] == step
    expect_whole(model, tmp_path / "own")
    packed = Visibility.packed([[5, 3]])
    np.testing.assert_allclose(model(TOKENS[:1], visibility=packed)[:, 5:], model(TOKENS[:1, 5:]), rtol=1e-11)
    text = model.generate(TOKENS[:, :3], 6, temperature=0)
    assert (text[:, 3:] == model(text)[:, 2:-1].argmax(-1)).all()  # with the cache and without it
    with pytest.raises(InputError, match="rotary_base is 50.0, which nothing reads .positions is"):
        Config(**SMALL, positions=op.name, rotary_base=50.0)
    with pytest.raises(InputError, match="positions"):
        model.save(tmp_path / "theirs", layout="hf")
    with pytest.raises(InputError, match=f"positions {op.name}, expected learned"):
        llmc.save_model(tmp_path / "model.bin", model)
    assert main(["info", "gpt-nano", "--positions", op.name]) == 0
    assert op.name in capsys.readouterr().out


def test_what_can_be_chosen_in_one_way_only_is_no_flag(monkeypatch, capsys):
    for name in [name for name in NORMS if name != "layernorm"]:
        monkeypatch.delitem(NORMS, name)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "--activation" in text and "--norm " not in text and "--positions" in text


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


BOTH = (
    "ln_1 attn.c_attn attn.ln_q attn.ln_k attn.heads attn.c_proj ln_1_out ln_2 mlp.c_fc mlp.c_proj ln_2_out"
)
ONE, TWO = (
    "ln_1 attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
    "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj",
)


@pytest.mark.parametrize(
    "changes, block",
    [
        ({"norm_position": "both", "qk_norm": "head", "sink": True}, BOTH),
        ({"norm_position": "parallel"}, ONE),
        ({"norm_position": "parallel2"}, TWO),
        ({"norm_position": "out"}, TWO),
        ({"norm_position": "post"}, TWO),
    ],
)
def test_the_flat_buffer_keeps_its_order_in_every_kind_of_block(changes, block):
    """As above: a bit of a run depends on it, and no file would notice another order."""
    config = Config(**SMALL, bias=False, embed_norm=True, tied=False, **changes)
    expected = ["wte", "wpe", "ln_emb", *(f"h.{i}.{part}" for i in range(2) for part in block.split())]
    last = ["lm_head"] if changes["norm_position"] == "post" else ["ln_f", "lm_head"]
    assert [name.rpartition(".")[0] for name in shapes(config)] == [*expected, *last]


def test_a_late_field_is_in_a_file_only_where_it_differs(monkeypatch):
    monkeypatch.setitem(NORMS, "scalenorm", scalenorm)
    assert not {"norm", "positions"} & to_dict(Config()).keys()
    changed = Config(norm="scalenorm")
    assert json.loads(json.dumps(to_dict(changed)))["norm"] == "scalenorm"
    assert from_dict(Config, to_dict(changed)) == changed and from_dict(Config, to_dict(Config())) == Config()


def test_every_op_of_a_table_is_an_op_of_the_package():
    chosen = [*POSITIONS.values(), *NORMS.values(), *(row.op for row in ACTIVATIONS.values())]
    chosen = [op for op in chosen if op is not None]  # there is none where nothing is added or turned
    lacking = [op.name for op in chosen if getattr(ops, op.name, None) is not op]
    assert not lacking, f"{', '.join(lacking)}: not imported by numgpt/ops/__init__.py"
    assert all(ops.ALL[op.name] is op for op in chosen)


def test_every_op_of_the_package_is_offered_by_it():
    lacking = sorted(set(ops.ALL) - set(ops.__all__))
    assert not lacking, f"{', '.join(lacking)}: not in __all__ of numgpt/ops/__init__.py"


def test_no_two_activations_share_a_name_of_others():
    for names in (
        [n for row in ACTIVATIONS.values() for n in getattr(row, kind)] for kind in ("transformers", "torch")
    ):
        assert len(set(names)) == len(names)
    assert len({row.title for row in ACTIVATIONS.values()}) == len(ACTIVATIONS)
