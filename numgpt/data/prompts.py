"""Prompts: what a model is to answer, and what a reward function may know of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..argument_kinds import held, kind_of
from ..arguments import checked
from ..errors import InputError
from ..storage.atomic import StrPath
from .conversations import JOINED, Conversation, Message, instruction_of, listed, messages_of, names_in
from .rows import Row, rows_of

EXPECTED = "prompts as JSON or as the lines of a .txt file"
RESPONSE = "response"  # the field under which a conversation's last response is kept


@dataclass(frozen=True)
class Prompt:
    """A conversation that the assistant is to answer.

    conversation: what was said so far; the user has spoken last. fields: what else is known, such as the
    right answer; reward functions are given it. place: where it was read, such as "data.jsonl, line 3", for
    errors; the conversation's own unless given. Prompts are equal without it.

    Raises
    ------
    InputError
        Where the user has not spoken last, or says nothing.

    Examples
    --------
    >>> from numgpt.data import Conversation, Message, Prompt
    >>> prompt = Prompt(Conversation([Message("user", "2+2=")]), {"answer": 4})
    >>> prompt.text, prompt.fields["answer"]
    ('2+2=', 4)
    """

    conversation: Conversation
    fields: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        kinds = {"conversation": Conversation, "fields": Mapping[str, Any], "place": str}
        for name, kind in kinds.items():
            object.__setattr__(self, name, held("Prompt", name, kind_of(kind), getattr(self, name)))
        object.__setattr__(self, "place", self.place or self.conversation.where)
        last = self.conversation.messages[-1]
        if last.role != "user":
            raise InputError(
                f"{self.place}: the last message is of the {last.role}, expected one of the user: leave out"
                " what is behind it"
            )
        if not last.text.strip():
            raise InputError(f"{self.place}: the user says nothing, expected a text to be answered")

    @property
    def text(self) -> str:
        """What the user said last."""
        return self.conversation.messages[-1].text


@checked
def read_prompts(paths: StrPath | Sequence[StrPath]) -> list[Prompt]:
    r"""The prompts of files: an object a line, an array of objects, or the lines of a file that ends in .txt.

        {"prompt": "…", "answer": "…"}                             a text, or a list of messages
        {"messages": [{"role": "user", "content": "…"}, …]}        a conversation, OpenAI's
        {"conversations": [{"from": "human", "value": "…"}, …]}    ShareGPT's
        {"instruction": "…", "input": "…", "output": "…"}          Alpaca's; only instruction is needed

    All other fields of a row, completion and output among them, are the prompt's fields. A conversation that
    ends with a response is read without it, and it becomes the field "response" unless there is one; a prompt
    that ends so is refused.

    Parameters
    ----------
    paths
        A file or several.

    Raises
    ------
    InputError
        Names file and line of a row that has another form, in which the user has not spoken last, or says
        nothing.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from numgpt.data import read_prompts
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "sums.jsonl")
    ...     _ = path.write_text('{"prompt": "2+2=", "answer": "4"}\n')
    ...     (prompt,) = read_prompts(path)
    >>> prompt.text, prompt.fields
    ('2+2=', {'answer': '4'})
    """
    return [_prompt(row) for row in rows_of(paths, EXPECTED, line_name="prompt")]


def _prompt(row: Row) -> Prompt:
    place, fields = row
    response: dict[str, str] = {}
    if "prompt" in fields:
        taken = ["prompt"]
        messages = messages_of(place, "prompt", fields["prompt"], "user")
    elif "instruction" in fields:
        taken = ["instruction", "input"]
        messages = [instruction_of(row, JOINED)]
    else:
        taken, messages = _conversation(row)
        if len(messages) > 1 and messages[-1].role == "assistant":
            *messages, last = messages
            response = {RESPONSE: last.text}
    if not messages:
        raise InputError(f"{place}: has no messages, expected some, the user's last")
    others = {name: value for name, value in fields.items() if name not in taken}
    return Prompt(Conversation(messages, place), response | others, place)


def _conversation(row: Row) -> tuple[list[str], list[Message]]:
    """(the name of the field, its messages) of a row that holds a conversation."""
    place, fields = row
    for name, *names in (("messages", "role", "content"), ("conversations", "from", "value")):
        if name in fields:
            role_name, text_name = names
            return [name], listed(place, name, fields[name], role_name, text_name)
    raise InputError(
        f"{place}: has {names_in(fields)}, expected prompt, messages, conversations or instruction"
    )
