"""SentencePiece's models, unigram ones above all, through the sentencepiece package: the most probable cut of
a text into pieces.
"""

import base64
import binascii
import io
import re
from itertools import pairwise

import numpy as np

from ..errors import InputError
from .tokenizer import Tokenizer, utf8

SPACE = "▁"  # U+2581, which stands for a space in pieces
LONG = 2**16  # characters from which on a text goes to sentencepiece in stretches
LONGEST_LINE = 4000  # characters of a line in training
_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # as surrogateescape writes such bytes


class Unigram(Tokenizer):
    """A model of sentencepiece; its ids are the package's own.

        encode(text) = argmax Σ log p(piece)  over all ways to cut text into pieces

    model: the bytes of a .model file. specials: its control symbols, such as <s>. What the vocabulary lacks
    becomes the bytes of its UTF-8 where the model has pieces for them (byte_fallback, as the models that
    train() makes), else the id of <unk>, which decodes to " ⁇ ".

    A text comes back from decode where the model changes no text: one that train() made, and others with
    identity normalisation and byte fallback. Even there ▁ (U+2581) comes back as a space, for which it
    stands. A model with normalisation (nmt_nfkc is sentencepiece's default) gives back what that made of the
    text. A model with add_dummy_prefix puts a space before the text, and after each special token; decode
    leaves it out again. Special tokens decode to their own text, where sentencepiece shows nothing. A
    denormaliser is not applied.

    A text of more than LONG characters is encoded in stretches of at least so many, cut before a space that
    no piece reaches
    over, where the model changes no text: the package adds up float32 scores from the text's start on, and in
    a text of a million characters their rounding decides between nearly equal cuts.

    Source: Kudo 2018; Kudo and Richardson 2018.
    """

    def __init__(self, model):
        self.model = bytes(model)
        self._processor = _load(self.model)
        self._prefix, self._removes_spaces, self._keeps = _normalisation(self.model)
        p = self._processor
        try:
            names = [p.id_to_piece(i) for i in range(p.get_piece_size())]
            self._fallback = {int(names[i][3:5], 16): i for i in range(len(names)) if p.is_byte(i)}  # <0x0A>
            unknown = {i: p.decode([i]).encode() for i in range(len(names)) if p.is_unknown(i)}
        except (ValueError, IndexError, RuntimeError) as error:  # of the first UnicodeDecodeError is one
            raise InputError(
                f"tokenizer: is damaged ({_reason(error)}), expected a model of sentencepiece"
            ) from error
        self.specials = {names[i]: i for i in range(len(names)) if p.is_control(i)}
        self._controls, byte_of = (
            set(self.specials.values()),
            {i: bytes([b]) for b, i in self._fallback.items()},
        )
        self.pieces = [
            byte_of.get(i) or unknown.get(i) or _surface(name, p.is_control(i))
            for i, name in enumerate(names)
        ]
        self._before_space = {name[k - 1] for name in names for k in range(1, len(name)) if name[k] == SPACE}
        self._cuts = self._keeps and not p.is_unknown(p.piece_to_id(SPACE))

    @classmethod
    def build(cls, text, size=2048):
        """Trained on text, with at most size tokens: fewer where the text has fewer pieces."""
        return train(text, size, exact=False)

    @classmethod
    def from_state(cls, state):
        """The tokenizer of a state."""
        try:
            return cls(base64.b64decode(state["model"], validate=True))
        except (binascii.Error, TypeError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"tokenizer: the model is not base64 ({error}), expected tokenizer.json as numgpt wrote it"
            ) from error

    def state(self):
        """The kind and the model's bytes in base64."""
        return {"type": "unigram", "model": base64.b64encode(self.model).decode()}

    def encode_ordinary(self, text):
        """text → (tokens,) integers; InputError for a byte without a token, TextError for half of a
        character.
        """
        utf8(text)  # half of a character is named with its place
        ids = []
        for part in _NOT_UTF8.split(text):
            if _NOT_UTF8.match(part):
                ids += self._bytes(part)
            else:
                places = [0, *self._places(part), len(part)]
                for start, end in pairwise(places):
                    ids += self._encode(part[start:end])
        return np.array(ids, np.int64)

    def safe_cut(self, text):
        """The last place at which encode_ordinary cuts a long text; 0 where there is none."""
        last = start = 0
        for part in _NOT_UTF8.split(text):
            last = max((start + place for place in self._places(part)), default=last)
            start += len(part)
        return last

    def _encode(self, text):
        try:
            return self._processor.encode(text)
        except RuntimeError as error:
            raise InputError(
                f"text: sentencepiece does not take it ({_reason(error)}), expected text: use another"
                " tokenizer"
            ) from error

    def _bytes(self, text):
        """The ids of bytes that are not UTF-8."""
        data = utf8(text)
        if any(b not in self._fallback for b in data):
            raise InputError(
                f"text: byte 0x{data[0]:02x} is not UTF-8 and has no token, expected a model with"
                " byte_fallback: use another tokenizer"
            )
        return [self._fallback[b] for b in data]

    def _places(self, text):
        """Where a text is cut into stretches whose ids, joined, are those of the whole in exact arithmetic."""
        place = text.find(" ", LONG) if self._cuts else -1
        while place > 0:
            before = text[place - 1]
            if (SPACE if before == " " else before) in self._before_space:
                place = text.find(" ", place + 1)
            else:
                yield place
                place = text.find(" ", place + LONG)

    def _shower(self):
        """A function: id → bytes, which leaves out the space that the model put at the start and after
        special tokens.
        """
        begun = not (self._prefix or self._removes_spaces)

        def show(i):
            nonlocal begun
            data = self._piece(i)
            if i in self._controls:
                begun = not (self._prefix or self._removes_spaces)
            elif not begun:
                drops = (
                    data.startswith(b" ")
                    and not self._processor.is_byte(i)
                    and not self._processor.is_unknown(i)
                )
                data = data[drops:]
                begun = bool(data) or not self._removes_spaces
            return data

        return show


