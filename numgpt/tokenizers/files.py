"""Files of tokenizers: read by what is in them, written in a format that is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..arguments import checked
from ..errors import InputError
from ..storage.atomic import make_folder, named, write_file
from ..storage.files import Missing, parse_json, read_bytes
from ..storage.shipped import located
from . import gpt2_files, huggingface_file, tiktoken_file
from .bpe import BPE
from .bytes import Bytes
from .kinds import KINDS, formats_of, from_state
from .scored_pairs import ScoredPairs, is_scored
from .tokenizer import Tokenizer
from .unigram import Unigram

LONGEST = 2**26  # bytes: a tokenizer.json with 260,000 tokens has some 35 million
OF_A_RUN = ("best/tokenizer.json", "last/tokenizer.json")  # in its two checkpoints
EXPECTED = (
    "expected numgpt's or Hugging Face's tokenizer.json, GPT-2's vocab.json and merges.txt, a .tiktoken, a"
    " .model of sentencepiece or llama2.c's tokenizer.bin"
)


@checked
def load(
    path: str | os.PathLike[str], pattern: str | None = None, specials: Mapping[str, int] | None = None
) -> Tokenizer:
    """The tokenizer of a file or a folder, whose format is found out from what is in it.

    Its ids are those of the library whose file it is, where special tokens are allowed and none are added.

    Parameters
    ----------
    path
        numgpt's file, which save writes, a checkpoint or a run, or the name of a model that ships;
        Hugging Face's tokenizer.json, if it is byte-pair encoding whose steps are known here, or single
        characters;
        GPT-2's vocab.json and merges.txt, or encoder.json and vocab.bpe: either file, or their folder;
        tiktoken's .tiktoken; SentencePiece's .model; or llama2.c's tokenizer.bin.
    pattern
        One of PATTERNS, or a regular expression; for GPT-2's and tiktoken's files, which do not hold it.
        GPT-2's unless given.
    specials
        Text → id of special tokens, for the same files; none unless given.

    Returns
    -------
    Tokenizer
        A Characters, Bytes, BPE, Unigram, Pipeline or ScoredPairs.

    Raises
    ------
    InputError
        Where it is not a tokenizer, or something in it, which is named, would make other ids here.

    Examples
    --------
    >>> import tempfile
    >>> from numgpt import tokenizers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tokenizers.Bytes().save(f"{folder}/tokenizer.json")
    ...     tokenizers.load(folder)
    <Bytes: 256 tokens>
    """
    path = Path(located(path))
    path = _in_folder(path) if path.is_dir() else path
    data = read_bytes(path, LONGEST)
    given = [name for name, value in (("pattern", pattern), ("specials", specials)) if value is not None]
    cut = "gpt2" if pattern is None else pattern
    if path.suffix.lower() == ".model":
        _expect_none(path, given)
        return _named_after(path, Unigram, data)
    if is_scored(data):
        _expect_none(path, given)
        return _named_after(path, ScoredPairs, data)
    if data.lstrip()[:1] == b"{":
        content = parse_json(data, path)
        # Asked first: "type" and "model" may be tokens of a vocabulary too.
        if content and all(isinstance(i, int) for i in content.values()):
            merges = read_bytes(_beside(path, gpt2_files.NAMES), LONGEST)
            return _gpt2(path, content, merges, cut, specials)
        if "type" in content:
            _expect_none(path, given)
            return _numgpt(path, content)
        if huggingface_file.is_huggingface(content):
            _expect_none(path, given)
            return _named_after(path, huggingface_file.read, content)
    elif tiktoken_file.is_tiktoken(data):
        return _named_after(path, tiktoken_file.read, data, path, cut, specials)
    elif gpt2_files.is_merges(data, path.name):
        vocab = _beside(path, {merges: vocab for vocab, merges in gpt2_files.NAMES.items()})
        return _gpt2(vocab, parse_json(read_bytes(vocab, LONGEST), vocab), data, cut, specials)
    begin = f"begins with {data[:16]!r}" if data else "is empty"
    raise InputError(f"{path}: is not a tokenizer ({begin}), {EXPECTED}")


def _numgpt(path: Path, state: Any) -> Tokenizer:
    try:
        return from_state(state)
    except InputError as error:
        raise InputError(
            f"{path}: is not a tokenizer of numgpt ({error}), expected one as numgpt wrote it"
        ) from error


def _gpt2(path: Path, vocab: Any, merges: bytes, pattern: str, specials: Mapping[str, int] | None) -> BPE:
    """GPT-2's two files; what transformers keeps in added_tokens.json is special too."""
    added = path.with_name("added_tokens.json")
    more = parse_json(read_bytes(added, LONGEST), added) if added.is_file() else {}
    if not isinstance(more, dict) or not all(type(i) is int for i in more.values()):
        raise InputError(f"{added}: is not a list of tokens, expected {{token: id}}")
    return _named_after(path, gpt2_files.read, vocab, merges, pattern, more | dict(specials or {}))


def _expect_none(path: Path, given: list[str]) -> None:
    if given:
        raise InputError(
            f"{path}: holds its own {given[0]}, expected {given[0]} only for GPT-2's and tiktoken's files:"
            " leave it out"
        )


def _in_folder(folder: Path) -> Path:
    """The file of a folder that says most."""
    names = ["tokenizer.json", *gpt2_files.NAMES, *OF_A_RUN]
    files = [folder / name for name in names if (folder / name).is_file()]
    files = files or sorted([*folder.glob("*.tiktoken"), *folder.glob("*.model")])
    if not files or (len(files) > 1 and files[0].suffix != ".json"):
        number = f"{len(files)} of them" if files else "no tokenizer"
        raise Missing(f"{folder}: holds {number}, {EXPECTED}")
    return files[0]


