"""Hugging Face's tokenizer.json: byte pairs of bytes, characters, and what a Pipeline can do step by step.

What would give other ids than numgpt's is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from . import added_tokens, outer_entries
from .bpe import BPE
from .characters import Characters
from .entries import expect, kind, steps
from .patterns import Pattern
from .pipeline import Pipeline
from .spelling import ALPHABET
from .tokenizer import Tokenizer
from .two_libraries import name_of, source_of
from .vocabulary import assemble, checked_vocabulary, read_pairs, spelled

WHOLE = r"[\s\S]+"  # the pattern that does not cut
CHARACTER = {
    "type": "Split",
    "pattern": {"Regex": r"[\s\S]"},
    "behavior": "Isolated",
    "invert": False,
}  # a pre-tokenizer
BYTES = set(ALPHABET)
# (behavior, invert) of a Split whose pretokens are what the pattern matches.
BEHAVIORS = (("Isolated", False), ("Isolated", True), ("Removed", True))
# A text with characters of every class. A pattern that leaves some of it out cuts for a Pipeline, not a BPE.
PROBE = "".join(map(chr, range(1, 256))) + " ʰ日本\u0301\u093f٣²Ⅷ🙂\u200d ǅ\u2028\u3000"


def is_huggingface(content: Any) -> bool:
    """Whether what JSON holds is a tokenizer of theirs, of any model."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def read(content: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of what a tokenizer.json holds.

    It is a BPE where the file is byte pairs of bytes that one pattern cuts, Characters where it cuts a text
    into these, and else a Pipeline. Merges are pairs or, in older files, texts with a space. The ids are
    those of encode(text, add_special_tokens=False) without truncation and padding: to put special tokens
    around a text, to cut it off or to pad it is left to the caller. All added tokens of a BPE are special
    here: their text is refused unless it is allowed.
    """
    outer_entries.expect_known(content)
    model = content["model"]
    if model.get("type") == "WordLevel":
        return _characters(content)
    if model.get("type", "BPE") != "BPE":
        raise InputError(f"its model is {model.get('type')!r}, expected BPE")
    checked_vocabulary(model.get("vocab"))
    pattern = _pattern(content)
    return Pipeline(dict(content)) if pattern is None else _byte_pairs(content, pattern)


def _byte_pairs(content: Mapping[str, Any], pattern: str) -> BPE:
    model = content["model"]
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        expect(model, name, (None, ""))
    expect(model, "dropout", (None, 0))
    expect(model, "ignore_merges", (None, False, True))
    vocab = checked_vocabulary(model.get("vocab"))
    specials = added_tokens.read(content.get("added_tokens"), vocab)
    return assemble(
        vocab, read_pairs(model.get("merges")), specials, pattern, bool(model.get("ignore_merges"))
    )


def _pattern(content: Mapping[str, Any]) -> str | None:
    """The pattern of a file that is byte pairs of bytes and no more; None for another."""
    model, vocab = content["model"], content["model"].get("vocab")
    members = steps(content.get("pre_tokenizer"), "pretokenizers")
    decoder = steps(content.get("decoder"), "decoders")
    if steps(content.get("normalizer"), "normalizers") or [*map(kind, decoder)] not in ([], ["ByteLevel"]):
        return None
    has_fallback = model.get("unk_token") is not None or model.get("byte_fallback")
    if has_fallback and not vocab.keys() >= BYTES:
        return None  # these say what becomes of a byte without a token
    if not _spells_bytes(content):
        return None
    if not members or kind(members[-1]) != "ByteLevel" or members[-1].get("add_prefix_space") is not False:
        return None
    is_cut = members[-1].get("use_regex", True)
    if len(members) == 1 and isinstance(is_cut, bool):
        return "gpt2" if is_cut else WHOLE
    if len(members) == 2 and kind(members[0]) == "Split" and is_cut is False:
        return _pattern_of_split(members[0])
    return None


def _spells_bytes(content: Mapping[str, Any]) -> bool:
    """Whether all of a vocabulary but the added tokens is spelled as GPT-2's files spell bytes."""
    vocab = content["model"]["vocab"]
    names = added_tokens.read(content.get("added_tokens"), vocab)
    return all(text in names or set(text) <= BYTES for text in vocab)


def _pattern_of_split(split: Mapping[str, Any]) -> str | None:
    """The pattern whose pretokens a Split gives, None where it gives others."""
    source = split["pattern"].get("Regex") if isinstance(split.get("pattern"), dict) else None
    is_cut = any(split.get("behavior") == b and split.get("invert") is i for b, i in BEHAVIORS)
    if not isinstance(source, str) or not is_cut:
        return None
    name = name_of(source)
    return name if sum(map(len, Pattern(name).matches(PROBE))) == len(PROBE) else None


def _characters(content: Mapping[str, Any]) -> Characters:
    """The characters of a file as _write_characters writes it."""
    vocab = checked_vocabulary(content["model"].get("vocab"))
    characters = "".join(sorted(vocab, key=vocab.__getitem__))
    expected = _write_characters(Characters(characters)) if len(characters) == len(vocab) else {}
    parts = ("normalizer", "pre_tokenizer", "decoder", "model")
    if not expected or content.get("added_tokens") or any(content.get(p) != expected[p] for p in parts):
        raise InputError(
            "its model is 'WordLevel', expected BPE, or single characters in their order, as numgpt writes"
            " them"
        )
    return Characters(characters)


def write(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer.json holds for a BPE, Characters or a Pipeline; InputError for what it cannot say.

    A BPE of ranks gets the merges that its ids imply (recover_merges), and ignore_merges. Special tokens are
    in the vocabulary, as in GPT-2's own file: the library that reads it would number those beside it anew.
    """
    if isinstance(tokenizer, Pipeline):
        return dict(tokenizer.file)
    if isinstance(tokenizer, Characters):
        return _write_characters(tokenizer)
    assert isinstance(tokenizer, BPE)
    return _write_byte_pairs(tokenizer)


def _file(**parts: Any) -> dict[str, Any]:
    """A file with all its entries, in their library's order."""
    names = ("truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer")
    whole = {"version": "1.0"} | dict.fromkeys((*names, "post_processor", "decoder", "model"))
    return whole | {"added_tokens": []} | parts


def _write_characters(tokenizer: Characters) -> dict[str, Any]:
    """Their library raises for a character that is not in the vocabulary, since that lacks <unk>.

    A BPE without merges would leave it out in silence.
    """
    vocab = {c: i for i, c in enumerate(tokenizer.characters)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    return _file(pre_tokenizer=CHARACTER, decoder={"type": "Fuse"}, model=model)


def _write_byte_pairs(tokenizer: BPE) -> dict[str, Any]:
    vocab, pairs = spelled(tokenizer)
    level = _byte_level(tokenizer.pattern.name == "gpt2")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    specials = sorted(tokenizer.specials.items(), key=lambda item: item[1])
    return _file(
        added_tokens=[{"id": i, "content": text, **flags, "special": True} for text, i in specials],
        pre_tokenizer=_pre_tokenizer(tokenizer.pattern.name, level),
        post_processor=level | {"trim_offsets": False, "use_regex": True},
        decoder=level | {"use_regex": True},
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole,
            "vocab": vocab,
            "merges": [f"{left} {right}" for left, right in pairs],
        },
    )


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _pre_tokenizer(pattern: str, level: dict[str, Any]) -> dict[str, Any]:
    if pattern in ("gpt2", WHOLE):
        return level
    split = CHARACTER | {"pattern": {"Regex": source_of(pattern)}}
    return {"type": "Sequence", "pretokenizers": [split, level]}
