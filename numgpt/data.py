"""From text to batches: corpora, deduplication, the held-out split, tokens in memory or in a mapped file."""

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import corpora, tokenizers
from .atomic import write_file
from .errors import InputError
from .streams import stream

LARGE = 2**24  # tokens from which they are kept in a memory-mapped file
SUFFIXES = (".txt", ".md")
SPLITS = ("blocks", "tail")


@dataclass
class Corpus:
    """Tokens to train on and tokens held out, the tokenizer that made them, and how to make them again.

    recipe: the arguments of prepare() besides tokenizer and folder. digest: of the text, the tokenizer and the recipe.
    """

    train: np.ndarray
    held_out: np.ndarray
    tokenizer: tokenizers.Tokenizer
    source: str
    digest: str
    recipe: dict


def read(paths):
    """The text of files and folders, joined by blank lines. A folder stands for its .txt and .md files at any depth, sorted."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(_texts_in(path))
            if not inside:
                raise InputError(f"{path}: holds no text, expected files that end in {' or '.join(SUFFIXES)}: name the files themselves")
            files += inside
        else:
            files.append(path)
    return "\n\n".join(map(_read_file, files))


def _texts_in(folder):
    """Its text files at any depth, hidden ones left out; a folder that cannot be read is an error, not skipped."""

    def fail(error):
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(place) / n for n in names if n.endswith(SUFFIXES) and not n.startswith("."))


def _read_file(path):
    try:
        if path.is_char_device() or path.is_block_device():  # a pipe is welcome
            raise InputError(f"{path}: is a device, expected a text file or a folder of them")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}), expected UTF-8 text: convert it, for example with iconv"
        ) from error
    except InputError:
        raise
    except (FileNotFoundError, ValueError) as error:  # ValueError: no file can have that name
        raise InputError(f"{path}: does not exist, expected a text file or a folder of them") from error
    if not text.strip():
        raise InputError(f"{path}: is empty, expected text to train on")
    return text.replace("\r\n", "\n")


def prepare(paths=None, *, tokenizer="chars", held_out=0.1, split="blocks", dedup=True, folder=None):
    """A Corpus from a list of files and folders, or from the default text.

    tokenizer: a name, or a Tokenizer to use as it is. held_out: the share that is not trained on.
    split: "blocks" deals every so-many-th block of paragraphs out of the whole text, "tail" cuts its end off.
    dedup: drop paragraphs that came before, so that nothing held out was trained on.
    folder: where tokens are kept in mapped files when there are more than LARGE.
    """
    if not 1e-6 <= held_out <= 0.5:
        raise InputError(f"data: held_out is {held_out}, expected a share from 1e-6 to 0.5")
    if split not in SPLITS:
        raise InputError(f"data: split is {split!r}, expected one of {', '.join(SPLITS)}")
    if isinstance(paths, str | Path):
        paths = [paths]
    source, text = (", ".join(map(str, paths)), read(paths)) if paths else corpora.default()
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.build(tokenizer, text)
    recipe = {"held_out": held_out, "split": split, "dedup": dedup}
    made_from = json.dumps([tokenizer.state(), recipe]).encode()
    digest = hashlib.sha256(made_from + text.encode("utf-8")).hexdigest()
    if dedup:
        text = without_repeats(text)
    parts = split_blocks(text, held_out) if split == "blocks" else split_tail(text, held_out)
    train, held = (_tokens(part, tokenizer, name, digest, folder) for part, name in zip(parts, ("train", "held_out")))
    recipe["paths"] = [str(Path(p).resolve()) for p in paths] if paths else None
    return Corpus(train, held, tokenizer, source, digest, recipe)


def without_repeats(text, longer_than=40):
    """text without the paragraphs that came before in it. Short ones may repeat: they are headings, not copies."""
    seen, kept = set(), []
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        if len(words) > longer_than and words in seen:
            continue
        seen.add(words)
        kept.append(paragraph)
    return "\n\n".join(kept)


def split_blocks(text, held_out, blocks=50):
    """(train, held out): the text in some 50 blocks of whole paragraphs, every so-many-th of which is held out.

    Dealt out of the whole text, so that both parts are of the same kind; in blocks, so that few contexts are cut.
    Text without paragraphs is divided at line ends, or failing those anywhere.
    """
    blocks = max(blocks, math.ceil(5 / held_out))
    pieces, glue = re.split(r"\n\s*\n", text), "\n\n"
    if len(pieces) < blocks:
        pieces, glue = text.split("\n"), "\n"
    if len(pieces) < blocks:
        size = max(1, len(text) // blocks)
        pieces, glue = [text[i : i + size] for i in range(0, len(text), size)], ""
    parts, done = ([], []), 0
    for piece in pieces:
        block = done * blocks // max(1, len(text))
        is_held = int((block + 1) * held_out) > int(block * held_out)
        parts[is_held].append(piece)
        done += len(piece) + len(glue)
    return glue.join(parts[0]), glue.join(parts[1])


def split_tail(text, held_out):
    """(train, held out): the first 1 − held_out of the characters, and the rest, as nanoGPT splits."""
    at = int(len(text) * (1 - held_out))
    return text[:at], text[at:]


def _tokens(text, tokenizer, name, digest, folder):
    """The tokens of a text: an array, or a mapped file in folder that is written once."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    if len(text) <= LARGE or folder is None:
        return tokenizer.encode(text).astype(dtype)
    path, stamp = Path(folder) / f"{name}.bin", Path(folder) / f"{name}.sha256"
    if not (path.exists() and stamp.exists() and stamp.read_bytes() == f"{digest} {path.stat().st_size}".encode()):
        Path(folder).mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        with open(path, "wb") as file:
            for i in range(0, len(text), LARGE):
                tokenizer.encode(text[i : i + LARGE]).astype(dtype).tofile(file)
            file.flush()
            os.fsync(file.fileno())
        write_file(stamp, f"{digest} {path.stat().st_size}".encode())
    return np.memmap(path, dtype, mode="r")


def batch(tokens, block_size, batch_size, seed, *words):
    """A batch drawn by seed and words alone: (inputs, targets), each (B, T), the targets one token further on."""
    starts = stream(seed, "batch", *words).integers(0, len(tokens) - block_size, batch_size)
    rows = np.stack([tokens[s : s + block_size + 1] for s in starts]).astype(np.int64)  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def check_length(tokens, block_size, name):
    """Raise InputError where tokens are too few for one sequence."""
    if len(tokens) < block_size + 1:
        raise InputError(
            f"data: the {name} part has {len(tokens)} tokens, expected at least block_size + 1 = {block_size + 1}: give more text or a smaller --block-size"
        )
