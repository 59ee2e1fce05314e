"""Text to integers and back: enter here to ask how a text is cut, and how a vocabulary is learned or read."""

from .adding import with_specials
from .bpe import BPE
from .bpe_training import train
from .bytes import Bytes
from .characters import Characters
from .files import export, load
from .kinds import KINDS, from_state
from .names import build, expect_named, is_closed
from .patterns import PATTERNS
from .pipeline import Pipeline
from .scored_pairs import ScoredPairs
from .tokenizer import Tokenizer
from .unigram import Unigram

__all__ = [
    "BPE",
    "KINDS",
    "PATTERNS",
    "Bytes",
    "Characters",
    "Pipeline",
    "ScoredPairs",
    "Tokenizer",
    "Unigram",
    "build",
    "expect_named",
    "export",
    "from_state",
    "is_closed",
    "load",
    "train",
    "with_specials",
]
