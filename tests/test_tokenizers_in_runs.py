"""Runs on byte pairs are trained, resumed, sampled, evaluated and converted, as those on characters are."""

import json
import shutil

import numpy as np
import pytest

from numgpt import GPT, tokenizers
from numgpt.__main__ import main
from numgpt.data import corpus as data
from numgpt.data import split, text
from numgpt.evaluation import score as evaluate
from numgpt.interchange import checkpoint, llmc
from numgpt.tokenizers import BPE

TINY = [
    "--preset=gpt-nano",
    "--n-layer=1",
    "--n-head=1",
    "--n-embd=8",
    "--block-size=8",
    "--batch-size=2",
    "--eval-iters=1",
    "--sample-tokens=4",
    "--activation=gelu_tanh",
]


def train(*args):
    """numgpt train, which has to succeed."""
    assert main(["train", *map(str, args)]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text, one with special tokens in it, and a run on byte pairs."""
    home = tmp_path_factory.mktemp("home")
    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice("the a cat dog sees finds old été 🙂".split(), 9)) for _ in range(300)]
    (home / "text.txt").write_text("\n\n".join(sentences))
    (home / "ends.txt").write_text("<|end|>\n\n".join(sentences))
    tokens = [bytes([b]) for b in range(256)]
    BPE(tokens, [], specials={"<|end|>": 256}).save(home / "ends.json")
    train("--data", home / "text.txt", *TINY, "--tokenizer=bpe:270", "--steps=3", "--out", home / "run")
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def expect_line(capfd, args, message):
    """Raise unless a command ends with status 2 and one line that says message."""
    capfd.readouterr()
    assert main(args.split()) == 2
    out, error = capfd.readouterr()
    assert message in error and error.count("\n") == 1 and out == ""


def test_merges_are_learned_from_what_is_trained_on(here):
    model = GPT.load("run")
    trained, held = split.split_blocks(split.without_repeats(text.read(["text.txt"])), 0.1)
    assert (
        model.tokenizer == tokenizers.build("bpe:270", trained)
        and model.tokenizer.vocab_size == 270 == model.config.vocab_size
    )
    assert held and model.tokenizer.pattern.name == "gpt2"


def test_a_run_on_byte_pairs_goes_on(here, tmp_path, capfd):
    shutil.copytree("run", tmp_path / "run")
    for steps, flags in enumerate(([], ["--tokenizer=bpe:270"], ["--tokenizer=bpe:270:gpt2"]), 4):
        capfd.readouterr()
        train("--resume", "--out", tmp_path / "run", "--sample-tokens=0", f"--steps={steps}", *flags)
        assert "resumed at step" in capfd.readouterr().err
    for name in ("bpe:280", "bpe:270:cl100k", "chars", "ends.json"):
        expect_line(
            capfd,
            f"train --resume --out {tmp_path / 'run'} --tokenizer {name}",
            f"the run's tokenizer is {'another than that' if name == 'ends.json' else 'bpe:270:gpt2'},"
            f" expected {name}",
        )


def test_a_text_with_fewer_pairs_than_asked_for_makes_a_run_that_says_so_and_resumes_by_its_name(
    tmp_path, capfd
):
    (tmp_path / "text.txt").write_text("ab" * 200)
    flags = ["--data", tmp_path / "text.txt", *TINY, "--tokenizer=bpe:400:.{4}", "--out", tmp_path / "run"]
    train(*flags, "--steps=1", "--split=tail")
    message = "bpe:400:.{4} asks for 400 tokens, the text gives only 258: no other pair occurs twice"
    assert f"numgpt: {message}" in capfd.readouterr().err.splitlines()
    for steps in (2, 3):  # the name is kept for the next time
        train(*flags, f"--steps={steps}", "--resume")


def test_samples_are_text(here, capfd):
    for flags in ("", "--prompt the", "--prompt 🙂 --num-samples 2", "--stop cat --greedy"):
        capfd.readouterr()
        assert main(f"sample run --max-new-tokens 12 {flags}".split()) == 0
        assert capfd.readouterr().out.strip()


def test_bits_per_byte_are_of_the_bytes_of_the_text(here, capfd):
    capfd.readouterr()
    assert main("eval run --data text.txt --stride 8".split()) == 0
    out, model = capfd.readouterr().out, GPT.load("run")
    ids = model.tokenizer.encode((here / "text.txt").read_text())
    size = len((here / "text.txt").read_bytes()) - len(model.tokenizer.pieces[ids[0]])
    assert f"{len(ids) - 1:,} tokens ({size:,} bytes) after the first" in out
    score = evaluate.score(model, ids, 8)
    assert f"bits per byte  {score.loss * (len(ids) - 1) / np.log(2) / size:.4f}" in out
    assert main("eval run".split()) == 0
    assert "the held-out part of" in capfd.readouterr().out


def test_bits_per_byte_do_not_depend_on_where_ids_lie(here, monkeypatch):
    model = GPT.load("run")
    in_memory = data.encode(["text.txt"], model.tokenizer)[1]
    monkeypatch.setattr(data, "LARGE", 100)
    mapped = data.encode(["text.txt"], model.tokenizer)[1]
    assert isinstance(mapped, np.memmap) and np.array_equal(
        mapped, model.tokenizer.encode((here / "text.txt").read_text())
    )
    assert evaluate.score(model, mapped, 3) == evaluate.score(model, in_memory.astype(np.int64), 3)


def test_special_tokens_of_a_text_are_refused_unless_a_flag_says_what_becomes_of_them(here, tmp_path, capfd):
    command = (
        f"train --data ends.txt --tokenizer ends.json --steps 1 --out {tmp_path / 'run'} {' '.join(TINY)}"
    )
    expect_line(capfd, command, "holds the special token '<|end|>' at position")
    assert main(f"{command} --special allow".split()) == 0
    recipe = checkpoint.read_state(tmp_path / "run" / "last")["recipe"]
    assert recipe["special"] == "allow"
    model = GPT.load(tmp_path / "run")
    assert model.tokenizer == tokenizers.load("ends.json")
    assert main(f"train --resume --out {tmp_path / 'run'} --steps 2 --sample-tokens 0".split()) == 0
    expect_line(
        capfd,
        f"train --resume --out {tmp_path / 'run'} --special text",
        "expected the same text and the same way to prepare it",
    )
    assert main(f"eval {tmp_path / 'run'}".split()) == 0
    expect_line(
        capfd, f"eval {tmp_path / 'run'} --data ends.txt", "holds the special token '<|end|>' at position"
    )
    expect_line(
        capfd,
        f"sample {tmp_path / 'run'} --prompt <|end|>",
        "holds the special token '<|end|>' at position 0",
    )
    expect_line(
        capfd,
        f"curvature {tmp_path / 'run'} --data ends.txt",
        "holds the special token '<|end|>' at position",
    )
    sizes = set()
    for special in ("allow", "text"):
        capfd.readouterr()
        assert main(f"eval {tmp_path / 'run'} --data ends.txt --special {special}".split()) == 0
        sizes.add(capfd.readouterr().out.split("tokens (")[1].split()[0])
        assert (
            main(f"sample {tmp_path / 'run'} --prompt <|end|> --special {special} --max-new-tokens 2".split())
            == 0
        )
        assert capfd.readouterr().out.startswith("<|end|>")
    assert len(sizes) == 1  # either way the bytes are those of the text


def test_curvature_reads_a_text_by_byte_pairs(here, capfd):
    assert main("curvature run --data text.txt --tokens 4 --batch-size 2 --steps 2".split()) == 0
    assert "text.txt: 2 rows of 4 tokens" in capfd.readouterr().out


def test_a_model_on_byte_pairs_is_converted_and_exported(here, tmp_path, capfd):
    assert main(f"convert run {tmp_path / 'copy'}".split()) == 0
    assert GPT.load(tmp_path / "copy").tokenizer == GPT.load("run").tokenizer
    assert main(f"convert run {tmp_path / 'hf'} --to hf".split()) == 0
    assert (tmp_path / "hf" / "config.json").exists()
    assert main(f"export {tmp_path / 'llmc'} run --llmc".split()) == 0
    pieces, _ = llmc.load_tokenizer(tmp_path / "llmc" / "tokenizer.bin")
    assert pieces == GPT.load("run").tokenizer.pieces


def test_runs_share_a_folder_of_tokens_and_find_it_again(here, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(data, "LARGE", 1000)
    for run in ("a", "b"):
        out = ["--out", tmp_path / run, "--token-folder", tmp_path / "tokens"]
        train("--data", "text.txt", *TINY, "--steps=1", *out)
        assert not (tmp_path / run / "tokens").exists()
    (place,) = (p for p in (tmp_path / "tokens").iterdir() if not p.name.startswith("."))
    made = (place / "tokens.json").stat().st_mtime_ns
    for steps in (2, 3):
        train("--resume", "--out", tmp_path / "b", f"--steps={steps}", "--sample-tokens=0")
    assert main(["eval", str(tmp_path / "b")]) == 0
    assert (place / "tokens.json").stat().st_mtime_ns == made and not (tmp_path / "b" / "tokens").exists()


def test_evaluating_reads_the_tokens_of_a_run_and_writes_none(here, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(data, "LARGE", 1000)
    train("--data", "text.txt", *TINY, "--steps=1", "--out", tmp_path / "run")
    printed = []
    for _ in range(2):
        capfd.readouterr()
        assert main(["eval", str(tmp_path / "run")]) == 0
        printed.append(capfd.readouterr().out)
        shutil.rmtree(tmp_path / "run" / "tokens", ignore_errors=True)
    assert printed[0] == printed[1] and not (tmp_path / "run" / "tokens").exists()


@pytest.mark.parametrize("name, message", [
    ("words", "tokenizer: 'words' is unknown, expected chars, bytes, bpe:2048, bpe:2048:cl100k"),
    ("bpe:999999999999999999999999999999", "is unknown, expected chars"),
    ("bpe:", "is unknown, expected chars"),
    ("bpe:100", "vocab_size is 100, expected an integer of at least 256"),
    ("bpe:300:(", "pattern: '(' does not compile"),
    ("bpe:300:[a-z]", "pattern: '[a-z]' drops "),
    ("text.txt", "text.txt"),
    ("run/best/model.safetensors", "model.safetensors"),
])  # fmt: skip
def test_a_tokenizer_that_cannot_be_is_one_line(here, capfd, tmp_path, name, message):
    expect_line(
        capfd, f"train --data text.txt --tokenizer {name} --out {tmp_path / 'run'} {' '.join(TINY)}", message
    )


def test_the_first_prompt_is_one_that_the_tokenizer_can_spell(capfd, tmp_path):
    (tmp_path / "text.txt").write_text("ab" * 300)
    tokens = [b"\x80", b"b", b"a"]
    BPE(tokens, [], specials={"<s>": 3}).save(tmp_path / "tok.json")
    source = ["--data", tmp_path / "text.txt", "--tokenizer", tmp_path / "tok.json", "--split=tail"]
    train(*source, *TINY, "--steps=1", "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run/last/tokenizer.json").read_text())["type"] == "bpe"
