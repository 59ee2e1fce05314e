"""Files of tokenizers that would give other ids, are damaged, or cannot be written: one line says why."""

import json

import pytest
from tokenizer_samples import BYTE, content, cut_by_huggingface, learned, lines, split, token

from numgpt import InputError, tokenizers
from numgpt.tokenizers import BPE, Bytes, Characters, huggingface_file, two_libraries
from numgpt.tokenizers.patterns import PATTERNS, Pattern
from numgpt.tokenizers.spelling import spell

DIGITS = {"type": "Digits", "individual_digits": True}
METASPACE = {"type": "Metaspace", "replacement": "▁"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
NFC = {"type": "NFC"}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
TEMPLATE = {"type": "TemplateProcessing", "single": [TEXT], "pair": [TEXT], "special_tokens": {}}
SPLIT = split(r"\w+")["pretokenizers"][0]


def sequence(*steps):
    """A pre-tokenizer of several steps."""
    return {"type": "Sequence", "pretokenizers": list(steps)}


def decoders(*steps):
    """A decoder of several steps."""
    return {"type": "Sequence", "decoders": list(steps)}


def words(vocab, **changes):
    """Changes to a model that has this vocabulary and no merges."""
    return {"model__vocab": vocab, "model__merges": []} | changes


REFUSED = [
    ({"normalizer": {"type": "BertNormalizer"}}, "normalizer is BertNormalizer, expected NFC, .*Replace"),
    (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": r"\w"}, "content": ""}},
        "may mean something else",
    ),
    (
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": ""}},
        "Replace has another pattern",
    ),
    ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": 5}}, "Replace has content"),
    ({"normalizer": {"type": "Strip", "strip_left": True}}, "Strip has strip_right null"),
    ({"normalizer": {"type": "Prepend", "prepend": ""}}, "Prepend has prepend"),
    ({"normalizer": {"type": "Sequence", "normalizers": [5]}}, "its normalizers are 5"),
    (
        {"normalizer": {"type": "NFC"}, "added_tokens": [token("<|endoftext|>", 276, normalized=True)]},
        "is normalized, expected false beside a normalizer",
    ),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer is Whitespace, expected ByteLevel, .*Split"),
    ({"pre_tokenizer": BYTE | {"add_prefix_space": "yes"}}, "ByteLevel has add_prefix_space"),
    ({"pre_tokenizer": BYTE | {"use_regex": 1}}, "ByteLevel has use_regex 1"),
    ({"pre_tokenizer": {"type": "Digits"}}, "Digits has individual_digits null"),
    ({"pre_tokenizer": {"type": "Metaspace", "replacement": "__"}}, "Metaspace has replacement"),
    ({"pre_tokenizer": METASPACE | {"prepend_scheme": "last"}}, "prepend_scheme"),
    ({"pre_tokenizer": METASPACE | {"add_prefix_space": False}}, "add_prefix_space false"),
    (
        {"pre_tokenizer": sequence(DIGITS, METASPACE | {"prepend_scheme": "first"})},
        "prepend_scheme first behind",
    ),
    ({"pre_tokenizer": sequence(SPLIT, BYTE)}, "may mean something else"),
    ({"pre_tokenizer": split(r"a+", "Apart")}, "Split has behavior"),
    ({"pre_tokenizer": split(r"a+", "Isolated", None)}, "Split has invert null"),
    ({"pre_tokenizer": split(PATTERNS["cl100k"])}, r"holds \}\+|regular"),
    ({"pre_tokenizer": split(r"a$|\s\S")}, r"holds \$"),
    ({"pre_tokenizer": split("(")}, "does not compile"),
    ({"pre_tokenizer": split("a{100000000}")}, "does not compile"),
    ({"decoder": {"type": "WordPiece"}}, "decoder is WordPiece"),
    ({"decoder": decoders({"type": "Fuse"}, {"type": "ByteFallback"})}, "has ByteFallback where it cannot"),
    ({"decoder": decoders({"type": "Fuse"}, STRIP | {"stop": 1})}, "decoder's Strip is"),
    ({"decoder": STRIP}, "has Strip where it cannot"),
    ({"decoder": {"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}}, "expected a String"),
    ({"model__type": "WordPiece"}, "WordPiece"),
    ({"model__dropout": 0.1}, "dropout"),
    ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    ({"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
    ({"model__merges": [["a", "zz"]]}, "merge 0 joins 'zz'"),
    ({"model__merges": ["a b c"]}, "merge 0 is"),
    ({"model__merges": [["a", "b"]]}, "merge 0 makes b'ab'"),
    ({"normalizer": NFC, "model__merges": [["a", "b"]]}, "merge 0 makes 'ab'"),
    ({"normalizer": NFC, "model__merges": [["a", "zz"]]}, "merge 0 joins 'zz'"),
    ({"normalizer": NFC, "model__merges": [["t", "h"], ["t", "h"]]}, "as an earlier one does|makes"),
    ({"normalizer": NFC, "model__ignore_merges": 5}, "BPE has ignore_merges 5"),
    ({"normalizer": NFC, "model__unk_token": "<nowhere>"}, "unk_token is '<nowhere>'"),
    ({"normalizer": NFC, "model__dropout": 0.1}, "dropout"),
    ({"normalizer": NFC, "model__end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    ({"normalizer": NFC, "model__vocab": {"a": 0, "b": 2}, "added_tokens": [], "model__merges": []}, "id 1"),
    ({"model__merges": {}}, "list of merges"),
    ({"model__vocab": {"a": 0, "b": 0}}, "both have id 0"),
    ({"model__vocab": {"a": 0, "b": 2}, "added_tokens": []}, "no token has id 1"),
    ({"model__vocab": {"a": 0, "b": 2**40}, "added_tokens": []}, "no token has id 1"),
    ({"model__vocab": {"a": -1}}, "has id -1"),
    ({"model__vocab": {"a": True}}, "has id True"),
    ({"added_tokens": [token("<|endoftext|>", 276, lstrip=True)]}, "lstrip"),
    ({"added_tokens": [token("<|endoftext|>", 276, single_word=True)]}, "single_word"),
    ({"added_tokens": [token("<|end|>", 300)]}, "has id 300, expected 277"),
    ({"added_tokens": [token("the", 2**40)]}, "has id 1099511627776, expected"),
    (
        {"added_tokens": [token("<|end|>", 277), token("<|end|>!", 278, normalized=True)]},
        "shares '<|end|>'|shares",
    ),
    ({"added_tokens": [5]}, "added_tokens"),
    ({"added_tokens": [token("<|end|>", 277, special="no")]}, 'has special "no", expected true or false'),
    ({"version": "2.0"}, 'its version is "2.0", expected "1.0"'),
    ({"truncate": None}, "entry 'truncate' is unknown, expected version, truncation"),
    ({"truncation": 512}, "its truncation is 512, expected an object, or null"),
    ({"padding": True}, "its padding is true, expected an object, or null"),
    ({"post_processor": {"type": "Reverse"}}, "post_processor is Reverse, expected BertProcessing"),
    ({"post_processor": TEMPLATE | {"single": [TEXT, TEXT]}}, "has single .* expected the Sequence A once"),
    ({"post_processor": TEMPLATE | {"single": []}}, "has single .* expected the Sequence A once"),
    (
        {"decoder": None},
        'its decoder is null beside a ByteLevel pre_tokenizer, expected {"type": "ByteLevel"}',
    ),
    ({"decoder": decoders()}, "its decoder is .*Sequence.* beside a ByteLevel pre_tokenizer"),
    ({"normalizer": NFC, "decoder": None}, "its decoder is null beside a ByteLevel pre_tokenizer"),
    ({"decoder": METASPACE | {"prepend_scheme": "last"}}, "Metaspace has prepend_scheme"),
]


@pytest.mark.parametrize("changes, message", REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_a_form_that_would_give_other_ids_is_named(tmp_path, changes, message):
    (tmp_path / "t.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.load(tmp_path / "t.json")
    assert str(caught.value).startswith(str(tmp_path / "t.json")) and "expected" in str(caught.value)


OTHERWISE = [
    (r"\h+|[^\h]+", "axb"),
    (r"\w+|\W+", "a\u200db"),
    (r"\bbc|[\s\S]", "²bc"),
    (r"(?m).+|\n", "a\nb"),
    (r"[a-c&&b]+|[\s\S]", "ab"),
    (r"[[a]b]+|[\s\S]", "ab"),
    (r"[[:digit:]]+|[\s\S]", "٣٣"),
    (r"\p{XDigit}+|[\s\S]", "٣٣"),
    (r"(?i:ssa)|[\s\S]", "ßa"),
    (r"(?i:\p{Lu})+|[\s\S]", "aB"),
    (r"xa{2}?b|[\s\S]", "xb"),
]


@pytest.mark.parametrize("source, text", OTHERWISE)
def test_a_pattern_that_hugging_face_takes_otherwise_is_neither_read_nor_written(tmp_path, source, text):
    assert cut_by_huggingface(source, text) != Pattern(source).split(text)
    with pytest.raises(InputError, match="may mean something else to Hugging Face"):
        tokenizers.export(BPE(Bytes.pieces, [], pattern=source), tmp_path / "t.json", "huggingface")
    with pytest.raises(InputError, match="may mean something else to Hugging Face"):
        two_libraries.name_of(source)


def test_an_added_token_that_merges_make_too_is_named(tmp_path):
    tokenizer = learned(2, 20)
    text = next(spell(t) for t in tokenizer.tokens[256:] if t.isalpha())
    i = tokenizer.ids[text.encode()]
    (tmp_path / "t.json").write_text(
        json.dumps(huggingface_file.write(tokenizer) | {"added_tokens": [token(text, i)]})
    )
    with pytest.raises(InputError, match=r"makes .*which is no token|that is not special"):
        tokenizers.load(tmp_path / "t.json")


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


@pytest.mark.parametrize(
    "vocab, merges, message",
    [
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na b c\n", "line 2 of the merges"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na\n", "line 2 of the merges"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na b\na b\n", "as an earlier one does"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na c\n", "merge 0 joins 'c'"),
        ({"a": 0, "b": 1, "ab": 2}, b"#version: 0.2\na \xff\n", "not UTF-8"),
        (
            {"a": 0, "b": 1, "in": 2, "n</w>": 3, "in</w>": 4, "i": 5},
            b"#version: 0.2\ni n</w>\n",
            "joins 'n</w>'.*not special",
        ),
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


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\x10\0\0\0\0\0\0\0{}",
        b"# a heading\n",
        b"[]",
        b"{}",
        b"5",
        b"words of a text",
        b'{"a": "b"}',
        b"{" * 10**5,
    ],
)
def test_a_file_of_another_kind_is_one_line(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(InputError, match="is not (a tokenizer|JSON).*expected"):
        tokenizers.load(tmp_path / "file")


def test_what_is_no_file_and_what_is_too_long_is_refused(tmp_path):
    with open(tmp_path / "long", "wb") as file:
        file.truncate(2**40)
    for path, message in (
        (tmp_path / "long", "more than 67,108,864 bytes"),
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path, "holds no tokenizer"),
        ("/dev/zero", "a device"),
    ):
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


# The merges are not in the order of the ids that they make.
ORDER = BPE([*Bytes.pieces, b"ab", b"abc", b"bc"], [(97, 98), (98, 99), (256, 99)])
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
    (Characters("abc"), "gpt2", "is 'chars', expected bytes or bpe .* choose numgpt or huggingface"),
    (learned(3), "onnx", "kind 'onnx' is unknown"),
]  # fmt: skip


@pytest.mark.parametrize("tokenizer, kind, message", HARD, ids=range(len(HARD)))
def test_what_a_kind_of_file_cannot_say_is_not_written(tmp_path, tokenizer, kind, message):
    with pytest.raises(InputError, match=message):
        tokenizers.export(tokenizer, tmp_path / "x", kind)
    assert not list(tmp_path.iterdir())


STATE = {
    "type": "bpe",
    "pattern": "gpt2",
    "whole": False,
    "specials": {"<x>": 3},
    "tokens": ["a", "b", "ab"],
    "merges": [[0, 1]],
}
# No part of a state may be one of these.
ANYWHERE = [5, 0.5, [5], [[5]], ["a", ["b"]], {"a": "b"}, {"a": 0.5}, "(", 2**70, [2**70], {"a": 2**70}]
ANYWHERE += [{"": 1}, "\ud800"]
TOKENS = [None, [], ["a", "a", "ab"], ["a", "", "ab"], ["a", None, "ab"], "ab"]
MERGES = [[[0, 1, 2]], [[True, False]], [[0, 2**70]], [[-1, 0]], [[0, 1], [0, 1]], [[1, 0]], [[0, 3]], True]
SPECIALS = [None, {"<x>": 2**40}, {"<x>": True}, {"<x>": -1}, {"<x>": 0}, {"\ud800": 3}]
WRONG = [{name: value} for name in STATE for value in ANYWHERE]
WRONG += [{"tokens": tokens} for tokens in TOKENS] + [{"tokens": [], "merges": [], "specials": {}}]
WRONG += [{"merges": merges} for merges in MERGES] + [{"specials": specials} for specials in SPECIALS]
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
