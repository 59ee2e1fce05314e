"""numgpt diff: where two models part."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError
from . import flags

HELP = "Find the first value or gradient in which two models differ, and the likely cause."
EXAMPLE = "numgpt diff runs/1 exported"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt diff."""
    flags.add(
        parser,
        "a",
        metavar="A",
        help=(
            f"{flags.MODEL}; a model of llm.c; or FILE.py:NAME, a PyTorch module or a function that makes one"
        ),
    )
    flags.add(
        parser,
        "b",
        metavar="B",
        help="the same, or a debug state of llm.c",
    )
    flags.add(
        parser,
        "--names",
        metavar="FILE",
        help="JSON that maps numgpt's names to the module's",
        shown="those of nanoGPT, minGPT and transformers",
    )
    flags.add(
        parser,
        "--configs",
        action="store_true",
        help="compare the settings alone, of models, runs and their training; nothing is computed",
    )
    flags.add(
        parser, "--all", action="store_true", help="print a line for every parameter, value and gradient"
    )
    flags.add(
        parser,
        "--dtype",
        choices=flags.DTYPES,
        help="precision in which both models run",
        default="float64",
    )
    flags.add(
        parser,
        "--batch-size",
        type=flags.positive,
        metavar="B",
        help="sequences of random tokens",
        default=2,
    )
    flags.add(
        parser,
        "--tokens",
        type=flags.positive,
        metavar="T",
        help="tokens a sequence",
        shown="16, or block_size if that is less",
    )
    flags.add(parser, "--seed", type=flags.count, metavar="N", help="seed of the tokens", default=0)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print where the models or their settings part; 0 where they agree, 1 where they do not."""
    from ..parity.names import MapError, expect_map
    from ..storage.files import read_json

    names = read_json(args.names) if args.names else None
    try:
        if names is not None:
            expect_map(names)
        return _compare(args, names)
    except MapError as error:
        if args.names is None:
            raise
        raise InputError(f"{args.names}: {error.problem}") from error


def _compare(args: argparse.Namespace, names: Any) -> int:
    """Print what the command was asked for; its exit status."""
    from ..parity import compare_settings, first_divergence

    if args.configs:
        settings = compare_settings(args.a, args.b, names=names)
        print(settings)
        return 1 if settings.differing else 0
    shape = (args.batch_size, args.tokens)
    divergence = first_divergence(args.a, args.b, names=names, dtype=args.dtype, seed=args.seed, shape=shape)
    if args.all:
        print(f"{divergence.comparison}\n")
    print(divergence)
    return 0 if divergence.first is None else 1
