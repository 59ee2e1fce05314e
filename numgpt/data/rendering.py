"""From messages to tokens, what every chat template shares: it renders parts of text, which become ids."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import Count, checked
from ..errors import InputError
from ..tokenizers import Pipeline, Tokenizer, with_specials
from ..tokenizers.tokenizer import finder
from .conversations import Conversation

PRIVATE = range(0xE000, 0xF900)  # characters to which Unicode gives no meaning


class Example(NamedTuple):
    """A conversation in tokens: ids (n,), and which of them the assistant writes (n,), the end included."""

    ids: NDArray[np.int64]
    is_response: NDArray[np.bool_]


class End(NamedTuple):
    """By what a response ends: a text, and its id; None where the text is an ordinary one."""

    text: str
    id: int | None


class Part(NamedTuple):
    """A piece of a rendered conversation, and the number of the response that it is of; -1: of none."""

    text: str
    message: int = -1


class Template:
    """What turns conversations into tokens: a ChatTemplate, or a JinjaTemplate.

    name: for errors. specials: the special tokens that a tokenizer must have for it.
    """

    name: str
    specials: Sequence[str]

    def _parts(
        self, conversation: Conversation, tokenizer: Tokenizer, guard: Guard, is_prompt: bool
    ) -> list[Part]:
        """The rendered conversation; what the assistant writes is two parts, a text and its end.

        is_prompt: end it with what stands before the assistant's next response.
        """
        raise NotImplementedError

    def end_for(self, tokenizer: Tokenizer) -> End:
        """By what a response ends in a tokenizer's tokens."""
        raise NotImplementedError

    @checked
    def encode(self, conversation: Conversation, tokenizer: Tokenizer, *, context: Count = 0) -> Example:
        """A conversation in tokens, and which of them the assistant writes: its texts and their ends.

        What stands around them, headers among it, is no response. No text of a message becomes a special
        token: where it spells one out, that is encoded as ordinary text.

        Parameters
        ----------
        conversation, tokenizer
            What is encoded, and by what.
        context
            How many messages come first as context: what the assistant writes in them is no response. Of a
            preference, len(preference.prompt).

        Returns
        -------
        Example
            Integers (n,) and booleans (n,).

        Raises
        ------
        InputError
            Where the template has no place for a role, the tokenizer lacks a special token or a part of the
            text, or a response holds what would end it.
        """
        return self._encoded(conversation, tokenizer, False, context)

    @checked
    def encode_prompt(self, conversation: Conversation, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """The tokens after which the assistant writes its next response.

        Of a conversation's first messages, they are what encode of the whole begins with.  → integers (n,)
        """
        return self._encoded(conversation, tokenizer, True, 0).ids

    @checked
    def with_specials(self, tokenizer: Tokenizer) -> Tokenizer:
        """A tokenizer that has the special tokens of this template too, behind all of its ids.

        The tokenizer itself where it has them already. A model needs as many rows more in its embedding.
        """
        return with_specials(tokenizer, self.specials)

    def _encoded(
        self, conversation: Conversation, tokenizer: Tokenizer, is_prompt: bool, context: int
    ) -> Example:
        missing = [text for text in self.specials if text not in tokenizer.specials]
        if missing:
            raise InputError(
                f"template {self.name}: the tokenizer has no special token {missing[0]!r}, expected it: add"
                " it with template.with_specials(tokenizer), or choose the template plain"
            )
        guard = Guard(tokenizer, [message.text for message in conversation.messages])
        parts = self._parts(conversation, tokenizer, guard, is_prompt)
        try:
            return _encoded(parts, tokenizer, guard, context)
        except InputError as error:
            raise InputError(f"{conversation.where}: {error}") from error


class Guard:
    """Keeps the texts of messages from becoming special tokens of a template.

    A mark, a character that no text has, is put into what would be taken for one, and left out again when
    the text between special tokens is encoded.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        whole = "".join(texts)
        free = (chr(c) for c in PRIVATE if chr(c) not in whole)
        self.marks = [mark for mark, _ in zip(free, range(3))]
        if len(self.marks) < 3:
            raise InputError("text: holds all private characters of Unicode, expected a text")
        self.mark = self.marks[0]
        self.finder = _finder(tuple(tokenizer.specials)) if tokenizer.specials else None

    def hidden(self, text: str) -> str:
        """A text in which no special token is found."""
        while self.finder and (match := self.finder.search(text)):
            if len(match[0]) < 2:
                raise InputError(f"text: holds the special token {match[0]!r}, expected it in no message")
            at = match.start() + 1
            text = text[:at] + self.mark + text[at:]
        return text

    def found(self, text: str) -> list[re.Match[str]]:
        """The special tokens in a rendered text."""
        return list(self.finder.finditer(text)) if self.finder else []

    def shown(self, text: str) -> str:
        """A text as it was."""
        return text.replace(self.mark, "")

    def ids(self, text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """The ids of a rendered text."""
        plain = self.shown(text)
        matches = self.found(text)
        if [match[0] for match in matches] == [match[0] for match in self.found(plain)]:
            return tokenizer.encode(plain, special="allow")
        ids: list[NDArray[Any]] = []
        place = 0
        for match in matches:
            ids.append(tokenizer.encode(self.shown(text[place : match.start()]), special="text"))
            ids.append(np.array([tokenizer.specials[match[0]]]))
            place = match.end()
        ids.append(tokenizer.encode(self.shown(text[place:]), special="text"))
        return np.concatenate(ids)


@functools.lru_cache(maxsize=8)
def _finder(specials: tuple[str, ...]) -> re.Pattern[str]:
    return finder(specials)


def _encoded(parts: Sequence[Part], tokenizer: Tokenizer, guard: Guard, context: int) -> Example:
    """The ids of parts, joined.

    Where the ids of a text's beginning are the beginning of its ids, the text is encoded as a whole, as the
    library of its template does it. Where not, since a token would reach from one part into the next, it is
    cut there: a model that writes a response begins with a token of its own. What the parts up to one become
    never depends on those behind it.
    """
    done: list[NDArray[np.int64]] = []  # of what is before base
    ids = np.zeros(0, np.int64)  # of what is from base on
    flags: list[NDArray[np.bool_]] = []
    base = ""
    for text, message in _cut_at_specials(parts, tokenizer, guard):
        special = None if isinstance(tokenizer, Pipeline) else tokenizer.specials.get(text)
        if special is not None:
            whole = np.append(ids, special)
        else:
            whole = guard.ids(base + text, tokenizer)
            if not np.array_equal(whole[: len(ids)], ids):
                done.append(ids)
                base, ids, whole = "", ids[:0], guard.ids(text, tokenizer)
        flags.append(np.full(len(whole) - len(ids), message >= context))
        base, ids = base + text, whole
        if special is not None:
            done.append(ids)
            base, ids = "", ids[:0]
    return Example(np.concatenate([*done, ids]), np.concatenate([np.zeros(0, bool), *flags]))


def _cut_at_specials(parts: Iterable[Part], tokenizer: Tokenizer, guard: Guard) -> Iterator[Part]:
    """The parts, cut around the last special token of each, so that little is encoded twice.

    What is behind a special token is encoded as if it stood alone. Not so by a Pipeline, which may begin a
    text otherwise.
    """
    for part in parts:
        found = [] if isinstance(tokenizer, Pipeline) else guard.found(part.text)
        if found:
            last = found[-1]
            texts = part.text[: last.start()], last[0], part.text[last.end() :]
            yield from (Part(text, part.message) for text in texts if text)
        else:
            yield part
