"""Tokenizers: text to integers and back, behind one small interface. KINDS says which there are."""

from .bpe import BPE
from .bpe_training import train
from .bytes import Bytes
from .characters import Characters
from .files import export, load
from .kinds import KINDS, from_state
from .names import build, expect_named, is_closed
from .patterns import PATTERNS
from .tokenizer import Tokenizer
from .unigram import Unigram

__all__ = [
    "BPE",
    "KINDS",
    "PATTERNS",
    "Bytes",
    "Characters",
    "Tokenizer",
    "Unigram",
    "build",
    "expect_named",
    "export",
    "from_state",
    "is_closed",
    "load",
    "train",
]
