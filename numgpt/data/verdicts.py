"""Verdicts: single responses that were called good or bad, without another one to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..argument_kinds import held, kind_of
from ..arguments import checked
from ..errors import InputError
from ..storage.atomic import StrPath
from .conversations import Conversation, Message, messages_of, names_in
from .preferences import SIDES, preferences_of
from .rows import Row, rows_of, shown

EXPECTED = "verdicts as JSON"
FIELDS = ("prompt", "completion", "label")


@dataclass(frozen=True)
class Verdict:
    """A response, and whether it is a good one.

    prompt: the messages before it, or none. response: what follows; it begins and ends with the assistant.
    is_good: what was said of it. place: where it was read, for errors; verdicts are equal without it.

    Raises
    ------
    InputError
        Where the response is none, or empty.

    Examples
    --------
    >>> from numgpt.data import Message, Verdict
    >>> Verdict([Message("user", "well?")], [Message("assistant", "yes")], True).conversation.messages[1].text
    'yes'
    """

    prompt: Sequence[Message]
    response: Sequence[Message]
    is_good: bool
    place: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("prompt", "response"):
            messages = held("Verdict", name, kind_of(Sequence[Message]), getattr(self, name))
            object.__setattr__(self, name, tuple(messages))
        object.__setattr__(self, "is_good", held("Verdict", "is_good", kind_of(bool), self.is_good))
        object.__setattr__(self, "place", held("Verdict", "place", kind_of(str), self.place))
        who, response = self.place or "Verdict", self.response
        if not response or response[0].role != "assistant" or response[-1].role != "assistant":
            roles = ", ".join(message.role for message in response) or "nobody"
            raise InputError(
                f"{who}: {roles} speaks behind the prompt, expected the assistant, first and last: put the"
                " rest into the prompt"
            )
        if not any(message.text.strip() for message in response):
            raise InputError(f"{who}: the response is empty, expected a text")

    @property
    def conversation(self) -> Conversation:
        """The response behind its prompt."""
        return Conversation((*self.prompt, *self.response), self.place)


@checked
def read_verdicts(paths: StrPath | Sequence[StrPath]) -> list[Verdict]:
    r"""The verdicts of files: an object a line, or an array of objects.

        {"prompt": "…", "completion": "…", "label": true}     a response that is good; false: one that is bad
        {"prompt": "…", "chosen": "…", "rejected": "…"}       a pair: one that is good, and one that is bad

    Each text may be a list of messages as OpenAI's and TRL's files have them. A pair may leave out its
    prompt, as read_preferences has it.

    Parameters
    ----------
    paths
        A file or several.

    Raises
    ------
    InputError
        Names file and line of a row that has another form, a label that is neither true nor false, or no
        response.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from numgpt.data import read_verdicts
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "verdicts.jsonl")
    ...     _ = path.write_text('{"prompt": "hi", "completion": "hello", "label": true}\n')
    ...     (verdict,) = read_verdicts(path)
    >>> verdict.response[0].text, verdict.is_good
    ('hello', True)
    """
    return [verdict for row in rows_of(paths, EXPECTED) for verdict in _verdicts(row)]


def _verdicts(row: Row) -> list[Verdict]:
    place, fields = row
    if all(name in fields for name in SIDES):
        (pair,) = preferences_of(row)
        return [Verdict(pair.prompt, getattr(pair, side), side == "chosen", place) for side in SIDES]
    if not all(name in fields for name in FIELDS):
        raise InputError(
            f"{place}: has {names_in(fields)}, expected prompt, completion and label, or prompt, chosen and"
            " rejected"
        )
    if not isinstance(fields["label"], bool):
        raise InputError(f"{place}: label is {shown(fields['label'])}, expected true or false")
    prompt = messages_of(place, "prompt", fields["prompt"], "user")
    response = messages_of(place, "completion", fields["completion"], "assistant")
    return [Verdict(prompt, response, fields["label"], place)]
