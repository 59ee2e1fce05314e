"""Chat templates of others: the one in a tokenizer_config.json, rendered by Jinja in a sandbox."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arguments import checked
from ..errors import InputError
from ..storage.atomic import StrPath
from ..storage.files import read_bytes, read_json
from ..tokenizers import Tokenizer
from .conversations import Conversation, Message
from .rendering import End, Guard, Part, Template
from .rows import shown

CONFIG, ALONE = "tokenizer_config.json", "chat_template.jinja"


class JinjaTemplate(Template):
    r"""A chat template in Jinja, as transformers has it: it knows messages, add_generation_prompt and tokens.

    What the assistant writes is what the template puts into {% generation %}; where it has none, what follows
    the prompt for a message, up to the last special token there. A template that renders earlier messages
    otherwise when later ones come has no such prompts, and is refused.

    It runs in Jinja's sandbox: it reaches no files and no code, but may take time and memory. Time itself it
    is not told (strftime_now): the same conversation would be other tokens tomorrow.

    Parameters
    ----------
    source
        The template.
    tokens
        Name → special token, such as {"bos_token": "<s>"}, by which the template calls it.
    name
        For errors.

    Raises
    ------
    InputError
        Where the template does not parse, or jinja2 is not installed, the extra [chat].

    Examples
    --------
    >>> import importlib.util
    >>> from numgpt import data, tokenizers
    >>> source = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    >>> source += "{% if add_generation_prompt %}assistant: {% endif %}"
    >>> tokenizer = tokenizers.with_specials(tokenizers.Bytes(), ["<|end|>"])
    >>> prompt = data.Conversation([data.Message("user", "hi")])
    >>> if importlib.util.find_spec("jinja2"):
    ...     ids = data.JinjaTemplate(source).encode_prompt(prompt, tokenizer)
    ...     assert tokenizer.decode(ids) == "user: hi<|end|>assistant: "
    """

    @checked
    def __init__(self, source: str, tokens: Mapping[str, str] | None = None, name: str = "of Jinja") -> None:
        self.source = source
        self.tokens = dict(tokens or {})
        self.name = name
        self._template = _compiled(source, name)
        used = {token for key, token in self.tokens.items() if key in source or token in source}
        self.specials = tuple(sorted(used))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is compiled anew."""
        return type(self), (self.source, self.tokens, self.name)

    def state(self) -> dict[str, Any]:
        """What from_state makes it of again, as JSON can hold it."""
        return {"type": "jinja", "source": self.source, "tokens": self.tokens, "name": self.name}

    @classmethod
    @checked
    def from_state(cls, state: Mapping[str, Any]) -> JinjaTemplate:
        """The template of a state; InputError where it is none."""
        if set(state) - {"type"} != {"source", "tokens", "name"}:
            names = ", ".join(map(str, state)) or "nothing"
            raise InputError(f"JinjaTemplate: the state has {names[:80]}, expected source, tokens and name")
        return cls(state["source"], state["tokens"], state["name"])

    @checked
    def end_for(self, tokenizer: Tokenizer) -> End:
        """By what a response ends: the last special token of one, tried with two short messages."""
        conversation = Conversation([Message("user", "a"), Message("assistant", "b")])
        guard = Guard(tokenizer, ["ab"])
        text = self._parts(conversation, tokenizer, guard, False)[2].text
        return End(text, tokenizer.specials.get(text))

    def _parts(
        self, conversation: Conversation, tokenizer: Tokenizer, guard: Guard, is_prompt: bool
    ) -> list[Part]:
        """The rendered conversation; what the assistant writes is two parts, a text and its end."""
        messages = [{"role": m.role, "content": guard.hidden(m.text)} for m in conversation.messages]
        spoken = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        whole = self._render(conversation, messages, guard, is_prompt)
        opening, closing = guard.marks[1:]
        if opening in whole:
            spans = [part.split(closing, 1) for part in whole.split(opening)[1:]]
            if len(spans) != len(spoken):
                raise InputError(
                    f"{conversation.where}: the template {self.name} marks {len(spans)} generations for"
                    f" {len(spoken)} messages of the assistant, expected one each"
                )
            parts = [Part(whole.split(opening)[0])]
            for n, (response, behind) in zip(spoken, spans):
                parts += self._ended(conversation, guard, response, n)
                parts.append(Part(parts.pop().text + behind))
            return parts
        parts, place = [], 0
        for n in spoken:
            before = self._render(conversation, messages[:n], guard, True)
            upto = self._render(conversation, messages[: n + 1], guard, False)
            if not (whole.startswith(upto) and upto.startswith(before) and place <= len(before)):
                raise InputError(
                    f"{conversation.where}: the template {self.name} renders what is before message {n + 1}"
                    " otherwise when that follows, expected the prompt to stay: take conversations of one"
                    " response, or another template"
                )
            text, end, _ = self._ended(conversation, guard, upto[len(before) :], n)
            parts += [Part(whole[place : len(before)]), text, end]
            place = len(before) + len(text.text) + len(end.text)
        return [*parts, Part(whole[place:])]

    def _ended(self, conversation: Conversation, guard: Guard, response: str, n: int) -> list[Part]:
        """Text and end of a response, and what the template puts behind it."""
        found = guard.found(response)
        if not found:
            raise InputError(
                f"{conversation.where}: the template {self.name} does not end message {n + 1}, a response:"
                f" there is no special token of the tokenizer in {shown(response)}, expected one behind it"
            )
        last = found[-1]
        return [Part(response[: last.start()], n), Part(last[0], n), Part(response[last.end() :])]

    def _render(
        self, conversation: Conversation, messages: Sequence[Mapping[str, str]], guard: Guard, is_prompt: bool
    ) -> str:
        """What the template makes of messages."""
        try:
            return self._template.render(
                self.tokens,
                messages=list(messages),
                add_generation_prompt=is_prompt,
                tools=None,
                documents=None,
                generation_marks=guard.marks[1:],
            )
        except Exception as error:  # whatever a template may do, or say by raise_exception
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{conversation.where}: the template {self.name} refuses the conversation ({said}), expected"
                " one that it renders"
            ) from error


