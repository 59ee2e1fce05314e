"""What commands print: messages on stderr, texts and sizes on stdout."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .wrapping import for_stdout

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from ..tokenizers import Tokenizer

PARAGRAPH = "\n\n"  # stands before one


def say(text: str) -> None:
    """Print a message for people: on stderr, which leaves stdout to the command's result."""
    print(text, file=sys.stderr, flush=True)


def one_line(message: object) -> str:
    """A message on one line, as whoever reads a log expects it."""
    return " ".join(str(message).split())


def command_line(*words: object) -> str:
    """A command to copy into a shell: numgpt and these words, each quoted where the shell needs it."""
    return shlex.join(["numgpt", *map(_as_word, words)])


def _as_word(word: object) -> str:
    """A word of a command line; a path that looks like a flag begins with ./"""
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text


def human_size(n: float) -> str:
    """Bytes in the unit that suits them: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"


def bytes_and_tokens(size: int, tokens: int) -> str:
    """The size of a text: 11 bytes, 2 tokens, 5.50 bytes per token."""
    counts = f"{plural(size, 'byte')}, {plural(tokens, 'token')}"
    return f"{counts}, {size / tokens:.2f} bytes per token" if tokens else counts


def plural(n: int, noun: str) -> str:
    """A number of things: 1 token, 2 tokens."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def print_texts(
    model: GPT,
    prompt: str,
    max_new_tokens: int,
    samples: int = 1,
    show_prompt: bool = False,
    **sampling: Any,
) -> None:
    """Print samples of a model: a single one as it comes, several when all are done.

    On a terminal, lines are broken between words.
    """
    from ..model.generate import texts

    wrapper = for_stdout()
    whole = [""] * samples
    for n, parts in enumerate(texts(model, prompt, max_new_tokens, samples=samples, **sampling)):
        if n == 0 and show_prompt:
            parts = [prompt + part for part in parts]
        if samples == 1:
            print(wrapper.add(parts[0]), end="", flush=True)
        else:
            whole = [text + part for text, part in zip(whole, parts)]
    if samples == 1:
        print(wrapper.end())
        return
    for n, text in enumerate(whole, 1):
        wrapper = for_stdout()
        print(f"--- sample {n} of {samples} ---\n{wrapper.add(text)}{wrapper.end()}")


def default_prompt(tokenizer: Tokenizer | None) -> str:
    """An empty line, or where the vocabulary cannot spell it, its first token that a text can."""
    if tokenizer is None or _encodes(tokenizer, PARAGRAPH):
        return PARAGRAPH
    specials = set(tokenizer.specials.values())
    pieces = (p for i, p in enumerate(tokenizer.pieces) if p and i not in specials)
    texts = (piece.decode("utf-8", "replace") for piece in pieces)
    return next((text for text in texts if _encodes(tokenizer, text)), PARAGRAPH)


def _encodes(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return len(tokenizer.encode(text)) > 0
    except InputError:
        return False
