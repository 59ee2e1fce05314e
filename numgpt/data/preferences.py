"""Preferences: of two answers to one prompt, or of several in their order, which is the better."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..argument_kinds import held, kind_of
from ..arguments import checked
from ..errors import InputError
from ..storage.atomic import StrPath
from .conversations import Conversation, Message, messages_of
from .rows import Row, rows_of

EXPECTED = "preferences as JSON"
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Preference:
    """Two ways in which a conversation may go on, of which one is preferred.

    prompt: the messages that both share, or none. chosen, rejected: what follows; each begins and ends with
    the assistant. place: where it was read, for errors; preferences are equal without it.

    Raises
    ------
    InputError
        Where both sides are equal, or one is no response.

    Examples
    --------
    >>> from numgpt.data import Message, Preference
    >>> yes, no = Message("assistant", "yes"), Message("assistant", "no")
    >>> chosen, rejected = Preference([Message("user", "well?")], [yes], [no]).sides
    >>> rejected.messages[1].text
    'no'
    """

    prompt: Sequence[Message]
    chosen: Sequence[Message]
    rejected: Sequence[Message]
    place: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("prompt", *SIDES):
            messages = held("Preference", name, kind_of(Sequence[Message]), getattr(self, name))
            object.__setattr__(self, name, tuple(messages))
        object.__setattr__(self, "place", held("Preference", "place", kind_of(str), self.place))
        who = self.place or "Preference"
        for name in SIDES:
            side = getattr(self, name)
            if not side or side[0].role != "assistant" or side[-1].role != "assistant":
                roles = ", ".join(message.role for message in side) or "nobody"
                raise InputError(
                    f"{who}: in {name} {roles} speaks behind the prompt, expected the assistant, first and"
                    " last: give both sides the same prompt"
                )
            if not any(message.text.strip() for message in side):
                raise InputError(f"{who}: {name} is empty, expected a response")
        if self.chosen == self.rejected:
            raise InputError(
                f"{who}: chosen and rejected are equal, expected different responses: leave the row out, it"
                " prefers neither"
            )

    @property
    def sides(self) -> tuple[Conversation, Conversation]:
        """(chosen, rejected), each behind the prompt."""
        prompt = tuple(self.prompt)
        return (
            Conversation((*prompt, *self.chosen), self.place),
            Conversation((*prompt, *self.rejected), self.place),
        )


@checked
def read_preferences(paths: StrPath | Sequence[StrPath]) -> list[Preference]:
    r"""The preferences of files: an object a line, or an array of objects.

        {"prompt": "…", "chosen": "…", "rejected": "…"}     a pair
        {"chosen": […], "rejected": […]}                    conversations; the prompt is what both begin with
        {"prompt": "…", "ranked": ["…", …]}                 a ranking, the best first: all its pairs

    Each is a text, or a list of messages as OpenAI's and TRL's files have them; a side may repeat the prompt.
    The pairs of a ranking share their prompt: permuted_split(…, groups=prompts) keeps them on one side.

    Parameters
    ----------
    paths
        A file or several.

    Raises
    ------
    InputError
        Names file and line of a row that has another form, whose sides are equal, or where one is no
        response.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from numgpt.data import read_preferences
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "ranked.jsonl")
    ...     _ = path.write_text('{"prompt": "hi", "ranked": ["hello", "hm", "no"]}\n')
    ...     pairs = read_preferences(path)
    >>> [(pair.chosen[0].text, pair.rejected[0].text) for pair in pairs]
    [('hello', 'hm'), ('hello', 'no'), ('hm', 'no')]
    """
    return [preference for row in rows_of(paths, EXPECTED) for preference in preferences_of(row)]


def preferences_of(row: Row) -> list[Preference]:
    """The pairs that a row of a file holds: one, or all of a ranking."""
    place, fields = row
    has_pair = all(name in fields for name in SIDES)
    if has_pair == ("ranked" in fields):
        names = ", ".join(map(repr, list(fields)[:8])) or "no names"
        raise InputError(f"{place}: has {names}, expected prompt, chosen and rejected, or prompt and ranked")
    if not has_pair and "prompt" not in fields:
        raise InputError(f"{place}: a ranking has no prompt, expected what its responses answer")
    prompt = messages_of(place, "prompt", fields.get("prompt", []), "user")
    if has_pair:
        sides = [_behind(prompt, messages_of(place, name, fields[name], "assistant")) for name in SIDES]
        shared = [] if "prompt" in fields else _shared(*sides)
        chosen, rejected = (side[len(shared) :] for side in sides)
        return [Preference(prompt + shared, chosen, rejected, place)]
    return _pairs(place, prompt, fields["ranked"])


def _pairs(place: str, prompt: list[Message], ranked: Any) -> list[Preference]:
    """All pairs of a ranking."""
    if not isinstance(ranked, list) or len(ranked) < 2:
        raise InputError(f"{place}: ranked is no list of two or more, expected responses, the best first")
    sides = [_behind(prompt, messages_of(place, "ranked", value, "assistant")) for value in ranked]
    for n, side in enumerate(sides):
        if side in sides[:n]:
            raise InputError(
                f"{place}: responses {sides.index(side) + 1} and {n + 1} of ranked are equal, expected"
                " different ones: leave one out"
            )
    return [Preference(prompt, *pair, place) for pair in itertools.combinations(sides, 2)]


def _behind(prompt: list[Message], side: list[Message]) -> list[Message]:
    """A side without the prompt, where it repeats it."""
    return side[len(prompt) :] if prompt and side[: len(prompt)] == prompt else side


def _shared(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """The messages with which two conversations begin."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected))
    return [message for message, _ in pairs]
