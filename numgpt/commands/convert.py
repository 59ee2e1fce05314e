"""numgpt convert: a model in another layout or precision."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from . import flags
from .places import expect_apart
from .printing import one_line, say

if TYPE_CHECKING:
    from ..interchange.checkpoint import Model

HELP = "Convert a model between numgpt, transformers, llama.cpp and llama2.c, or to another precision."
EXAMPLE = "numgpt convert runs/1 exported --to hf"

WRITTEN = {  # --to → what is written
    "numgpt": "a checkpoint of numgpt",
    "hf": "as transformers reads them",
    "peft": "of which the adapters are written as PEFT reads them",
    "llama2.c": "as run.c of llama2.c reads them",
    "llama2.c-v1": "a file of llama2.c, version 1",
    "llama2.c-v2": "as runq.c of llama2.c reads them",
    "gguf": "a file of GGUF, as llama.cpp reads them",
}
STORED = {
    "llama2.c": "float32",
    "llama2.c-v1": "float32",
    "llama2.c-v2": "8 bits",
}  # where there is no choice


IN_BLOCKS = ("q8_0", "q4_0")  # of GGUF alone


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt convert."""
    flags.add(parser, "source", metavar="SOURCE", help=flags.MODEL)
    flags.add(
        parser, "destination", metavar="PLACE", help="the folder to write, of llama2.c and GGUF the file"
    )
    flags.add(
        parser,
        "--to",
        choices=tuple(WRITTEN),
        help="numgpt's checkpoint; a folder for transformers, of the class that computes the model; its"
        " adapters for PEFT; or a file of llama2.c: the one that run.c reads, version 1, or version 2 in 8"
        " bits, which runq.c reads; or a file of GGUF, which llama.cpp reads",
        default="numgpt",
    )
    flags.add(parser, "--adapter", metavar="FOLDER", help=flags.ADAPTER)
    flags.add(
        parser, "--merge", action="store_true", help="add the adapters to the matrices that they correct"
    )
    flags.add(
        parser,
        "--dequantize",
        action="store_true",
        help="write a quantized model's matrices as the floats that they stand for",
    )
    flags.add(
        parser,
        "--dtype",
        choices=("float16", *flags.DTYPES, *IN_BLOCKS),
        help="precision in which the parameters are stored; float16 is read as float32; q8_0 and q4_0 are of"
        " GGUF, with 8 and 4 bits for a number and a scale for 32",
        shown="the source's",
    )
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Write the model, and its tokenizer where the layout has a place for it."""
    from ..interchange import gguf_tokenizer, huggingface, llama2c
    from ..model.gpt import GPT

    expect_apart([args.source, *filter(None, [args.adapter])], [args.destination], "place")
    model = GPT.load(args.source)
    model = model.adapted(args.adapter) if args.adapter else model
    model = model.dequantized() if args.dequantize else model
    model = model.merged() if args.merge else model
    model.save(args.destination, args.to, args.dtype)
    own = "float32" if args.to == "gguf" else model.params.dtype
    stored = STORED.get(args.to) or args.dtype or own
    print(f"{args.destination}: {model.n_params:,} parameters, {stored}, {WRITTEN[args.to]}")
    if args.to in STORED and model.tokenizer is not None:
        _say_unless(llama2c.tokenizer_file, model)
    if args.to == "gguf":
        _say_unless(lambda m: gguf_tokenizer.written(m.tokenizer, m.config.vocab_size), model)
    if args.to == "hf" and not (Path(args.destination) / huggingface.TOKENIZER[0]).exists():
        _say_unless(huggingface.tokenizer_files, model)
    return 0


def _say_unless(files: Callable[[Model], object], model: Model) -> None:
    """Say why a tokenizer was not written, where its files cannot be made."""
    try:
        files(model)
    except InputError as error:
        say(f"numgpt: the tokenizer is not converted ({one_line(error)})")
