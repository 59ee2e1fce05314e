"""Names, first values, the flat buffer, presets and what they cost."""

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from numgpt import GPT, Config, InputError
from numgpt.architecture import presets
from numgpt.architecture.parameters import Flat, initialise, shapes
from numgpt.layers.record import Record
from numgpt.layers.transformer import BLOCKS, loss_forward
from numgpt.model.accounting import (
    activation_bytes,
    cache_bytes,
    flops_per_token,
    parameter_groups,
    training_bytes,
)
from numgpt.model.decoding import KeyValueCache, advance
from numgpt.model.held import held_by_name
from numgpt.ops.norms import NORMS
from numgpt.proofs.subjects import SMALL, VARIANTS


def total(config):
    return sum(parameter_groups(config).values())


def test_names_and_layouts_are_those_of_gpt2s_checkpoints():
    names = shapes(presets.preset("gpt2"))
    assert len(names) == 4 + 12 * 12
    assert names["wte.weight"] == (50257, 768)
    assert names["wpe.weight"] == (1024, 768)
    assert names["h.11.attn.c_attn.weight"] == (768, 2304)
    assert names["h.11.attn.c_attn.bias"] == (2304,)
    assert names["h.0.mlp.c_fc.weight"] == (768, 3072)
    assert names["h.0.mlp.c_proj.weight"] == (3072, 768)
    assert "lm_head.weight" not in names


# Published: the checkpoints of GPT-2, LLaMA, Mistral and Qwen2; GPT-1 and GPT-3 by their papers' rounded
# sizes (GPT-3 XL and 13B are rounded from the widths there).
EXACT = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt1": 116_534_784,
    "stories15m": 15_191_712,
    "stories42m": 41_689_600,
    "stories110m": 109_529_856,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 3_880_263_168,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi3-mini": 3_821_079_552,
    "falcon-7b": 6_921_720_704,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "olmoe-1b-7b": 6_919_161_856,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "granite3-2b": 2_533_531_648,
    "granite3-8b": 8_170_848_256,
    "falcon-40b": 41_303_293_952,
    "qwen2-7b": 7_615_616_512,
    "qwen2-72b": 72_706_203_648,
}
ROUNDED = {
    "gpt3-small": 125e6,
    "gpt3-medium": 350e6,
    "gpt3-large": 760e6,
    "gpt3-xl": 1.3e9,
    "gpt3-2.7b": 2.7e9,
    "gpt3-6.7b": 6.7e9,
    "gpt3-13b": 13e9,
    "gpt3-175b": 175e9,
}


@pytest.mark.parametrize("name", EXACT)
def test_presets_have_the_published_number_of_parameters(name):
    assert total(presets.preset(name)) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_gpt3_presets_have_the_papers_sizes(name):
    assert total(presets.preset(name)) == pytest.approx(ROUNDED[name], rel=0.02)


@pytest.mark.parametrize("size", ["nano", "micro"])
def test_a_small_llama_costs_what_the_gpt_of_its_size_costs(size):
    gpt, llama = (presets.preset(f"{family}-{size}") for family in ("gpt", "llama"))
    assert total(llama) == pytest.approx(total(gpt), rel=0.03)
    assert sum(flops_per_token(llama).values()) == pytest.approx(sum(flops_per_token(gpt).values()), rel=0.03)
    ours, theirs = (presets.preset_training(f"{family}-{size}") for family in ("llama", "gpt"))
    # A step of llama-micro takes half as long again, and both are to end in two minutes.
    assert (
        dataclasses.replace(ours, steps=theirs.steps, lr=theirs.lr) == theirs and ours.steps <= theirs.steps
    )


def test_nanogpt_without_biases_has_its_published_count():
    assert total(presets.preset("gpt2", bias=False)) == 124_337_664
    assert total(presets.preset("gpt-micro", vocab_size=65)) == 804_096


def test_every_preset_has_training_settings_and_valid_fields():
    for name in presets.MODELS:
        assert presets.preset(name).n_layer
        assert presets.preset_training(name).steps


def test_flops_of_gpt2_are_the_published_ones():
    """nanoGPT's sizing notebook, forward and backward of a sequence of 1,024."""
    forward = 1024 * sum(flops_per_token(presets.preset("gpt2")).values())
    assert (forward, 3 * forward) == (291_648_307_200, 874_944_921_600)


