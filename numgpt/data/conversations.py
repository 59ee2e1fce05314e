"""Conversations: who says what, and the forms in which files hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..argument_kinds import held, kind_of
from ..arguments import checked
from ..errors import InputError, did_you_mean
from ..storage.atomic import StrPath
from .rows import Row, rows_of, shown

ROLES = ("system", "user", "assistant", "tool")
# What others call them: OpenAI's messages and ShareGPT's.
ALIASES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
EXPECTED = "conversations as JSON"
PLACES = re.compile(r"\{(instruction|input)\}")  # of a Wording


@dataclass(frozen=True)
class Message:
    """What one says: a role, one of system, user, assistant and tool, and a text.

    Raises
    ------
    InputError
        For another role, or what is no text.
    """

    role: str
    text: str

    def __post_init__(self) -> None:
        for name in ("role", "text"):
            object.__setattr__(self, name, held("Message", name, kind_of(str), getattr(self, name)))
        if self.role not in ROLES:
            raise InputError(f"Message: role is {self.role!r}, expected one of {', '.join(ROLES)}")


@dataclass(frozen=True)
class Conversation:
    """Messages in the order in which they were said.

    place: where it was read, such as "data.jsonl, line 3", for errors; conversations are equal without it.

    Raises
    ------
    InputError
        Where there is no message, or something is none.

    Examples
    --------
    >>> from numgpt.data import Conversation, Message
    >>> conversation = Conversation([Message("user", "2+2="), Message("assistant", "4")])
    >>> conversation.has_response
    True
    """

    messages: Sequence[Message]
    place: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        messages = held("Conversation", "messages", kind_of(Sequence[Message]), self.messages)
        place = held("Conversation", "place", kind_of(str), self.place)
        object.__setattr__(self, "messages", tuple(messages))
        object.__setattr__(self, "place", place)
        if not self.messages:
            raise InputError(f"{self.where}: has no message, expected one or more")

    @property
    def where(self) -> str:
        """Its place, or "conversation" where that is not known."""
        return self.place or "conversation"

    @property
    def has_response(self) -> bool:
        """Whether the assistant says something in it."""
        return any(message.role == "assistant" for message in self.messages)


class Wording(NamedTuple):
    """How an instruction becomes a text, alone and with an input: {instruction} and {input} stand in it."""

    alone: str
    with_input: str

    def text(self, instruction: str, given: str) -> str:
        """The text of an instruction, and of its input unless that is empty."""
        # Not str.format: the wording may hold other braces.
        fields = {"instruction": instruction, "input": given}
        return PLACES.sub(lambda place: fields[place[1]], self.with_input if given else self.alone)


# The instruction, and below it what it is about.
JOINED = Wording("{instruction}", "{instruction}\n\n{input}")
# As published with Stanford Alpaca (Taori et al. 2023); for the template "bare".
ALPACA = Wording(
    "Below is an instruction that describes a task. Write a response that appropriately completes the"
    " request.\n\n### Instruction:\n{instruction}\n\n### Response:",
    "Below is an instruction that describes a task, paired with an input that provides further context. Write"
    " a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n###"
    " Input:\n{input}\n\n### Response:",
)
WORDINGS = {"joined": JOINED, "alpaca": ALPACA}


@checked
def read_conversations(
    paths: StrPath | Sequence[StrPath], *, wording: str | Wording = "joined"
) -> list[Conversation]:
    r"""The conversations of files: an object a line, or an array of objects.

    A row's fields say which of four forms it has:

        {"messages": [{"role": "user", "content": "…"}, …]}         OpenAI's
        {"conversations": [{"from": "human", "value": "…"}, …]}     ShareGPT's
        {"prompt": "…", "completion": "…"}                          texts, or lists of messages
        {"instruction": "…", "input": "…", "output": "…"}           Alpaca's; input may be left out

    Parameters
    ----------
    paths
        A file or several.
    wording
        How Alpaca's instruction and input become the user's text: "joined", one below the other; "alpaca",
        in the published words, which the template "bare" adds nothing to; or a Wording.

    Raises
    ------
    InputError
        Names file and line of a row that has another form, an unknown role, or no response; and where a
        response is empty, or a message holds more than a text.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from numgpt.data import read_conversations
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "sums.jsonl")
    ...     _ = path.write_text('{"prompt": "2+2=", "completion": "4"}\n')
    ...     read_conversations(path)
    [Conversation(messages=(Message(role='user', text='2+2='), Message(role='assistant', text='4')))]
    """
    if isinstance(wording, str):
        if wording not in WORDINGS:
            raise InputError(
                f"read_conversations: wording is {wording!r}, expected {' or '.join(WORDINGS)}, or a Wording"
            )
        wording = WORDINGS[wording]
    for name, text in wording._asdict().items():
        if not isinstance(text, str) or "{instruction}" not in text:
            raise InputError(f"Wording: {name} is {shown(text)}, expected a text with {{instruction}} in it")
    return [_conversation(row, wording) for row in rows_of(paths, EXPECTED)]


def _conversation(row: Row, wording: Wording) -> Conversation:
    place, fields = row
    for names, read in FORMS.items():
        if all(name in fields for name in names):
            messages = read(row, wording)
            break
    else:
        forms = ", ".join(" with ".join(names) for names in FORMS)
        raise InputError(f"{place}: has {names_in(fields)}, expected {forms}")
    return responded(place, messages)


def responded(place: str, messages: Sequence[Message]) -> Conversation:
    """A conversation in which the assistant says something, each time it has its turn."""
    if not messages:
        raise InputError(f"{place}: has no messages, expected some, the assistant's among them")
    conversation = Conversation(messages, place)
    if not conversation.has_response:
        raise InputError(
            f"{place}: has no response, expected a message of the assistant: leave the row out, or add what"
            " is to be learned"
        )
    empty = next((n for n, m in enumerate(messages, 1) if m.role == "assistant" and not m.text.strip()), None)
    if empty is not None:
        raise InputError(
            f"{place}: message {empty} is an empty response, expected text: leave the row out, or say what is"
            " to be answered"
        )
    return conversation


def names_in(fields: Mapping[str, Any]) -> str:
    """The first names of a row's fields, for errors."""
    return ", ".join(map(repr, list(fields)[:8])) or "no names"


