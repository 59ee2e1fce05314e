"""numgpt sample: write text with a trained model."""

from __future__ import annotations

import argparse
import io
import os
import select
import stat
import sys
from pathlib import Path

from ..errors import InputError
from ..storage import shipped
from . import flags, runs
from .printing import default_prompt, print_texts, say

HELP = "Write text with a trained model."
PATIENCE = 2.0  # seconds in which something must come from a pipe that nobody asked us to read
LONGEST = 2**24  # bytes of a prompt
EXAMPLE = "numgpt sample runs/1 --prompt 'She was' --temperature 0.9 --top-k 20 --num-samples 3"

TOKENS = 200
# Where a small model still writes words: hotter, it misspells more of them, and cooler it repeats itself.
TEMPERATURE = 0.7
TOP_P = 0.9


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt sample."""
    flags.add_checkpoint(parser, "the newest run under runs/, else numgpt:austen")
    flags.add(
        parser,
        "--prompt",
        metavar="TEXT",
        help="text to continue; - reads it from standard input, as a pipe or < FILE does without --prompt",
        shown="an empty line, behind which a paragraph begins",
    )
    flags.add_special(parser, "the prompt")
    flags.add(parser, "--adapter", metavar="FOLDER", help=flags.ADAPTER)
    flags.add(
        parser,
        "--max-new-tokens",
        type=flags.count,
        metavar="N",
        help="how many tokens to write at most",
        default=TOKENS,
    )
    _add_sampling(parser)
    flags.add_engine(parser)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The flags of how a token is chosen, which whatever writes has."""
    flags.add(
        parser,
        "--temperature",
        type=float,
        metavar="X",
        help="below 1 sharpens, above 1 flattens the distribution; 0 is greedy",
        default=TEMPERATURE,
    )
    flags.add(
        parser, "--top-k", type=int, metavar="K", help="sample from the K most probable tokens", shown="all"
    )
    flags.add(
        parser,
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the fewest tokens whose probabilities sum to P; 1 is all",
        default=TOP_P,
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """The flags of how each token is chosen."""
    add_choice(parser)
    flags.add(
        parser,
        "--min-p",
        type=float,
        metavar="P",
        help="sample from tokens at least P times as probable as the most probable one",
        default=0.0,
    )
    flags.add(
        parser,
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="above 1 makes tokens less likely that stand in the text already; 1.1 is mild",
        default=1.0,
    )
    _add_ends(parser)


def _add_ends(parser: argparse.ArgumentParser) -> None:
    """The flags of what ends a text, and of what else a sample depends on."""
    flags.add(parser, "--greedy", action="store_true", help="always take the most probable token")
    flags.add(
        parser, "--num-samples", type=flags.positive, metavar="N", help="how many texts to write", default=1
    )
    flags.add(
        parser,
        "--stop",
        action="append",
        metavar="TEXT",
        help=r"end before this text, where \n is a line break; may be repeated",
    )
    flags.add(
        parser,
        "--ignore-eos",
        action="store_true",
        help="go on where the model ends the text with the tokenizer's end-of-text, such as <|endoftext|>",
    )
    flags.add(parser, "--seed", type=int, metavar="N", help="seed of the draws", default=0)
    flags.add(
        parser,
        "--slide",
        type=int,
        metavar="N",
        help="past the context length, drop this many of the oldest tokens at once; more is faster",
        default=1,
    )
    flags.add(
        parser,
        "--cache-size",
        type=flags.positive,
        metavar="N",
        help="for text without end: keep the first tokens and the last ones, N together, and count positions"
        " among them",
        shown="the context length where --keep-first is given",
    )
    flags.add(
        parser,
        "--keep-first",
        type=int,
        metavar="N",
        help="how many of the first tokens stay in such a cache",
        shown="4 where --cache-size is given",
    )


def run(args: argparse.Namespace) -> int:
    """Print the samples."""
    from ..model.gpt import GPT

    prompt = standard_input(wait=True) if args.prompt == "-" else args.prompt
    if prompt is None:
        prompt = standard_input(wait=False)
    model = GPT.load(_place(args))
    model = model.adapted(args.adapter) if args.adapter else model
    begin = None if model.tokenizer is None else model.tokenizer.begin_of_text
    print_texts(
        model,
        begin or default_prompt(model.tokenizer) if prompt is None else prompt,
        args.max_new_tokens,
        samples=args.num_samples,
        show_prompt=prompt is not None,
        stop=tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in args.stop or ()),
        special="allow" if prompt is None and begin else args.special,
        temperature=0.0 if args.greedy else args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        ignore_eos=args.ignore_eos,
        seed=args.seed,
        slide=args.slide,
        cache_size=args.cache_size,
        keep_first=args.keep_first,
    )
    return 0


def _place(args: argparse.Namespace) -> str | Path:
    """The checkpoint that was given, or the newest run, or else the model that ships."""
    if args.checkpoint or runs.newest() or not shipped.models():
        return runs.checkpoint(args)
    say(f"numgpt: there is no run under runs/: {shipped.MODEL} writes, which ships; numgpt train makes a run")
    return shipped.MODEL


def standard_input(wait: bool) -> str | None:
    """The prompt on standard input; None where there is none.

    It comes without a byte order mark at its beginning, and without a line break at its end.
    wait: it was asked for, so it may take its time, and may come from a terminal. Otherwise a pipe or a file
    is read, and a pipe only where something comes from it: who starts us may have left one open.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something that is no file
        if not wait:
            return None
        raise InputError(
            "sample: standard input is closed, expected the prompt there: give --prompt"
        ) from None
    if not wait and not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return None
    if wait and sys.stdin.isatty():
        say("numgpt: type the prompt, and end it with Ctrl-D on a line of its own")
    if not wait and stat.S_ISFIFO(mode) and not _comes(number):
        return None
    data = sys.stdin.buffer.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise InputError(f"sample: standard input has more than {LONGEST:,} bytes, expected a prompt")
    try:
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8").read().removeprefix("\ufeff").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"sample: byte {error.start} on standard input is not UTF-8, expected text"
        ) from error
    return text if text or wait else None


def _comes(number: int) -> bool:
    """Whether something comes from a pipe soon; where nothing does, a message says so."""
    try:
        if select.select([number], [], [], PATIENCE)[0]:
            return True
        reason = f"nothing came on standard input in {PATIENCE:g} s"
    except OSError:  # Windows, which can be asked about sockets only
        reason = "whether something comes on standard input is not known here"
    say(f"numgpt: {reason}: not read; --prompt - waits for it")
    return False