# Models of the family that hold other arrays than GPT-2 does.
LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False, "n_embd": 8}
FAMILY = {
    "small LLaMA": LLAMA,
    "grouped heads": LLAMA | {"n_head": 4, "n_kv_head": 2, "head_dim": 6},
    "a window": {"window": 2},
    "a window as long as the text": {"window": 4},
    "windows in turn": LLAMA | {"layers": [{"window": 2}, {"rotary_base": 100.0}]},
    "linear biases": {"positions": "alibi", "softcap": 2.0, "n_kv_head": 1},
    "no positions": {"positions": "none", "biases": "qkv"},
    "sinusoidal": {"positions": "sinusoidal", "dropout": 0.3, "window": 3},
    "layers of two kinds": {
        "layers": [{"n_inner": 3, "activation": "reglu"}, {"n_head": 3, "norm": "rmsnorm"}]
    },
}
# Each norm in each place of a block, with each kind of feed-forward and of norm of queries and keys.
MLPS = ({"n_inner": 3}, {"n_expert": 3, "router": "raw"}, {"n_expert": 4, "shared_inner": 5})
QK_NORMS = ("none", "head", "full", "each")
FAMILY |= {
    f"{norm}, {place}": {
        **{"norm": norm, "norm_position": place, "embed_norm": i % 2 == 0},
        **MLPS[(i + j) % 3],
        **{"qk_norm": QK_NORMS[(i + j) % 4] if norm == "layernorm" else QK_NORMS[0]},
        **{"final_softcap": 3.0 if j else None, "sink": i % 2 == 0, "residual_scale": 0.5 + i % 2},
    }
    for j, norm in enumerate(NORMS)
    for i, place in enumerate(BLOCKS)
}
COUNTED = FAMILY | VARIANTS


@pytest.mark.parametrize("changes", COUNTED.values(), ids=list(COUNTED))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_are_counted_to_the_byte(changes, dtype):
    model = GPT(Config(**SMALL | changes), dtype=dtype)
    tokens, targets = np.random.default_rng(0).integers(0, 7, (2, 3, 4))
    dropout = model.config.dropout > 0
    record = Record(model.params, model.config, step=0 if dropout else None)
    loss_forward(record, tokens.copy(), targets.copy())
    assert record.saved_bytes() == activation_bytes(model.config, 3, 4, dtype, dropout)


def test_each_name_holds_what_is_counted_for_it():
    """What a name holds that no name before it did; a step that computes nothing holds nothing."""
    model = GPT(Config(**SMALL | VARIANTS["LLaMA"]), dtype="float32")
    record = Record(model.params, model.config)
    loss_forward(record, *np.random.default_rng(0).integers(0, 7, (2, 3, 4)))
    counted = held_by_name(model.config, 3, 4)
    assert set(counted) <= {name for name, op in record.ops.items() if op is not None}
    assert list(counted) == [name for name in record.ops if name in counted]
    assert counted["h.0.ln_1"] == 4 * (12 * model.config.n_embd + 12)
    assert "h.0.mid" not in counted and "h.0.out" not in counted


def test_the_cache_of_llama_2_is_the_published_one():
    """Half a megabyte a token in 16 bits (Kwon et al. 2023 say 800 kB of OPT-13B's)."""
    assert cache_bytes(presets.preset("llama2-7b"), 1, 1, "float16") == 2**19
    assert cache_bytes(presets.preset("llama2-7b"), 1, 4096, "float16") == 2**31
    windowed = presets.preset("mistral-7b")
    assert cache_bytes(windowed, 1, 32768) == cache_bytes(windowed, 1, 4096)


@pytest.mark.parametrize(
    "changes", [{}, LLAMA | {"n_head": 4, "n_kv_head": 2}, {"layers": [{"window": 3}, {}]}]
)
def test_a_cache_holds_the_bytes_that_are_counted(changes):
    """Of a window at least these: what it lets go, it lets go in pieces."""
    model = GPT(Config(**SMALL | changes))
    cache = KeyValueCache(4)
    advance(model, np.zeros((2, 4), int), cache)
    held = sum(store.nbytes for store in cache._store.values())
    counted = cache_bytes(model.config, 2, 4)
    assert counted == held if "layers" not in changes else counted < held


def test_the_groups_hold_every_parameter_once():
    for changes in COUNTED.values():
        config = Config(**SMALL | changes)
        assert total(config) == GPT(config).n_params
        assert training_bytes(config, 1, 2)["moments"] == 8 * total(config)


