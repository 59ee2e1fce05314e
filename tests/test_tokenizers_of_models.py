"""Where models meet tokenizers: folders of transformers, padded vocabularies, llm.c's file."""

import json

import numpy as np
import pytest

from numgpt import GPT, Config, InputError
from numgpt.__main__ import main
from numgpt.interchange import llmc
from numgpt.model.generate import texts
from numgpt.tokenizers import BPE, Bytes, Characters, Pipeline

END = "<|endoftext|>"
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
FALLS_BACK = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
TEXT = "the theme: naïve 日本語 😀\n\n  they're 123"


def bpe(pattern="gpt2", merges=True, end=END):
    pairs = [(116, 104), (256, 101), (32, 257), (195, 175)]
    tokens = [bytes([b]) for b in range(256)]
    for left, right in pairs:
        tokens.append(tokens[left] + tokens[right])
    return BPE(tokens, pairs if merges else None, pattern, {end: 260})


def llama():
    """A tokenizer as LLaMA's file makes it: a space first, bytes for what has no token."""
    names = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *"▁ehtm", "▁t", "he", END]
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    to_space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    first = {"type": "Prepend", "prepend": "▁"}
    vocab = {text: i for i, text in enumerate(names)}
    return Pipeline(
        {
            "version": "1.0",
            "added_tokens": [{"id": vocab[END], "content": END, "special": True} | FLAGS],
            "normalizer": {"type": "Sequence", "normalizers": [first, to_mark]},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["▁", "t"], ["h", "e"]]} | FALLS_BACK,
            "decoder": {
                "type": "Sequence",
                "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
            },
        }
    )


def model_of(tokenizer, padded=0):
    V = tokenizer.vocab_size if tokenizer else 261
    return GPT(
        Config(vocab_size=V + padded, block_size=16, n_layer=1, n_head=1, n_embd=4), tokenizer=tokenizer
    )


