"""From text to batches: a corpus of tokens to train on and tokens held out, and the batches drawn from it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import tokenizers
from ..arguments import checked
from ..errors import InputError
from ..random import generator
from ..storage.atomic import StrPath
from ..storage.shipped import is_named
from . import token_files
from .split import Split
from .text import Text

LARGE = 2**24  # characters: the tokens of a longer text go to memory-mapped files


@dataclass
class Corpus:
    """Tokens to train on and tokens held out, their tokenizer, and the recipe to make them again.

    source: what the text is, to be printed. digest: SHA-256 of the text, the tokenizer and those settings
    that decide which tokens come out; paths and names do not count. recipe: the arguments of prepare()
    besides folder, and without a tokenizer that was given as an object. repeats: how many paragraphs were
    left out because they repeat earlier ones; None where the tokens were found ready.
    """

    train: NDArray[Any]
    held_out: NDArray[Any]
    tokenizer: tokenizers.Tokenizer
    source: str
    digest: str
    recipe: dict[str, Any]
    repeats: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Corpus:
        """Tokens that lie in a file are shared: nobody writes to them, and they may be larger than memory."""
        mapped = [tokens for tokens in (self.train, self.held_out) if isinstance(tokens, np.memmap)]
        memo.update((id(tokens), tokens) for tokens in mapped)
        return Corpus(**copy.deepcopy(vars(self), memo))


@checked
def prepare(
    paths: StrPath | Sequence[StrPath] | None = None,
    *,
    tokenizer: str | tokenizers.Tokenizer = "chars",
    held_out: float = 0.1,
    split: str = "blocks",
    dedup: bool = True,
    special: str = "refuse",
    folder: StrPath | None = None,
) -> Corpus:
    """Make a corpus from text files: drop repeats, hold a part out, encode both parts.

    The text is read in parts, so it may be larger than memory.

    Parameters
    ----------
    paths
        Files and folders; a folder stands for its .txt and .md files at any depth, and a warning counts what
        else it holds. "numgpt:austen" is Jane Austen's six novels, which numgpt ships, and "numgpt:python"
        Python's language reference. None: the first of these that is there.
    tokenizer
        A name as `numgpt.tokenizers.build` takes it ("chars", "bytes", "bpe:2048", a tokenizer's file), or a
        tokenizer. "chars" learns its characters from the whole text, so that each has a token; byte pairs
        are learned from the part to train on alone.
    held_out
        The share of the text that is not trained on, from 1e-6 to 0.5.
    split
        "blocks" holds out blocks of paragraphs from all over the text; "tail" holds out its end, as nanoGPT
        does.
    dedup
        Whether to drop paragraphs that occurred before, so that nothing held out is trained on.
    special
        What to do with special tokens that the text spells out: "refuse", "allow" or "text", as in
        `Tokenizer.encode`.
    folder
        Where to store the tokens of a text of more than 16,777,216 characters; the next call finds them
        there. None: temporary files.

    Returns
    -------
    Corpus
        `train` and `held_out` are integers (N,), in memory or memory-mapped, with the tokenizer that made
        them.

    Raises
    ------
    InputError
        If a file cannot be read or is not UTF-8, if a setting is out of range, or if the text spells out a
        special token that is not allowed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numgpt
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "text.txt")
    ...     _ = path.write_text("to be or not to be")
    ...     corpus = numgpt.prepare(path, held_out=0.5, split="tail")
    >>> corpus.tokenizer.decode(corpus.train)
    'to be or '
    >>> corpus.tokenizer.decode(corpus.held_out)
    'not to be'
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    text = Text(paths)
    parts = Split(text, held_out, split, dedup)
    if isinstance(tokenizer, str):
        named = {"tokenizer": tokenizer}
        learned_from = text if tokenizers.is_closed(tokenizer) else (train for train, _ in parts)
        built = tokenizers.build(tokenizer, learned_from, progress=True)
    else:
        named = {}
        built = tokenizer
    recipe: dict[str, Any] = {"held_out": held_out, "split": split, "dedup": dedup}
    if special != "refuse":  # the default is left out: digests from before there was a choice stay valid
        recipe["special"] = special
    digest = _digest(text, built, recipe)
    train_ids, held_out_ids = _encoded(parts, built, special, folder, digest)
    recipe["paths"] = [str(p) if is_named(p) else str(Path(p).resolve()) for p in text.paths]
    return Corpus(train_ids, held_out_ids, built, text.source, digest, recipe | named, parts.dropped)


def _digest(text: Text, tokenizer: tokenizers.Tokenizer, settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([tokenizer.state(), settings]).encode())
    for part in text.parts("hashing the text"):
        digest.update(part.encode("utf-8"))
    return digest.hexdigest()


def _encoded(
    parts: Split, tokenizer: tokenizers.Tokenizer, special: str, folder: StrPath | None, digest: str
) -> list[NDArray[Any]]:
    """The ids of the part to train on and of the part held out, read from folder if they are stored there."""
    V = tokenizer.vocab_size
    arrays = None if folder is None else token_files.find(folder, digest, V)
    if arrays is not None:
        return arrays
    rows = _rows(parts, tokenizer, special)
    if parts.size <= LARGE:
        return token_files.in_memory(rows, 2, V)
    if folder is None:
        return token_files.temporary(rows, 2, V)
    return token_files.stored(folder, digest, rows, V)


def _rows(parts: Split, tokenizer: tokenizers.Tokenizer, special: str) -> Iterator[list[NDArray[Any]]]:
    """Pairs of arrays of ids: of the part to train on, and of the part held out."""
    encoders = [tokenizer.encoder(special) for _ in token_files.PARTS]
    for pair in parts.parts("making tokens"):
        yield [encoder.add(part) for encoder, part in zip(encoders, pair)]
    yield [encoder.add("", True) for encoder in encoders]


def encode(
    paths: Sequence[StrPath] | None, tokenizer: tokenizers.Tokenizer, special: str = "refuse"
) -> tuple[str, NDArray[Any]]:
    """(source, ids) of files and folders. The ids of a large text lie in a temporary memory-mapped file."""
    text = Text(paths)
    rows = ((ids,) for ids in tokenizer.encode_parts(text.parts("making tokens"), special))
    collect = token_files.in_memory if text.size <= LARGE else token_files.temporary
    (ids,) = collect(rows, 1, tokenizer.vocab_size)
    return text.source, ids


def batch(
    tokens: NDArray[Any], block_size: int, batch_size: int, seed: int, *words: str | int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(inputs, targets) of a batch, each (B, T); the targets are one token further on.

    The draw depends on seed and words alone, such as "train" and the step.
    """
    starts = generator(seed, "batch", *words).integers(0, len(tokens) - block_size, batch_size)
    rows = np.stack([tokens[s : s + block_size + 1] for s in starts]).astype(np.int64)  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def check_length(tokens: NDArray[Any], block_size: int, name: str) -> None:
    """Raise InputError if there are too few tokens for one sequence."""
    if len(tokens) < block_size + 1:
        raise InputError(
            f"data: the {name} part has {len(tokens)} tokens, expected at least block_size + 1 ="
            f" {block_size + 1}: give more text or a smaller --block-size"
        )
