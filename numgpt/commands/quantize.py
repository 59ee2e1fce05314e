"""numgpt quantize: a model with weights of 8 or 4 bits, and what that costs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..architecture.quantized import CALIBRATION, CLIPS, Quantized
from ..errors import InputError
from . import flags
from .places import expect_apart
from .printing import human_size, say

if TYPE_CHECKING:
    from ..evaluation.quantization import Cost
    from ..model.gpt import GPT

HELP = "Round a model's weights to 8 or 4 bits, or print what each way of rounding costs it."
EXAMPLE = "numgpt quantize numgpt:austen small --bits 4 --gptq --data FILE"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt quantize."""
    flags.add(parser, "model", metavar="MODEL", help=flags.MODEL)
    flags.add(
        parser, "out", nargs="?", metavar="OUT", help="the folder to write; with --table there need be none"
    )
    flags.add(parser, "--bits", type=int, metavar="N", help="of each weight: 8, or 4", default=8)
    flags.add(
        parser,
        "--group",
        type=flags.positive,
        metavar="N",
        help="with --bits 4, how many inputs of an output share a scale",
        shown=Quantized().group,
    )
    flags.add(
        parser,
        "--clip",
        choices=CLIPS,
        help="with --bits 4, what sets a scale: the least square error, or the largest weight",
        shown=CLIPS[0],
    )
    flags.add(
        parser, "--asymmetric", action="store_true", help="with --bits 4, give each group a zero of its own"
    )
    flags.add(
        parser,
        "--gptq",
        action="store_true",
        help="with --bits 4, round for the inputs that each matrix meets in the text of --data",
    )
    flags.add(
        parser, "--keep-embedding", action="store_true", help="leave embedding and unembedding as floats"
    )
    flags.add(
        parser,
        "--table",
        action="store_true",
        help="print what each way of rounding costs on the text of --data, all of them",
    )
    flags.add_data(parser, "for what ships, the novels that it was trained on, of --table what was held out")
    flags.add_special(parser, "the text of --data")
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Write the model, and print its size before and after; or print the table."""
    from ..model.gpt import GPT

    if args.out is None and not args.table:
        raise InputError(
            "quantize: there is no OUT, expected a folder to write, or --table: give one of them"
        )
    if args.data and not (args.gptq or args.table):
        raise InputError(
            "quantize: --data is read by --gptq and --table alone, expected one of them beside it"
        )
    _settle(args)
    if args.out is not None:
        expect_apart([args.model, *(args.data or ())], [args.out], "folder")
    model = GPT.load(args.model)
    text = _text(args, model) if args.gptq or args.table else None
    if args.table:
        _print_table(args, model, text)
    if args.out is not None:
        _write(args, model, text)
    return 0


def _settle(args: argparse.Namespace) -> None:
    """Give what was left out its value; InputError for what 8 bits, with a scale an output, do not read."""
    read = {"--group": args.bits != 8 or args.table, "--clip": args.bits != 8}
    given = {"--group": args.group, "--clip": args.clip}
    for flag, value in given.items():
        if value is not None and not read[flag]:
            raise InputError(
                f"quantize: {flag} is {value}, which 8 bits do not read, expected --bits 4 beside it: or"
                " leave it out"
            )
    args.group = Quantized().group if args.group is None else args.group
    args.clip = args.clip or CLIPS[0]


def _text(args: argparse.Namespace, model: GPT) -> Any:
    """The ids of --data, or of what the training of a model that ships held out."""
    from ..data.corpus import encode
    from ..storage.shipped import MODELS, located
    from . import runs

    if model.tokenizer is None:
        raise InputError("quantize: the model has no tokenizer, expected one to read the text")
    if args.data:
        return encode(args.data, model.tokenizer, args.special)[1]
    if Path(located(args.model)).parent == MODELS:
        corpus = runs.corpus({"paths": ["numgpt:austen"]}, model)
        return corpus.held_out if args.table else corpus.train
    raise InputError("quantize: there is no --data, expected a text for --gptq and --table: name one")


def _write(args: argparse.Namespace, model: GPT, text: Any) -> None:
    """Round the model, save it, and print what it takes."""
    calibration = None
    if args.gptq:
        T = model.config.block_size
        n = min(len(text), CALIBRATION) // T
        if n == 0:
            raise InputError(f"quantize: --data has {len(text):,} tokens, expected {T:,} or more for --gptq")
        calibration = np.asarray(text[: n * T]).reshape(n, T)
    small = model.quantize(
        args.bits, args.group, args.clip, args.asymmetric, args.keep_embedding, calibration
    )
    small.save(args.out)
    before, after = model.params.nbytes, small.params.nbytes
    print(f"{args.out}: {model.n_params:,} parameters, {_described(args)}")
    print(f"  before {before:14,} bytes   {human_size(before)}, {model.params.dtype}")
    print(f"  after  {after:14,} bytes   {human_size(after)}, {after / before:.3f} of it")


def _described(args: argparse.Namespace) -> str:
    """How a model is rounded, in words."""
    embedding = "embedding kept" if args.keep_embedding else ""
    if args.bits != 4:
        return ", ".join(filter(None, [f"int{args.bits} by output", embedding]))
    words = [
        f"int4 in groups of {args.group}",
        "asymmetric" if args.asymmetric else "symmetric",
        "GPTQ" if args.gptq else "to nearest",
        "MSE clip" if args.clip == "mse" else "absmax",
        embedding or "embedding int8",
    ]
    return ", ".join(words)


def _print_table(args: argparse.Namespace, model: GPT, text: Any) -> None:
    """A line for each scheme, as it is measured."""
    from ..evaluation.quantization import quantization_costs

    head = f"{'scheme':32}{'weights':>9}{'logits':>9}{'loss +':>10}{'same top-1':>12}{'bytes':>16}"
    print(
        f"{args.model}: {model.n_params:,} parameters, {model.params.nbytes:,} bytes, groups of {args.group}"
    )
    print(head)
    costs = quantization_costs(model, np.asarray(text), args.group, lambda name: say(f"measuring {name}"))
    for cost in costs:
        print(_line(cost))


def _line(cost: Cost) -> str:
    errors = f"{cost.weights:9.2%}{cost.logits:9.2%}"
    return f"{cost.scheme:32}{errors}{cost.loss:10.5f}{cost.same:12.2%}{cost.size:16,}"
