"""The benchmarks run, in short rounds; contestants agree on the losses before anything is timed."""

import base64
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from shares import slow

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
HAS_TORCH = importlib.util.find_spec("torch") is not None
with_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")


@with_torch
def test_a_step_of_llama_is_compared(tmp_path):
    pytest.importorskip("numba")
    pytest.importorskip("transformers")
    kinds = ["numgpt", "torch-fused", "torch-transformers", "gemms"]
    flags = ["--shape", "l0", "--only", *kinds, "--rounds", "1", "--no-start"]
    rows, out = run("train_step.py", *flags, cwd=tmp_path)
    assert len(rows) == len(kinds) and "| l0 | transformers' Llama, fused AdamW |" in out


@with_torch
def test_a_step_of_a_mixture_is_compared(tmp_path):
    pytest.importorskip("numba")
    pytest.importorskip("transformers")
    kinds = ["numgpt", "torch-mixtral-eager", "torch-mixtral-grouped", "gemms"]
    flags = ["--shape", "m0", "--only", *kinds, "--rounds", "1", "--no-start"]
    rows, out = run("train_step.py", *flags, cwd=tmp_path)
    assert len(rows) == len(kinds) and "| m0 | transformers' Mixtral, grouped experts |" in out
    assert "at 0.9 of that peak they alone would take" in out


def test_a_gpt2_of_equal_flops_has_as_many_entries_in_its_matrices():
    with_benchmarks = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import shapes, gemm_bound;"
    code = (
        "c = shapes.config_of('l'); g = shapes.config_of('l', 'numgpt-gpt2');"
        " print(gemm_bound.flops(c, 2, 256), gemm_bound.flops(g, 2, 256), g.ffn_width)"
    )
    pytest.importorskip("numba")
    done = subprocess.run([sys.executable, "-c", with_benchmarks + code], capture_output=True, text=True)
    ours, theirs, inner = done.stdout.split()
    assert ours == theirs and inner == "1280", done.stderr


def test_a_mixture_is_as_wide_in_what_is_active():
    with_benchmarks = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import shapes, gemm_bound;"
    code = "print(*(gemm_bound.flops(shapes.config_of(s), 2, 256) for s in 'lm'))"
    pytest.importorskip("numba")
    done = subprocess.run([sys.executable, "-c", with_benchmarks + code], capture_output=True, text=True)
    llama, mixture = done.stdout.split()
    assert llama == mixture, done.stderr


@pytest.mark.parametrize("beside_torch", [False, pytest.param(True, marks=with_torch)])
def test_attention_is_compared_by_length(tmp_path, beside_torch):
    pytest.importorskip("numba")
    kinds = ["window", "full", *(["torch", "torch-window"] if beside_torch else [])]
    flags = ["--tokens", "64", "96", "--window", "16", "--heads", "2", "--size", "8", "--rounds", "1"]
    rows, out = run("attention_lengths.py", *flags, "--only", *kinds, cwd=tmp_path)
    assert [r["tokens"] for r in rows] == [64] * len(kinds) + [96] * len(
        kinds
    ) and "| 96 | numgpt, window |" in out


@pytest.mark.parametrize("beside_torch", [False, pytest.param(True, marks=with_torch)])
def test_a_step_of_tuning_is_compared(tmp_path, beside_torch):
    pytest.importorskip("numba")
    kinds = ["pretraining", "packed", "padded", "lora", *(["torch"] if beside_torch else [])]
    flags = ["--shape", "0", "--rounds", "1", "--only", *kinds]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "tuning.py", *flags], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 0 | ") == len(kinds) and "does not run" not in done.stdout


@with_torch
def test_an_iteration_of_reinforcement_is_compared(tmp_path):
    pytest.importorskip("numba")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "reinforcement.py", "--rounds", "1"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "| numgpt |" in done.stdout
        and "| PyTorch |" in done.stdout
        and "in launches of kernels" in done.stdout
    )


@pytest.mark.parametrize("shape", ["0", slow("a")])
@pytest.mark.parametrize("beside_torch", [False, pytest.param(True, marks=with_torch)])
def test_a_training_step_is_compared(tmp_path, beside_torch, shape):
    if importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    kinds = ["numgpt", "reference", "gemms", *(["torch"] if beside_torch else [])]
    done = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "train_step.py",
            "--shape",
            shape,
            "--only",
            *kinds,
            "--rounds",
            "2",
            "--no-start",
            "--json",
            tmp_path / "figures.json",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert len(rows) == len(kinds) and all(r["ms"] > 0 and r["peak_mb"] > 10 for r in rows)
    losses = [r["loss"] for r in rows if "GEMM" not in r["name"]]
    assert max(losses) - min(losses) < 1e-3 and losses[0] > 3
    assert f"| {shape} | numgpt |" in done.stdout and "that multiply-adds in registers reach" in done.stdout


