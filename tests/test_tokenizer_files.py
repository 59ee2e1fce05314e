"""Files of tokenizers: what is written the others load to the same ids, what they write is read to theirs, anything else is one line."""

import base64
import importlib.metadata
import json
import os
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import InputError, corpora, tokenizers
from numgpt.tokenizers import BPE, Bytes, Characters, huggingface_file, tiktoken_file
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import ALPHABET, spell

TEXT = "The cat's hat, the other cat  sat\n\n on 12345 mats; they're naïve: 日本語 😀😀 `def f(x):\r\n    return x`" + " there then" * 3
WORDS = ["the", " the", "cat", "'s", "'LL", "  ", "\n", " \n ", "123", "naïve", "日本", "😀", "<|end|>", "<|endoftext|>", "\x1c", "\xa0", "ſ", "\x00", "!?"]
# Characters that no version of Unicode at hand has assigned are cut differently by each library, and are left out.
texts = st.lists(st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=8), max_size=12).map("".join)
SPECIALS = ("<|endoftext|>", "<|end|>", "[PAD]")


def learned(seed, merges=60, pattern="gpt2", specials=(), shuffle=True):
    """A BPE whose merges are pairs of neighbours in TEXT, drawn by the seed: as training gives them, in another order."""
    draw = np.random.default_rng(seed)
    tokens = [bytes([b]) for b in (draw.permutation(256).tolist() if shuffle else range(256))]
    ids, pairs = {t: i for i, t in enumerate(tokens)}, []
    words = [[ids[bytes([b])] for b in piece.encode()] for piece in Pattern(pattern).split(TEXT)]
    for _ in range(merges):
        known = sorted({pair for word in words for pair in zip(word, word[1:])})
        if not known:
            break
        pair = known[draw.integers(len(known))]
        both = tokens[pair[0]] + tokens[pair[1]]
        if both in ids:  # by other parts: tiktoken's vocabularies have each token once
            words = [[i for i in word] for word in words if pair not in zip(word, word[1:])]
            continue
        ids[both] = len(tokens)
        tokens.append(both)
        pairs.append(pair)
        words = [replaced(word, pair, ids[both]) for word in words]
    return BPE(tokens, pairs, pattern, {text: len(tokens) + n for n, text in enumerate(specials)})


def replaced(word, pair, both):
    new = []
    for i in word:
        if new and (new[-1], i) == pair:
            new[-1] = both
        else:
            new.append(i)
    return new


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

    with mock.patch.dict(os.environ, {"TIKTOKEN_CACHE_DIR": ""}):  # by default it keeps a file by its name, whatever becomes of it
        ranks = load_tiktoken_bpe(str(path))
    found = tiktoken.Encoding("x", pat_str=PATTERNS.get(pattern, pattern), mergeable_ranks=ranks, special_tokens=specials)
    return lambda text: found.encode(text, allowed_special="all")


patterns = st.sampled_from([*PATTERNS, r"\p{L}+|[^\p{L}]+", huggingface_file.WHOLE])
tokenizers_of_any_kind = st.builds(
    learned, st.integers(0, 2**32), st.integers(0, 80), patterns, st.lists(st.sampled_from(SPECIALS), unique=True), st.booleans()
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
    assert tokenizers.load(place / "x.tiktoken", **tokenizers.export(again, place / "x.tiktoken", "tiktoken")) == again


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
def test_a_piece_taken_whole_stays_so(tmp_path, kind, whole):
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
    trainer = library.trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(ALPHABET), special_tokens=["<|endoftext|>"], show_progress=False)
    theirs.train_from_iterator([corpora.default()[1][:30_000]], trainer)
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
    for text in (TEXT, corpora.default()[1][30_000:60_000], "<|endoftext|>a<|end|> [PAD]", ""):
        same_ids(ours, lambda text: theirs.encode(text).ids, text)
        assert ours.decode(theirs.encode(text).ids) == theirs.decode(theirs.encode(text).ids, skip_special_tokens=False) == text
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


def gpt2_ranks():
    """The real ones, which a package carries: its files are looked at, nothing of it is imported."""
    try:
        files = importlib.metadata.distribution("openai-whisper").files or ()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("openai-whisper, which carries GPT-2's ranks, is not installed")
    found = [f.locate() for f in files if f.name == "gpt2.tiktoken"]
    return found[0] if found else pytest.skip("openai-whisper carries no gpt2.tiktoken")