@pytest.mark.parametrize(
    "tokenizer",
    [bpe(), bpe("cl100k"), bpe(merges=False), Bytes(), llama()],
    ids=["gpt2", "cl100k", "ranks", "bytes", "llama"],
)
@pytest.mark.parametrize("padded", [0, 3])
def test_transformers_takes_model_and_tokenizer_from_one_folder(tmp_path, monkeypatch, tokenizer, padded):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = model_of(tokenizer, padded)
    model.save(tmp_path / "hf", "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = TEXT + END * bool(tokenizer.specials)
    ids = tokenizer.encode(text, special="allow").tolist()
    assert theirs(text)["input_ids"] == ids and theirs.decode(ids) == text
    assert theirs.eos_token == (END if tokenizer.specials else None)
    theirs.save_pretrained(tmp_path / "again")
    for folder in ("hf", "again"):
        if folder == "again":
            for name in ("config.json", "model.safetensors"):
                (tmp_path / "again" / name).write_bytes((tmp_path / "hf" / name).read_bytes())
        found = GPT.load(tmp_path / folder)
        assert found.tokenizer.encode(text, special="allow").tolist() == ids and found.config == model.config


@pytest.mark.parametrize(
    "tokenizer, names",
    [(llama(), 2), (bpe(), 4), (bpe("cl100k"), 2), (Bytes(), 4), (Characters("abc"), 2), (None, 0)],
)
def test_files_of_the_tokenizer_lie_beside_the_model_where_they_say_the_same(tmp_path, tokenizer, names):
    model = model_of(tokenizer)
    model.save(tmp_path / "hf", "hf")
    assert len(list((tmp_path / "hf").iterdir())) == 2 + names
    model.save(tmp_path / "hf", "hf")  # which are its own, and may be replaced
    assert (GPT.load(tmp_path / "hf").tokenizer is None) == (names == 0)
    (tmp_path / "hf" / "merges.txt.old").write_text("mine")
    with pytest.raises(InputError, match="choose another name"):
        model.save(tmp_path / "hf", "hf")


@pytest.mark.parametrize("padded", [0, 3])
def test_transformers_takes_characters_from_the_folder_that_convert_writes(tmp_path, monkeypatch, padded):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = Characters.build(TEXT)
    model_of(tokenizer, padded).save(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in (TEXT, TEXT[::-1], " \n\n ", ""):
        ids = tokenizer.encode(text).tolist()
        assert theirs(text)["input_ids"] == ids and theirs.decode(ids) == text
    with pytest.raises(Exception, match="Missing"):  # as ours refuses a character that it lacks
        theirs("Ω")
    theirs.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "again" / name).write_bytes((tmp_path / "hf" / name).read_bytes())
    for folder in ("hf", "again"):
        assert GPT.load(tmp_path / folder).tokenizer == tokenizer


def test_the_older_two_files_are_enough(tmp_path):
    model_of(bpe()).save(tmp_path / "hf", "hf")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    assert GPT.load(tmp_path / "hf").tokenizer == bpe()


@pytest.mark.filterwarnings("default")  # as the command runs, not as the other tests do
@pytest.mark.parametrize(
    "name, data, message",
    [
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', "WordPiece"),
        ("tokenizer.json", b"{", "is not JSON"),
        ("vocab.json", b'{"a": 0}', "expected merges.txt beside it"),
    ],
)
def test_a_model_is_loaded_without_a_tokenizer_that_cannot_be_read(tmp_path, capsys, name, data, message):
    model_of(None).save(tmp_path / "hf", "hf")
    (tmp_path / "hf" / name).write_bytes(data)
    with pytest.warns(UserWarning, match=f"{message}.*the model is loaded without its tokenizer"):
        assert GPT.load(tmp_path / "hf").tokenizer is None
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    err = capsys.readouterr().err
    assert err.startswith("numgpt: ") and err.count("\n") == 1 and "without its tokenizer" in err


def test_a_tokenizer_larger_than_its_model_stays_out(tmp_path):
    model_of(bpe()).save(tmp_path / "hf", "hf")
    content = json.loads((tmp_path / "hf" / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 261, "content": "[PAD]"})
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.warns(UserWarning, match="has 262 tokens, expected at most the 261"):
        assert GPT.load(tmp_path / "hf").tokenizer is None


@pytest.mark.parametrize(
    "tokenizer, note",
    [
        (bpe(), ""),
        (Characters("abc"), ""),
        (bpe(r"a$|[\s\S]"), "the tokenizer is not converted"),
        (None, ""),
    ],
)
def test_convert_says_when_a_tokenizer_stays_behind(tmp_path, capsys, tokenizer, note):
    model_of(tokenizer).save(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    err = capsys.readouterr().err
    assert note in err and err.count("\n") == bool(note)


def test_a_padded_vocabulary_is_kept_and_what_pads_it_is_never_chosen(tmp_path):
    model = model_of(Characters("abc"), padded=5)
    model.params["wte.weight"][3:] *= 100
    model.save(tmp_path / "ours")
    again = GPT.load(tmp_path / "ours")
    assert again.config.vocab_size == 8 and again.tokenizer.vocab_size == 3
    text = "".join(part[0] for part in texts(again, "abc", 50, temperature=5.0))
    assert len(text) == 50 and set(text) <= set("abc")
    assert max(np.concatenate(list(again.generate([[0]], 200, temperature=5.0)))) > 2
    model.tokenizer = Characters("abcdefghi")
    with pytest.raises(InputError, match="9 tokens, expected at most"):
        model.save(tmp_path / "ours")
    assert GPT.load(tmp_path / "ours").tokenizer.vocab_size == 3


def test_llmc_gets_the_end_of_texts_and_an_empty_token_for_every_hole(tmp_path):
    tokens = [bytes([b]) for b in range(256)]
    tokenizer = BPE(tokens, [], specials={"[PAD]": 256, END: 260})
    llmc.save_all(tmp_path / "set", model_of(tokenizer, padded=2), 1, 2)
    pieces, end = llmc.load_tokenizer(tmp_path / "set" / "tokenizer.bin")
    assert pieces == [*tokens, b"[PAD]", b"", b"", b"", END.encode(), b"", b""] and end == 260
    llmc.save_all(tmp_path / "set", model_of(Characters("abc")), 1, 2)
    assert llmc.load_tokenizer(tmp_path / "set" / "tokenizer.bin") == ([b"a", b"b", b"c"], 2)
    long = BPE([*tokens, b"a" * 256], [])
    with pytest.raises(InputError, match="token 256 has 256 bytes, expected at most 255"):
        llmc.save_all(tmp_path / "set", model_of(long), 1, 2)
