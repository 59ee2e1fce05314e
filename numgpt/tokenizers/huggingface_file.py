"""Hugging Face's tokenizer.json, as far as it is byte-pair encoding of bytes.

What would give other ids than numgpt's is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InputError
from .bpe import BPE
from .spelling import ALPHABET
from .vocabulary import assemble, checked_vocabulary, spelled

# A pattern as their library spells it, whose regular expressions are Oniguruma's; the first is what is
# written. There, {1,3}+ is not a possessive {1,3} but one that is repeated.
SOURCES = {
    "gpt2": (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    ),
    "cl100k": (
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}|"
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}
LONGEST_PATTERN = 2**14  # characters
WHOLE = r"[\s\S]+"  # the pattern that does not cut
# What Oniguruma, whose syntax is Ruby's, and the regex package take alike. Elsewhere they part: \h is a
# hexadecimal digit to one and a blank to the other; \w, on which \b rests, has other members; sets may hold
# sets; (?m) is another flag; ss folds to ß.
ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x[0-7][0-9A-Fa-f]|u[0-9A-Fa-f]{4}|.)", re.S)
ALIKE = re.compile(
    r"\\(?:[pP]\{\^?(?!(?i:word|xdigit|extended_?pictographic)\})\w+\}|[sSdDrntf]|x..|u....|[^\w\n])", re.S
)
SET = re.compile(r"\[\^?\]?[^\]]*\]")
FOLDED_APART = re.compile(r"[^ -~]|[\\(]|\[\^|ss|ff|fi|fl|st", re.I)  # in (?i:…)
MOST_ADDED, LONGEST_ADDED = (
    5000,
    200,
)  # added tokens, and characters of one, that are compared with each other
# (behavior, invert) of a Split whose pretokens are what the pattern matches.
BEHAVIORS = (("Isolated", False), ("Isolated", True), ("Removed", True))
NO_CHANGE = (None, {"type": "Sequence", "normalizers": []}, {"type": "Sequence", "pretokenizers": []})


def is_huggingface(content: Any) -> bool:
    """Whether what JSON holds is a tokenizer of theirs, of any model."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def read(content: Mapping[str, Any]) -> BPE:
    """The BPE of what a tokenizer.json holds.

    Its merges are pairs or, in older files, texts with a space. The ids are those of encode(text,
    add_special_tokens=False): to put special tokens around a text, to cut it off or to pad it is left to the
    caller. All added tokens are special here: their text is refused unless it is allowed.
    """
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise InputError(f"its model is {model.get('type')!r}, expected BPE")
    _expect(content, "normalizer", NO_CHANGE)
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        _expect(model, name, (None, ""))
    _expect(model, "dropout", (None, 0))
    _expect(model, "ignore_merges", (None, False, True))
    pattern = _pattern(content.get("pre_tokenizer"))
    vocab = checked_vocabulary(model.get("vocab"))
    if not set(ALPHABET) <= vocab.keys():  # these say what becomes of a byte without a token
        _expect(model, "unk_token", (None,))
        _expect(model, "byte_fallback", (None, False))
    _expect_decoder(content.get("decoder"))
    specials = _added(content.get("added_tokens"), vocab)
    return assemble(vocab, _merges(model.get("merges")), specials, pattern, bool(model.get("ignore_merges")))


def _expect(part: Mapping[str, Any], name: str, values: Sequence[Any]) -> None:
    """Raise InputError unless an entry, None where it is absent, is one of those that change nothing."""
    entry = part.get(name)
    # True and False equal 1 and 0, but are no numbers in JSON.
    if not any(entry is value or (entry == value and type(entry) is not bool) for value in values):
        raise InputError(
            f"its {name} is {_short(entry, 80)}, expected {' or '.join(json.dumps(v) for v in values[:2])}:"
            " others give other ids than numgpt would"
        )


def _expect_decoder(decoder: Any) -> None:
    steps = _steps(decoder, "decoders")
    if decoder is not None and (len(steps) != 1 or steps[0].get("type") != "ByteLevel"):
        raise InputError(
            f"its decoder is {_types(steps)}, expected ByteLevel: other texts than the bytes of the tokens"
            " are not supported"
        )


