"""WikiText and LAMBADA from files: each number with the protocol that it depends on.

A perplexity of WikiText is told in several ways, whose results differ by more than most models do: with more
or less context, over tokens or over words, of the text as it is or as it was before it was taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arguments import Size, checked
from ..data.rows import rows_of, shown
from ..errors import InputError
from ..model.gpt import GPT
from ..storage.atomic import StrPath
from ..storage.files import read_bytes
from .likelihoods import Asked, Progress, encoded, ids_of, surprises, tokenizer_of
from .questions import Question, Suite
from .score import Score, score
from .statistics import Estimate, estimate
from .tasks import Result, evaluate, text_measures

HEADING = re.compile(r"^ = [^=].* = \n", re.MULTILINE)
# What lm-eval puts together again of WikiText's tokens, in this order.
PUT_TOGETHER = (
    *(("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")),
    *((f" {sign} ", f"{sign} ") for sign in ":;.!?,"),
)
PAIRED: tuple[tuple[str, str], ...] = ((r"\(\s*([^\)]*?)\s*\)", r"(\1)"), (r"\[\s*([^\]]*?)\s*\]", r"[\1]"))
PAIRED += ((r"{\s*([^}]*?)\s*}", r"{\1}"), (r"\"\s*([^\"]*?)\s*\"", r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'"))
AT_LAST = (
    *(("= = = =", "===="), ("= = =", "==="), ("= =", "==")),
    *((" ° ", "°"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")),
)


class WikiText(NamedTuple):
    """The perplexities of a text of WikiText.

    strided: of the whole, as it is. pages: of each page for itself, put together again, as lm-eval does; its
    words and bytes are those of the page before.
    """

    strided: Score
    pages: Result


class Lambada(NamedTuple):
    """What a model makes of the last words of LAMBADA's passages.

    loss: nats a word. perplexity: its exponential. accuracy: how often each token of the word is the
    likeliest. passages: how many.
    """

    loss: Estimate
    perplexity: float
    accuracy: Estimate
    passages: int


@checked
def wikitext(
    model: GPT,
    path: StrPath,
    *,
    tokens: Size | None = None,
    stride: int | None = None,
    batch_size: Size = 8,
    progress: Callable[[int], object] | None = None,
) -> WikiText:
    """The perplexities of WikiText's raw file, such as wiki.test.raw, by two protocols.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    path : path
    tokens : int, optional
        How many of the text's first tokens are read by the first protocol; all unless given. The second is
        told of the pages that lie within them.
    stride : int, optional
        Of the first protocol, as in score: half of block_size unless given.
    batch_size : int
    progress : callable, optional
        Called with the number of tokens, and then of windows, that each batch predicted.

    Raises
    ------
    InputError
        For a file in which no page begins with a heading such as " = Title = ".
    """
    text = _text(path)
    tokenizer = tokenizer_of(model)
    begins = [match.start() for match in HEADING.finditer(text)]
    if not begins:
        raise InputError(f"{path}: has no line such as ' = Title = ', expected WikiText's raw file")
    ids = ids_of(tokenizer, text)[:tokens]
    strided = score(model, ids, stride, batch_size, progress)
    read = len(text) if tokens is None else len(tokenizer.decode(ids))
    ends = [*begins[1:], len(text)]
    pages = [text[begin:end] for begin, end in zip(begins, ends) if end <= read or begin == begins[0]]
    whole = [put_together(page) for page in pages]
    suite = Suite("wikitext", [Question(page, place=f"{path}, page {n}") for n, page in enumerate(whole, 1)])
    result = evaluate(model, suite, batch_size=batch_size, progress=progress)
    loss = result.measures["loss"]
    measures = text_measures(loss.scores, pages, [int(n) for n in np.asarray(loss.weights)])
    return WikiText(strided, Result(suite, measures, result.details, result.protocol))


def put_together(page: str) -> str:
    """A page of WikiText as it was written, as far as lm-eval undoes what took it apart."""
    for old, new in PUT_TOGETHER:
        page = page.replace(old, new)
    for pattern, new in PAIRED:
        page = re.sub(pattern, new, page)
    for old, new in AT_LAST:
        page = page.replace(old, new)
    return page


@checked
def lambada(
    model: GPT,
    path: StrPath,
    *,
    passages: Size | None = None,
    batch_size: Size = 8,
    progress: Progress = None,
) -> Lambada:
    """The last word of each passage of LAMBADA: a file of objects with "text" a line, or of passages a line.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    path : path
        The file that OpenAI made is JSON, in the authors' own the passages are taken apart into words.
    passages : int, optional
        How many of the first are asked; all unless given.
    batch_size : int
    progress : callable, optional
        Called with the number of passages that each batch held.

    Raises
    ------
    InputError
        Names the line of a passage that has one word alone.
    """
    asked: list[Asked] = []
    for row in rows_of(path, "passages, an object with text a line", line_name="text"):
        if passages is not None and len(asked) == passages:
            break
        text: Any = row.fields.get("text")
        before, space, word = text.strip().rpartition(" ") if isinstance(text, str) else ("", "", "")
        if not before.strip() or not word:
            raise InputError(f"{row.place}: text is {shown(text)}, expected a passage of two words or more")
        try:
            asked.append(encoded(model, before, space + word))
        except InputError as error:
            raise InputError(f"{row.place}: {error}") from error
    if not asked:
        raise InputError(f"{path}: holds no passages, expected some")
    found = surprises(model, asked, batch_size, progress)
    loss = estimate([-float(logp.sum()) for logp, _ in found])
    accuracy = estimate([float(likeliest.all()) for _, likeliest in found])
    return Lambada(loss, float(np.exp(min(loss.value, 700.0))), accuracy, len(found))


def _text(path: StrPath) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error.reason}), expected a text") from error
