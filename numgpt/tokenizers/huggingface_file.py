"""Hugging Face's tokenizer.json, as far as it describes byte-pair encoding of bytes; what would give other
ids is refused by name.
"""

import json
import re

from ..errors import InputError
from .spelling import ALPHABET
from .vocabulary import assemble, checked_vocabulary, spelled

# A pattern as their library, whose regular expressions are Oniguruma's, spells it; the first is what is
# written. There {1,3}+ is no possessive {1,3} but one that is repeated.
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
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}
WHOLE = r"[\s\S]+"  # the pattern that does not cut
# Of regular expressions, what Oniguruma, whose syntax is Ruby's, and the regex package take alike. \h is a
# hexadecimal digit to one and a blank to the other; \w, on which \b rests, has other members; sets may hold
# sets; (?m) is another flag; ss folds to ß.
ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x[0-7][0-9A-Fa-f]|u[0-9A-Fa-f]{4}|.)", re.S)
ALIKE = re.compile(
    r"\\(?:[pP]\{\^?(?!(?i:word|xdigit|extended_?pictographic)\})\w+\}|[sSdDrntf]|x..|u....|[^\w\n])", re.S
)
SET = re.compile(r"\[\^?\]?[^\]]*\]")
FOLDED_APART = re.compile(r"[^ -~]|[\\(]|\[\^|ss|ff|fi|fl|st", re.I)  # in (?i:…)
BEHAVIORS = (
    ("Isolated", False),
    ("Isolated", True),
    ("Removed", True),
)  # of Split: that give what the pattern matches
NO_CHANGE = (None, {"type": "Sequence", "normalizers": []}, {"type": "Sequence", "pretokenizers": []})


