"""SentencePiece's unigram models, through its own package: the most probable cut of a text into pieces."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError
from .sentencepiece_file import normalisation
from .tokenizer import Tokenizer, expect_characters, utf8

SPACE = "▁"  # U+2581, which stands for a space in pieces
LONG = 2**16  # characters from which on a text goes to sentencepiece in stretches
LONGEST_LINE = 4000  # characters of a line in training
LONGEST_WAIT = 2**20  # characters of one line that are held in training before parts of it are given on
_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # as surrogateescape writes such bytes


class Unigram(Tokenizer):
    """A model of SentencePiece; its ids are the package's own.

        encode(text) = argmax Σ log p(piece)  over all ways to cut text into pieces

    What the vocabulary lacks becomes the bytes of its UTF-8 where the model has pieces for them
    (byte_fallback, as the models that train() makes), else the id of <unk>, which decodes to " ⁇ ".

    A text comes back from decode where the model changes no text: one that train() made, and others with
    identity normalisation and byte fallback. Even there ▁ (U+2581) comes back as a space, for which it
    stands. A model with normalisation (nmt_nfkc is sentencepiece's default) gives back what that made of the
    text. A model with add_dummy_prefix puts a space before the text, and after each special token; decode
    leaves it out again. Special tokens decode to their own text, where sentencepiece shows nothing. A
    denormaliser is not applied.

    Where the model changes no text, a long one is encoded in stretches of at least LONG characters, cut
    before a space that no piece reaches over. The package adds up float32 scores from the start of the text
    on, and in a text of a million characters their rounding would decide between nearly equal cuts.

    Parameters
    ----------
    model
        The bytes of a .model file. Its control symbols, such as <s>, are the special tokens.

    Raises
    ------
    InputError
        Where the bytes are not a model, or the sentencepiece package is not installed.

    References
    ----------
    Kudo 2018; Kudo and Richardson 2018.
    """

    kind = "unigram"

    @checked
    def __init__(self, model: bytes) -> None:
        self.model = bytes(model)
        self._processor = p = _load(self.model)
        normal = normalisation(self.model)
        self._adds_space, self._removes_spaces = normal.adds_space, normal.removes_spaces
        try:
            names = [p.id_to_piece(i) for i in range(p.get_piece_size())]
            self._fallback = {int(names[i][3:5], 16): i for i in range(len(names)) if p.is_byte(i)}  # <0x0A>
            unknown = {i: p.decode([i]).encode() for i in range(len(names)) if p.is_unknown(i)}
        except (ValueError, IndexError, RuntimeError) as error:  # UnicodeDecodeError is a ValueError
            raise InputError(
                f"tokenizer: is damaged ({_reason(error)}), expected a model of sentencepiece"
            ) from error
        self.specials = {names[i]: i for i in range(len(names)) if p.is_control(i)}
        self._controls = set(self.specials.values())
        byte_of = {i: bytes([b]) for b, i in self._fallback.items()}
        self.pieces = [
            byte_of.get(i) or unknown.get(i) or _surface(name, p.is_control(i))
            for i, name in enumerate(names)
        ]
        self._before_space = {name[k - 1] for name in names for k in range(1, len(name)) if name[k] == SPACE}
        self._can_be_cut = normal.changes_nothing and not p.is_unknown(p.piece_to_id(SPACE))

    @classmethod
    @checked
    def build(cls, text: str | Iterable[str], size: int = 2048) -> Unigram:
        """Trained on text, with at most size tokens: fewer where the text has fewer pieces."""
        return train(text, size, exact=False)

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> Unigram:
        """The tokenizer of a state."""
        try:
            return cls(base64.b64decode(state["model"], validate=True))
        except (binascii.Error, TypeError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"tokenizer: the model is not base64 ({error}), expected tokenizer.json as numgpt wrote it"
            ) from error

    def state(self) -> dict[str, Any]:
        """The kind and the model's bytes in base64."""
        return {"type": self.kind, "model": base64.b64encode(self.model).decode()}

    @checked
    def encode_ordinary(self, text: str) -> NDArray[Any]:
        """text → (tokens,) integers; InputError for a byte without a token, or half of a character."""
        utf8(text)  # names half of a character with its place
        ids: list[int] = []
        for part in _NOT_UTF8.split(text):
            if _NOT_UTF8.match(part):
                ids += self._bytes(part)
            else:
                for start, end in pairwise([0, *self._places(part), len(part)]):
                    ids += self._encode(part[start:end])
        return np.array(ids, np.int64)

    @checked
    def safe_cut(self, text: str) -> int:
        """The last place where encode_ordinary cuts a long text; 0 where there is none."""
        last = start = 0
        for part in _NOT_UTF8.split(text):
            last = max((start + place for place in self._places(part)), default=last)
            start += len(part)
        return last

    def _encode(self, text: str) -> list[int]:
        try:
            return self._processor.encode(text)
        except RuntimeError as error:
            raise InputError(
                f"text: sentencepiece does not take it ({_reason(error)}), expected text: use another"
                " tokenizer"
            ) from error

    def _bytes(self, text: str) -> list[int]:
        """The ids of bytes that are not UTF-8."""
        data = utf8(text)
        if any(b not in self._fallback for b in data):
            raise InputError(
                f"text: byte 0x{data[0]:02x} is not UTF-8 and has no token, expected a model with"
                " byte_fallback: use another tokenizer"
            )
        return [self._fallback[b] for b in data]

    def _places(self, text: str) -> Iterator[int]:
        """Where a text is cut into stretches whose joined ids are those of the whole in exact arithmetic."""
        place = text.find(" ", LONG) if self._can_be_cut else -1
        while place > 0:
            before = text[place - 1]
            if (SPACE if before == " " else before) in self._before_space:
                place = text.find(" ", place + 1)
            else:
                yield place
                place = text.find(" ", place + LONG)

    def _shower(self) -> Callable[[int], bytes]:
        """A function id → bytes, less the space that the model puts at the start and after special tokens."""
        as_it_is = not (self._adds_space or self._removes_spaces)
        begun = as_it_is

        def show(i: int) -> bytes:
            nonlocal begun
            data = self._piece(i)
            if i in self._controls:
                begun = as_it_is
            elif not begun:
                # A byte, or what stands for the unknown, shows its own space.
                is_own = self._processor.is_byte(i) or self._processor.is_unknown(i)
                if data.startswith(b" ") and not is_own:
                    data = data[1:]
                begun = bool(data) or not self._removes_spaces
            return data

        return show


def train(
    texts: str | Iterable[str],
    vocab_size: int,
    *,
    specials: Sequence[str] = (),
    exact: bool = True,
    **options: Any,
) -> Unigram:
    """A Unigram that the sentencepiece package trains.

    Tokens are <unk>, the specials, the 256 bytes, then pieces by falling probability. The text is learned
    from line by line, a line of more than LONGEST_LINE characters in parts; line breaks are bytes. One thread
    trains, so the same text gives the same model.

    Parameters
    ----------
    texts
        A str, or an iterable of str, the parts of one text, cut anywhere.
    vocab_size
        How many tokens, the bytes and special tokens among them.
    specials
        Texts of the special tokens.
    exact
        Whether it is an error if the text has too few pieces for so many tokens.
    **options
        For sentencepiece's trainer. Unless they are given, these are set so that every text comes back:
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        byte_fallback=True, no <s> and </s>. character_coverage stays 0.9995: the rarest characters are bytes.

    Returns
    -------
    Unigram
        The tokenizer.

    Raises
    ------
    InputError
        Where vocab_size is too small, or exact and too large for the text.
    """
    package, out = _package(), io.BytesIO()
    for special in specials:
        expect_characters(special, "train: the special token")
    if vocab_size < 257 + len(specials):
        raise InputError(
            f"train: vocab_size is {vocab_size}, expected more than {257 + len(specials)}: 256 bytes, <unk>"
            " and the special tokens"
        )
    settings = {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "bos_id": -1,
        "eos_id": -1,
        "num_threads": 1,
        "minloglevel": 2,
        "max_sentence_length": 4 * LONGEST_LINE,
        "control_symbols": list(specials),
        "hard_vocab_limit": exact,
    }
    try:
        package.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=out,
            model_type="unigram",
            vocab_size=vocab_size,
            **(settings | options),
        )
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"train: sentencepiece cannot train on this ({_reason(error)}), expected more text or another"
            " size of the vocabulary"
        ) from error
    return Unigram(out.getvalue())


