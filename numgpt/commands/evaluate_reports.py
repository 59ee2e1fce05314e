"""What numgpt eval prints of tasks: measures with their errors, by groups, and differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..plots.table import Table
from .printing import plural

if TYPE_CHECKING:
    from ..evaluation import Estimate, Lambada, Positions, Result, Suite, WikiText

KINDS = {
    "choice": "with choices",
    "answer": "with answers to be written",
    "text": "to be predicted",
}


def report(suite: Suite, results: Mapping[str, Result], source: str) -> str:
    """The task and its protocol, each measure, and the first one by groups."""
    first = next(iter(results.values()))
    n = len(suite.questions)
    noun = plural(n, "text" if suite.kind == "text" else "question")
    lines = [
        f"task      {suite.name}: {noun} {KINDS[suite.kind]}, {source}",
        f"SHA-256   {suite.digest}",
        f"protocol  {_protocol(suite, first)}",
    ]
    for name, result in results.items():
        if result.cut:
            of_name = f" by {name}" if len(results) > 1 else ""
            lines.append(
                f"cut       {plural(result.cut, 'prompt')} at the beginning{of_name}: too long to be read"
            )
    rows = [(measure, *_cells(results, measure)) for measure in first.measures]
    lines += ["", repr(Table(("measure", *_head(results)), tuple(rows)))]
    groups = sorted((group for group in suite.groups if group), key=_by_number)
    if len(groups) > 1:
        of_groups = [(g, f"{suite.groups[g]:,}", *_cells(results, first.main, g)) for g in groups]
        head = (f"{first.main} of", "questions", *_head(results))
        lines += ["", repr(Table(head, tuple(of_groups)))]
    if all(estimate.error == 0 for estimate in (r.estimate() for r in results.values())) and n > 1:
        lines += [
            "",
            f"All or none of {n:,}: ± 0 is no certainty, up to {3 / n:.1%} may be otherwise (95 %).",
        ]
    return "\n".join(lines)


def _by_number(group: str) -> tuple[str, int, str]:
    """So that a group of 10 comes behind one of 9."""
    digits = "".join(c for c in group if c.isdigit())
    return ("".join(c for c in group if not c.isdigit()).rstrip("s"), int(digits or 0), group)


def _protocol(suite: Suite, result: Result) -> str:
    """What else decides the numbers."""
    told = result.protocol
    parts = [f"context {told['block_size']}"]
    if suite.kind != "text":
        drawn = "" if not told["shots"] else f" drawn by seed {told['seed']}"
        parts.insert(0, f"{plural(told['shots'], 'example')} before each{drawn}")
    if suite.kind == "answer":
        how = f"{told['samples']} at temperature {told['temperature']:g}" if told["temperature"] else "greedy"
        parts += [
            f"{how}, at most {told['max_new_tokens']} tokens up to {', '.join(map(repr, told['stop']))}"
        ]
    else:
        parts.append(f"a text begins behind {told['prefix']!r}")
    return ", ".join(parts)


def _head(results: Mapping[str, Result]) -> tuple[str, ...]:
    return (*results, "difference") if len(results) == 2 else tuple(results)


def _cells(results: Mapping[str, Result], measure: str, group: str | None = None) -> list[str]:
    """The measure of each, and of two how much higher it is of the first."""
    cells = [_cell(result.estimate(measure, group)) for result in results.values()]
    if len(results) == 2:
        first, second = results.values()
        gain = first.difference(second, measure, group)
        logarithm = " (of ln)" if first.measures[measure].is_exponent else ""
        cells.append(f"{_cell(gain, sign='+')}{logarithm}")
    return cells


def _cell(estimate: Estimate, sign: str = "") -> str:
    digits = 4 if abs(estimate.value) < 100 else 2
    return f"{estimate.value:{sign}.{digits}f} ± {estimate.error:.{digits}f}"


def positions_report(found: Mapping[str, Positions], source: str) -> str:
    """Means over positions that double, and the in-context score."""
    from ..evaluation.positions import doubling

    (first, *others) = found.values()
    sizes = [f"{len(one.losses):,} of {one.losses.shape[1]:,} tokens" for one in found.values()]
    is_same = all(other.losses.shape == first.losses.shape for other in others)
    windows = sizes[0] if is_same else ", ".join(f"{size} for {name}" for name, size in zip(found, sizes))
    lines = [f"text      {source}", f"windows   {windows}, which do not overlap", ""]
    rows = []
    for begin, end in doubling(max(one.losses.shape[1] for one in found.values())):
        cells = [
            _cell(one.between(begin, min(end, one.losses.shape[1]))) if begin <= one.losses.shape[1] else "–"
            for one in found.values()
        ]
        rows.append((f"{begin}" if begin == end else f"{begin}–{end}", *cells))
    lines.append(repr(Table(("tokens before", *found), tuple(rows))))
    lines.append("")
    for name, one in found.items():
        early, late = one.places
        of_name = f" of {name}" if len(found) > 1 else ""
        score = one.score()
        lines.append(
            f"in-context score{of_name}: {_cell(score, '+')} nats, the loss at {late} less that at {early}"
        )
    return "\n".join(lines)


def wikitext_report(found: WikiText, path: str) -> Iterator[str]:
    """Both protocols."""
    strided, pages = found
    yield f"text             {path}"
    yield (
        f"as it is         perplexity {strided.perplexity:.4f} a token, {strided.bits_per_byte:.4f} bits per"
        f" byte: {strided.tokens:,} tokens, context {strided.block_size}, stride {strided.stride}"
    )
    word, byte = (pages.estimate(f"{unit}_perplexity") for unit in ("word", "byte"))
    yield (
        f"pages (lm-eval)  perplexity {_cell(word)} a word, {_cell(byte)} a byte,"
        f" {_cell(pages.estimate('bits_per_byte'))} bits per byte"
    )
    yield (
        f"                 {plural(len(pages.suite.questions), 'page')}, each alone and put together again,"
        " words and bytes of the page as it is"
    )


def lambada_report(found: Lambada, path: str) -> Iterator[str]:
    """The last word's perplexity and accuracy."""
    yield f"passages    {found.passages:,} of {path}, the last word of each"
    yield f"loss        {_cell(found.loss)} nats a word"
    yield f"perplexity  {found.perplexity:.4f}"
    yield f"accuracy    {_cell(found.accuracy)}: each token of the word is the likeliest"
