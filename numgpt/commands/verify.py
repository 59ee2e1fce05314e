"""numgpt verify: every op, layer and model beside PyTorch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from . import flags

HELP = "Compare every op, layer and model, and ten steps of AdamW, with PyTorch."
EXAMPLE = "numgpt verify --html parity.html"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt verify."""
    flags.add(
        parser,
        "names",
        nargs="*",
        metavar="NAME",
        help="part of the name of what to compare: layernorm, GPT-2, truth (whose float32 is closer to it)",
        shown="everything",
    )
    flags.add(
        parser,
        "--zoo",
        action="store_true",
        help="compare every class of transformers that is read, as a tiny random model in float64 throughout:"
        " its logits, gradients, decoding with a cache and files",
    )
    flags.add(parser, "--seed", type=flags.count, metavar="N", help="seed of the arrays", default=0)
    flags.add(
        parser,
        "--seeds",
        type=flags.positive,
        metavar="N",
        help="training steps over which truth averages the rounding errors",
        default=16,
    )
    flags.add(parser, "--html", metavar="FILE", help="also write the tables to a page that you can pass on")
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line a comparison; 1 where one fails."""
    if args.zoo:
        return _zoo(args)
    from ..engine import current
    from ..parity import page, truth
    from ..parity import verify as parity
    from ..parity.borrowing import torch
    from ..storage.atomic import write_file
    from ..storage.output import lasting

    if args.html and (Path(args.html).is_dir() or not Path(args.html).absolute().parent.is_dir()):
        raise InputError(f"verify: --html is {args.html}, expected a file to write, in a folder that exists")
    torch()  # is an InputError where PyTorch is not installed
    if args.names and not any(part in name for part in args.names for name in parity.names_of(args.seed)):
        raise InputError(
            f"verify: nothing is called {' or '.join(args.names)}, expected part of a name such as layernorm:"
            " numgpt verify lists them all"
        )
    shown = lasting(sys.stdout) if args.html else sys.stdout  # the page is made whoever reads
    print(f"{page.versions()}, engine {current()}\n\n{parity.HEADER}", file=shown)
    lines, tensors = [], []
    for line in parity.lines(args.seed, args.names):
        lines.append(line)
        print(line, file=shown, flush=True)
    if not args.names or any(name in parity.TRUTH for name in args.names):
        tensors = truth.measure(seeds=range(args.seed, args.seed + args.seeds))
        for line in parity.truth_lines(tensors):
            lines.append(line)
            print(line, file=shown, flush=True)
        print(f"\n{truth.HEADER}", *tensors, sep="\n", file=shown)
    if args.html:
        write_file(args.html, page.page(lines, tensors, current()).encode())
    failed = sum(not line.holds for line in lines)
    skipped = sum(line.limit is None for line in lines)
    summary = f"{len(lines) - skipped} comparisons with PyTorch, {failed} failed"
    if skipped:
        summary += f", {skipped} skipped"
    if args.html:
        summary += f"; the page is {args.html}"
    print(f"\n{summary}", file=shown)
    return 1 if failed else 0


def _zoo(args: argparse.Namespace) -> int:
    """Print a line a class of transformers; 1 where one fails."""
    from ..engine import current
    from ..parity import page, zoo
    from ..parity.borrowing import torch

    if args.html:
        raise InputError("verify: --html is for the comparisons without --zoo, expected one of the two")
    cases = zoo.chosen(args.names)
    torch()
    print(f"{page.versions()}, engine {current()}\n\n{zoo.HEADER}")
    failed = 0
    for found in zoo.lines(args.seed, cases):
        failed += not found.holds()
        print(f"{found}{'' if found.holds() else '  FAILS'}", flush=True)
    print(f"\n{len(cases)} models of transformers, {failed} failed: at most 1e-12 of the largest entry")
    return 1 if failed else 0