def is_huggingface(content):
    """Whether what JSON holds is a tokenizer of theirs, of any model."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def read(content):
    """The BPE of what a tokenizer.json holds, its merges pairs or, as older files have them, texts with a
    space.

    The ids are those of encode(text, add_special_tokens=False): what puts special tokens around a text, cuts
    it off or pads it is left to the caller. All added tokens are special here: their text is refused unless
    it is allowed.
    """
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise InputError(f"its model is {model.get('type')!r}, expected BPE")
    _expect(content, "normalizer", NO_CHANGE)
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        _expect(model, name, (None, ""))
    _expect(model, "dropout", (None, 0))
    _expect(model, "ignore_merges", (None, False, True))
    pattern, vocab = _pattern(content.get("pre_tokenizer")), checked_vocabulary(model.get("vocab"))
    if not set(ALPHABET) <= vocab.keys():  # what then becomes of a byte without a token
        _expect(model, "unk_token", (None,))
        _expect(model, "byte_fallback", (None, False))
    decoder = content.get("decoder")
    steps = _steps(decoder, "decoders")
    if decoder is not None and (len(steps) != 1 or steps[0].get("type") != "ByteLevel"):
        raise InputError(
            f"its decoder is {_types(steps)}, expected ByteLevel: other texts than the bytes of the tokens"
            " are not supported"
        )
    specials = _added(content.get("added_tokens"), vocab)
    return assemble(vocab, _merges(model.get("merges")), specials, pattern, bool(model.get("ignore_merges")))


def _expect(part, name, values):
    """Raise InputError unless an entry, None where it is absent, is one that changes nothing."""
    found = part.get(name)
    if not any(found is value or (found == value and type(found) is not bool) for value in values):
        raise InputError(
            f"its {name} is {json.dumps(found)[:80]}, expected"
            f" {' or '.join(json.dumps(v) for v in values[:2])}: others give other ids than numgpt would"
        )


def _steps(part, name):
    """The members of a Sequence, or the part alone."""
    steps = part.get(name) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps if step is not None):
        raise InputError(f"its {name} are {json.dumps(steps)[:80]}, expected a list of objects")
    return [step for step in steps if step is not None]


def _types(steps):
    return ", ".join(str(step.get("type"))[:40] for step in steps) or "none"


def _pattern(part):
    """The pattern of a pre-tokenizer that cuts by one, and takes bytes then."""
    steps = _steps(part, "pretokenizers")
    types, last = [step.get("type") for step in steps], steps[-1] if steps else {}
    if types not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise InputError(
            f"its pre_tokenizer is {_types(steps)}, expected ByteLevel, or Split and ByteLevel: others are"
            " not supported"
        )
    for name, expected in (("add_prefix_space", False), ("use_regex", types == ["ByteLevel"])):
        if last.get(name, True) is not expected and not (types == ["ByteLevel"] and last.get(name) is False):
            raise InputError(
                f"its ByteLevel has {name} {json.dumps(last.get(name, True))[:40]}, expected"
                f" {json.dumps(expected)}: the other is not supported"
            )
    if types == ["ByteLevel"]:
        return "gpt2" if last.get("use_regex", True) else WHOLE
    split = steps[0]
    source = split["pattern"].get("Regex") if isinstance(split.get("pattern"), dict) else None
    if not isinstance(source, str) or not any(
        split.get("behavior") == b and split.get("invert") is i for b, i in BEHAVIORS
    ):
        raise InputError(
            f"its Split is {json.dumps(split)[:120]}, expected a Regex with behavior Isolated: others are not"
            " supported"
        )
    name = next((name for name, sources in SOURCES.items() if source in sources), None)
    return name or _same_in_both(source)


def _same_in_both(source):
    """A pattern that Oniguruma and the regex package take alike, as far as is known; InputError for what they
    do not.
    """
    rest = source.replace(r"\s++$", "")  # $ behind all white space is the end to both
    plain = ESCAPE.sub("_", rest)
    bare = SET.sub("_", plain)
    odd = [
        *(escape for escape in ESCAPE.findall(rest) if not ALIKE.fullmatch(escape)),
        *(part for part in SET.findall(plain) if re.search(r".\[|&&|\|\||--|~~", part, re.S)),
        *re.findall(r"\(\?(?!i?:|<?[=!]|>).?", bare, re.S),
        *(f"(?i:{part}" for part in re.findall(r"\(\?i:([^)]*)", rest) if FOLDED_APART.search(part)),
        *re.findall(
            r"\}\+|\{\d+\}\?|[\^$]", bare
        ),  # to Ruby a repetition of {}, and the begin and the end of any line
    ]
    if odd:
        raise InputError(
            f"pattern: {source!r} holds {odd[0]}, which may mean something else to Hugging Face's tokenizers,"
            " expected it written otherwise"
        )
    return source


def _merges(merges):
    """Pairs of texts."""
    if not isinstance(merges, list):
        raise InputError("its model has no list of merges, expected one")
    pairs = [
        tuple(m.split(" ")) if isinstance(m, str) else tuple(m) if isinstance(m, list) else () for m in merges
    ]
    odd = next(
        (
            n
            for n, pair in enumerate(pairs)
            if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair)
        ),
        None,
    )
    if odd is not None:
        raise InputError(
            f"merge {odd} is {json.dumps(merges[odd])[:80]}, expected two tokens, as a pair or divided by a"
            " space"
        )
    return pairs


def _added(tokens, vocab):
    """Added tokens {text: id}; InputError for one that is not taken exactly where its text is, or has another
    id than their library gives it.
    """
    tokens, added, kinds = tokens if tokens is not None else [], {}, {}
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise InputError("its added_tokens are no list of objects, expected one")
    for token in tokens:
        text, i = token.get("content"), token.get("id")
        if not isinstance(text, str) or not text or type(i) is not int or text in added:
            raise InputError(
                f"its added token {json.dumps(text)[:80]} has id {json.dumps(i)[:40]}, expected a text and"
                " its id, each text once"
            )
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag, False) is not False:
                raise InputError(
                    f"its added token {text!r} has {flag} {json.dumps(token[flag])[:40]}, expected false: the"
                    " other is not supported"
                )
        # One that the vocabulary lacks is numbered by the library, which does not look at the id.
        given = vocab.get(text, max([len(vocab), *(n + 1 for n in added.values())]))
        if i != given:
            raise InputError(
                f"its added token {text!r} has id {i}, expected {given}, which Hugging Face's tokenizers give"
                " it: put it into the vocabulary"
            )
        added[text], kinds[text] = i, bool(token.get("normalized", False))
    _expect_apart([t for t, kind in kinds.items() if kind], [t for t, kind in kinds.items() if not kind])
    return added


def _expect_apart(later, first):
    """Raise InputError where tokens of two kinds could overlap in a text: their library looks for the first
    kind first.
    """
    if not later or not first:
        return
    if len(later) + len(first) > 5000 or max(map(len, later + first)) > 200:
        raise InputError(
            "its added tokens are normalized and not, and too many or too long to compare, expected all of"
            " one kind"
        )

    def begins(text):
        return {text[:n] for n in range(1, len(text) + 1)}

    def ends(text):
        return {text[n:] for n in range(len(text))}

    for one, other in ((later, first), (first, later)):
        heads, wholes = set().union(*map(begins, one)), set(one)
        for text in other:
            inside = next(
                (
                    text[n:m]
                    for n in range(len(text))
                    for m in range(n + 1, len(text) + 1)
                    if text[n:m] in wholes
                ),
                None,
            )
            shared = inside or next((end for end in ends(text) if end in heads), None)
            if shared:
                raise InputError(
                    f"its added token {text!r} shares {shared!r} with another that is"
                    f" {'' if other is first else 'not '}normalized, expected both of one kind"
                )


def write(tokenizer):
    """What a tokenizer.json holds for a BPE; InputError for what it cannot say.

    A vocabulary of ranks gets the merges that its ids imply (recover_merges), and ignore_merges. Special
    tokens are in the vocabulary, as in GPT-2's own file: those beside it are numbered anew by the library
    that reads them.
    """
    vocab, pairs = spelled(tokenizer)
    name = tokenizer.pattern.name
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": name == "gpt2",
    }
    source = SOURCES[name][0] if name in SOURCES else name
    if name not in ("gpt2", WHOLE):
        source = source if name in SOURCES else _same_in_both(source)
        split = {"type": "Split", "pattern": {"Regex": source}, "behavior": "Isolated", "invert": False}
        cut = {"type": "Sequence", "pretokenizers": [split, level]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    specials = sorted(tokenizer.specials.items(), key=lambda item: item[1])
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags, "special": True} for text, i in specials],
        "normalizer": None, "pre_tokenizer": level if name in ("gpt2", WHOLE) else cut,
        "post_processor": level | {"trim_offsets": False, "use_regex": True}, "decoder": level | {"use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": tokenizer.whole, "vocab": vocab,
            "merges": [f"{left} {right}" for left, right in pairs],
        },
    }  # fmt: skip
