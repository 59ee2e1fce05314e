"""Tokenizers: text to integers and back, behind one small interface."""

from pathlib import Path

from ..errors import InputError
from . import files, unigram
from .bpe import BPE
from .bpe_training import train
from .bytes import Bytes
from .characters import Characters
from .patterns import PATTERNS
from .tokenizer import Tokenizer
from .unigram import Unigram

KINDS = {"chars": Characters, "bytes": Bytes, "bpe": BPE, "unigram": Unigram}  # a state's "type" → the class


def build(name, texts, progress=False):
    """The tokenizer of a name: "chars", "bytes", "bpe:2048", "bpe:2048:cl100k", "unigram:2048", or the path
    of a tokenizer's file or folder.

    texts: the text from which a vocabulary is made, a str or an iterable of its parts. After bpe stand the
    size of the
    vocabulary and the pattern: one of patterns.PATTERNS, or a regular expression; 2048 and gpt2 unless given.
    progress: whether a terminal shows a bar while byte pairs are learned. InputError for another name, and
    where the text or the size does not do.
    """
    kind, size, pattern = _named(name)
    if kind == "chars":
        return Characters.build(texts)
    if kind == "bytes":
        return Bytes()
    if kind == "bpe":
        return train(texts, size, pattern=pattern, progress=progress)
    if kind == "unigram":
        return unigram.train(texts, size)
    return load(name)


def expect_named(name, tokenizer, who):
    """Raise InputError where build(name, ...) could not have made a tokenizer."""
    kind, size, pattern = _named(name)
    if kind == "path":
        same, has = load(name) == tokenizer, "another than that"
    else:
        found = tokenizer.state()["type"]
        same, has = found == kind and (size or tokenizer.vocab_size) == tokenizer.vocab_size, found
        if found == "bpe":
            same, has = (
                same and tokenizer.pattern.name == pattern,
                f"bpe:{tokenizer.vocab_size}:{tokenizer.pattern.name}",
            )
        elif found == "unigram":
            has = f"unigram:{tokenizer.vocab_size}"
    if not same:
        raise InputError(f"{who} tokenizer is {has}, expected {name}: leave --tokenizer out")


def _named(name):
    """(kind, size, pattern) of a name; the kind of what is there as a file is "path"."""
    kind, _, rest = name.partition(":")
    if kind in ("chars", "bytes") and not rest:
        return kind, None, None
    if kind in ("bpe", "unigram"):
        size, _, pattern = rest.partition(":")
        if (name == kind or (size.isascii() and size.isdigit() and len(size) < 19)) and (
            kind == "bpe" or not pattern
        ):
            return kind, int(size or 2048), pattern or "gpt2"
    if name and Path(name).exists():
        return "path", None, None
    raise InputError(
        f"tokenizer: {name!r} is unknown, expected chars, bytes, bpe:2048, bpe:2048:cl100k (a vocabulary's"
        f" size, and one of {', '.join(PATTERNS)} or a regular expression), unigram:2048, or the path of a"
        " tokenizer's file or folder"
    )


def from_state(state):
    """The tokenizer whose .state() this is; InputError where no tokenizer has it."""
    kind = state.get("type") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"tokenizer: type {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].from_state(state)
    except TypeError as error:
        raise InputError(
            f"tokenizer: the state is not that of {kind} ({error}), expected what .state() gives"
        ) from error


def load(path, pattern=None, specials=None):
    """The tokenizer of a file or a folder, whose kind is found out by what is in it.

        numgpt's own        what save writes, and a checkpoint's tokenizer.json
        Hugging Face's      tokenizer.json: byte-pair encoding of bytes, with all its added tokens as special ones
        GPT-2's             vocab.json and merges.txt, or encoder.json and vocab.bpe: either of them, or their folder
        tiktoken's          a .tiktoken
        SentencePiece's     a .model

    pattern, of patterns.PATTERNS or a regular expression, and specials, text → id: for GPT-2's and tiktoken's
    files, which do not hold them; GPT-2's pattern and none unless given. Ids are those of the library whose
    file it is, where special tokens are allowed and none are added; InputError names what would make them
    others.
    """
    found = files.read(path, pattern, specials)
    if isinstance(found, Tokenizer):
        return found
    try:
        return from_state(found)
    except InputError as error:
        raise InputError(
            f"{path}: is not a tokenizer of numgpt ({error}), expected one as numgpt wrote it"
        ) from error


def export(tokenizer, path, kind):
    """Write a tokenizer for others: as "huggingface", tokenizer.json; "gpt2", a folder with vocab.json and
    merges.txt; "tiktoken"; "sentencepiece"; "numgpt".

    InputError for what a kind of file cannot say; files are written whole or not at all. Returns what is not
    in the file and
    has to be given to load, for tiktoken the pattern and the special tokens:  load(path, **export(tokenizer,
    path, kind)).
    """
    return files.write(tokenizer, path, kind)


__all__ = [
    "BPE",
    "Bytes",
    "Characters",
    "Tokenizer",
    "Unigram",
    "build",
    "expect_named",
    "export",
    "from_state",
    "load",
    "train",
]