@with_torch
def test_a_step_in_bf16_is_compared_with_autocast(tmp_path):
    bf16 = pytest.importorskip("numgpt.engine.bf16", reason="Numba is not installed")
    if not bf16.HAS_INSTRUCTION:
        pytest.skip("the processor has no AVX-512 BF16")
    flags = ["--precision", "bf16", "--shape", "0", "--rounds", "2", "--no-start"]
    rows, said = run("train_step.py", *flags, cwd=tmp_path)
    names = ["numgpt", "numgpt, bf16", "PyTorch's bf16 autocast", "PyTorch's bf16 autocast, fused AdamW"]
    assert [row["name"] for row in rows] == names
    assert 0 < rows[0]["apart"] < 2e-3  # they did round
    assert "numgpt's bf16 to its own float32, shape 0: " in said


def run(script, *flags, cwd):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *flags, "--json", cwd / "figures.json"],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((cwd / "figures.json").read_text())["rows"], done.stdout


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_decoding_is_held_against_reading_the_weights(tmp_path):
    rows, said = run(
        "decode.py",
        "--preset",
        "gpt-nano",
        "--batch",
        "1",
        "3",
        "--tokens",
        "4",
        "--rounds",
        "1",
        "--only",
        "numgpt",
        "read",
        cwd=tmp_path,
    )
    assert [(r["batch"], r["of_bandwidth"] > 0) for r in rows] == [(1, True)] * 2 + [
        (3, True)
    ] * 2 and "| 3 | numgpt |" in said


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_decoding_with_fewer_bits_says_how_much_it_reads(tmp_path):
    flags = "--preset gpt-micro --batch 1 --tokens 4 --rounds 1 --bits 8 --only numgpt numgpt-8 read".split()
    rows, said = run("decode.py", *flags, cwd=tmp_path)
    own, rounded, read = rows if rows[1]["bytes"] else (rows[0], rows[2], rows[1])
    assert rounded["bytes"] < own["bytes"] / 3 and rounded["of_own"] > 0 and read["bytes"] is None
    assert "| 1 | numgpt, 8 bits |" in said


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_decoding_starts_from_the_logits_of_transformers(tmp_path):
    rows, _ = run(
        "decode.py",
        "--tokens",
        "4",
        "--batch",
        "2",
        "--rounds",
        "1",
        "--only",
        "numgpt",
        "transformers",
        cwd=tmp_path,
    )
    assert len(rows) == 2 and all(r["to_transformers"] > 0 for r in rows)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_ops_are_compared_one_by_one(tmp_path):
    rows, said = run(
        "ops.py",
        "--shape",
        "a",
        "--ops",
        "layernorm",
        "attention",
        "--rounds",
        "1",
        "--seconds",
        "0.01",
        cwd=tmp_path,
    )
    assert [(r["op"], r["way"]) for r in rows] == [
        (op, way) for op in ("layernorm", "attention") for way in ("forward", "backward")
    ]
    assert all(r["to_reference"] > 0 for r in rows) and ("torch: does not run here" in said) == (
        importlib.util.find_spec("torch") is None
    )


@pytest.mark.skipif(importlib.util.find_spec("tokenizers") is None, reason="tokenizers is not installed")
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_tokenizers_are_trained_to_the_merges_of_hugging_face(tmp_path, pattern):
    rows, said = run(
        "tokenizer_training.py",
        "--megabytes",
        "0.1",
        "--merges",
        "64",
        "--rounds",
        "1",
        "--pattern",
        pattern,
        "--only",
        "reference",
        "huggingface",
        cwd=tmp_path,
    )
    assert [r["equal"] for r in rows] == [True, True] and all(
        r["merges"] == 64 and r["to_huggingface"] > 0 for r in rows
    )
    assert "| numgpt, reference |" in said and f"distinct pretokens of {pattern}" in said


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("numba", "tiktoken", "tokenizers")),
    reason="Numba, tiktoken or tokenizers is not installed",
)
def test_encoding_is_compared_with_tiktoken_and_huggingface(tmp_path):
    tokens = [bytes([b]) for b in range(256)] + [b"th", b"the", b"aa", b"aaaa", b" t"]
    ranks = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (tmp_path / "few.tiktoken").write_text(ranks)
    (tmp_path / "prose.txt").write_text("the other thing that they thought\n" * 500)
    flags = ["--ranks", "few.tiktoken", "--text", "prose.txt", "--only", "one letter", "--rounds", "1"]
    rows, said = run("tokenizer.py", *flags, cwd=tmp_path)
    assert [r["text"] for r in rows] == ["prose", "one letter"] and "| one letter | 1.0 |" in said
    assert all(
        r["speed"].keys() == {"numgpt, new", "numgpt", "tiktoken", "Hugging Face"} and r["to_tiktoken"] > 0
        for r in rows
    )
