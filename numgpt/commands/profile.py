"""numgpt profile: where the time of a training step goes, beside what the processor could do."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture import presets
from ..architecture.config import Config
from ..errors import InputError
from ..storage.shipped import located
from . import flags

if TYPE_CHECKING:
    from ..engine.roofline_numba import Roofline
    from ..model.gpt import GPT
    from ..training.profile import Part, Profile

HELP = "Time a training step by name, beside the processor's own limits."
EXAMPLE = "numgpt profile gpt-micro --vocab-size 512"

BATCH = 8  # sequences, where no preset says how many
HEADS = ("ms forward", "ms backward", "GFLOP", "MB", "GFLOP/s", "of the roofline")
WIDTHS = (11, 12, 8, 8, 8, 16)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt profile."""
    flags.add(
        parser,
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"a checkpoint or a run, or a preset: {', '.join(presets.MODELS)}",
        default=presets.DEFAULT,
    )
    flags.add(
        parser,
        "--batch-size",
        type=flags.positive,
        metavar="B",
        help="sequences a step",
        shown=f"the preset's, or {BATCH}",
    )
    flags.add(
        parser,
        "--tokens",
        type=flags.positive,
        metavar="T",
        help="tokens a sequence",
        shown="the model's block_size",
    )
    flags.add(parser, "--rounds", type=flags.positive, metavar="N", help="steps that are timed", default=10)
    flags.add(
        parser,
        "--dtype",
        choices=flags.DTYPES,
        help="precision of parameters and computation",
        default="float32",
    )
    flags.add(parser, "--json", action="store_true", help="print the figures as JSON")
    flags.add_fields(parser, presets.preset(presets.DEFAULT), presets.DEFAULT)
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the parts of a step as a table."""
    import numpy as np

    from ..training.profile import profile

    measured = _measures()
    model, B = _model(args)
    T = flags.length(args, model.config)
    tokens, targets = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, B, T))
    found = profile(model, tokens, targets, args.rounds)
    limits = measured(args.dtype)
    if args.json:
        print(json.dumps(_facts(found, limits), indent=1))
    else:
        _print(args, model, (B, T), found, limits)
    return 0


def _measures() -> Callable[[str], Roofline]:
    """The function that measures the processor, which a kernel does: InputError where there is no Numba."""
    try:
        from ..engine.roofline_numba import measured
    except ImportError as error:
        raise InputError(
            "profile: Numba is not installed, expected it, to measure the processor: pip install numba"
        ) from error
    return measured


def _model(args: argparse.Namespace) -> tuple[GPT, int]:
    """The model of a preset or a checkpoint, and how many sequences its step has."""
    from ..model.gpt import GPT

    changes = flags.fields(args, Config)
    if args.model in presets.MODELS or not Path(located(args.model)).exists():
        training = presets.preset_training(args.model)
        model = GPT(presets.preset(args.model, **changes), seed=0, dtype=args.dtype)
        return model, args.batch_size or training.batch_size
    model = GPT.load(args.model)
    if changes:
        model = GPT(dataclasses.replace(model.config, **changes), seed=0)
    return model.astype(args.dtype), args.batch_size or BATCH


def _print(
    args: argparse.Namespace, model: GPT, size: tuple[int, int], found: Profile, limits: Roofline
) -> None:
    """The step as it runs, then what ran in one piece op by op."""
    from .. import engine
    from ..engine import jit

    B, T = size
    batch = f"batch {B} × {T} tokens, {args.dtype}, {engine.current()}"
    print(f"{args.model}: {model.n_params:,} parameters, {batch}")
    print(
        f"the processor, {jit.threads()} threads: {limits.flops / 1e9:.0f} GFLOP/s in registers,"
        f" {limits.bandwidth / 1e9:.1f} GB/s read from memory"
    )
    _table("the step as it runs", found.parts, limits)
    between = found.seconds - sum(part.seconds for part in found.parts.values())
    print(f"  {'between them':26}{1e3 * between:11.3f}")
    print(f"  {'the step':26}{1e3 * found.seconds:11.3f}{B * T / found.seconds:14,.0f} tokens/s")
    if found.opened:
        _table("what ran as one piece, op by op", found.opened, limits)
        together = sum(part.seconds for part in found.opened.values())
        print(f"  {'together':26}{1e3 * together:11.3f}")


def _table(title: str, parts: dict[str, Part], limits: Roofline) -> None:
    print(f"\n{title:28}" + "".join(f"{head:>{width}}" for head, width in zip(HEADS, WIDTHS)))
    for name, part in parts.items():
        cells = (
            f"{1e3 * part.forward:.3f}",
            f"{1e3 * part.backward:.3f}" if part.backward else "",
            f"{part.flops / 1e9:.3f}" if part.flops else "",
            f"{part.moved / 1e6:.1f}",
            f"{part.flops / part.seconds / 1e9:.0f}" if part.flops else "",
            _share(part, limits),
        )
        print(f"  {name:26}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS)))


def _share(part: Part, limits: Roofline) -> str:
    """The share of the roofline in words, with the limit that it is of."""
    by = "flops" if part.flops / limits.flops > part.moved / limits.bandwidth else "bytes"
    return f"{100 * _of_roofline(part, limits):.0f} % {by}"


def _of_roofline(part: Part, limits: Roofline) -> float:
    """The least time that the work takes, as a share of what it took."""
    return limits.seconds(part.flops, part.moved) / part.seconds


def _facts(found: Profile, limits: Roofline) -> dict[str, Any]:
    """The figures by name."""

    def of(parts: dict[str, Part]) -> dict[str, Any]:
        return {n: {**part._asdict(), "of_roofline": _of_roofline(part, limits)} for n, part in parts.items()}

    return {
        "seconds": found.seconds,
        "flops_per_second": limits.flops,
        "bytes_per_second": limits.bandwidth,
        "parts": of(found.parts),
        "opened": of(found.opened),
    }
