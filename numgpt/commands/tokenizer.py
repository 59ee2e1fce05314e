"""numgpt tokenizer: train a tokenizer, encode, decode, and show how a text is cut."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data import token_files
from ..errors import InputError
from ..tokenizers import is_closed
from ..tokenizers.show import COLORS, lines, wants_color
from ..tokenizers.tokenizer import ERRORS
from . import flags, tokenizer_training
from . import tokenizer_files as files
from .places import STDIN, expect_apart
from .printing import bytes_and_tokens, plural

HELP = "Train a tokenizer, encode, decode, and show how a text is cut into tokens."
EXAMPLE = "numgpt tokenizer show bytes 'naïve café'"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The actions of numgpt tokenizer, each with its own flags."""
    parser.set_defaults(print_help=parser.print_help, engine=None, threads=None, tf32=False)
    parsers = parser.add_subparsers(
        title="actions",
        dest="action",
        parser_class=_ActionParser,
        metavar="ACTION",
        help="numgpt tokenizer ACTION --help lists its flags, with an example",
    )
    for name, action in ACTIONS.items():
        command = parsers.add_parser(name, help=action.help)
        command.set_defaults(parser=command)
        action.add_flags(command)
        flags.add_engine(command, tf32=False)
        flags.describe(command, action.help, f"numgpt tokenizer {name} {action.example}")


def run(args: argparse.Namespace) -> int:
    """Run the action, or print the help where there is none."""
    if args.action is None:
        args.print_help()
        return 0
    return ACTIONS[args.action].run(args)


class _ActionParser(flags.Parser):
    """Takes its last positional after flags too, as in: show TOKENIZER --color never TEXT."""

    def parsed(self, args: Any, namespace: Any) -> Any:
        """argparse up to Python 3.12 wants an optional positional right behind the one before it."""
        namespace, rest = super().parsed(args, namespace)
        last = [action for action in self._actions if not action.option_strings][-1]
        if not rest or getattr(namespace, last.dest) or (rest[0].startswith("-") and rest[0] != "--"):
            return namespace, rest
        words = rest[1:] if rest[0] == "--" else rest
        if last.nargs == "*":
            setattr(namespace, last.dest, words)
            return namespace, []
        if len(words) == 1:
            setattr(namespace, last.dest, words[0])
            return namespace, []
        return namespace, rest


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """The tokenizer that an action uses."""
    flags.add(
        parser,
        "tokenizer",
        metavar="TOKENIZER",
        help=(
            "a tokenizer's file or folder (numgpt's, transformers', GPT-2's, tiktoken's or SentencePiece's),"
            " a checkpoint, a run, bytes, or chars"
        ),
    )
    flags.add(
        parser,
        "--pattern",
        metavar="NAME",
        help=f"how text is cut, for files of GPT-2 and tiktoken, which do not hold it: {files.PATTERN_NAMES}",
        shown=files.PATTERN,
    )
    flags.add(
        parser,
        "--special-token",
        action="append",
        metavar="TEXT=ID",
        help="a special token, for the same files, such as '<|endoftext|>=50256'; may be repeated",
    )


def _add_text(parser: argparse.ArgumentParser) -> None:
    """The text that an action reads."""
    flags.add(
        parser, "text", nargs="?", metavar="TEXT", help="the text, unless --file is given", shown="stdin"
    )
    flags.add(
        parser,
        "--file",
        metavar="FILE",
        help="read the text from a file, with its line breaks as they are; - is stdin",
    )
    flags.add(
        parser, "--bytes", action="store_true", help="accept any bytes, where otherwise UTF-8 is required"
    )
    flags.add_special(parser, "the text")


def _add_encode_flags(parser: argparse.ArgumentParser) -> None:
    _add_tokenizer(parser)
    _add_text(parser)
    flags.add(parser, "--count", action="store_true", help="print only the numbers of bytes and tokens")
    flags.add(
        parser,
        "--out",
        metavar="FILE",
        help="write the ids to a .npy, or to a .bin: 2 bytes an id, or 4 with more than 65,536 tokens",
    )


