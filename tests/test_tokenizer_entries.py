"""Each entry of a tokenizer.json means what it means to Hugging Face's tokenizers, or is refused by name."""

import json

import pytest
from pipeline_samples import (
    BYTES_ONLY,
    DECODERS,
    DIGITS,
    LETTERS,
    NORMALIZERS,
    library_of,
    metaspace,
    model,
    places,
    sequence,
    split,
    strip,
)
from pipeline_samples import file as file_of
from tokenizer_samples import BYTE

from numgpt import InputError, tokenizers
from numgpt.tokenizers import huggingface_file
from numgpt.tokenizers.spelling import ALPHABET

SMALL = {text: i for i, text in enumerate(dict.fromkeys(["<unk>", "<|end|>", *LETTERS, *ALPHABET]))}
PAIRS = {"ab": len(SMALL), "Ġa": len(SMALL) + 1, "▁a": len(SMALL) + 2}
SMALL_MODEL = model(merges=0, unk_token="<unk>") | {
    "vocab": SMALL | PAIRS,
    "merges": [["a", "b"], ["Ġ", "a"], ["▁", "a"]],
}
PAIRS_OF_BYTES = SMALL_MODEL | {
    "unk_token": None,
    "vocab": {text: i for i, text in enumerate(["<|end|>", *ALPHABET, "ab", "Ġa"])},
    "merges": [["a", "b"], ["Ġ", "a"]],
}
A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
SPECIAL = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}


def template(*single, **changes):
    """A post-processor that puts special tokens around a text, which is A; of two texts the other is B."""
    tokens = {"<|end|>": {"id": "<|end|>", "ids": [1], "tokens": ["<|end|>"]}}
    parts = {"single": list(single), "pair": [A, B], "special_tokens": tokens}
    return {"type": "TemplateProcessing"} | parts | changes


CUT_OFF = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
PADDED = {
    "strategy": {"Fixed": 40},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 1,
    "pad_type_id": 0,
    "pad_token": "<|end|>",
}
BYTE_FILE = file_of(None, BYTE, PAIRS_OF_BYTES, BYTE) | {"post_processor": BYTE}
WHOLE = {
    "byte pairs": BYTE_FILE | {"truncation": CUT_OFF, "padding": PADDED},
    "byte pairs after a normalizer": BYTE_FILE
    | {
        "normalizer": sequence("normalizers", {"type": "NFC"}, strip(True, False)),
        "pre_tokenizer": sequence("pretokenizers", DIGITS, BYTES_ONLY),
        "post_processor": sequence("processors", BYTE, template(SPECIAL, A)),
    },
    "characters": file_of(
        NORMALIZERS["LLaMA's"],
        sequence("pretokenizers", split("MergedWithPrevious", {"String": " "}), metaspace("never")),
        SMALL_MODEL,
        DECODERS["LLaMA's"],
    ),
    "words": file_of(None, metaspace("first"), SMALL_MODEL, metaspace("first")),
}
# What stands in the place of an entry.
VALUES = [
    None,
    True,
    False,
    0,
    1.0,
    "",
    "a",
    "▁",
    [],
    {},
    {"String": "a"},
    {"Regex": "[ab]+"},
    "never",
    "Removed",
]
VALUES += [*DECODERS.values(), *NORMALIZERS.values(), BYTE, DIGITS, metaspace("always"), CUT_OFF, PADDED]
VALUES += [sequence(name) for name in ("processors", "pretokenizers")]
VALUES += [template(), template(A), template(A, A), template(SPECIAL, A, SPECIAL), template(SPECIAL)]
# Every entry that some object in such a file may have, and one that none has.
ENTRIES = {"zzz", "add_prefix_space", "behavior", "byte_fallback", "cache_capacity", "cleanup", "content"}
ENTRIES |= {"continuing_subword_prefix", "dropout", "encode_special_tokens", "end_of_word_suffix", "fuse_unk"}
ENTRIES |= {"ignore_merges", "individual_digits", "invert", "lstrip", "normalized", "prefix", "prepend"}
ENTRIES |= {"prepend_scheme", "replacement", "rstrip", "single_word", "special", "split", "start", "stop"}
ENTRIES |= {"str_rep", "suffix", "trim_offsets", "unk_token", "use_regex", "max_input_chars_per_word"}
TEXTS = ["ab a  b1 ab<|end|> a", "  e\u0301 a2b▁ab\n", "<|end|>a"]


GONE = object()


def at(node, path):
    for name in path:
        node = node[name]
    return node


def planted(whole, path, value):
    """A file with another value in one place."""
    changed = json.loads(json.dumps(whole))
    place = at(changed, path[:-1])
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


def plants(whole):
    """(path, value): each entry with another value or gone, and each object with one more entry."""
    paths = [path for path in places(whole) if path[:2] not in (("model", "vocab"), ("model", "merges"))]
    yield from ((path, value) for path in paths for value in (*VALUES, GONE))
    objects = [(), *(path for path in paths if isinstance(at(whole, path), dict))]
    for path in objects:
        for name in sorted(ENTRIES - at(whole, path).keys()):
            yield from (((*path, name), value) for value in (True, False, "never", "x", 1))


def expect_their_meaning(content):
    """InputError where the file is refused here; AssertionError where ids or texts are others than theirs."""
    if not huggingface_file.is_huggingface(content):
        return
    ours = huggingface_file.read(content)
    try:
        theirs = library_of(content)
    except Exception:  # what theirs refuses too has no meaning
        return
    theirs.no_truncation()
    theirs.no_padding()
    for text in TEXTS:
        try:
            ids = ours.encode(text, special="allow").tolist()
        except InputError as error:
            assert "has no token" in str(error) or "becomes the special token" in str(error)
            continue
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def expect_each_plant_their_meaning(whole, some):
    expect_their_meaning(whole)
    outcomes = set()
    for path, value in some:
        try:
            expect_their_meaning(planted(whole, path, value))
            outcomes.add("read")
        except InputError as error:
            assert "expected" in str(error), error
            outcomes.add("refused")
        except AssertionError as error:
            raise AssertionError(f"{path} is {value}: {error}") from error
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("name", WHOLE)
def test_an_outer_or_a_tenth_entry_that_is_changed_means_what_it_means_to_them_or_is_refused(name):
    every = [*plants(WHOLE[name])]
    outer = [plant for plant in every if len(plant[0]) == 1]
    expect_each_plant_their_meaning(WHOLE[name], outer[:: 1 if name == "byte pairs" else 5] + every[::10])


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_every_entry_that_is_changed_means_what_it_means_to_them_or_is_refused(name):
    expect_each_plant_their_meaning(WHOLE[name], plants(WHOLE[name]))


def test_a_file_that_transformers_saved_after_a_batch_was_cut_off_and_padded_gives_its_ids(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "t.json").write_text(json.dumps(BYTE_FILE))
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "t.json"), pad_token="<|end|>"
    )
    for options in ({"truncation": True, "max_length": 3}, {"padding": "max_length", "max_length": 40}):
        theirs(TEXTS, **options)
        theirs.save_pretrained(tmp_path / "saved")
        content = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
        assert content[next(iter(options))] is not None
        ours = tokenizers.load(tmp_path / "saved")
        for text in TEXTS:
            ids = ours.encode(text, special="allow").tolist()
            assert ids == theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.decode(ids) == theirs.decode(ids)
