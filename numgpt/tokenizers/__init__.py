"""Tokenizers: text to integers and back, behind one small interface."""

from ..errors import InputError
from . import files
from .bpe import BPE
from .bytes import Bytes
from .characters import Characters
from .tokenizer import Tokenizer

TOKENIZERS = {"chars": Characters, "bytes": Bytes, "bpe": BPE}


def build(name, text):
    """The tokenizer of that name with the vocabulary of a text."""
    if name not in TOKENIZERS:
        raise InputError(f"tokenizer: {name!r} is unknown, expected one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name].build(text)


def from_state(state):
    """The tokenizer whose .state() this is."""
    kind = state.get("type") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise InputError(f"tokenizer: type {kind!r} is unknown, expected one of {', '.join(TOKENIZERS)}")
    try:
        return TOKENIZERS[kind].from_state(state)
    except TypeError as error:
        raise InputError(f"tokenizer: the state is not that of {kind} ({error}), expected what .state() gives") from error


def load(path, pattern=None, specials=None):
    """The tokenizer of a file or a folder, whose kind is found out by what is in it.

        numgpt's own        what save writes, and a checkpoint's tokenizer.json
        Hugging Face's      tokenizer.json: byte-pair encoding of bytes, with all its added tokens as special ones
        GPT-2's             vocab.json and merges.txt, or encoder.json and vocab.bpe: either of them, or their folder
        tiktoken's          a .tiktoken

    pattern, of patterns.PATTERNS or a regular expression, and specials, text → id: for GPT-2's and tiktoken's files, which
    do not hold them; GPT-2's pattern and none unless given. Ids are those of the library whose file it is, where special
    tokens are allowed and none are added; InputError names what would make them others.
    """
    found = files.read(path, pattern, specials)
    if isinstance(found, Tokenizer):
        return found
    try:
        return from_state(found)
    except InputError as error:
        raise InputError(f"{path}: is not a tokenizer of numgpt ({error}), expected one as numgpt wrote it") from error


def export(tokenizer, path, kind):
    """Write a tokenizer for others: as "huggingface", tokenizer.json; "gpt2", a folder with vocab.json and merges.txt; "tiktoken"; or "numgpt".

    InputError for what a kind of file cannot say; files are written whole or not at all. Returns what is not in the file and
    has to be given to load, for tiktoken the pattern and the special tokens:  load(path, **export(tokenizer, path, kind)).
    """
    return files.write(tokenizer, path, kind)


__all__ = ["BPE", "TOKENIZERS", "Bytes", "Characters", "Tokenizer", "build", "export", "from_state", "load"]
