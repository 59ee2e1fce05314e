"""Tokenizers: text to integers and back, behind one small interface."""

from ..errors import InputError
from ..files import read_json
from .bpe import BPE
from .bytes import Bytes
from .characters import Characters
from .tokenizer import Tokenizer
from .unigram import Unigram

TOKENIZERS = {"chars": Characters, "bytes": Bytes, "bpe": BPE}
KINDS = TOKENIZERS | {"unigram": Unigram}  # what a file may hold


def build(name, text):
    """The tokenizer of that name with the vocabulary of a text."""
    if name not in TOKENIZERS:
        raise InputError(f"tokenizer: {name!r} is unknown, expected one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name].build(text)


def from_state(state):
    """The tokenizer whose .state() this is."""
    kind = state.get("type") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"tokenizer: type {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    return KINDS[kind].from_state(state)


def load(path):
    """The tokenizer that a checkpoint's tokenizer.json holds."""
    state = read_json(path)
    try:
        return from_state(state)
    except (InputError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is not a tokenizer of numgpt ({error}), expected tokenizer.json from a checkpoint") from error


__all__ = ["BPE", "TOKENIZERS", "Bytes", "Characters", "Tokenizer", "Unigram", "build", "from_state", "load"]
