"""numgpt info: what a model costs, before there is one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..architecture import presets
from ..architecture.additions import pruned_by, quantized_by
from ..architecture.config import Config, Training
from ..architecture.fields import from_dict, to_dict
from ..architecture.quantized import Quantized
from ..storage.shipped import located
from . import flags
from .printing import human_size

if TYPE_CHECKING:
    from ..model.gpt import GPT

HELP = "Count a model's parameters, bytes and FLOPs without allocating it."
EXAMPLE = "numgpt info gpt3-175b --batch-size 1"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt info."""
    flags.add(
        parser,
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"a checkpoint, numgpt:austen or numgpt:tiny, or a preset: {', '.join(presets.MODELS)}",
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
    flags.add(
        parser,
        "--names",
        metavar="CLASS",
        help=(
            "print how a class of transformers calls our parameters instead, by its model_type, such as llama"
        ),
    )
    flags.add_fields(parser, presets.preset(presets.DEFAULT), presets.DEFAULT)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the counts as tables, each with its total."""
    from ..model import accounting

    if args.names:
        return _print_names(args.names)
    model = _stored(args.model)
    config = _config(args, model)
    T = flags.length(args, config)
    groups = accounting.parameter_groups(config)
    memory = accounting.training_bytes(config, args.batch_size, T, args.dtype)
    flops = accounting.flops_per_token(config, T)
    print(f"{args.model}: {_listed(config)}")
    trained = _training(args.model)
    if trained is not None:
        print(f"trained with: {_listed(trained)}")
    _print_rounding(model)
    added = {} if model is None else _added(model)
    print("\nparameters")
    for name, n in (groups | added | {"total": sum((groups | added).values())}).items():
        print(_row(name, n))
    if "experts" in groups:
        print(_row("active for a token", accounting.active_parameters(config)))
    print(f"\nbytes of a training step, {args.dtype}, batch {args.batch_size} × {T} tokens")
    for name, n in (memory | {"total": sum(memory.values())}).items():
        print(f"{_row(name, n)}   {human_size(n)}")
    cached = accounting.cache_bytes(config, args.batch_size, T, args.dtype)
    print(f"\nbytes of the cache of {args.batch_size} × {T} tokens in generation, {args.dtype}")
    print(f"{_row('keys and values', cached)}   {human_size(cached)}")
    forward = sum(flops.values())
    print(f"\nFLOPs a token in a sequence of {T}")
    for name, n in (flops | {"forward": forward, "forward and backward": 3 * forward}).items():
        print(_row(name, n))
    return 0


def _print_names(kind: str) -> int:
    """Print the names of parameters, ours beside those of a class of transformers."""
    from ..interchange.architectures import beside

    rows = beside(kind)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip())
    return 0


def _training(name: str) -> Training | None:
    """How a preset is trained, or a run was; None where it is not known."""
    from ..interchange import checkpoint

    if name in presets.MODELS:
        return presets.preset_training(name)
    folders = (Path(located(name)), Path(located(name)) / "last") if _is_stored(name) else ()
    run = next(filter(checkpoint.is_run, folders), None)
    return None if run is None else from_dict(Training, checkpoint.read_state(run)["training"])


def _is_stored(name: str) -> bool:
    """Whether a name is a checkpoint's, not a preset's."""
    return name not in presets.MODELS and Path(located(name)).exists()


def _stored(name: str) -> GPT | None:
    """The model of a checkpoint; None for a preset."""
    from ..model.gpt import GPT

    return GPT.load(name) if _is_stored(name) else None


def _added(model: GPT) -> dict[str, int]:
    """How many parameters a checkpoint's adapters and head have, by their kind."""
    sizes = ((_title(a), a.shapes(model.config).values()) for a in model.additions)
    return {kind: sum(map(math.prod, shapes)) for kind, shapes in sizes if shapes}


def _title(addition: object) -> str:
    """What the parameters of an addition are called."""
    return "scales" if isinstance(addition, Quantized) else type(addition).__name__


def _print_rounding(model: GPT | None) -> None:
    """Say how a checkpoint is quantized, where it is, and what its weights take; or how much is masked."""
    if model is None:
        return
    how = quantized_by(model.additions)
    if how is not None:
        grid = f" in groups of {how.group}" if how.bits == 4 else ""
        embedding = "kept in floats" if how.keep_embedding else "in 8 bits"
        size = model.params.nbytes
        print(f"quantized: {how.bits} bits{grid}, embedding {embedding}; weights take {human_size(size)}")
    if pruned_by(model.additions) is not None:
        masks = model.params.integers.values()
        whole, gone = (sum(sizes) for sizes in zip(*((m.size, int((m == 0).sum())) for m in masks)))
        print(f"pruned: {gone:,} of {whole:,} weights in {len(masks)} matrices are masked")


def _config(args: argparse.Namespace, model: GPT | None) -> Config:
    """The config of a preset or a checkpoint, with what flags change in it."""
    changes = flags.fields(args, Config)
    if model is None:
        return presets.preset(args.model, **changes)
    return dataclasses.replace(model.config, **changes)


def _listed(settings: Config | Training) -> str:
    """Names and values of settings in a line; what a flag takes as JSON stands there as such."""
    values = to_dict(settings).items()
    return ", ".join(f"{k} {json.dumps(v) if isinstance(v, tuple | dict) else v}" for k, v in values)


def _row(name: str, n: int) -> str:
    return f"  {name:28}{n:20,}"
