"""numgpt explore: one page on which every number of a forward and a backward can be opened."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import flags
from .places import STDOUT, expect_apart
from .printing import say

if TYPE_CHECKING:
    from ..model.gpt import GPT
    from ..traces import Trace

HELP = "Write one page on which every value and gradient of a model can be looked into."
EXAMPLE = 'numgpt explore numgpt:tiny --prompt "It is a truth universally" -o page.html'

MODEL = "numgpt:tiny"
PROMPT = "It is a truth universally"
NEXT = "next"
WIDTHS = tuple(2.0**-n for n in range(3, 34, 6))  # half widths of the differences, which make a curve
PAIR = (2.0**-15, 2.0**-21)  # as few as tell whether a width is narrow enough
CURVES, MEASURED = 100_000, 3_000_000  # parameters up to which a model has curves, and differences at all
MOST_TEXTS = 4096  # words of a vocabulary that the page has all of


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt explore."""
    flags.add(
        parser,
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{flags.MODEL}; or the file of a trace",
        shown=MODEL,
    )
    flags.add(parser, "--prompt", metavar="TEXT", help="text that the model reads", shown=PROMPT)
    flags.add(
        parser,
        "--target",
        metavar="TEXT",
        help="what should follow, of which alone the loss is; or next: each token predicts the next",
        shown=NEXT,
    )
    flags.add(
        parser,
        "-o",
        "--out",
        metavar="FILE",
        help="where to write the page; - for standard output",
        default="page.html",
    )
    flags.add(parser, "--title", metavar="TEXT", help="what the page is called", shown="the prompt")
    flags.add(
        parser,
        "--beside",
        metavar="MODEL",
        help="another model, or the file of a trace, to compare with: it reads the same text",
    )
    flags.add(
        parser,
        "--torch",
        action="store_true",
        help="stand PyTorch's numbers beside, computed by it in float64",
    )
    flags.add(parser, "--open", action="store_true", help="open the page in a browser")
    size = parser.add_argument_group("size", "of the page, which is at most 32 MB unless asked for in full")
    flags.add(
        size,
        "--blocks",
        type=flags.numbers,
        metavar="N,N",
        help="blocks that are shown whole, such as 0,11; of others the norms and the largest entries",
        shown="all",
    )
    flags.add(size, "--float32", action="store_true", help="write numbers in float32: half the size")
    flags.add(size, "--full", action="store_true", help="write a page of any size")
    flags.add_engine(parser, tf32=False)


def run(args: argparse.Namespace) -> int:
    """Run the model both ways, and write the page."""
    from .. import pages

    out = None if args.out == STDOUT else Path(args.out)
    if out is None and args.open:
        raise InputError("explore: --open needs a file, expected its name after --out: - is standard output")
    places = [args.model or MODEL, *([args.beside] if args.beside else [])]
    expect_apart(places, [] if out is None else [out])
    trace, *others = (_trace(place, args) for place in places)
    dtype = "float32" if args.float32 else None
    page = pages.explore(
        trace,
        out,
        title=_title(places[0], args),
        full=args.full,
        dtype=dtype,
        blocks=args.blocks,
        beside=others[0] if others else None,
    )
    if out is None:
        print(page.html)
        return 0
    say(f"page: {out}, {page.size / 1e6:.1f} MB; open it in a browser, it needs no network")
    if args.open:
        import webbrowser

        webbrowser.open(out.resolve().as_uri())
    return 0


def _title(place: str, args: argparse.Namespace) -> str | None:
    """What the page is called: the prompt as it was given, of whose letters a token may be a part."""
    from ..pages import packing

    if args.title is not None or Path(place).is_file():
        return args.title
    prompt = PROMPT if args.prompt is None else args.prompt
    return packing.shortened(prompt if args.target in (None, NEXT) else prompt + args.target)


def _trace(place: str, args: argparse.Namespace) -> Trace:
    """The trace that a place leads to: a file is one, a model reads the prompt."""
    from ..model.gpt import GPT
    from ..traces import Trace

    if Path(place).is_file():
        for flag in ("prompt", "target"):
            if getattr(args, flag) is not None:
                raise InputError(
                    f"explore: {place} is a trace with tokens of its own, expected no --{flag} beside it"
                )
        return Trace.read(place)
    model = GPT.load(place)
    _expect_room(model, place, args)
    if model.n_params <= MEASURED:
        model = model.astype("float64")
    return _trace_of(model, place, args)


def _expect_room(model: GPT, place: str, args: argparse.Namespace) -> None:
    """Raise InputError, before the work, for a model whose parameters alone are more than a page."""
    from ..pages.selecting import MOST

    size = model.n_params * 2 * (4 if args.float32 else 8) * 4 // 3
    if size > MOST and not args.full and args.blocks is None:
        ways = (
            "--blocks 0, --float32 or --full"
            if not args.float32 and size <= 2 * MOST
            else "--blocks 0, or --full"
        )
        raise InputError(
            f"explore: {place} has {model.n_params:,} parameters, whose page would have some"
            f" {size / 1e6:,.0f} MB, expected at most {MOST / 1e6:.0f}: choose {ways}"
        )


def _trace_of(model: GPT, place: str, args: argparse.Namespace) -> Trace:
    """The trace of a model that reads the prompt, with differences and the texts of its tokens."""
    tokens, targets = _batch(model, args)
    record = model.record(tokens, targets)
    reference = None
    if args.torch:
        from .. import parity

        reference = parity.reference(record)
    trace = record.trace(reference=reference)
    tokenizer = model.tokenizer
    if tokenizer is not None and len(tokenizer.pieces) <= MOST_TEXTS:
        trace.texts |= {i: tokenizer.decode([i]) for i in range(len(tokenizer.pieces))}
    source = f"{place}, {trace.source}"
    return dataclasses.replace(trace, differences=_differences(record, model.n_params), source=source)


def _batch(model: GPT, args: argparse.Namespace) -> tuple[Any, Any]:
    """(tokens, targets) of one row."""
    if model.tokenizer is None:
        raise InputError(
            "explore: the model has no tokenizer, expected one for a text: in Python, explore a trace of it"
        )
    prompt = PROMPT if args.prompt is None else args.prompt
    given = model.tokenizer.encode(prompt)
    is_next = args.target in (None, NEXT)
    ids = given if is_next else model.tokenizer.encode(prompt + args.target)
    most = model.config.block_size + 1
    if model.config.positions == "learned" and len(ids) > most:
        raise InputError(
            f"explore: the text has {len(ids):,} tokens, expected at most {most:,}: the model knows"
            f" {most - 1:,} positions, and the last token is predicted alone"
        )
    if is_next and len(ids) < 2:
        raise InputError("explore: the prompt has one token, expected two: one that predicts another")
    if not is_next and len(ids) <= len(given):
        raise InputError("explore: the target adds no token to the prompt, expected at least one")
    targets = ids[None, 1:].copy()
    if not is_next:
        targets[:, : len(given) - 1] = -1
    return ids[None, :-1], targets


def _differences(record: Any, n_params: int) -> Any:
    """Finite differences where the gradient of each op and parameter is largest; of a small model, curves."""
    import numpy as np

    from ..ops import Op

    if n_params > MEASURED:
        return ()
    largest = {}
    for name, grad in record.grad.items():
        if name in record.ops and not isinstance(record.ops[name], Op):
            continue  # a layer, whose value is that of its last op
        size = np.nan_to_num(abs(grad), nan=0.0)
        largest[name] = [tuple(map(int, np.unravel_index(size.argmax(), grad.shape)))]
    return record.trace(differences=largest, h=WIDTHS if n_params <= CURVES else PAIR).differences
