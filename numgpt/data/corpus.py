"""From text to batches: a corpus of tokens to train on and tokens held out, and what is drawn from it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import tokenizers
from ..errors import InputError
from ..random import generator
from . import token_files
from .split import Dealt
from .text import Text

LARGE = 2**24  # characters from which on tokens are kept in mapped files


@dataclass
class Corpus:
    """Tokens to train on and tokens held out, the tokenizer that made them, and how to make them again.

    recipe: the arguments of prepare() besides folder, the tokenizer's if it was a name. digest: of the text,
    the tokenizer and the recipe but for paths and names.
    """

    train: np.ndarray
    held_out: np.ndarray
    tokenizer: tokenizers.Tokenizer
    source: str
    digest: str
    recipe: dict


def prepare(
    paths=None, *, tokenizer="chars", held_out=0.1, split="blocks", dedup=True, special="refuse", folder=None
):
    """A Corpus from a list of files and folders, or from the default text, of which no more than parts are in
    memory at a time.

    tokenizer: a name of tokenizers.build, or a Tokenizer to use as it is. Characters are those of the whole
    text, so that each has a token; byte pairs are learned from what is trained on. held_out: the share that
    is not trained on.
    split: "blocks" deals every so-many-th block of paragraphs out of the whole text, "tail" cuts its end off.
    dedup: drop paragraphs that came before, so that nothing held out was trained on.
    special: what becomes of special tokens that the text spells out, as in Tokenizer.encode.
    folder: where the tokens of a text of more than LARGE characters are kept, and found the next time; a
    temporary file unless given.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    text = Text(paths)
    dealt, named = Dealt(text, held_out, split, dedup), {}
    if isinstance(tokenizer, str):
        named = {"tokenizer": tokenizer}
        tokenizer = tokenizers.build(
            tokenizer, text if tokenizer == "chars" else (train for train, _ in dealt), progress=True
        )
    recipe = {"held_out": held_out, "split": split, "dedup": dedup} | (
        {"special": special} if special != "refuse" else {}
    )
    digest = hashlib.sha256(json.dumps([tokenizer.state(), recipe]).encode())
    for part in text.parts("hashing the text"):
        digest.update(part.encode("utf-8"))
    digest, V = digest.hexdigest(), tokenizer.vocab_size
    arrays = None if folder is None else token_files.find(folder, digest, V)
    if arrays is None:
        rows = _rows(dealt, tokenizer, special)
        if dealt.size <= LARGE:
            arrays = token_files.in_memory(rows, 2, V)
        elif folder is None:
            arrays = token_files.temporary(rows, 2, V)
        else:
            arrays = token_files.kept(folder, digest, rows, V)
    recipe |= {"paths": [str(Path(p).resolve()) for p in paths] if paths else None} | named
    return Corpus(*arrays, tokenizer, text.source, digest, recipe)


def _rows(dealt, tokenizer, special):
    """Pairs of arrays of ids, of the part to train on and of the part held out."""
    encoders = [tokenizer.encoder(special) for _ in token_files.PARTS]
    for parts in dealt.parts("making tokens"):
        yield [encoder.add(part) for encoder, part in zip(encoders, parts)]
    yield [encoder.add("", True) for encoder in encoders]


def encode(paths, tokenizer, special="refuse"):
    """(source, ids) of a list of files and folders, the ids in a temporary mapped file where the text is
    large.
    """
    text = Text(paths)
    rows = ((ids,) for ids in tokenizer.encode_parts(text.parts("making tokens"), special))
    (ids,) = (token_files.in_memory if text.size <= LARGE else token_files.temporary)(
        rows, 1, tokenizer.vocab_size
    )
    return text.source, ids


def batch(tokens, block_size, batch_size, seed, *words):
    """A batch drawn by seed and words alone: (inputs, targets), each (B, T), the targets one token further
    on.
    """
    starts = generator(seed, "batch", *words).integers(0, len(tokens) - block_size, batch_size)
    rows = np.stack([tokens[s : s + block_size + 1] for s in starts]).astype(np.int64)  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def check_length(tokens, block_size, name):
    """Raise InputError where tokens are too few for one sequence."""
    if len(tokens) < block_size + 1:
        raise InputError(
            f"data: the {name} part has {len(tokens)} tokens, expected at least block_size + 1 ="
            f" {block_size + 1}: give more text or a smaller --block-size"
        )