def text_of(place: str, fields: Mapping[str, Any], name: str) -> str:
    """A field that is a text."""
    if name not in fields:
        raise InputError(
            f"{place}: has {names_in(fields)}, expected {name!r}, a text{did_you_mean(name, fields)}"
        )
    value = fields[name]
    if not isinstance(value, str):
        raise InputError(f"{place}: {name} is {shown(value)}, expected a text")
    return value


def messages_of(place: str, name: str, value: Any, role: str) -> list[Message]:
    """Messages that a field holds: OpenAI's list, or a text, which somebody says in a role."""
    if isinstance(value, str):
        return [Message(role, value)]
    return listed(place, name, value, "role", "content")


def listed(place: str, name: str, value: Any, role_name: str, text_name: str) -> list[Message]:
    """The messages of a list of objects."""
    form = f'{{"{role_name}": "user", "{text_name}": "…"}}'
    if not isinstance(value, list):
        raise InputError(f"{place}: {name} is {shown(value)}, expected a list of messages such as {form}")
    messages = []
    for n, message in enumerate(value, 1):
        who = f"{place}: message {n} of {name}"
        if not isinstance(message, dict) or role_name not in message or text_name not in message:
            raise InputError(f"{who} is {shown(message)}, expected {form}")
        _expect_no_more(who, message)
        messages.append(Message(_role(who, message[role_name]), _content(who, message[text_name])))
    return messages


def _role(who: str, name: Any) -> str:
    role = ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join([*ROLES, *ALIASES])
        raise InputError(f"{who} has the role {shown(name)}, expected one of {known}")
    return role


def _content(who: str, content: Any) -> str:
    """A message's text, also where OpenAI cuts it in parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InputError(f"{who} holds {shown(content)}, expected a text: nothing else is read")
    return content


def _expect_no_more(who: str, message: Mapping[str, Any]) -> None:
    """Raise InputError for what would be lost, and would change what is learned."""
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            raise InputError(f"{who} has {name}, expected texts alone: spell the call in the text")
    if message.get("weight") not in (None, 1, True):
        raise InputError(
            f"{who} has the weight {shown(message['weight'])}, expected 1: each response counts; cut the"
            " conversation off behind the one that is to count"
        )


def _openai(row: Row, wording: Wording) -> list[Message]:
    return listed(row.place, "messages", row.fields["messages"], "role", "content")


def _sharegpt(row: Row, wording: Wording) -> list[Message]:
    return listed(row.place, "conversations", row.fields["conversations"], "from", "value")


def _completed(row: Row, wording: Wording) -> list[Message]:
    place, fields = row
    prompt = messages_of(place, "prompt", fields["prompt"], "user")
    return prompt + messages_of(place, "completion", fields["completion"], "assistant")


def _alpaca(row: Row, wording: Wording) -> list[Message]:
    place, fields = row
    return [instruction_of(row, wording), Message("assistant", text_of(place, fields, "output"))]


def instruction_of(row: Row, wording: Wording) -> Message:
    """What the user says by Alpaca's instruction and input."""
    place, fields = row
    given = text_of(place, fields, "input") if fields.get("input") is not None else ""
    return Message("user", wording.text(text_of(place, fields, "instruction"), given))


# The names that a form has → what reads it; the first that a row has all names of.
FORMS: dict[tuple[str, ...], Callable[[Row, Wording], list[Message]]] = {
    ("messages",): _openai,
    ("conversations",): _sharegpt,
    ("prompt", "completion"): _completed,
    ("instruction", "output"): _alpaca,
}
