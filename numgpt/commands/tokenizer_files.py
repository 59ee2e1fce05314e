"""What numgpt tokenizer reads and writes: tokenizers, texts and ids."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..data import token_files
from ..data.text import PART, decoded
from ..errors import InputError
from ..storage.atomic import StrPath
from ..storage.files import open_file
from ..storage.shipped import located
from ..storage.states import one_state
from ..tokenizers.patterns import PATTERNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..tokenizers import Tokenizer

PATTERN = "gpt2"
PATTERN_NAMES = f"{', '.join(PATTERNS)}, or a regular expression"
ARRAYS = (".npy", ".bin")  # endings of files that hold ids as an array; any other file holds them as text


def load(args: argparse.Namespace, sample: str | bytes | None = None) -> Tokenizer:
    """The tokenizer that the command line names: bytes, a file, a folder, a checkpoint, a run, or chars.

    sample: the text from which chars, or another closed vocabulary, is built.
    """
    from .. import tokenizers

    name = args.tokenizer
    if tokenizers.is_closed(name) and not sample:
        raise InputError(
            f"tokenizer: {name} has a vocabulary only where there is a text, expected bytes, or a tokenizer's"
            " file, a checkpoint or a run"
        )
    row = tokenizers.KINDS.get(name)
    if row is not None and row.learn is not None and not row.size:
        if isinstance(sample, bytes):
            sample = sample.decode("utf-8", "surrogateescape")
        return tokenizers.build(name, sample or "")
    specials = _special_tokens(args.special_token or ())
    return one_state(name, _place, lambda place: tokenizers.load(_file(place), args.pattern, specials))


def _special_tokens(given: Iterable[str]) -> dict[str, int] | None:
    """{text: id} of each TEXT=ID, or None where none is given."""
    specials = {}
    for word in given:
        match = re.fullmatch(r"(.+)=([0-9]{1,18})", word, re.DOTALL | re.ASCII)
        if match is None:
            raise InputError(
                f"--special-token is {word!r}, expected a text and its id, such as '<|endoftext|>=50256'"
            )
        specials[match[1]] = int(match[2])
    return specials or None


def _place(name: StrPath) -> Path:
    """Where the tokenizer of a name lies: a file, a folder, or the checkpoint of a run."""
    from ..interchange.checkpoint import PLACES, TOKENIZER, find, is_checkpoint

    path = Path(located(name))
    if any((path / file).is_file() for file in (TOKENIZER, "vocab.json")):
        return path
    if any(is_checkpoint(p) for p in (path, *(path / name for name in PLACES))):
        return find(path)
    if not path.exists() and not path.is_symlink():
        raise InputError(
            f"{path}: does not exist, expected a tokenizer's file or folder, a checkpoint or a run, or bytes:"
            " numgpt tokenizer train makes one"
        )
    return path


def _file(place: Path) -> Path:
    """The tokenizer's file in a checkpoint; any other place as it is."""
    from ..interchange.checkpoint import CONFIG, TOKENIZER

    if (place / TOKENIZER).is_file():
        return place / TOKENIZER
    if (place / CONFIG).is_file() and not (place / "vocab.json").is_file():
        raise InputError(
            f"{place}: is a checkpoint without {TOKENIZER}, expected one that was trained on text: name a"
            " tokenizer's own file"
        )
    return place


def text(args: argparse.Namespace) -> str | bytes:
    """The text that an action was given, whole; with --bytes, its bytes."""
    whole = list(parts(args))
    return b"".join(whole) if args.bytes else "".join(whole)


def parts(args: argparse.Namespace) -> Iterator[Any]:
    """The text that an action was given (its argument, --file or stdin), one part after the other."""
    from tqdm import tqdm

    if args.text is not None and args.file is not None:
        raise InputError("tokenizer: got both a text and --file, expected one of them")
    if args.text is None:
        file, source = _opened(args.file)
    else:
        file, source = io.BytesIO(args.text.encode("utf-8", "surrogateescape")), "the text"
    with file, tqdm(desc="reading", unit="B", unit_scale=True, disable=None, leave=False, delay=1) as bar:
        if not args.bytes:
            what_to_do = "convert it, or take the bytes as they are with --bytes"
            yield from (part for part, _ in decoded(source, file, bar.update, what_to_do))
            return
        while part := file.read(PART):
            yield part
            bar.update(len(part))


def measured(parts: Iterable[Any], sizes: list[int]) -> Iterator[Any]:
    """The same parts of a text; the size of each is added to sizes as it goes by."""
    for part in parts:
        sizes.append(size(part))
        yield part


def size(part: str | bytes) -> int:
    """The bytes of a text, or of a part of one."""
    return len(part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape"))


def _opened(name: str | None) -> tuple[BinaryIO, str]:
    """(file, its name in messages): stdin where there is no name, or it is -."""
    if name is None or name == "-":
        if sys.stdin is None:  # closed by the shell: <&-
            raise InputError("stdin: is closed, expected a text: give it as an argument or with --file")
        return sys.stdin.buffer, "stdin"
    return open_file(name, pipes=True), name


def ids(args: argparse.Namespace, tokenizer: Tokenizer) -> NDArray[Any]:
    """The ids that decode was given: its arguments, --file or stdin."""
    if args.ids and args.file is not None:
        raise InputError("tokenizer decode: got both ids and --file, expected one of them")
    if args.ids:
        return _integers(" ".join(args.ids), "decode")
    file, source = _opened(args.file)
    with file:
        data = file.read()
    ending = Path(args.file or "").suffix.lower()
    if ending == ".npy":
        return _from_npy(data, source)
    if ending == ".bin":
        return _from_bin(data, source, tokenizer.vocab_size)
    return _integers(data.decode("utf-8", "replace"), source)


def _from_npy(data: bytes, source: str) -> NDArray[Any]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"{source}: is not an array of NumPy ({error}), expected ids as encode --out writes them"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise InputError(f"{source}: holds no integers, expected ids as encode --out writes them")
    return array


def _from_bin(data: bytes, source: str, vocab_size: int) -> NDArray[Any]:
    dtype = token_files.dtype(vocab_size)
    if len(data) % dtype.itemsize:
        raise InputError(
            f"{source}: has {len(data):,} bytes, expected a multiple of {dtype.itemsize}: the ids of a"
            f" vocabulary of {vocab_size:,} are {dtype}"
        )
    return np.frombuffer(data, dtype)


def _integers(text: str, source: str) -> NDArray[Any]:
    """The integers of a text, between white space, commas and brackets."""
    words = [word for word in re.split(r"[\s,\[\]()]+", text.removeprefix("\ufeff")) if word]
    for word in words:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", word, re.ASCII):
            raise InputError(f"{source}: {word[:40]!r} is not an id, expected integers such as 15496 995")
    return np.array([int(word) for word in words], np.int64)


def write_ids(path: Path, ids: NDArray[Any]) -> None:
    """Write ids as an array, in the format that the name asks for."""
    from ..storage.atomic import write_file

    if path.suffix.lower() == ".bin":
        write_file(path, ids.tobytes())
        return
    buffer = io.BytesIO()
    np.save(buffer, ids)
    write_file(path, buffer.getvalue())


def expect_place(path: Path, format: str = "numgpt") -> None:
    """Raise InputError where no file can be written, or for GPT-2's files no folder: before the work."""
    if format == "gpt2":
        if path.exists() and not path.is_dir():
            raise InputError(
                f"{path}: is a file, expected a folder for vocab.json and merges.txt: choose another --out"
            )
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write: choose another --out")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist, expected one: make it, or choose another --out")
