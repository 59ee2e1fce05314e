"""numgpt tokenizer train: learn a vocabulary from text."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..tokenizers.files import FORMATS
from ..tokenizers.kinds import KINDS
from ..tokenizers.patterns import Pattern
from . import flags
from . import tokenizer_files as files
from .places import expect_apart
from .printing import bytes_and_tokens, command_line, say

if TYPE_CHECKING:
    from ..data.text import Text
    from ..tokenizers import Tokenizer

GPT2 = ("vocab.json", "merges.txt")  # what --format gpt2 writes into a folder
# The kinds whose vocabulary has a size that is asked for: characters and bytes have their own.
LEARNED = {kind: row for kind, row in KINDS.items() if row.learn and row.size}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt tokenizer train."""
    flags.add(
        parser,
        "files",
        nargs="*",
        metavar="FILE",
        help=flags.TEXTS,
        shown="numgpt:austen",
    )
    flags.add(
        parser,
        "--out",
        required=True,
        metavar="PATH",
        help="the file to write, or for gpt2 the folder; it replaces what is there",
    )
    flags.add(
        parser,
        "--format",
        choices=tuple(form for form in FORMATS if any(form in row.formats for row in LEARNED.values())),
        help="; ".join(f"{form}: {FORMATS[form].writes}" for form in FORMATS),
        default="numgpt",
    )
    _add_vocabulary_flags(parser)


def _add_vocabulary_flags(parser: argparse.ArgumentParser) -> None:
    """What is learned."""
    vocabulary = parser.add_argument_group("vocabulary")
    flags.add(
        vocabulary,
        "--vocab-size",
        type=flags.positive,
        metavar="V",
        help="tokens in all: bytes, merges and special tokens",
        default=8192,
    )
    flags.add(
        vocabulary,
        "--kind",
        choices=tuple(LEARNED),
        help="; ".join(f"{kind}: {row.what}" for kind, row in LEARNED.items()),
        default="bpe",
    )
    flags.add(
        vocabulary,
        "--pattern",
        metavar="NAME",
        help=f"how text is cut before pairs are counted; no token crosses a cut: {files.PATTERN_NAMES}",
        shown=files.PATTERN,
    )
    flags.add(
        vocabulary,
        "--special-token",
        action="append",
        metavar="TEXT",
        help="a special token, such as '<|endoftext|>'; ordinary text never encodes to it; may be repeated",
    )
    flags.add(
        vocabulary,
        "--min-frequency",
        type=flags.positive,
        metavar="N",
        help="how often a pair must occur to be merged",
        shown="2",
    )


def run(args: argparse.Namespace) -> int:
    """Learn a vocabulary from text, and write it."""
    from ..data.text import Text

    out = Path(args.out)
    files.expect_place(out, args.format)
    expect_apart(args.files, [out / name for name in GPT2] if args.format == "gpt2" else [out])
    _expect_format(args)
    if LEARNED[args.kind].pattern:
        _expect_writable(args)
    else:
        _expect_no_flags_of_pairs(args)
    corpus = Text(args.files or None)
    tokenizer = _trained(args, corpus)
    _write(tokenizer, out, args.format)
    sizes: list[int] = []
    parts = files.measured(corpus.parts("encoding"), sizes)
    tokens = sum(map(len, tokenizer.encode_parts(parts, special="allow")))
    print(
        f"{out}: {tokenizer.vocab_size:,} tokens, {bytes_and_tokens(sum(sizes), tokens)} of {corpus.source}"
    )
    if tokenizer.vocab_size < args.vocab_size:
        say(
            f"numgpt: found {tokenizer.vocab_size:,} of the {args.vocab_size:,} tokens, as no other pair is"
            " frequent enough; --min-frequency 1, or more text, gives more"
        )
    return 0


def _expect_format(args: argparse.Namespace) -> None:
    """Raise InputError where a tokenizer of the kind cannot be written in the format."""
    formats = LEARNED[args.kind].formats
    if args.format not in formats:
        kinds = " or ".join(kind for kind, row in LEARNED.items() if args.format in row.formats)
        raise InputError(
            f"tokenizer train: --format {args.format} is for --kind {kinds} only, expected"
            f" {' or '.join(formats)} for {args.kind}"
        )


def _expect_no_flags_of_pairs(args: argparse.Namespace) -> None:
    """Raise InputError for a flag that says nothing to a kind without a pattern."""
    kinds = " or ".join(kind for kind, row in LEARNED.items() if row.pattern)
    for flag, value in (("--pattern", args.pattern), ("--min-frequency", args.min_frequency)):
        if value:
            raise InputError(f"tokenizer train: {flag} is for --kind {kinds} only: leave it out")


def _expect_writable(args: argparse.Namespace) -> None:
    """Raise InputError where the format cannot hold the pattern or the special tokens: before the work.

    To find out, a tokenizer that has learned nothing yet is written to a folder that is thrown away.
    """
    from .. import tokenizers

    specials = {}
    if args.format != "numgpt":
        specials = {text: i for i, text in enumerate(args.special_token or (), 256)}
    untrained = tokenizers.BPE(tokenizers.Bytes.pieces, [], _pattern(args), specials)
    with tempfile.TemporaryDirectory() as folder:
        tokenizers.export(untrained, Path(folder) / "new", args.format)


def _pattern(args: argparse.Namespace) -> str:
    """The pattern's name, or the expression; InputError where it does not compile."""
    return Pattern(files.PATTERN if args.pattern is None else args.pattern).name


def _trained(args: argparse.Namespace, corpus: Text) -> Tokenizer:
    from .. import tokenizers

    specials = args.special_token or []
    if args.kind == "unigram":
        say("training with sentencepiece, which prints nothing until it is done")
        return tokenizers.unigram.train(corpus, args.vocab_size, specials=specials)
    return tokenizers.train(
        corpus,
        args.vocab_size,
        pattern=_pattern(args),
        specials=specials,
        min_frequency=args.min_frequency or 2,
        progress=True,
    )


def _write(tokenizer: Tokenizer, out: Path, format: str) -> None:
    """Write a tokenizer, and say what its file does not hold."""
    from .. import tokenizers

    if format == "numgpt":
        tokenizer.save(out)
        return
    left_out = tokenizers.export(tokenizer, out, format)
    if left_out:
        words = ["--pattern", left_out["pattern"]]
        for text, i in left_out["specials"].items():
            words += ["--special-token", f"{text}={i}"]
        say(
            f"numgpt: {out} does not hold its pattern{' and special tokens' if len(words) > 2 else ''}, give"
            f" them with it: {command_line('tokenizer', 'encode', out, *words)}"
        )