def test_counting_gpt3_allocates_next_to_nothing():
    """In a process of its own with its memory limited to a thousandth of the weights."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from numgpt.__main__ import main; raise SystemExit(main(['info', 'gpt3-175b']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "174,604,259,328" in done.stdout


def test_initialisation_is_gpt2s():
    config = Config(vocab_size=500, block_size=64, n_layer=3, n_head=4, n_embd=64)
    params = initialise(config, 0, "float64")
    for name, value in params.items():
        if name.endswith(".bias"):
            assert (value == 0).all()
        elif ".ln_" in name or name.startswith("ln_"):
            assert (value == 1).all()
        else:
            std = 0.02 / math.sqrt(6) if name.endswith("c_proj.weight") else 0.02
            assert value.std() == pytest.approx(
                std, rel=4 / math.sqrt(2 * value.size)
            )  # four standard errors
            assert abs(value.mean()) < 4 * std / math.sqrt(value.size)


def test_initial_values_depend_on_seed_and_name_not_on_the_rest_of_the_model():
    small, large = (initialise(Config(**SMALL | {"n_layer": n}), 0, "float64") for n in (2, 3))
    assert np.array_equal(small["h.1.mlp.c_fc.weight"], large["h.1.mlp.c_fc.weight"])
    assert not np.array_equal(small["h.0.mlp.c_fc.weight"], small["h.1.mlp.c_fc.weight"])
    assert not np.array_equal(small["wte.weight"], initialise(Config(**SMALL), 1, "float64")["wte.weight"])


def test_the_first_loss_is_that_of_a_uniform_guess():
    model = GPT(Config(vocab_size=65, block_size=32, n_layer=2, n_head=2, n_embd=32))
    tokens, targets = np.random.default_rng(0).integers(0, 65, (2, 8, 32))
    assert model.loss(tokens, targets) == pytest.approx(math.log(65), abs=0.05)


def test_the_matrices_come_first_in_the_flat_buffer():
    params = initialise(Config(**SMALL), 0, "float32")
    matrices = sum(v.size for v in params.values() if v.ndim > 1)
    assert params.decayed.size == matrices
    assert np.shares_memory(params.decayed, params.flat)
    assert all(np.shares_memory(v, params.decayed) == (v.ndim > 1) for v in params.values())
    assert params.flat.flags["C_CONTIGUOUS"]


def test_first_not_finite_names_it():
    params = Flat({"a.weight": (2, 2), "b.bias": (3,)}, "float32")
    assert params.first_not_finite() is None
    params["b.bias"][1] = np.inf
    assert params.first_not_finite() == "b.bias"


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda flat: pickle.loads(pickle.dumps(flat))]
)
def test_a_copy_is_views_of_one_buffer_too(duplicate):
    params = duplicate(Flat({"a.weight": (2, 2), "b.bias": (3,)}, "float32"))
    params.flat[:] = 1
    assert all((view == 1).all() for view in params.values())
    assert (params.decayed == 1).all()


def test_a_missing_name_is_a_key_error_that_suggests_near_ones():
    params = initialise(Config(**SMALL), 0, "float32")
    with pytest.raises(KeyError, match=r"no 'h.0.attn.c_atn.weight', expected .* h.0.attn.c_attn.weight"):
        params["h.0.attn.c_atn.weight"]
    with pytest.raises(KeyError, match=r"no 'w', expected a name such as wte.weight, wpe.weight"):
        params["w"] = 0
    assert "h.9" not in params
    assert params.get("h.9") is None


def test_a_bias_that_a_model_lacks_costs_no_message(monkeypatch):
    model = GPT(Config(**SMALL, bias=False, norm="rmsnorm"))
    monkeypatch.setattr("numgpt.architecture.parameters.near", None)  # which looks for names that were meant
    model.loss_and_grads([[0, 1]], [[1, 2]])
    assert model.params.get("h.0.attn.c_attn.bias") is None and "ln_f.bias" not in model.params
    assert model.params.get("wte.weight") is model.params["wte.weight"]


def test_a_repr_is_a_table_shortened_in_the_middle():
    assert repr(Flat({"a.weight": (2, 2), "bias": (3,)}, "float32")).splitlines() == [
        "Flat: 2 arrays, 7 numbers of float32",
        "  a.weight  (2, 2)",
        "  bias      (3,)",
    ]
    config = presets.preset("gpt-micro")
    rows = repr(Flat(shapes(config), "float32")).splitlines()
    assert len(rows) == 12
    assert rows[6] == f"  … {len(shapes(config)) - 10} more"
    assert rows[1].split() == ["wte.weight", "(128,", "128)"]
    assert rows[-1].split()[0] == "ln_f.weight"


def test_presets_are_data():
    assert json.loads(json.dumps(presets.MODELS)) == presets.MODELS
    assert json.loads(json.dumps(presets.TRAINING)) == presets.TRAINING


@pytest.mark.parametrize("step", [-1, 2], ids=["backwards", "every second"])
def test_a_buffer_whose_numbers_are_not_side_by_side_is_refused(step):
    flat = np.zeros(12 * abs(step), np.float32)[::step]
    with pytest.raises(InputError, match="the flat buffer is not contiguous"):
        Flat({"a": (3, 4)}, "float32", flat)


def test_gradients_are_not_written_where_nothing_can_be_written():
    model = GPT(Config(**SMALL))
    flat = np.broadcast_to(np.float32(0), (model.n_params,)).copy()
    flat.flags.writeable = False
    with pytest.raises(InputError, match="out is read-only"):
        model.loss_and_grads([[0, 1]], [[1, 2]], out=Flat(model.params.shapes, "float32", flat))