def _short(entry: Any, size: int) -> str:
    """An entry as JSON, for an error."""
    return json.dumps(entry)[:size]


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """The members of a Sequence, or the part alone."""
    steps = part.get(name) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps if step is not None):
        raise InputError(f"its {name} are {_short(steps, 80)}, expected a list of objects")
    return [step for step in steps if step is not None]


def _types(steps: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(str(step.get("type"))[:40] for step in steps) or "none"


def _pattern(part: Any) -> str:
    """The pattern of a pre-tokenizer that cuts by one, and takes bytes then."""
    steps = _steps(part, "pretokenizers")
    types = [step.get("type") for step in steps]
    if types == ["ByteLevel"]:
        return _pattern_of_bytes(steps[0])
    if types != ["Split", "ByteLevel"]:
        raise InputError(
            f"its pre_tokenizer is {_types(steps)}, expected ByteLevel, or Split and ByteLevel: others are"
            " not supported"
        )
    split, level = steps
    _expect_level(level, "add_prefix_space", False)
    _expect_level(level, "use_regex", False)
    source = split["pattern"].get("Regex") if isinstance(split.get("pattern"), dict) else None
    is_cut = any(split.get("behavior") == b and split.get("invert") is i for b, i in BEHAVIORS)
    if not isinstance(source, str) or not is_cut:
        raise InputError(
            f"its Split is {_short(split, 120)}, expected a Regex with behavior Isolated: others are not"
            " supported"
        )
    name = next((name for name, sources in SOURCES.items() if source in sources), None)
    return name or _same_in_both(source)


def _pattern_of_bytes(level: Mapping[str, Any]) -> str:
    """The pattern of a ByteLevel that stands alone: it cuts as GPT-2 does, or not at all."""
    _expect_level(level, "add_prefix_space", False)
    if level.get("use_regex", True) is False:
        return WHOLE
    _expect_level(level, "use_regex", True)
    return "gpt2"


def _expect_level(level: Mapping[str, Any], name: str, expected: bool) -> None:
    """Raise InputError unless a flag of a ByteLevel, true where it is absent, is as expected."""
    flag = level.get(name, True)
    if flag is not expected:
        raise InputError(
            f"its ByteLevel has {name} {_short(flag, 40)}, expected {json.dumps(expected)}: the other is not"
            " supported"
        )


def _same_in_both(source: str) -> str:
    """A pattern that Oniguruma and the regex package take alike; InputError for what they may not."""
    if len(source) > LONGEST_PATTERN:  # to look for what follows takes time in its square
        raise InputError(
            f"pattern: {source[:40]!r}… has {len(source):,} characters, expected at most {LONGEST_PATTERN:,}"
        )
    rest = source.replace(r"\s++$", "")  # $ behind all white space is the end to both
    plain = ESCAPE.sub("_", rest)
    bare = SET.sub("_", plain)
    suspects = [
        *(escape for escape in ESCAPE.findall(rest) if not ALIKE.fullmatch(escape)),
        *(part for part in SET.findall(plain) if re.search(r".\[|&&|\|\||--|~~", part, re.S)),
        *re.findall(r"\(\?(?!i?:|<?[=!]|>).?", bare, re.S),
        *(f"(?i:{part}" for part in re.findall(r"\(\?i:([^)]*)", rest) if FOLDED_APART.search(part)),
        # In Ruby }+ and {2}? repeat what {} repeats, and ^ and $ are the ends of any line.
        *re.findall(r"\}\+|\{\d+\}\?|[\^$]", bare),
    ]
    if suspects:
        raise InputError(
            f"pattern: {source!r} holds {suspects[0]}, which may mean something else to Hugging Face's"
            " tokenizers, expected it written otherwise"
        )
    return source


def _merges(merges: Any) -> list[tuple[str, str]]:
    """Pairs of texts."""
    if not isinstance(merges, list):
        raise InputError("its model has no list of merges, expected one")
    pairs = []
    for n, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_list = isinstance(parts, list) and len(parts) == 2
        if not is_list or not all(isinstance(part, str) and part for part in parts):
            raise InputError(
                f"merge {n} is {_short(merge, 80)}, expected two tokens, as a pair or divided by a space"
            )
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(tokens: Any, vocab: Mapping[str, int]) -> dict[str, int]:
    """Added tokens {text: id}.

    InputError for one that is not taken exactly where its text is, or has another id than their library gives
    it.
    """
    tokens = tokens if tokens is not None else []
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise InputError("its added_tokens are no list of objects, expected one")
    added: dict[str, int] = {}
    normalized: dict[bool, list[str]] = {True: [], False: []}
    for token in tokens:
        text, i = token.get("content"), token.get("id")
        if not isinstance(text, str) or not text or type(i) is not int or text in added:
            raise InputError(
                f"its added token {_short(text, 80)} has id {_short(i, 40)}, expected a text and its id, each"
                " text once"
            )
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag, False) is not False:
                raise InputError(
                    f"its added token {text!r} has {flag} {_short(token[flag], 40)}, expected false: the"
                    " other is not supported"
                )
        # The library numbers one that the vocabulary lacks by itself, and does not look at the id.
        given = vocab.get(text, max([len(vocab), *(n + 1 for n in added.values())]))
        if i != given:
            raise InputError(
                f"its added token {text!r} has id {i}, expected {given}, which Hugging Face's tokenizers give"
                " it: put it into the vocabulary"
            )
        added[text] = i
        normalized[bool(token.get("normalized", False))].append(text)
    _expect_apart(normalized[True], normalized[False])
    return added