def train(texts, vocab_size, *, specials=(), exact=True, **options):
    """A Unigram of vocab_size tokens from texts, a str or an iterable of str parts of one text, cut anywhere.

    Tokens are <unk>, the specials, the 256 bytes, then pieces by falling probability; InputError where
    vocab_size is too small for that, or exact and too large for the text. The text is learned from line by
    line, a line of more than LONGEST_LINE characters in parts; line breaks are bytes. One thread, so that the
    same text gives the same model. options go to sentencepiece's trainer; those that are set here:
    normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
    byte_fallback=True, no <s> and </s>, so that every text comes back (character_coverage stays 0.9995: the
    rarest characters are bytes).
    """
    package, out = _package(), io.BytesIO()
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
    }
    settings |= {
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


def _lines(texts):
    """The lines of a text that comes in parts, without their ends; long ones in parts."""
    rest = ""
    for part in [texts] if isinstance(texts, str) else texts:
        *lines, rest = (rest + part).split("\n")
        for line in lines:
            yield from _short(line)
        if len(rest) > 2**20:  # one line without end: what is surely cut need not be held
            *done, rest = _short(rest)
            yield from done
    yield from _short(rest)


def _short(line):
    """Parts of a line, of up to LONGEST_LINE characters, cut before spaces where there are any."""
    while len(line) > LONGEST_LINE:
        at = line.rfind(" ", 1, LONGEST_LINE)
        at = at if at > 0 else LONGEST_LINE
        yield line[:at]
        line = line[at:]
    if line:
        yield line


def _package():
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(
            "tokenizer: SentencePiece's models need the sentencepiece package, expected it installed: pip"
            " install 'numgpt[sentencepiece]'"
        ) from error
    sentencepiece.set_min_log_level(2)
    return sentencepiece


def _load(model):
    processor = _package().SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        return processor
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter where the message quotes what is damaged
        raise InputError(
            f"tokenizer: is not a model of sentencepiece ({_reason(error)}), expected a .model file whole"
        ) from error


def _surface(name, special):
    """The bytes of a piece."""
    return (name if special else name.replace(SPACE, " ")).encode()


def _reason(error):
    """What sentencepiece says, without the place in its sources."""
    place, said = re.fullmatch(r"(?:\w+: )?(?:\S+\(\d+\) \[(.*?)\] ?)?(.*)", str(error), re.DOTALL).groups()
    return (said or place or str(error)).strip().rstrip(".")


def _normalisation(model):
    """(puts a space before the text, removes spaces, keeps every text as it is) of a model.

    From its normalizer_spec, field 3, whose fields are 2 precompiled_charsmap, 3 add_dummy_prefix, 4
    remove_extra_whitespaces and 5 escape_whitespaces, the last three true where they are left out
    (sentencepiece_model.proto).
    """
    found = {2: b"", 3: 1, 4: 1, 5: 1}
    for number, value in _fields(model):
        if number == 3 and isinstance(value, bytes):
            found |= dict(_fields(value))
    prefix, removes, escapes = (bool(found[n]) for n in (3, 4, 5))
    return prefix, removes, not (prefix or removes or found[2]) and escapes


def _fields(data):
    """(number, value) of each field of a message of Protocol Buffers, nothing believed of lengths."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while place < len(data) and shift < 64:
            byte = data[place]
            place, value, shift = place + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value
        raise InputError("tokenizer: is damaged (a number without end), expected a model of sentencepiece")

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) if key & 7 != 2 else varint()
        if size is None or place + size > len(data):
            raise InputError(
                "tokenizer: is damaged (a field that reaches over its end), expected a model of sentencepiece"
            )
        place += size
        yield key >> 3, data[place - size : place]
