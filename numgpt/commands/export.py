"""numgpt export: files to check a port in another language with."""

from __future__ import annotations

import argparse

from ..architecture import presets
from ..architecture.config import Config
from ..errors import InputError
from . import flags
from .places import expect_apart

HELP = "Export a model, tokens and debug state in llm.c's files, to check a port against."
EXAMPLE = (
    "numgpt export files gpt2 --llmc --n-layer 2 --n-embd 32 --n-head 2 --vocab-size 300 --block-size 16"
)

PRESET = "gpt2"
LENGTH = 64  # tokens a sequence, unless --tokens says otherwise


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt export."""
    flags.add(
        parser,
        "folder",
        metavar="FOLDER",
        help="where to write model.bin, debug_state.bin, tokens.bin and, with a tokenizer, tokenizer.bin",
    )
    flags.add(parser, "model", nargs="?", metavar="MODEL", help="a preset, or a checkpoint", default=PRESET)
    flags.add(
        parser,
        "--llmc",
        action="store_true",
        required=True,
        help="write the files of llm.c; no other format is known yet",
    )
    flags.add(
        parser,
        "--seed",
        type=flags.count,
        metavar="N",
        help="seed of a preset's parameters, and of the tokens",
        default=0,
    )
    flags.add(
        parser,
        "--batch-size",
        type=flags.positive,
        metavar="B",
        help="sequences in the debug state",
        default=4,
    )
    flags.add(
        parser,
        "--tokens",
        type=flags.positive,
        metavar="T",
        help="tokens a sequence",
        shown=f"{LENGTH}, or block_size if that is less",
    )
    flags.add_fields(parser, presets.preset(PRESET), PRESET)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files, and print the size of each."""
    from ..interchange import llmc
    from ..model.gpt import GPT

    expect_apart([] if args.model in presets.MODELS else [args.model], [args.folder], "folder")
    changes = flags.fields(args, Config)
    if args.model in presets.MODELS:
        model = GPT(presets.preset(args.model, **changes), args.seed)
    elif changes:
        raise InputError(
            f"export: {args.model} has its own {', '.join(changes)}, expected a preset where flags change the"
            " model: leave them out"
        )
    else:
        model = GPT.load(args.model).astype("float32")
    T = args.tokens or min(LENGTH, model.config.block_size)
    for path in llmc.save_all(args.folder, model, args.batch_size, T, args.seed):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0