def _expect_apart(later: list[str], first: list[str]) -> None:
    """Raise InputError where tokens of two kinds could overlap in a text.

    Their library looks for the tokens of the first kind first, numgpt for all at once.
    """
    if not later or not first:
        return
    if len(later) + len(first) > MOST_ADDED or max(map(len, later + first)) > LONGEST_ADDED:
        raise InputError(
            "its added tokens are normalized and not, and too many or too long to compare, expected all of"
            " one kind"
        )
    for others, tokens, kind in ((later, first, ""), (first, later, "not ")):
        heads = {other[:n] for other in others for n in range(1, len(other) + 1)}
        wholes = set(others)
        for text in tokens:
            shared = _overlap(text, wholes, heads)
            if shared:
                raise InputError(
                    f"its added token {text!r} shares {shared!r} with another that is {kind}normalized,"
                    " expected both of one kind"
                )


def _overlap(text: str, others: set[str], heads: set[str]) -> str | None:
    """What a token shares with others: one that stands in it, or an end of it that is the head of one."""
    size = len(text)
    parts = (text[n:m] for n in range(size) for m in range(n + 1, size + 1))
    inside = next((part for part in parts if part in others), None)
    return inside or next((text[n:] for n in range(size) if text[n:] in heads), None)


def write(tokenizer: BPE) -> dict[str, Any]:
    """What a tokenizer.json holds for a BPE; InputError for what it cannot say.

    A vocabulary of ranks gets the merges that its ids imply (recover_merges), and ignore_merges. Special
    tokens are in the vocabulary, as in GPT-2's own file: the library that reads it would number those beside
    it anew.
    """
    vocab, pairs = spelled(tokenizer)
    level = _byte_level(tokenizer.pattern.name == "gpt2")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    specials = sorted(tokenizer.specials.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags, "special": True} for text, i in specials],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern.name, level),
        "post_processor": level | {"trim_offsets": False, "use_regex": True},
        "decoder": level | {"use_regex": True},
        "model": {
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
    }


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _pre_tokenizer(pattern: str, level: dict[str, Any]) -> dict[str, Any]:
    if pattern in ("gpt2", WHOLE):
        return level
    source = SOURCES[pattern][0] if pattern in SOURCES else _same_in_both(pattern)
    split = {"type": "Split", "pattern": {"Regex": source}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, level]}
