"""numgpt predict: what a model with a head says of the rows of a file."""

import json

import numpy as np
import pytest

from numgpt import GPT, Config, Head, tuning
from numgpt.__main__ import main
from numgpt.data import BARE, Conversation, Message
from numgpt.tokenizers import Bytes

CONFIG = Config(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8)
TEXTS = ["a rose", "the sky is", "é"]
LABELS = ("good", "bad", "neither")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model of each kind, and files."""
    monkeypatch.chdir(tmp_path)
    heads = {
        "classes": Head(labels=LABELS),
        "numbers": Head(task="numbers", labels=("size", "age")),
        "reward": Head(task="reward"),
    }
    model = GPT(CONFIG, seed=1, tokenizer=Bytes(), template=BARE.state())
    model.save("base")
    for name, head in heads.items():
        own = model.extended(head)
        own.params["score.weight"][...] = np.random.default_rng(0).standard_normal((8, head.width))
        own.save(name)
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS))
    )
    (tmp_path / "texts.csv").write_text(
        "words,n\n" + "".join(f"{text},{n}\n" for n, text in enumerate(TEXTS))
    )
    (tmp_path / "chats.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    return tmp_path


def predicted(capsys, *words):
    assert main(["predict", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def scores(name, texts=TEXTS):
    return tuning.predictions(GPT.load(name), [list(text.encode()) for text in texts])


@pytest.mark.parametrize("file", ["texts.jsonl", "texts.csv --text words"])
def test_a_class_and_all_probabilities_stand_beside_each_row(here, capsys, file):
    rows = predicted(capsys, "classes", "--data", *file.split(), "--batch-size", "2")
    found = scores("classes")
    probs = np.exp(found) / np.exp(found).sum(-1, keepdims=True)
    for n, (row, p) in enumerate(zip(rows, probs)):
        assert row["text" if "json" in file else "words"] == TEXTS[n] and int(row["n"]) == n
        assert row["predicted"] == LABELS[p.argmax()]
        assert list(row["probabilities"]) == list(LABELS)
        np.testing.assert_allclose(list(row["probabilities"].values()), p, atol=1e-5)


def test_numbers_have_their_names(here, capsys):
    rows = predicted(capsys, "numbers", "--data", "texts.jsonl")
    found = [[row["predicted size"], row["predicted age"]] for row in rows]
    np.testing.assert_allclose(found, scores("numbers"), rtol=1e-5)


def test_a_reward_is_that_of_the_conversation_in_the_models_template(here, capsys):
    rows = predicted(capsys, "reward", "--data", "chats.jsonl")
    said = Conversation([Message("user", "a"), Message("assistant", "b")])
    ids = BARE.encode(said, Bytes()).ids
    expected = float(tuning.predictions(GPT.load("reward"), [ids])[0, 0])
    assert [row["reward"] for row in rows] == pytest.approx([expected] * 2, rel=1e-5)


@pytest.mark.filterwarnings("default")
def test_a_text_longer_than_the_context_is_cut_where_a_flag_says_so(here, capsys):
    (here / "long.jsonl").write_text(json.dumps({"text": "x" * 40}))
    (row,) = predicted(capsys, "numbers", "--data", "long.jsonl", "--truncate")
    assert row["predicted size"] == pytest.approx(float(scores("numbers", ["x" * 16])[0, 0]), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("base --data texts.jsonl", "the model has no head, expected one for classes"),
        ("classes --data texts.csv", "expected 'text' among them"),
        ("classes --data long.jsonl", "or --truncate, which cuts off their ends"),
        ("reward --data texts.jsonl", "has 'text', 'n', expected messages"),
        ("classes --data empty.csv", "holds no rows"),
        ("classes --data nowhere.csv", "nowhere.csv"),
    ],
)
def test_bad_input_is_one_line_and_status_2(here, capfd, words, message):
    (here / "long.jsonl").write_text(json.dumps({"text": "x" * 40}))
    (here / "empty.csv").write_text("text\n")
    assert main(["predict", *words.split()]) == 2
    out, error = capfd.readouterr()
    assert out == "" and message in error and error.count("\n") == 1
