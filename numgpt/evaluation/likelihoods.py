"""How likely a model finds what follows a context, whatever else it is asked beside it.

    ln p(continuation | context) = Σ_t ln p(token_t | all before it)

The number depends on neither the batch, nor the padding, nor the order in which the pairs are asked.
Text becomes tokens as in EleutherAI's lm-evaluation-harness ("lm-eval"): spaces at the end of a context move
to the continuation, both are encoded together and then split, and where there is no context a prefix token
stands there. What does not fit is cut off from the beginning of the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import Size, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..tokenizers import Tokenizer

Array = NDArray[Any]
Progress = Callable[[int], object] | None

LOGITS = 2**25  # of a batch at most: 128 MiB in float32
LINE_BREAK = "\n"


class Likelihood(NamedTuple):
    """What a model says of a continuation.

    logp: Σ ln p in nats. greedy: whether each token is the likeliest. tokens: of the continuation. cut:
    tokens of the context that did not fit.
    """

    logp: float
    greedy: bool
    tokens: int
    cut: int = 0


class Asked(NamedTuple):
    """Tokens that a model reads, and those that are to follow the last ones: inputs (T,), targets (n ≤ T)."""

    inputs: Array
    targets: Array
    cut: int = 0


@checked
def log_likelihoods(
    model: GPT,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_size: Size = 32,
    progress: Progress = None,
) -> list[Likelihood]:
    """The Likelihood of each continuation behind its context.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    pairs : sequence of (context, continuation)
        The context may be empty; the continuation not.
    batch_size : int
        Rows that the model reads at once; what has the same tokens before it is read once.
    progress : callable, optional
        Called with the number of pairs that each batch answered.

    Raises
    ------
    InputError
        For a model without a tokenizer, a text that it cannot spell, and a continuation that has no token, or
        more than block_size.

    Examples
    --------
    >>> import numgpt
    >>> model = numgpt.GPT.load("numgpt:austen")
    >>> likely, unlikely = log_likelihoods(model, [("She was not", " at"), ("She was not", " the")])
    >>> likely.tokens, likely.greedy, likely.logp > unlikely.logp
    (1, False, True)
    """
    asked = [encoded(model, *pair) for pair in pairs]
    found = surprises(model, asked, batch_size, progress)
    return [
        Likelihood(float(logp.sum()), bool(likeliest.all()), len(logp), one.cut)
        for one, (logp, likeliest) in zip(asked, found)
    ]


def tokenizer_of(model: GPT) -> Tokenizer:
    """A model's tokenizer; InputError where it has none."""
    if model.tokenizer is None:
        raise InputError("eval: the model has no tokenizer, expected one to read texts: set model.tokenizer")
    return model.tokenizer


def prefix_of(tokenizer: Tokenizer) -> Array:
    """The token (1,) behind which a text begins: a special token, or where there is none a line break."""
    begin = tokenizer.begin_of_text
    special = tokenizer.end_of_text if begin is None else tokenizer.specials[begin]
    if special is not None:
        return np.array([special])
    try:
        return tokenizer.encode(LINE_BREAK)[-1:].astype(np.int64)
    except InputError as error:
        raise InputError(
            "eval: the tokenizer has no special token and no line break, expected one of them, behind which a"
            " text begins: add one by numgpt.tokenizers.with_specials"
        ) from error


def ids_of(tokenizer: Tokenizer, text: str) -> Array:
    """The ids of a text, whose special tokens are read as such."""
    return tokenizer.encode(text, special="allow").astype(np.int64)


def encoded(model: GPT, context: str, continuation: str) -> Asked:
    """A pair in tokens; InputError where the continuation cannot be asked for."""
    tokenizer = tokenizer_of(model)
    begin = tokenizer.begin_of_text
    before = prefix_of(tokenizer)
    if not context:
        targets = ids_of(tokenizer, continuation)
        if len(targets) > 1 and targets[0] == before[0]:  # which a text need not begin with twice
            targets = targets[1:]
    else:
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        own = ids_of(tokenizer, kept)
        targets = ids_of(tokenizer, kept + continuation)[len(own) :]
        before = own if begin is None else np.concatenate([before, own])
        if not len(before):  # a context of spaces alone, which have moved
            before = prefix_of(tokenizer)
    size = model.config.block_size
    if not 0 < len(targets) <= size:
        shown = continuation if len(continuation) <= 40 else f"{continuation[:40]}…"
        raise InputError(
            f"eval: {shown!r} has {len(targets):,} tokens behind its context, expected 1 to block_size"
            f" {size:,}"
        )
    whole = np.concatenate([before, targets])
    inputs = whole[-(size + 1) : -1]
    return Asked(inputs, targets, len(whole) - 1 - len(inputs))


def surprises(
    model: GPT, asked: Sequence[Asked], batch_size: int = 32, progress: Progress = None
) -> list[tuple[Array, Array]]:
    """(ln p (n,) in float64, whether each is the likeliest (n,)) of the targets of each, in their order."""
    found: list[tuple[Array, Array]] = [(np.zeros(0), np.zeros(0, bool))] * len(asked)
    rows: dict[bytes, list[int]] = {}
    for n, one in enumerate(asked):  # what has the same inputs shares a row
        rows.setdefault(one.inputs.tobytes(), []).append(n)
    for batch in _batches(model, list(rows.values()), asked, batch_size):
        length = max(len(asked[same[0]].inputs) for same in batch)
        tokens = np.zeros((len(batch), length), np.int64)
        for row, same in zip(tokens, batch):
            inputs = asked[same[0]].inputs
            row[: len(inputs)] = inputs  # what stands behind a token, it does not see
        logits = engine.home(model(tokens))
        for row, same in zip(logits, batch):
            for n in same:
                end, targets = len(asked[n].inputs), asked[n].targets
                found[n] = _of_targets(row[end - len(targets) : end], targets)
        if progress:
            progress(sum(map(len, batch)))
    return found


def _batches(
    model: GPT, rows: list[list[int]], asked: Sequence[Asked], batch_size: int
) -> Iterator[list[list[int]]]:
    """Rows of similar length, the longest first: what runs out of memory does so at once."""
    lengths = [len(asked[same[0]].inputs) for same in rows]
    order = sorted(range(len(rows)), key=lambda n: -lengths[n])
    while order:
        of_row = lengths[order[0]] * model.config.vocab_size
        size = min(batch_size, max(1, LOGITS // of_row))
        yield [rows[n] for n in order[:size]]
        order = order[size:]


def _of_targets(logits: Array, targets: Array) -> tuple[Array, Array]:
    """ln p of each target, and whether it is the likeliest.  logits (n, V), targets (n) → (n), (n)"""
    rows = logits.astype(np.float64)
    top = rows.max(-1)
    total = top + np.log(np.exp(rows - top[:, None]).sum(-1))
    at = rows[np.arange(len(targets)), targets]
    return at - total, rows.argmax(-1) == targets


def rolled(model: GPT, ids: Array) -> list[Asked]:
    """A text's tokens in windows, each token predicted once: lm-eval's rolling protocol.

    A window predicts block_size tokens, the first from the prefix, each other from the last token of the
    window before and what follows it. The last one predicts what is left, from all that fits before it.
    """
    size = model.config.block_size
    whole = np.concatenate([prefix_of(tokenizer_of(model)), ids])
    asked = []
    for done in range(0, len(ids), size):
        end = min(done + size, len(ids))
        asked.append(Asked(whole[max(0, end - size) : end], ids[done:end]))
    return asked
