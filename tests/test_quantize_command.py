"""numgpt quantize: what it writes, prints and refuses; and what rounding costs the model that ships."""

import importlib.util
import re

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, Quantized
from numgpt.__main__ import main
from numgpt.evaluation.quantization import SCHEMES, quantization_costs
from numgpt.tokenizers import Bytes

CONFIG = Config(vocab_size=256, block_size=32, n_layer=1, n_head=2, n_embd=8)
CHAT = '{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}\n'


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    """A folder with a model and a text."""
    monkeypatch.chdir(tmp_path)
    GPT(CONFIG, seed=1, tokenizer=Bytes()).save("base")
    (tmp_path / "text.txt").write_text("Of the making of many books there is no end. " * 40)
    (tmp_path / "chats.jsonl").write_text(CHAT * 8)
    return tmp_path


@pytest.fixture
def on_the_fast_engine():
    """The default engine, where Numba is installed: the model that ships is not small."""
    before = numgpt.engine.current()
    if importlib.util.find_spec("numba"):
        numgpt.use("numba")
    yield
    numgpt.use(before)


def run(*words):
    return main(list(words))


@pytest.mark.parametrize(
    ("flags", "expected", "said"),
    [
        ([], Quantized(), "int8 by output"),
        (["--keep-embedding"], Quantized(keep_embedding=True), "int8 by output, embedding kept"),
        (
            ["--bits", "4", "--group", "8"],
            Quantized(4, 8),
            "int4 in groups of 8, symmetric, to nearest, MSE clip",
        ),
        (
            ["--bits", "4", "--group", "4", "--asymmetric", "--clip", "absmax"],
            Quantized(4, 4, True),
            "asymmetric, to nearest, absmax, embedding int8",
        ),
        (
            ["--bits", "4", "--group", "8", "--gptq", "--data", "text.txt"],
            Quantized(4, 8),
            "symmetric, GPTQ, MSE clip",
        ),
    ],
)
def test_it_writes_the_model_and_prints_its_sizes(flags, expected, said, capsys):
    assert run("quantize", "base", "small", *flags) == 0
    printed = capsys.readouterr().out
    small = GPT.load("small")
    assert small.additions == (expected,) and said in printed
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", printed))
    assert (before, after) == (GPT.load("base").params.nbytes, small.params.nbytes) and after < before
    assert isinstance(small.tokenizer, Bytes)


def test_it_is_read_by_other_commands(capsys):
    assert run("quantize", "base", "small", "--bits", "4", "--group", "8") == 0
    capsys.readouterr()
    assert run("eval", "small", "--data", "text.txt") == 0
    assert run("sample", "small", "--max-new-tokens", "3", "--prompt", "Of") == 0
    assert run("info", "small") == 0
    printed = capsys.readouterr().out
    assert (
        "quantized: 4 bits in groups of 8, embedding in 8 bits; weights take" in printed
        and "scales" in printed
    )
    assert run("inspect", "small", "attention", "--prompt", "Of the") == 0
    assert run("diff", "small", "small") == 0
    assert run("convert", "small", "floats", "--dequantize") == 0
    assert not GPT.load("floats").additions
    tokens = np.arange(10)
    np.testing.assert_allclose(GPT.load("floats")(tokens), GPT.load("small")(tokens), atol=1e-5)


def test_adapters_are_tuned_beside_it_and_a_killed_run_goes_on(capsys):
    assert run("quantize", "base", "small") == 0
    quick = (
        "--steps 4 --save-interval 2 --eval-interval 2 --eval-iters 1 --batch-size 2 --template plain".split()
    )
    assert run("tune", "sft", "small", "--data", "chats.jsonl", "--lora", "2", "--out", "run", *quick) == 0
    tuned = GPT.load("run")
    assert [type(addition).__name__ for addition in tuned.additions] == ["Quantized", "LoRA"]
    for name, array in GPT.load("small").params.items():
        assert array.tobytes() == tuned.params[name].tobytes()
    assert any(tuned.params[name].any() for name in tuned.params if name.endswith("lora_b"))
    assert run("tune", "sft", "--resume", "--out", "run", "--steps", "6") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("quantize base", "there is no OUT, expected a folder to write, or --table"),
        ("quantize base small --bits 5", "--bits is 5, expected 8 or 4"),
        (
            "quantize base small --bits 4",
            "group is 64, expected a divisor of the 8 inputs .*: 8 divides all",
        ),
        ("quantize base small --group 8", "--group is 8, which 8 bits do not read, expected --bits 4"),
        ("quantize base small --clip absmax", "--clip is absmax, which 8 bits do not read"),
        ("quantize base small --asymmetric", "--asymmetric is True, expected False with 8 bits"),
        ("quantize base small --gptq --data text.txt", "calibration is given with 8 bits"),
        ("quantize base small --bits 4 --group 8 --gptq", "there is no --data, expected a text"),
        ("quantize base small --data text.txt", "--data is read by --gptq and --table alone"),
        ("quantize base base", "base"),
        ("quantize nothing small", "nothing: does not exist"),
        ("quantize done small", "quantized already, expected floats"),
        ("train --init-from done --data text.txt --steps 1", "quantized, whose matrices cannot be trained"),
        ("tune sft done --data chats.jsonl --out run", "quantized, whose matrices cannot be trained"),
        ("convert done there --to hf", "the model is quantized, .* numgpt convert --dequantize"),
        ("export there done --llmc", "quantized, expected floats for llm.c"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, message, capsys, base):
    GPT.load("base").quantize().save("done")
    before = sorted(path.name for path in base.iterdir())
    assert run(*words.split()) == 2
    said = capsys.readouterr().err.strip()
    assert re.search(message, said) and "\n" not in said, said
    after = sorted(path.name for path in base.iterdir())
    assert [name for name in after if name not in ("runs", "run")] == before


def test_the_table_has_a_line_a_scheme(capsys):
    assert run("quantize", "base", "--table", "--data", "text.txt", "--group", "8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["scheme", "weights", "logits", "loss", "+", "same", "top-1", "bytes"]
    assert [line[:32].rstrip() for line in lines[2:]] == list(SCHEMES)
    assert all(
        re.search(r"\d\.\d\d%\s+\d+\.\d\d%\s+-?\d\.\d{5}\s+\d+\.\d\d%\s+[\d,]+$", line) for line in lines[2:]
    )


def test_the_model_that_ships_loses_next_to_nothing(on_the_fast_engine):
    """A thousandth of a nat by 8 bits, a hundredth by 4 in groups of 64 with an embedding of 8."""
    from numgpt.commands import runs

    model = GPT.load("numgpt:austen")
    held_out = runs.corpus({"paths": ["numgpt:austen"]}, model).held_out[:16_000]
    costs = {cost.scheme: cost for cost in quantization_costs(model, np.asarray(held_out))}
    assert costs["int8"].loss <= 0.001 and costs["int8"].same > 0.985
    assert costs["int4, MSE clip"].loss <= 0.01
    assert costs["int4, GPTQ"].loss <= 0.01 and costs["int4, GPTQ"].same > costs["int4, MSE clip"].same
    assert costs["int4, GPTQ"].logits < 0.9 * costs["int4, MSE clip"].logits < costs["int4, absmax"].logits
    assert (
        costs["int4, GPTQ"].weights > costs["int4, MSE clip"].weights
    )  # it minds the inputs, not the weights
    assert (
        costs["int8"].size < 0.27 * model.params.nbytes
        and costs["int4, GPTQ"].size < 0.17 * model.params.nbytes
    )
