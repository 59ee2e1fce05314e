"""Chat templates as data: what stands before and behind what each role says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..argument_kinds import held, kind_of
from ..arguments import checked
from ..errors import InputError
from ..tokenizers import Tokenizer
from .conversations import ROLES, Conversation
from .rendering import End, Guard, Part, Template


@dataclass(frozen=True, eq=True)
class ChatTemplate(Template):
    r"""What stands before and behind each role's text, and by what a response ends.

        begin, then for each message   before[role]  text  behind[role]
                    for a response     before["assistant"]  text  end  behind["assistant"]

    Parameters
    ----------
    name
        For errors.
    before, behind
        Role → text, for each role that may speak.
    specials
        The special tokens in these texts, which a tokenizer must have.
    end
        The special token by which a response ends. None: the one by which the tokenizer ends a text, or
        `stop` where it has none.
    stop
        The text by which a response ends where no special token does it. A response cannot hold it.
    begin
        What stands before all. None: the tokenizer's begin_of_text, where it has one.
    trim
        Whether white space around each text is left out.

    Raises
    ------
    InputError
        Where the assistant has no place, a role is unknown, or a response would not end.

    Examples
    --------
    >>> from numgpt import data, tokenizers
    >>> conversation = data.Conversation([data.Message("user", "hi"), data.Message("assistant", "hello")])
    >>> tokenizer = tokenizers.Bytes()
    >>> example = data.PLAIN.encode(conversation, tokenizer)
    >>> tokenizer.decode(example.ids), tokenizer.decode(example.ids[example.is_response])
    ('User:\nhi\nAssistant:\nhello\n', 'hello\n')
    """

    name: str
    before: Mapping[str, str]
    behind: Mapping[str, str]
    specials: Sequence[str] = ()
    end: str | None = None
    stop: str = "\n"
    begin: str | None = None
    trim: bool = False

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {
            "name": str,
            "before": Mapping[str, str],
            "behind": Mapping[str, str],
            "specials": Sequence[str],
            "end": str | None,
            "stop": str,
            "begin": str | None,
            "trim": bool,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, held("ChatTemplate", name, kind_of(kind), getattr(self, name)))
        object.__setattr__(self, "specials", tuple(self.specials))
        unknown = next((role for role in {**self.before, **self.behind} if role not in ROLES), None)
        if unknown is not None:
            raise InputError(f"ChatTemplate: a role is {unknown!r}, expected those of {', '.join(ROLES)}")
        if "assistant" not in self.before or set(self.before) != set(self.behind):
            raise InputError(
                f"ChatTemplate: before has {', '.join(self.before) or 'nobody'}, behind"
                f" {', '.join(self.behind) or 'nobody'}, expected the same roles, the assistant among them"
            )
        if self.end is not None and self.end not in self.specials:
            raise InputError(
                f"ChatTemplate: end is {self.end!r}, expected one of the specials; None takes the"
                " tokenizer's own"
            )
        if not self.stop or "" in self.specials:
            what = "stop" if not self.stop else "a special token"
            raise InputError(f"ChatTemplate: {what} is empty, expected a text: a response would not end")

    @checked
    def end_for(self, tokenizer: Tokenizer) -> End:
        """By what a response ends in a tokenizer's tokens."""
        if self.end is not None:
            return End(self.end, tokenizer.specials.get(self.end))
        own = tokenizer.end_of_text
        text = next((text for text, i in tokenizer.specials.items() if i == own), None)
        return End(self.stop, None) if text is None else End(text, own)

    def _parts(
        self, conversation: Conversation, tokenizer: Tokenizer, guard: Guard, is_prompt: bool
    ) -> list[Part]:
        """The rendered conversation; what the assistant writes is two parts, a text and its end."""
        end = self.end_for(tokenizer)
        begin = tokenizer.begin_of_text if self.begin is None else self.begin
        parts: list[Part] = []
        waiting = begin or ""
        for n, message in enumerate(conversation.messages):
            role, text = message.role, message.text.strip() if self.trim else message.text
            who = f"{conversation.where}: message {n + 1}"
            if role not in self.before:
                raise InputError(
                    f"{who} is the {role}'s, expected one of {', '.join(self.before)}: the template"
                    f" {self.name} has no place for others"
                )
            # Marks around a text keep its ends from joining with what stands beside them.
            hidden = f"{guard.mark}{guard.hidden(text)}{guard.mark}"
            waiting += self.before[role]
            if role != "assistant":
                waiting += hidden + self.behind[role]
                continue
            if end.id is None and end.text in text:
                raise InputError(
                    f"{who} holds {end.text!r}, by which a response ends, expected it nowhere else: give the"
                    " tokenizer a token that ends a text, tokenizers.with_specials(tokenizer,"
                    " ['<|endoftext|>']), or the template another stop"
                )
            parts += [Part(waiting), Part(hidden, n), Part(end.text, n)]
            waiting = self.behind[role]
        return [*parts, Part(waiting + self.before["assistant"] if is_prompt else waiting)]

    def state(self) -> dict[str, Any]:
        """What from_state makes it of again, as JSON can hold it."""
        texts = {"before": dict(self.before), "behind": dict(self.behind), "specials": list(self.specials)}
        return {"type": "data"} | asdict(self) | texts

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> ChatTemplate:
        """The template of a state; InputError where it is none."""
        names = {field.name for field in fields(cls)}
        given = {name: value for name, value in state.items() if name != "type"}
        if set(given) != names:
            different = sorted(names ^ set(given))[0]
            raise InputError(
                f"ChatTemplate: {different!r} is {'missing' if different in names else 'not expected'},"
                f" expected {', '.join(sorted(names))}"
            )
        return cls(**given)


# No special tokens; for any tokenizer. A line break before each text, not a space: of most tokenizers, the
# first token of a word has its space in it, and none has its line break.
PLAIN = ChatTemplate(
    "plain",
    {role: f"{role.capitalize()}:\n" for role in ROLES},
    dict.fromkeys(ROLES, "\n") | {"assistant": ""},
    trim=True,
)
# Nothing but the texts and the end: "2+2=" and "4".
BARE = ChatTemplate("bare", dict.fromkeys(ROLES, ""), dict.fromkeys(ROLES, ""))
# OpenAI's, and that of Qwen, whose tokens have these names.
CHATML = ChatTemplate(
    "chatml",
    {role: f"<|im_start|>{role}\n" for role in ROLES},
    dict.fromkeys(ROLES, "<|im_end|>\n") | {"assistant": "\n"},
    ("<|im_start|>", "<|im_end|>"),
    "<|im_end|>",
)
# Llama 3's, without the lines about dates and tools of later ones.
LLAMA = ChatTemplate(
    "llama",
    {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ROLES},
    dict.fromkeys(ROLES, "<|eot_id|>") | {"assistant": ""},
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|eot_id|>",
    begin="<|begin_of_text|>",
    trim=True,
)
TEMPLATES = {template.name: template for template in (PLAIN, BARE, CHATML, LLAMA)}
