"""numgpt convert: a model in another layout or precision."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from . import flags
from .places import expect_apart
from .printing import one_line, say

HELP = "Convert a model between numgpt and transformers, or to another precision."
EXAMPLE = "numgpt convert runs/1 exported --to hf"

WRITTEN = {"numgpt": "a checkpoint of numgpt", "hf": "as transformers reads them"}  # --to → what is written


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt convert."""
    flags.add(parser, "source", metavar="SOURCE", help=flags.MODEL)
    flags.add(parser, "destination", metavar="FOLDER", help="the folder to write")
    flags.add(
        parser,
        "--to",
        choices=tuple(WRITTEN),
        help="numgpt's checkpoint, or a folder for transformers: a GPT-2, Llama, Mistral or Qwen2",
        default="numgpt",
    )
    flags.add(
        parser,
        "--dtype",
        choices=("float16", *flags.DTYPES),
        help="precision in which the parameters are stored; float16 is read as float32",
        shown="the source's",
    )
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Write the model, and its tokenizer where the layout has a place for it."""
    from ..interchange import huggingface
    from ..model.gpt import GPT

    expect_apart([args.source], [args.destination], "folder")
    model = GPT.load(args.source)
    model.save(args.destination, args.to, args.dtype)
    stored = args.dtype or model.params.dtype
    print(f"{args.destination}: {model.n_params:,} parameters, {stored}, {WRITTEN[args.to]}")
    if args.to == "hf" and not (Path(args.destination) / huggingface.TOKENIZER[0]).exists():
        try:
            huggingface.tokenizer_files(model)
        except InputError as error:
            say(f"numgpt: the tokenizer is not converted ({one_line(error)})")
    return 0
