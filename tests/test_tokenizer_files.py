"""Files of tokenizers: what is written the others load to the same ids, what they write is read to theirs."""

import json
import os
from unittest import mock

import numpy as np
import pytest
from bpe_oracles import gpt2_file
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_samples import BYTE, SPECIALS, TEXT, content, cut_by_huggingface, learned, lines, split, token

from numgpt import InputError, tokenizers
from numgpt.data import corpora
from numgpt.tokenizers import BPE, Bytes, huggingface_file, tiktoken_file, two_libraries
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import ALPHABET

WORDS = [
    "the",
    " the",
    "cat",
    "'s",
    "'LL",
    "  ",
    "\n",
    " \n ",
    "123",
    "naïve",
    "日本",
    "😀",
    "<|end|>",
    "<|endoftext|>",
    "\x1c",
    "\xa0",
    "ſ",
    "\x00",
    "!?",
]
# Characters that no version of Unicode at hand has assigned are cut differently by each library, and are left
# out.
texts = st.lists(
    st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=8), max_size=12
).map("".join)


def same_ids(ours, theirs, text):
    expected = theirs(text)
    assert ours.encode(text, special="allow").tolist() == expected, (text, ours.decode(expected))


def huggingface(path):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    found = library.Tokenizer.from_file(str(path))
    return lambda text: found.encode(text, add_special_tokens=False).ids