def _beside(path: Path, names: Mapping[str, str]) -> Path:
    """The other one of GPT-2's two files."""
    wanted = [names[path.name]] if path.name in names else list(names.values())
    other = next((path.with_name(name) for name in wanted if path.with_name(name).is_file()), None)
    if other is None:
        raise InputError(f"{path}: is one of GPT-2's two files, expected {' or '.join(wanted)} beside it")
    return other


def _named_after(path: Path, reader: Callable[..., Any], *args: Any) -> Any:
    """What a reader makes; its errors name the file, in the place of "tokenizer"."""
    try:
        return reader(*args)
    except InputError as error:
        text = str(error)
        if not text.startswith(str(path)):
            text = f"{path}: {text.removeprefix('tokenizer: ')}"
        raise InputError(text) from error


@checked
def export(tokenizer: Tokenizer, path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Write a tokenizer for others to read. Files are written whole or not at all.

    Parameters
    ----------
    tokenizer
        The tokenizer. Those of byte pairs and bytes can be written in every kind of file up to "tiktoken";
        a Unigram as that; Characters and a Pipeline for "huggingface"; a ScoredPairs for "llama2.c".
    path
        The file, or for "gpt2" the folder.
    kind
        "huggingface", a tokenizer.json; "gpt2", a folder with vocab.json and merges.txt; "tiktoken";
        "sentencepiece"; "llama2.c", a tokenizer.bin; or "numgpt", what save writes.

    Returns
    -------
    dict
        What the file cannot hold and load has to be given, for tiktoken the pattern and the special tokens:
        load(path, **export(tokenizer, path, kind)).

    Raises
    ------
    InputError
        Where a file of this kind would not give the same ids, or none can be written there.

    Examples
    --------
    >>> import tempfile
    >>> from numgpt import tokenizers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tokenizers.export(tokenizers.Bytes(), f"{folder}/bytes.tiktoken", "tiktoken")
    {'pattern': 'gpt2', 'specials': {}}
    """
    if kind not in FORMATS:
        raise InputError(f"export: kind {kind!r} is unknown, expected one of {', '.join(FORMATS)}")
    if kind not in formats_of(tokenizer):
        raise _refusal(tokenizer, kind)
    return FORMATS[kind].write(tokenizer, named(path))


def _refusal(tokenizer: Tokenizer, kind: str) -> InputError:
    able = [name for name, row in KINDS.items() if kind in row.formats]
    return InputError(
        f"export: the tokenizer is {tokenizer.kind!r}, expected {' or '.join(able)} for a file of the kind"
        f" {kind}: choose {' or '.join(formats_of(tokenizer))}"
    )


def as_bpe(tokenizer: Tokenizer) -> BPE:
    """A BPE with the ids of a tokenizer: bytes are one without merges. InputError where there is none."""
    if isinstance(tokenizer, Bytes):
        return BPE(tokenizer.pieces, [])
    if not isinstance(tokenizer, BPE):
        raise _refusal(tokenizer, "gpt2")
    return tokenizer


def huggingface_bytes(tokenizer: Tokenizer) -> bytes:
    """The bytes of a tokenizer.json by which Hugging Face's tokenizers give the same ids.

    InputError where there is none.
    """
    if "huggingface" not in formats_of(tokenizer):
        raise _refusal(tokenizer, "huggingface")
    tokenizer = as_bpe(tokenizer) if isinstance(tokenizer, Bytes) else tokenizer
    return (json.dumps(huggingface_file.write(tokenizer), ensure_ascii=False, indent=1) + "\n").encode()


def _write_numgpt(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    tokenizer.save(path)
    return {}


def _write_huggingface(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    write_file(path / "tokenizer.json" if os.path.isdir(path) else path, huggingface_bytes(tokenizer))
    return {}


def _write_gpt2(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    vocab, merges = gpt2_files.write(as_bpe(tokenizer))
    make_folder(path, path)
    write_file(path / "vocab.json", vocab)
    write_file(path / "merges.txt", merges)
    return {}


def _write_tiktoken(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    bpe = as_bpe(tokenizer)
    write_file(path, tiktoken_file.write(bpe))
    return {"pattern": bpe.pattern.name, "specials": dict(bpe.specials)}


def _write_sentencepiece(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    assert isinstance(tokenizer, Unigram)
    write_file(path, tokenizer.model)
    return {}


def _write_llama2c(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    assert isinstance(tokenizer, ScoredPairs)
    write_file(path, tokenizer.file)
    return {}


class Format(NamedTuple):
    """A kind of file that is written."""

    write: Callable[[Tokenizer, Path], dict[str, Any]]  # returns what load has to be given besides
    writes: str  # what it writes, for the help of the command line


FORMATS = {
    "numgpt": Format(_write_numgpt, "numgpt's own tokenizer.json"),
    "huggingface": Format(_write_huggingface, "Hugging Face's tokenizer.json"),
    "gpt2": Format(_write_gpt2, "a folder with GPT-2's vocab.json and merges.txt"),
    "tiktoken": Format(_write_tiktoken, "a .tiktoken"),
    "sentencepiece": Format(_write_sentencepiece, "a .model"),
    "llama2.c": Format(_write_llama2c, "llama2.c's tokenizer.bin"),
}