def test_real_gpt2_is_the_same_in_every_kind_of_file(tmp_path):
    ranked = tokenizers.load(gpt2_ranks(), specials={"<|endoftext|>": 50256})
    assert ranked.vocab_size == 50257
    tokenizers.export(ranked, tmp_path, "gpt2")
    tokenizers.export(ranked, tmp_path / "t.json", "huggingface")
    merged = tokenizers.load(tmp_path)
    assert len(merged.merges) == 50_000 and (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")[1:4] == ["Ġ t", "Ġ a", "h e"]
    tokenizers.export(merged, tmp_path / "t.tiktoken", "tiktoken")
    assert (tmp_path / "t.tiktoken").read_bytes() == gpt2_ranks().read_bytes()
    text = corpora.default()[1][:50_000] + TEXT
    assert np.array_equal(ranked.encode(text), merged.encode(text))
    same_ids(merged, huggingface(tmp_path / "t.json"), text + "<|endoftext|>")


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # no pattern of ours


@pytest.mark.parametrize("name, sources", [*huggingface_file.SOURCES.items(), (LLAMA3, [LLAMA3])], ids=[*huggingface_file.SOURCES, "llama3"])
@given(text=texts)
def test_a_pattern_cuts_alike_however_it_is_spelled(name, sources, text):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    for source in sources:
        split = library.pre_tokenizers.Split(library.Regex(source), "isolated")
        assert [piece for piece, _ in split.pre_tokenize_str(text)] == Pattern(name).split(text)


BYTE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(source, behavior="Isolated", invert=False):
    cut = {"type": "Split", "pattern": {"Regex": source}, "behavior": behavior, "invert": invert}
    return {"type": "Sequence", "pretokenizers": [cut, BYTE | {"use_regex": False}]}


def content(**changes):
    """A tokenizer.json with changed entries; those of its model by model__ and their names."""
    found = json.loads(json.dumps(huggingface_file.write(learned(2, 20, specials=SPECIALS[:1]))))
    for name, value in changes.items():
        part = found["model"] if name.startswith("model__") else found
        part[name.removeprefix("model__")] = value
    return found


def token(text, i, **flags):
    return {"id": i, "content": text, "special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)} | flags


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"pre_tokenizer": BYTE | {"use_regex": False}}, {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE]}},
        {"pre_tokenizer": split(huggingface_file.SOURCES["cl100k"][0])}, {"pre_tokenizer": split(LLAMA3)}, {"pre_tokenizer": split(r"\w+|\W+")},
        {"pre_tokenizer": split(r"\w+|\W+", "Removed", True)}, {"pre_tokenizer": split(r"\w+|\W+", "Isolated", True)},
        {"model__unk_token": "<|endoftext|>", "model__byte_fallback": True}, {"model__ignore_merges": True}, {"model__dropout": 0.0},
        {"model__continuing_subword_prefix": "", "model__end_of_word_suffix": ""}, {"normalizer": {"type": "Sequence", "normalizers": []}},
        {"added_tokens": [token("<|endoftext|>", 276), token("<|end|>", 277, special=False), token("[PAD]", 278, normalized=True)]},
        {"added_tokens": [token("<|end|>", 277), token("[PAD]", 278), token("<|endoftext|>", 276)]},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)  # fmt: skip
def test_a_form_that_is_read_gives_their_ids(tmp_path, changes):
    (tmp_path / "t.json").write_text(json.dumps(content(**changes)))
    ours, theirs = tokenizers.load(tmp_path / "t.json"), huggingface(tmp_path / "t.json")
    for text in (TEXT, "a<|endoftext|>b <|end|>\n\n [PAD]  the 12345 \n "):
        same_ids(ours, theirs, text)


