"""numgpt info: what a model costs, before there is one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ..architecture import presets
from ..architecture.config import Config, to_dict
from ..errors import InputError
from . import flags
from .printing import human_size

HELP = "Count a model's parameters, bytes and FLOPs without allocating it."
EXAMPLE = "numgpt info gpt3-175b --batch-size 1"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt info."""
    flags.add(
        parser,
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"a checkpoint, or a preset: {', '.join(presets.MODELS)}",
        default=presets.DEFAULT,
    )
    flags.add(parser, "--batch-size", type=flags.positive, metavar="B", help="sequences a step", default=1)
    flags.add(
        parser,
        "--tokens",
        type=flags.positive,
        metavar="T",
        help="tokens a sequence",
        shown="the model's block_size",
    )
    flags.add(
        parser,
        "--dtype",
        choices=flags.DTYPES,
        help="precision of parameters and computation",
        default="float32",
    )
    flags.add_fields(parser, presets.preset(presets.DEFAULT), presets.DEFAULT)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the counts as tables, each with its total."""
    from ..model import accounting

    config = _config(args)
    T = args.tokens or config.block_size
    if not 1 <= T <= config.block_size:
        raise InputError(f"info: --tokens is {T}, expected 1 to block_size {config.block_size}")
    groups = accounting.parameter_groups(config)
    memory = accounting.training_bytes(config, args.batch_size, T, args.dtype)
    flops = accounting.flops_per_token(config, T)
    print(f"{args.model}: " + ", ".join(f"{k} {v}" for k, v in to_dict(config).items()))
    if args.model in presets.MODELS:
        training = presets.preset_training(args.model)
        print("trained with: " + ", ".join(f"{k} {v}" for k, v in to_dict(training).items()))
    print("\nparameters")
    for name, n in (groups | {"total": sum(groups.values())}).items():
        print(_row(name, n))
    print(f"\nbytes of a training step, {args.dtype}, batch {args.batch_size} × {T} tokens")
    for name, n in (memory | {"total": sum(memory.values())}).items():
        print(f"{_row(name, n)}   {human_size(n)}")
    forward = sum(flops.values())
    print(f"\nFLOPs a token in a sequence of {T}")
    for name, n in (flops | {"forward": forward, "forward and backward": 3 * forward}).items():
        print(_row(name, n))
    return 0


def _config(args: argparse.Namespace) -> Config:
    """The config of a preset or a checkpoint, with what flags change in it."""
    from ..model.gpt import GPT

    changes = flags.fields(args, Config)
    if args.model in presets.MODELS or not Path(args.model).exists():
        return presets.preset(args.model, **changes)
    return dataclasses.replace(GPT.load(args.model).config, **changes)


def _row(name: str, n: int) -> str:
    return f"  {name:28}{n:20,}"