def _encode(args: argparse.Namespace) -> int:
    """Print or write the ids of a text."""
    if args.out:
        out = Path(args.out)
        if out.suffix.lower() not in files.ARRAYS:
            raise InputError(
                f"tokenizer encode: --out is {out}, expected a name that ends in {' or '.join(files.ARRAYS)}:"
                " for text redirect the output"
            )
        files.expect_place(out)
        texts = [args.file or STDIN] if args.text is None else []
        expect_apart([*texts, args.tokenizer], [out])
    parts: Iterable[str | bytes] = files.parts(args)
    sample = None
    if is_closed(args.tokenizer):  # its vocabulary is built from the whole text
        sample = files.text(args)
        parts = [sample]
    tokenizer = files.load(args, sample)
    dtype = token_files.dtype(tokenizer.vocab_size)
    sizes: list[int] = []
    encoded = tokenizer.encode_parts(files.measured(parts, sizes), special=args.special)
    ids = np.concatenate([part.astype(dtype) for part in encoded])
    if args.out:
        files.write_ids(out, ids)
    if args.count:
        print(bytes_and_tokens(sum(sizes), len(ids)))
    elif args.out:
        print(f"{out}: {len(ids):,} tokens as {dtype}")
    else:
        print(*ids.tolist())
    return 0


def _add_decode_flags(parser: argparse.ArgumentParser) -> None:
    _add_tokenizer(parser)
    flags.add(parser, "ids", nargs="*", metavar="ID", help="integers, unless --file is given", shown="stdin")
    flags.add(
        parser,
        "--file",
        metavar="FILE",
        help="read the ids from a file: as text, or a .npy or .bin that encode --out wrote; - is stdin",
    )
    flags.add(
        parser,
        "--errors",
        choices=ERRORS,
        metavar="NAME",
        help=f"what to do where bytes are not UTF-8, as in bytes.decode: {', '.join(ERRORS)}",
        default="replace",
    )
    flags.add(parser, "--bytes", action="store_true", help="write the bytes as they are, UTF-8 or not")


def _decode(args: argparse.Namespace) -> int:
    """Write the text of ids."""
    tokenizer = files.load(args)
    ids = files.ids(args, tokenizer)
    if args.bytes or args.errors == "surrogateescape":
        sys.stdout.flush()
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
        sys.stdout.buffer.flush()
        return 0
    text = tokenizer.decode(ids, args.errors)
    needs_line_break = sys.stdout.isatty() and not text.endswith("\n")
    print(text, end="\n" if needs_line_break else "")
    return 0


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    _add_tokenizer(parser)
    _add_text(parser)
    flags.add(
        parser,
        "--color",
        choices=COLORS,
        help="auto: in a terminal, unless NO_COLOR or TERM=dumb is set",
        default="auto",
    )
    flags.add(
        parser, "--width", type=flags.positive, metavar="N", help="columns a line", shown="the terminal's"
    )


def _show(args: argparse.Namespace) -> int:
    """Print a text's tokens with their ids, and how many there are."""
    text = files.text(args)
    tokenizer = files.load(args, text)
    ids = tokenizer.encode(text, special=args.special)
    width = args.width or shutil.get_terminal_size().columns
    for line in lines(tokenizer, ids, wants_color(args.color), width):
        print(line)
    characters = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    print(f"{plural(len(characters), 'character')}, {bytes_and_tokens(files.size(text), len(ids))}")
    return 0


class Action(NamedTuple):
    """One action of numgpt tokenizer."""

    help: str
    example: str  # what follows numgpt tokenizer NAME
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


ACTIONS = {
    "train": Action(
        "Learn a vocabulary from text.",
        "FILE --vocab-size 2048 --out tok.json",
        tokenizer_training.add_flags,
        tokenizer_training.run,
    ),
    "encode": Action(
        "Print the ids of a text, on one line.",
        "tok.json 'Hello world'",
        _add_encode_flags,
        _encode,
    ),
    "decode": Action(
        "Print the text of ids, exactly: a line break is added in a terminal only.",
        "tok.json 15496 995",
        _add_decode_flags,
        _decode,
    ),
    "show": Action(
        "Show how a text is cut: each token, its id below it, and bytes per token.",
        "tok.json 'Hello world'",
        _add_show_flags,
        _show,
    ),
}