def _lines(texts: str | Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in parts, without their ends; long ones in parts."""
    rest = ""
    for part in [texts] if isinstance(texts, str) else texts:
        expect_learnable(part)
        *lines, rest = (rest + part).split("\n")
        for line in lines:
            yield from _short(line)
        if len(rest) > LONGEST_WAIT:
            *done, rest = _short(rest)
            yield from done
    yield from _short(rest)


def expect_learnable(part: object) -> None:
    """Raise InputError for a part of a text that sentencepiece does not take."""
    if not isinstance(part, str):
        raise InputError(f"train: a part of the text is of type {type(part).__name__}, expected str")
    half = re.search("[\ud800-\udfff]", part)
    if half:
        raise InputError(
            f"train: the text holds U+{ord(half[0]):04X}, half of a character or a byte that is not UTF-8,"
            " expected text"
        )


def _short(line: str) -> Iterator[str]:
    """Parts of a line, of up to LONGEST_LINE characters, cut before spaces where there are any."""
    while len(line) > LONGEST_LINE:
        place = line.rfind(" ", 1, LONGEST_LINE)
        place = place if place > 0 else LONGEST_LINE
        yield line[:place]
        line = line[place:]
    if line:
        yield line


def _package() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(
            "tokenizer: SentencePiece's models need the sentencepiece package, expected it installed: pip"
            " install 'numgpt[sentencepiece]'"
        ) from error
    sentencepiece.set_min_log_level(2)
    return sentencepiece


def _load(model: bytes) -> Any:
    processor = _package().SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        return processor
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter where the message quotes what is damaged
        raise InputError(
            f"tokenizer: is not a model of sentencepiece ({_reason(error)}), expected a .model file whole"
        ) from error


def _surface(name: str, special: bool) -> bytes:
    """The bytes of a piece."""
    return (name if special else name.replace(SPACE, " ")).encode()


def _reason(error: Exception) -> str:
    """What sentencepiece says, without the place in its sources."""
    match = re.fullmatch(r"(?:\w+: )?(?:\S+\(\d+\) \[(.*?)\] ?)?(.*)", str(error), re.DOTALL)
    condition, reason = match.groups() if match else (None, None)
    return (reason or condition or str(error)).strip().rstrip(".")