def tiktoken_of(path, pattern, specials):
    """tiktoken's own reading of a file."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    from tiktoken.load import load_tiktoken_bpe

    with mock.patch.dict(
        os.environ, {"TIKTOKEN_CACHE_DIR": ""}
    ):  # by default it keeps a file by its name, whatever becomes of it
        ranks = load_tiktoken_bpe(str(path))
    found = tiktoken.Encoding(
        "x", pat_str=PATTERNS.get(pattern, pattern), mergeable_ranks=ranks, special_tokens=specials
    )
    return lambda text: found.encode(text, allowed_special="all")


patterns = st.sampled_from([*PATTERNS, r"\p{L}+|[^\p{L}]+", huggingface_file.WHOLE])
tokenizers_of_any_kind = st.builds(
    learned,
    st.integers(0, 2**32),
    st.integers(0, 80),
    patterns,
    st.lists(st.sampled_from(SPECIALS), unique=True),
    st.booleans(),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@settings(max_examples=60)
@given(tokenizer=tokenizers_of_any_kind, text=texts)
def test_hugging_face_loads_what_is_written_to_the_same_ids(place, tokenizer, text):
    tokenizers.export(tokenizer, place / "tokenizer.json", "huggingface")
    same_ids(tokenizer, huggingface(place / "tokenizer.json"), text)
    assert tokenizers.load(place / "tokenizer.json") == tokenizer


@settings(max_examples=60)
@given(tokenizer=tokenizers_of_any_kind, text=texts)
def test_tiktoken_loads_what_is_written_to_the_same_ids(place, tokenizer, text):
    more = tokenizers.export(tokenizer, place / "x.tiktoken", "tiktoken")
    same_ids(tokenizer, tiktoken_of(place / "x.tiktoken", **more), text)
    again = tokenizers.load(place / "x.tiktoken", **more)
    assert again.merges is None and tiktoken_file.recover_merges(again) == tokenizer.merges
    same_ids(tokenizer, lambda text: again.encode(text, special="allow").tolist(), text)
    assert (
        tokenizers.load(place / "x.tiktoken", **tokenizers.export(again, place / "x.tiktoken", "tiktoken"))
        == again
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), specials=st.lists(st.sampled_from(SPECIALS), unique=True), text=texts)
def test_transformers_loads_gpt2s_two_files_to_the_same_ids(place, seed, specials, text):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer = learned(seed, specials=specials)
    tokenizers.export(tokenizer, place / "gpt2", "gpt2")
    files = [str(place / "gpt2" / name) for name in ("vocab.json", "merges.txt")]
    theirs = library.Tokenizer(library.models.BPE.from_file(*files))
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.add_special_tokens(list(specials))
    same_ids(tokenizer, lambda text: theirs.encode(text).ids, text)
    assert all(tokenizers.load(file) == tokenizer for file in [place / "gpt2", *files])


@pytest.mark.parametrize("kind", ["numgpt", "huggingface"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_pretoken_taken_whole_stays_so(tmp_path, kind, whole):
    tokens = [bytes([b]) for b in range(256)] + [b"th", b"he", b"the"]
    tokenizer = BPE(tokens, [(257, 101), (116, 104), (104, 101), (256, 101)][1:], "gpt2", None, whole)
    tokenizers.export(tokenizer, tmp_path / "t.json", kind)
    again = tokenizers.load(tmp_path / "t.json")
    assert again == tokenizer and again.encode("the").tolist() == [258]
    unreached = BPE([*tokens[:256], b"he", b"the"], [(104, 101)], "gpt2", None, whole)
    tokenizers.export(unreached, tmp_path / "t.json", kind)
    assert tokenizers.load(tmp_path / "t.json").encode("the").tolist() == ([257] if whole else [116, 256])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_vocabulary_of_ranks_gets_its_merges_for_hugging_face(tmp_path, pattern):
    trained = learned(5, pattern=pattern, specials=SPECIALS[:1])
    ranked = BPE(trained.tokens, None, pattern, trained.specials)
    tokenizers.export(ranked, tmp_path / "t.json", "huggingface")
    again = tokenizers.load(tmp_path / "t.json")
    assert again.merges == trained.merges and again.whole
    same_ids(ranked, huggingface(tmp_path / "t.json"), TEXT + "<|endoftext|>")
    same_ids(again, huggingface(tmp_path / "t.json"), TEXT + "<|endoftext|>")


def test_bytes_are_a_file_without_merges(tmp_path):
    tokenizers.export(Bytes(), tmp_path / "t.json", "huggingface")
    same_ids(Bytes(), huggingface(tmp_path / "t.json"), TEXT)
    assert np.array_equal(tokenizers.load(tmp_path / "t.json").encode(TEXT), Bytes().encode(TEXT))


def trained_by_hugging_face(added=(), **options):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    theirs = library.Tokenizer(library.models.BPE(**options))
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=sorted(ALPHABET),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    theirs.train_from_iterator([corpora.python()[1][:30_000]], trainer)
    theirs.add_special_tokens(list(added))
    return theirs


@pytest.mark.parametrize("merges", ["pairs", "texts"])
def test_what_their_trainer_saves_is_read_to_their_ids(tmp_path, merges):
    theirs = trained_by_hugging_face(["<|end|>", "[PAD]"])
    theirs.save(str(tmp_path / "t.json"))
    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    if merges == "texts":
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        (tmp_path / "t.json").write_text(json.dumps(content), encoding="utf-8")
    ours = tokenizers.load(tmp_path / "t.json")
    assert ours.specials == {"<|endoftext|>": 0, "<|end|>": 700, "[PAD]": 701} and ours.vocab_size == 702
    for text in (TEXT, corpora.python()[1][30_000:60_000], "<|endoftext|>a<|end|> [PAD]", ""):
        same_ids(ours, lambda text: theirs.encode(text).ids, text)
        assert (
            ours.decode(theirs.encode(text).ids)
            == theirs.decode(theirs.encode(text).ids, skip_special_tokens=False)
            == text
        )
    theirs.model.save(str(tmp_path))
    again = tokenizers.load(tmp_path / "vocab.json", specials={"<|end|>": 700, "[PAD]": 701})
    assert again == ours


def test_transformers_loads_a_folder_to_the_same_ids(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = learned(1, specials=SPECIALS[:1])
    tokenizers.export(tokenizer, tmp_path, "gpt2")
    from_two = transformers.GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizers.export(tokenizer, tmp_path, "huggingface")
    from_one = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for theirs in (from_two, from_one):
        same_ids(tokenizer, lambda text: theirs(text)["input_ids"], TEXT + "<|endoftext|> the")
    from_two.add_tokens(["<|end|>"], special_tokens=True)
    from_two.save_pretrained(tmp_path / "theirs")
    again = tokenizers.load(tmp_path / "theirs")
    same_ids(again, lambda text: from_two(text)["input_ids"], TEXT + "<|end|><|endoftext|> the")


def test_real_gpt2_is_the_same_in_every_kind_of_file(tmp_path):
    ranked = tokenizers.load(gpt2_file(), specials={"<|endoftext|>": 50256})
    assert ranked.vocab_size == 50257
    tokenizers.export(ranked, tmp_path, "gpt2")
    tokenizers.export(ranked, tmp_path / "t.json", "huggingface")
    merged = tokenizers.load(tmp_path)
    assert len(merged.merges) == 50_000 and (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")[
        1:4
    ] == ["Ġ t", "Ġ a", "h e"]
    tokenizers.export(merged, tmp_path / "t.tiktoken", "tiktoken")
    assert (tmp_path / "t.tiktoken").read_bytes() == gpt2_file().read_bytes()
    text = corpora.python()[1][:50_000] + TEXT
    assert np.array_equal(ranked.encode(text), merged.encode(text))
    same_ids(merged, huggingface(tmp_path / "t.json"), text + "<|endoftext|>")


# no pattern of ours
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "name, sources",
    [*two_libraries.SOURCES.items(), (LLAMA3, [LLAMA3])],
    ids=[*two_libraries.SOURCES, "llama3"],
)
@given(text=texts)
def test_a_pattern_cuts_alike_however_it_is_spelled(name, sources, text):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    for source in sources:
        theirs = library.pre_tokenizers.Split(library.Regex(source), "isolated")
        assert [pretoken for pretoken, _ in theirs.pre_tokenize_str(text)] == Pattern(name).split(text)


FORMS = [
    {},
    {"pre_tokenizer": BYTE | {"use_regex": False}},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE]}},
    {"pre_tokenizer": split(two_libraries.SOURCES["cl100k"][0])},
    {"pre_tokenizer": split(LLAMA3)},
    {"pre_tokenizer": split(r"\S+|\s+")},
    {"pre_tokenizer": split(r"\S+|\s+", "Removed", True)},
    {"pre_tokenizer": split(r"\S+|\s+", "Isolated", True)},
    {"model__unk_token": "<|endoftext|>", "model__byte_fallback": True},
    {"model__ignore_merges": True},
    {"normalizer": {"type": "NFC"}},
    {"pre_tokenizer": BYTE | {"add_prefix_space": True}},
    {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE],
        }
    },
    {"pre_tokenizer": split(r"\s", "MergedWithNext")},
    {"pre_tokenizer": split(r"\d")},
    {"model__dropout": 0.0},
    {"model__continuing_subword_prefix": "", "model__end_of_word_suffix": ""},
    {"normalizer": {"type": "Sequence", "normalizers": []}},
    {
        "added_tokens": [
            token("<|endoftext|>", 276),
            token("<|end|>", 277, special=False),
            token("[PAD]", 278, normalized=True),
        ]
    },
    {"added_tokens": [token("<|end|>", 277), token("[PAD]", 278), token("<|endoftext|>", 276)]},
]


@pytest.mark.parametrize("changes", FORMS, ids=lambda changes: json.dumps(changes)[:60])
def test_a_form_that_is_read_gives_their_ids(tmp_path, changes):
    (tmp_path / "t.json").write_text(json.dumps(content(**changes)))
    ours, theirs = tokenizers.load(tmp_path / "t.json"), huggingface(tmp_path / "t.json")
    for text in (TEXT, "a<|endoftext|>b <|end|>\n\n [PAD]  the 12345 \n "):
        same_ids(ours, theirs, text)


@pytest.mark.parametrize(
    "source",
    [
        LLAMA3,
        r"[^\P{L}\d]+|[\s\S]",
        r"(?i:[a-z])+(?![\x41-\x5a])|[^\]\[]|[\s\S]",
        r"(?<=\p{L})[\-_\u4e00-\u9fa5]{2,3}|(?>\S)|\s",
        r"(?:a|b)*c|\\h|.",
    ],
)
@given(text=st.text(st.sampled_from("abcABCſK-_\\h[] 1中文ʰ²\t.")))
@settings(deadline=None)
def test_a_pattern_that_is_written_is_taken_alike(source, text):
    assert two_libraries.name_of(source) == source
    assert cut_by_huggingface(source, text) == [
        pretoken for pretoken in Pattern(source).split(text) if pretoken
    ]


def test_a_rank_kept_free_is_a_special_tokens(tmp_path):
    """As in Whisper's multilingual file."""
    (tmp_path / "x.tiktoken").write_bytes(lines((b"a", 0)) + b"= 1\n" + lines((b"b", 2)))
    with pytest.raises(InputError, match="no token has rank 1"):
        tokenizers.load(tmp_path / "x.tiktoken")
    found = tokenizers.load(tmp_path / "x.tiktoken", r"[\s\S]", {"<|endoftext|>": 1})
    assert found.encode("ab<|endoftext|>", special="allow").tolist() == [0, 2, 1]


