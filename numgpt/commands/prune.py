"""numgpt prune: a model without its least weights, neurons or heads."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.pruned import CRITERIA, UNITS, WITHIN
from ..errors import InputError
from . import flags
from .places import expect_apart

if TYPE_CHECKING:
    from ..model.gpt import GPT

HELP = "Remove the least weights, neurons or heads of a model."
EXAMPLE = "numgpt prune numgpt:austen sparse --sparsity 0.5 --criterion fisher --data numgpt:austen"
BATCHES = 16  # that a criterion learns from
MEASURED = 16384  # tokens at most whose loss is measured
PAIRS = 9  # of forwards that are timed, one model after the other


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of numgpt prune."""
    flags.add(parser, "source", metavar="MODEL", help=flags.MODEL)
    flags.add(parser, "destination", metavar="OUT", help="the folder to write")
    flags.add(
        parser,
        "--sparsity",
        type=float,
        metavar="S",
        help="the share that goes, more than 0 and less than 1",
        shown="as the pattern says",
    )
    flags.add(
        parser,
        "--structured",
        choices=UNITS,
        help="take out heads, or neurons of feed-forwards: the model is smaller and faster",
        shown="mask single weights, which stay 0 in further training",
    )
    flags.add(
        parser,
        "--pattern",
        metavar="N:M",
        help="2:4 leaves at most 2 of each 4 weights of an output that lie side by side",
    )
    flags.add(
        parser,
        "--criterion",
        choices=CRITERIA,
        help="the least by size; by the first term of what removing costs in loss, or by the second, both"
        " from --data",
        default="magnitude",
    )
    flags.add(
        parser,
        "--within",
        choices=WITHIN,
        help="whether the share is that of each matrix, or each layer's heads or neurons, or of all together",
        shown="part; model for heads and neurons by gradient or fisher",
    )
    flags.add(
        parser,
        "--data",
        nargs="+",
        metavar="FILE",
        help=f"nine tenths are what a criterion learns from, of the last the loss is measured: {flags.TEXTS}",
    )
    flags.add_special(parser, "the text of --data")
    flags.add(
        parser,
        "--batches",
        type=flags.positive,
        metavar="N",
        help="batches that a criterion learns from",
        shown=BATCHES,
    )
    flags.add(parser, "--batch-size", type=flags.positive, metavar="N", help="rows of a batch", default=8)
    flags.add(parser, "--json", action="store_true", help="print the report as JSON")
    flags.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Write the pruned model, and print what went and what it costs."""
    from ..model.gpt import GPT

    if args.batches is not None and args.criterion == "magnitude":
        raise InputError(
            "prune: --batches is given, and --criterion magnitude learns from no text, expected gradient or"
            " fisher beside it: or leave it out"
        )
    expect_apart([args.source], [args.destination], "place")
    model = GPT.load(args.source)
    learned, measured = _texts(args, model)
    rows = None if args.criterion == "magnitude" else learned
    pruned = model.pruned(args.sparsity, args.criterion, rows, args.pattern, args.structured, args.within)
    report = _report(args, model, pruned, measured)
    pruned.save(args.destination)
    print(json.dumps(report) if args.json else "\n".join(_lines(report)))
    return 0


def _texts(args: argparse.Namespace, model: GPT) -> tuple[Any, Any]:
    """(rows that a criterion learns from, rows whose loss is measured), each (B, T + 1), or None."""
    from ..data.corpus import encode

    if not args.data:
        if args.criterion != "magnitude":
            raise InputError(f"prune: --criterion {args.criterion} needs a text, expected --data FILE")
        return None, None
    if model.tokenizer is None:
        raise InputError("prune: the model has no tokenizer, expected one to read the text of --data")
    _, ids = encode(args.data, model.tokenizer, args.special)
    T = model.config.block_size
    cut = len(ids) * 9 // 10
    if len(ids) - cut <= T:
        raise InputError(
            f"prune: --data has {len(ids):,} tokens, expected at least {10 * (T + 1):,}: ten contexts of {T}"
        )
    learned = spread(ids[:cut], T, (args.batches or BATCHES) * args.batch_size)
    return learned, spread(ids[cut:], T, max(1, MEASURED // T))


def spread(ids: NDArray[Any], T: int, n: int) -> NDArray[np.int64]:
    """At most n rows of T + 1 tokens, which do not overlap, evenly spread over a text."""
    n = min(n, (len(ids) - 1) // T)
    starts = np.linspace(0, len(ids) - T - 1, n).astype(np.int64)
    return np.stack([np.asarray(ids[start : start + T + 1], np.int64) for start in starts])


class Matrix(NamedTuple):
    """A row of the report: a matrix before and after, and the share of its weights that has gone."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    sparsity: float


