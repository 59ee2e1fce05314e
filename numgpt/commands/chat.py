"""numgpt chat: talk to a model."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..data.chat_templates import TEMPLATES
from ..errors import InputError
from . import flags, runs
from .printing import say
from .sample import add_choice
from .wrapping import for_stdout

if TYPE_CHECKING:
    from ..data import ChatTemplate, Conversation, JinjaTemplate, Message
    from ..model.gpt import GPT

HELP = "Talk to a model: it answers line by line, in a terminal or in a pipe."
EXAMPLE = "numgpt chat tuned --system 'Answer in one word.' --temperature 0"

TOKENS = 200
SHARE = 4  # of the context, one part in so many is kept free for an answer, where --max-new-tokens is more
LONGEST = 2**20  # bytes of a line
RESET, QUIT = "/reset", "/quit"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt chat."""
    flags.add(
        parser,
        "checkpoint",
        nargs="?",
        metavar="MODEL",
        help=flags.MODEL,
        shown="the newest run under runs/",
    )
    flags.add(parser, "--system", metavar="TEXT", help="what is said to it before all")
    flags.add(
        parser,
        "--template",
        metavar="NAME",
        help=(
            f"what stands around each message: {', '.join(TEMPLATES)}; or the path of a"
            " tokenizer_config.json, its folder or a .jinja file"
        ),
        shown="the one that the model was tuned with, else plain",
    )
    flags.add(
        parser,
        "--max-new-tokens",
        type=flags.positive,
        metavar="N",
        help="how many tokens an answer may have",
        default=TOKENS,
    )
    add_choice(parser)
    flags.add(parser, "--seed", type=int, metavar="N", help="seed of the draws", default=0)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Answer each line of standard input, until it ends."""
    from ..model.gpt import GPT

    place = runs.checkpoint(args)
    model = GPT.load(place)
    sampling = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "seed")}
    chat = Chat(model, _template(model, args.template), args.system, args.max_new_tokens, sampling)
    is_typed = sys.stdin is not None and sys.stdin.isatty()
    if is_typed:
        say(f"numgpt: {place} answers; {RESET} begins anew, {QUIT} or Ctrl-D ends")
    for line in _typed() if is_typed else _lines():
        command = line.strip()
        if command == QUIT:
            break
        if command == RESET:
            chat.reset()
        elif not command:
            _print_end(is_typed)
        elif is_typed:
            _answer_a_person(chat, line)
        else:
            _answer(chat, line)
    return 0


def _template(model: GPT, name: str | None) -> ChatTemplate | JinjaTemplate:
    """The template that was asked for, or the model's own, or plain, which is said."""
    from ..data import chat_template, template_from_state

    if name is not None:
        return chat_template(name)
    if model.template is not None:
        return template_from_state(model.template)
    say("numgpt: the model was tuned with no chat template: it gets the template plain, and may not answer")
    return chat_template("plain")


class Chat:
    """A conversation with a model: what was said, as far as it fits into the context."""

    def __init__(
        self,
        model: GPT,
        template: ChatTemplate | JinjaTemplate,
        system: str | None,
        max_new_tokens: int,
        sampling: dict[str, Any],
    ) -> None:
        from ..data import Message

        self.model = model
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.system = [] if system is None else [Message("system", system)]
        self.reset()
        if self.system:  # what cannot be said is refused before anybody waits for an answer
            self._size([])

    def reset(self) -> None:
        """Forget what was said."""
        self.exchanges: list[tuple[Message, Message]] = []

    def answer(self, text: str) -> Iterator[str]:
        """Answer a text, piece by piece; what is said, and the answer, are remembered."""
        from ..data import Message
        from ..model.replies import Reply

        said = Message("user", text)
        self._make_room(said)
        reply = Reply(
            self.model, self.template, self._conversation([said]), self.max_new_tokens, **self.sampling
        )
        has_come = False
        try:
            yield from reply
            has_come = True
        finally:  # of an answer that somebody stops, what has come is remembered
            if has_come or reply.text:
                self.exchanges.append((said, Message("assistant", reply.text)))
        if reply.is_cut:
            say(f"numgpt: the answer is cut after {reply.room} tokens")

    def _make_room(self, said: Message) -> None:
        """Drop the oldest exchanges until there is room for an answer."""
        size = self.model.config.block_size
        room = min(self.max_new_tokens, max(1, size // SHARE))
        n = 0
        while self.exchanges and self._size([said]) + room > size:
            self.exchanges.pop(0)
            n += 1
        if n:
            what = "exchange is" if n == 1 else f"{n} exchanges are"
            say(f"numgpt: the context of {size:,} tokens is full: the oldest {what} forgotten")

    def _conversation(self, more: list[Message]) -> Conversation:
        from ..data import Conversation

        every = [message for exchange in self.exchanges for message in exchange]
        return Conversation([*self.system, *every, *more])

    def _size(self, more: list[Message]) -> int:
        """How many tokens stand before an answer."""
        from ..model.replies import tokens_before

        return len(tokens_before(self.model, self.template, self._conversation(more)))


def _answer(chat: Chat, text: str) -> None:
    """Print an answer as it comes, and the end of its line."""
    wrapper = for_stdout()
    for piece in chat.answer(text):
        print(wrapper.add(piece), end="", flush=True)
    print(wrapper.end(), flush=True)


def _answer_a_person(chat: Chat, text: str) -> None:
    """Print an answer; Ctrl-C ends it, and what cannot be said is no reason to leave."""
    try:
        _answer(chat, text)
    except KeyboardInterrupt:
        print(flush=True)
    except InputError as error:
        say(f"numgpt: {error}")


def _print_end(is_typed: bool) -> None:
    """An empty line has an empty answer, so that a program that counts lines stays in step."""
    if not is_typed:
        print(flush=True)


def _typed() -> Iterator[str]:
    """What a person types, line by line, until Ctrl-D."""
    with contextlib.suppress(ImportError):  # with it a line can be edited, and earlier ones come back
        import readline  # noqa: F401
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _lines() -> Iterator[str]:
    """The lines of a pipe or a file, each as soon as it is there."""
    if sys.stdin is None:
        raise InputError("chat: standard input is closed, expected lines to answer there")
    number = 0
    while line := sys.stdin.buffer.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise InputError(f"chat: line {number} has more than {LONGEST:,} bytes, expected a message")
        try:
            yield line.decode("utf-8").removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"chat: byte {error.start} of line {number} is not UTF-8, expected text"
            ) from error