REFUSED = [
    ({"normalizer": {"type": "NFC"}}, "normalizer"),
    ({"pre_tokenizer": None}, "pre_tokenizer is none"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer is Whitespace"),
    ({"pre_tokenizer": BYTE | {"add_prefix_space": True}}, "add_prefix_space true"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE]}}, "Digits, ByteLevel"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(r"\w+")["pretokenizers"][0], BYTE]}}, "use_regex true"),
    ({"pre_tokenizer": split(r"\w+")["pretokenizers"][0]}, "pre_tokenizer is Split"),
    ({"pre_tokenizer": split(r"\w+", "Contiguous")}, "behavior"),
    ({"pre_tokenizer": split(PATTERNS["cl100k"])}, r"holds \}\+|regular"),
    ({"pre_tokenizer": split(r"a$|\s\S")}, "end of any line"),
    ({"pre_tokenizer": split("(")}, "does not compile"),
    ({"pre_tokenizer": split("a{100000000}")}, "does not compile"),
    ({"decoder": {"type": "WordPiece"}}, "decoder is WordPiece"),
    ({"model__type": "WordPiece"}, "WordPiece"),
    ({"model__dropout": 0.1}, "dropout"),
    ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    ({"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
    ({"model__merges": [["a", "zz"]]}, "merge 0 joins 'zz'"),
    ({"model__merges": ["a b c"]}, "merge 0 is"),
    ({"model__merges": [["a", "b"]]}, "merge 0 makes b'ab'"),
    ({"model__merges": {}}, "list of merges"),
    ({"model__vocab": {"a": 0, "b": 0}}, "both have id 0"),
    ({"model__vocab": {"a": 0, "b": 2}, "added_tokens": []}, "no token has id 1"),
    ({"model__vocab": {"a": 0, "b": 2**40}, "added_tokens": []}, "no token has id 1"),
    ({"model__vocab": {"a": -1}}, "has id -1"),
    ({"model__vocab": {"a": True}}, "has id True"),
    ({"model__vocab": {"a b": 0}, "model__merges": [], "added_tokens": []}, "expected the characters that stand for bytes"),
    ({"model__vocab": {c: i for i, c in enumerate(ALPHABET[1:])}, "model__merges": [], "model__unk_token": "!"}, "unk_token"),
    ({"model__vocab": {c: i for i, c in enumerate(ALPHABET[1:])}, "model__merges": [], "model__byte_fallback": True}, "byte_fallback"),
    ({"added_tokens": [token("<|endoftext|>", 276, lstrip=True)]}, "lstrip"),
    ({"added_tokens": [token("<|endoftext|>", 276, single_word=True)]}, "single_word"),
    ({"added_tokens": [token("<|end|>", 300)]}, "has id 300, expected 277"),
    ({"added_tokens": [token("the", 2**40)]}, "has id 1099511627776, expected"),
    ({"added_tokens": [token("<|end|>", 277), token("<|end|>!", 278, normalized=True)]}, "shares '<|end|>'|shares"),
    ({"added_tokens": [5]}, "added_tokens"),
]


@pytest.mark.parametrize("changes, message", REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_a_form_that_would_give_other_ids_is_named(tmp_path, changes, message):
    (tmp_path / "t.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.load(tmp_path / "t.json")
    assert str(caught.value).startswith(str(tmp_path / "t.json")) and "expected" in str(caught.value)


def test_an_added_token_that_merges_make_too_is_named(tmp_path):
    tokenizer = learned(2, 20)
    text = next(spell(t) for t in tokenizer.tokens[256:] if t.isalpha())
    i = tokenizer.ids[text.encode()]
    (tmp_path / "t.json").write_text(json.dumps(huggingface_file.write(tokenizer) | {"added_tokens": [token(text, i)]}))
    with pytest.raises(InputError, match=r"makes .*which is no token|that is not special"):
        tokenizers.load(tmp_path / "t.json")


def lines(*entries):
    return b"".join(base64.b64encode(t) + b" %d\n" % i for t, i in entries)


@pytest.mark.parametrize(
    "data, message",
    [
        (lines((b"a", 0), (b"b", 0)), "lines 1 and 2 have one rank"),
        (lines((b"a", 0), (b"a", 1)), "lines 1 and 2 have one token"),
        (lines((b"a", 0), (b"b", 2)), r"no token has rank 1, .*specials=\{"),
        (lines((b"a", 0), (b"b", 9_999_999_999)), "no token has rank 1"),
        (lines((b"a", 0)) + b"YQ= 1\n", "line 2 is b'YQ= 1'"),
        (lines((b"a", 0)) + b"Yg== -1\n", "line 2"),
        (lines((b"a", 0)) + b"Yg==\n", "line 2"),
        (lines((b"a", 0)) + b"Yg== 1 2\n", "line 2"),
        (lines((b"a", 0)) + b"\xff\xfe 1\n", "line 2"),
        (lines((b"a" * 2000, 0)), "2,000 bytes"),
        (b"= 0\n", "there are no tokens"),
    ],
)
def test_a_damaged_tiktoken_file_is_one_line(tmp_path, data, message):
    (tmp_path / "x.tiktoken").write_bytes(data)
    with pytest.raises(InputError, match=message):
        tokenizers.load(tmp_path / "x.tiktoken")


def test_a_rank_kept_free_is_a_special_tokens(tmp_path):
    """As in Whisper's multilingual file."""
    (tmp_path / "x.tiktoken").write_bytes(lines((b"a", 0)) + b"= 1\n" + lines((b"b", 2)))
    with pytest.raises(InputError, match="no token has rank 1"):
        tokenizers.load(tmp_path / "x.tiktoken")
    found = tokenizers.load(tmp_path / "x.tiktoken", r"[\s\S]", {"<|endoftext|>": 1})
    assert found.encode("ab<|endoftext|>", special="allow").tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "vocab, merges, message",
    [
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na b c\n", "line 2 of the merges"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na\n", "line 2 of the merges"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na b\na b\n", "as an earlier one does"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na c\n", "merge 0 joins 'c'"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na \xff\n", "not UTF-8"),
        ({"a": 0, "b": 1, "in": 2, "n</w>": 3, "in</w>": 4, "i": 5}, b"#version: 0.2\ni n</w>\n", "joins 'n</w>'.*not special"),
        ({"a": 0, "Ġfoo": 1}, b"#version: 0.2\n", "'Ġfoo' is made by no merge"),
        ({"a": 0, "b": 0}, b"#version: 0.2\n", "both have id 0"),
        ({"a": 0, "b": 2}, b"#version: 0.2\n", "no token has id 1"),
        ({"a": 0, "b": 2**40}, b"#version: 0.2\n", "no token has id 1"),
    ],
)
def test_damaged_files_of_gpt2_are_one_line(tmp_path, vocab, merges, message):
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(merges)
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        with pytest.raises(InputError, match=message):
            tokenizers.load(path)


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


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\x10\0\0\0\0\0\0\0{}", b"# a heading\n", b"[]", b"{}", b"5", b"words of a text", b'{"a": "b"}', b"{" * 10**5])
def test_a_file_of_another_kind_is_one_line(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(InputError, match="is not (a tokenizer|JSON).*expected"):
        tokenizers.load(tmp_path / "file")


def test_what_is_no_file_and_what_is_too_long_is_refused(tmp_path):
    with open(tmp_path / "long", "wb") as file:
        file.truncate(2**40)
    long, nowhere = (tmp_path / "long", "more than 67,108,864 bytes"), (tmp_path / "nowhere", "does not exist")
    for path, message in (long, nowhere, (tmp_path, "holds no tokenizer"), ("/dev/zero", "a device")):
        with pytest.raises(InputError, match=message):
            tokenizers.load(path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.tiktoken").write_bytes(lines((b"a", 0)))
    with pytest.raises(InputError, match="holds 2 of them"):
        tokenizers.load(tmp_path)


def test_half_of_gpt2s_files_is_not_enough(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(InputError, match="expected merges.txt beside it"):
        tokenizers.load(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(InputError, match="expected vocab.json beside it"):
        tokenizers.load(tmp_path / "merges.txt")


def test_a_pattern_is_given_only_to_files_that_have_none(tmp_path):
    tokenizers.export(learned(3), tmp_path / "t.json", "huggingface")
    with pytest.raises(InputError, match="holds its own pattern"):
        tokenizers.load(tmp_path / "t.json", pattern="cl100k")
    learned(3).save(tmp_path / "t.json")
    with pytest.raises(InputError, match="holds its own specials"):
        tokenizers.load(tmp_path / "t.json", specials={"a": 1})


ORDER = BPE([bytes([b]) for b in range(256)] + [b"ab", b"abc", b"bc"], [(97, 98), (98, 99), (256, 99)])  # ids are not in its order
HARD = [
    (ORDER, "tiktoken", "not in the order of the ids"),
    (learned(3, pattern="cl100k"), "gpt2", "pattern is not GPT-2's"),
    (BPE([*ORDER.tokens[:256], b"ab", b"abc"], [(97, 98)]), "tiktoken", "make not every token"),
    (BPE([*ORDER.tokens[:256], b"abc"], None), "huggingface", "is left in 3 parts"),
    (BPE([*ORDER.tokens[:256], b"abc"], None), "gpt2", "is left in 3 parts"),
    (BPE([*ORDER.tokens[:256], b"ab", b"abc"], [(97, 98)], whole=True), "gpt2", "not what merges make"),
    (BPE([*ORDER.tokens[:256], b" abc"], []), "gpt2", "is made by no merge"),
    (BPE([*ORDER.tokens[:256], b"abc"], []), "gpt2", "would not say so"),
    (BPE(ORDER.tokens[:256], [], specials={"a": 256}), "huggingface", "is spelled as token 97 is"),
    (BPE(ORDER.tokens[:256], [], pattern=r"a{2}+|[\s\S]"), "huggingface", r"holds \}\+"),
    (Characters("abc"), "huggingface", "is 'chars'"),
    (learned(3), "onnx", "kind 'onnx' is unknown"),
]  # fmt: skip


@pytest.mark.parametrize("tokenizer, kind, message", HARD, ids=range(len(HARD)))
def test_what_a_kind_of_file_cannot_say_is_not_written(tmp_path, tokenizer, kind, message):
    with pytest.raises(InputError, match=message):
        tokenizers.export(tokenizer, tmp_path / "x", kind)
    assert not list(tmp_path.iterdir())


STATE = {"type": "bpe", "pattern": "gpt2", "whole": False, "specials": {"<x>": 3}, "tokens": ["a", "b", "ab"], "merges": [[0, 1]]}
ODD = [5, 0.5, [5], [[5]], ["a", ["b"]], {"a": "b"}, {"a": 0.5}, "(", 2**70, [2**70], {"a": 2**70}, {"": 1}, "\ud800"]  # for any of its parts
WRONG = [{name: value} for name in STATE for value in ODD]
WRONG += [{"tokens": t} for t in (None, [], ["a", "a", "ab"], ["a", "", "ab"], ["a", None, "ab"], "ab")] + [{"tokens": [], "merges": [], "specials": {}}]
WRONG += [{"merges": m} for m in ([[0, 1, 2]], [[True, False]], [[0, 2**70]], [[-1, 0]], [[0, 1], [0, 1]], [[1, 0]], [[0, 3]], True)]
WRONG += [{"specials": s} for s in (None, {"<x>": 2**40}, {"<x>": True}, {"<x>": -1}, {"<x>": 0}, {"\ud800": 3})]
WRONG += [{"pattern": None}, {"pattern": "(?r)a"}, {"whole": None}, {"whole": 1}, {"more": 1}]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_a_state_that_no_tokenizer_has_is_an_error_of_ours(changes):
    assert tokenizers.from_state(STATE).encode("ab<x>", special="allow").tolist() == [2, 3]
    with pytest.raises(InputError, match="expected"):
        tokenizers.from_state(STATE | changes)


@pytest.mark.parametrize("name", [name for name in STATE if name != "type"])
def test_a_state_that_lacks_a_part_is_an_error_of_ours(name):
    with pytest.raises(InputError, match=f"'{name}' is missing"):
        tokenizers.from_state({key: value for key, value in STATE.items() if key != name})


def test_the_law_of_equal_ids_rejects_a_tokenizer_with_two_merges_swapped(tmp_path):
    tokens = [bytes([b]) for b in range(256)] + [b"ab", b"bc"]
    tokenizers.export(BPE(tokens, [(97, 98), (98, 99)]), tmp_path / "t.json", "huggingface")
    with pytest.raises(AssertionError):
        same_ids(BPE(tokens, [(98, 99), (97, 98)]), huggingface(tmp_path / "t.json"), "abc")