@checked
def from_tokenizer_config(path: StrPath) -> JinjaTemplate:
    """The chat template of a tokenizer_config.json, or of a folder that has one, as transformers writes it.

    Of several templates, the one that is called "default". A chat_template.jinja beside the file counts where
    the file has none.

    Raises
    ------
    InputError
        Where there is no template, or it does not parse, or jinja2 is not installed, the extra [chat].
    """
    file = Path(path)
    if file.is_dir():
        file = file / CONFIG
    if file.suffix == ".jinja":
        return JinjaTemplate(_text(file), _tokens(file.parent / CONFIG), str(file))
    config = _config(file)
    source = config.get("chat_template")
    if isinstance(source, list):
        named = [entry for entry in source if isinstance(entry, dict) and entry.get("name") == "default"]
        source = named[0].get("template") if named else None
    beside = file.parent / ALONE
    if source is None and beside.is_file():
        source = _text(beside)
    if not isinstance(source, str):
        raise InputError(
            f"{file}: its chat_template is {shown(source)}, expected a text, or {ALONE} beside the file: name"
            " another template, such as chatml"
        )
    return JinjaTemplate(source, _tokens(file), str(file))


def _config(file: Path) -> dict[str, Any]:
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError(f"{file}: is {shown(config)}, expected an object, as transformers writes it")
    return config


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 ({error}), expected a template") from error


def _tokens(file: Path) -> dict[str, str]:
    """The special tokens that have a name, such as bos_token."""
    config = _config(file) if file.is_file() else {}
    tokens = {}
    for name, token in config.items():
        if isinstance(token, dict):
            token = token.get("content")
        if name.endswith("_token") and isinstance(token, str) and token:
            tokens[name] = token
    return tokens


def _compiled(source: str, name: str) -> Any:
    environment = _environment()
    from jinja2 import TemplateSyntaxError

    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InputError(
            f"template {name}: does not parse (line {error.lineno}: {error.message}), expected a chat"
            " template in Jinja"
        ) from error
    except (RecursionError, MemoryError, OverflowError, ValueError) as error:
        raise InputError(f"template {name}: does not compile ({error}), expected a chat template") from error


@functools.cache
def _environment() -> Any:
    """Jinja's sandbox with what transformers gives its templates."""
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise InputError(
            "chat template: jinja2 is not installed, expected it to render one in Jinja: pip install"
            " 'numgpt[chat]', or name a template of numgpt's own, such as chatml"
        ) from error
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation(), "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    return environment


def _generation() -> type:
    """The tag {% generation %}: what is in it is written by the assistant, and is put between two marks."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):  # type: ignore[misc]  # Any, where Jinja is not there
        tags = {"generation"}  # noqa: RUF012 as Jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marks = nodes.Name("generation_marks", "load")
            return nodes.CallBlock(self.call_method("_marked", [marks]), [], [], body).set_lineno(line)

        def _marked(self, marks: Sequence[str], caller: Any) -> str:
            return f"{marks[0]}{caller()}{marks[1]}"

    return Generation
