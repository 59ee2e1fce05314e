"""A profile counts what accounting counts, names what the Record names, and leaves the model as it was."""

import json
import sys

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError
from numgpt.__main__ import main
from numgpt.model import accounting
from numgpt.training.profile import OPTIMIZER, profile

SIZES = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False, "tied": False}
MODELS = {
    "gpt": {},
    "post-norm": {"norm_position": "post"},
    "llama": LLAMA | {"n_kv_head": 1},
    "experts": LLAMA | {"n_expert": 4, "n_expert_active": 2},
    "no blocks": {"n_layer": 0},
}
ENGINES = pytest.mark.parametrize("engine", ["reference", "numba"], indirect=True)


def profiled(changes, B=2, T=8, rounds=1):
    model = GPT(Config(**SIZES | changes), seed=0)
    tokens = np.random.default_rng(0).integers(0, 11, (B, T))
    return model, profile(model, tokens, tokens, rounds)


@pytest.fixture
def engine(request):
    before = numgpt.engine.current()
    numgpt.use(request.param)
    yield request.param
    numgpt.use(before)


@ENGINES
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_operations_are_those_that_accounting_counts(changes, engine):
    model, found = profiled(changes)
    a_token = sum(accounting.flops_per_token(model.config).values())
    assert sum(part.flops for part in found.parts.values()) == 3 * 2 * 8 * a_token


@pytest.mark.parametrize("engine", ["numba"], indirect=True)
def test_what_runs_as_one_piece_counts_its_ops_and_is_opened(engine):
    sizes = {"n_embd": 64, "block_size": 64}
    _, found = profiled(sizes, B=8, T=64)  # many rows, so that a block is one launch
    assert list(found.parts) == ["wte", "wpe", "drop", "h.*", "ln_f", "lm_head", "loss", OPTIMIZER]
    block = [part.flops for name, part in found.opened.items()]
    assert found.parts["h.*"].flops == sum(block) > 0
    assert "h.*.attn.heads" in found.opened and all(name.startswith("h.*.") for name in found.opened)
    assert not set(found.opened) & set(found.parts)


def test_times_are_parts_of_the_step_and_bytes_are_those_of_its_arrays():
    model, found = profiled({"tied": False, "dropout": 0.1}, rounds=3)
    assert all(part.forward > 0 and part.moved > 0 for part in found.parts.values())
    assert all(part.backward > 0 for name, part in found.parts.items() if name != OPTIMIZER)
    head, weight, x, y = found.parts["lm_head"], 11 * 16, 2 * 8 * 16, 2 * 8 * 11
    forward, backward = weight + x + y, y + x + weight + x + weight  # dy, x, w → dx, dw
    assert head.moved == 4 * (forward + backward)
    assert found.parts[OPTIMIZER].moved == 7 * 4 * model.n_params


def test_the_model_stays_as_it_is_to_the_bit():
    model = GPT(Config(**SIZES), seed=0)
    before = model.params.flat.copy()
    profile(model, np.zeros((1, 8), int), np.zeros((1, 8), int), 2)
    assert model.params.flat.tobytes() == before.tobytes()


def test_the_cupy_engine_is_refused(monkeypatch):
    model = GPT(Config(**SIZES), seed=0)
    monkeypatch.setattr(numgpt.engine, "is_cupy", lambda: True)
    with pytest.raises(InputError, match="profile: the engine is cupy, expected numba or reference"):
        profile(model, np.zeros((1, 8), int), np.zeros((1, 8), int))


def test_ids_that_the_model_does_not_have_are_refused():
    model, tokens = GPT(Config(**SIZES), seed=0), np.zeros((1, 8), int)
    for given in ((tokens + 11, tokens), (tokens, tokens + 11), (tokens, tokens[:, 1:])):
        with pytest.raises(InputError, match="expected"):
            profile(model, *given)


def test_the_limits_are_measured_by_kernels_that_compute():
    from numgpt.engine import roofline_numba as roofline
    from numgpt.engine.jit import launch

    x = np.random.default_rng(0).standard_normal(3 * roofline.CHUNK + 5).astype(np.float32)
    sums = np.empty(4, np.float32)
    roofline.read(x, sums)
    parts = [part.sum() for part in np.split(x.astype(float), roofline.CHUNK * np.arange(1, 4))]
    np.testing.assert_allclose(sums, parts, atol=1e-2)
    for dtype in ("float32", "float64"):
        number, double = np.dtype(dtype).type, (True if dtype == "float64" else None)
        for many, size in ((None, roofline.FEW), (True, roofline.MANY)):
            row = np.zeros((1, roofline.MANY), dtype)
            launch(roofline._multiply_add, 1, 3, number(0.5), number(1), many, double, row)
            n = size // row.itemsize
            assert (row[0, :n] == 1.75).all() and not row[0, n:].any()
        found = roofline.measured(dtype, rounds=1)
        assert found.flops > 1e8 and found.bandwidth > 1e8
    assert (
        roofline.Roofline(10.0, 5.0).seconds(20, 5) == 2 and roofline.Roofline(10.0, 5.0).seconds(20, 20) == 4
    )


FLAGS = ["profile", "gpt-nano", "--vocab-size", "11", "--n-layer", "1", "--batch-size", "2", "--rounds", "1"]


def test_the_command_prints_a_table_and_json(capsys):
    assert main([*FLAGS, "--tokens", "8"]) == 0
    printed = capsys.readouterr().out
    for words in ("batch 2 × 8 tokens", "GFLOP/s in registers", "the step as it runs", "tokens/s", OPTIMIZER):
        assert words in printed
    assert main([*FLAGS, "--tokens", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parts"]["lm_head"]["flops"] > 0 and facts["flops_per_second"] > 0
    assert facts["seconds"] > 0 and facts["parts"]["lm_head"]["of_roofline"] > 0


def test_without_numba_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "numgpt.engine.roofline_numba", None)
    assert main([*FLAGS, "--tokens", "8"]) == 2
    assert capsys.readouterr().err.endswith("to measure the processor: pip install numba\n")


def test_the_command_takes_a_checkpoint(tmp_path, capsys):
    GPT(Config(**SIZES), seed=0).save(tmp_path / "model")
    assert main(["profile", str(tmp_path / "model"), "--rounds", "1", "--engine", "reference"]) == 0
    assert "batch 8 × 8 tokens, float32, reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--tokens", "4096"], "--tokens is 4096, expected 1 to block_size"),
        (["--rounds", "0"], "--rounds"),
        (["--batch-size", "-1"], "--batch-size"),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags, words, capsys):
    try:
        status = main([*FLAGS, *flags])
    except SystemExit as end:
        status = end.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2 and words in lines[-1]