def matrices(model: GPT, pruned: GPT) -> list[Matrix]:
    """What has gone of each matrix that may be pruned."""
    from ..architecture.pruned import prunable

    found = []
    for name, part in prunable(model.config).items():
        weight, mask = pruned.params[f"{name}.weight"], pruned.params.get(f"{name}.weight_mask")
        left = weight.size if mask is None else int((mask != 0).sum())
        found.append(Matrix(name, part.shape, weight.shape, 1 - left / int(np.prod(part.shape))))
    return found


def _report(args: argparse.Namespace, model: GPT, pruned: GPT, rows: Any) -> dict[str, Any]:
    """What is printed, as --json has it."""
    found = matrices(model, pruned)
    whole = sum(int(np.prod(m.before)) for m in found)
    gone = sum(m.sparsity * int(np.prod(m.before)) for m in found)
    losses = None if rows is None else [_loss(m, rows) for m in (model, pruned)]
    report: dict[str, Any] = {
        "folder": args.destination,
        "criterion": args.criterion,
        "sparsity": gone / whole,
        "parameters": [model.n_params, pruned.n_params],
        "matrices": [m._asdict() for m in found],
        "loss": losses,
        "tokens": None if rows is None else rows[:, 1:].size,
    }
    if args.structured:
        field = {"heads": "n_head", "neurons": "ffn_width"}[args.structured]
        layers = zip(model.config.scopes().values(), pruned.config.scopes().values())
        report[args.structured] = [[getattr(c, field) for c in pair] for pair in layers]
        report["milliseconds"] = [1000 * seconds for seconds in paired_times(model, pruned)]
    return report


def _loss(model: GPT, rows: NDArray[Any], at_once: int = 16) -> float:
    """The mean loss of rows of one length, some at a time."""
    batches = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    return sum(float(model.loss(b[:, :-1], b[:, 1:])) * len(b) for b in batches) / len(rows)


def paired_times(model: GPT, pruned: GPT, rows: int = 4) -> tuple[float, float]:
    """Median seconds of a forward of each, taken in turn; of rows of as many tokens as a context has."""
    T, V = min(model.config.block_size, 256), model.config.vocab_size
    ids = np.random.default_rng(0).integers(0, V, (rows, T))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PAIRS + 1):  # the first compiles and warms up
        for m, times in zip((model, pruned), seconds):
            begin = time.perf_counter()
            engine.home(m(ids))
            times.append(time.perf_counter() - begin)
    before, after = (statistics.median(times[1:]) for times in seconds)
    return before, after


def _lines(report: dict[str, Any]) -> list[str]:
    """The report as a table."""
    smaller = report["parameters"][0] != report["parameters"][1]
    found = [m for m in report["matrices"] if m["sparsity"] > 0 or not smaller]
    width = max(len("matrix"), *(len(m["name"]) for m in found))
    shapes = [("×".join(map(str, m["before"])), "×".join(map(str, m["after"]))) for m in found]
    wide = max(len(text) for pair in shapes for text in pair)
    head = f"{'matrix':{width}}  {'shape':>{wide}}"
    lines = [f"{head}  {'left':>{wide}}      gone" if smaller else f"{head}    masked"]
    for m, (before, after) in zip(found, shapes):
        own = f"  {after:>{wide}}" if smaller else ""
        lines.append(f"{m['name']:{width}}  {before:>{wide}}{own}  {m['sparsity']:7.1%}")
    before, after = report["parameters"]
    lines += [
        "",
        f"in all        {report['sparsity']:.1%} of attention and feed-forward, by {report['criterion']}",
    ]
    lines.append(f"parameters    {before:,}" + (f" → {after:,}" if after != before else ""))
    for kind in ("heads", "neurons"):
        if kind in report:
            counts = ", ".join(f"{a} → {b}" for a, b in report[kind])
            lines.append(f"{kind:12}  {counts}  (layer by layer)")
    if "milliseconds" in report:
        a, b = report["milliseconds"]
        lines.append(
            f"a forward     {a:.1f} ms → {b:.1f} ms, {a / b:.2f} × as fast (medians of {PAIRS} pairs)"
        )
    if report["loss"] is not None:
        a, b = report["loss"]
        lines.append(f"loss          {a:.4f} → {b:.4f} nats a token, of {report['tokens']:,} ({b - a:+.4f})")
    lines.append(f"written to    {report['folder']}")
    return lines