def test_merges_without_a_heading_and_with_other_line_ends_are_read(tmp_path):
    tokenizers.export(learned(3), tmp_path, "gpt2")
    merges = (tmp_path / "merges.txt").read_bytes()
    for other in (merges.partition(b"\n")[2], merges.replace(b"\n", b"\r\n"), merges + b"\n\n"):
        (tmp_path / "merges.txt").write_bytes(other)
        assert tokenizers.load(tmp_path / "merges.txt") == learned(3)


def test_names_of_openai_and_tokens_added_later_are_known(tmp_path):
    tokenizers.export(learned(3, specials=SPECIALS[:1]), tmp_path, "gpt2")
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    first = tokenizers.load(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": first.vocab_size}))
    assert tokenizers.load(tmp_path / "vocab.bpe").specials == first.specials | {"[PAD]": first.vocab_size}


def test_the_law_of_equal_ids_rejects_a_tokenizer_with_two_merges_swapped(tmp_path):
    tokens = [bytes([b]) for b in range(256)] + [b"ab", b"bc"]
    tokenizers.export(BPE(tokens, [(97, 98), (98, 99)]), tmp_path / "t.json", "huggingface")
    with pytest.raises(AssertionError):
        same_ids(BPE(tokens, [(98, 99), (97, 98)]), huggingface(tmp_path / "t.json"), "abc")
