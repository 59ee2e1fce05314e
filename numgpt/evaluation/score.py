"""How well a model predicts a text: loss, perplexity, bits per byte, and the protocol that they depend on.

A model gives each token a probability p, from the tokens before it.

    loss            −⟨ln p⟩ over the predicted tokens, in nats: the mean surprise
    perplexity      exp(loss): a model that guesses among so many equally likely tokens has this loss
    bits per byte   −Σ log₂ p over the bytes that the predicted tokens stand for

Loss and perplexity are per token, so they compare models with the same tokenizer only; bits per byte compare
any two models on the same text.

The protocol: a model sees at most block_size tokens, so a longer text is scored in windows of that length.
Each window ends `stride` tokens after the one before it, and each token is predicted once, in the first
window that holds it. So all but the tokens of the first window are predicted from block_size − stride
tokens or more. A smaller stride gives more context and a lower loss, and takes longer: a loss without its
stride says little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..argument_kinds import as_array
from ..arguments import Ids, Size, checked_as
from ..errors import InputError
from ..model.gpt import GPT

Window = tuple[NDArray[Any], NDArray[Any]]  # inputs (T,), targets (T,)


@dataclass(frozen=True)
class Score:
    """The loss of a text, with what it is a mean of and the protocol by which it was measured.

    loss: nats a token, over all tokens but the first, which nothing predicts. tokens: how many those are.
    bytes: what they stand for. block_size, stride: the length of the windows, and from one to the next.
    """

    loss: float
    tokens: int
    bytes: int
    block_size: int
    stride: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """The surprise of all predicted tokens in bits, over their bytes; comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / self.bytes


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked_as("eval")
def score(
    model: GPT,
    ids: Ids,
    stride: int | None = None,
    batch_size: Size = 8,
    progress: Callable[[int], object] | None = None,
) -> Score:
    """Score a text's tokens, each predicted once, in windows of block_size that advance by stride.

    Parameters
    ----------
    model
        The GPT. Its tokenizer counts the bytes; without one, each token counts as a byte.
    ids
        The text's tokens (N,), at least two. They may lie in a memory-mapped file, which is read window by
        window.
    stride
        Tokens from one window to the next: 1 to block_size, half of block_size by default. block_size is
        fastest, and predicts the tokens at the start of a window from the least context.
    batch_size
        Windows that the model sees at a time.
    progress
        Called with the number of tokens predicted after each batch.

    Returns
    -------
    Score
        The loss, perplexity and bits per byte, and the protocol. A special token counts with the bytes of
        its text.

    Raises
    ------
    InputError
        If stride is out of range, or if there are fewer than two tokens.

    Examples
    --------
    A model with equal probabilities for all four characters needs two bits for each:

    >>> import numgpt
    >>> from numgpt.evaluation.score import score
    >>> from numgpt.tokenizers import Characters
    >>> config = numgpt.Config(vocab_size=4, block_size=8, n_layer=1, n_head=1, n_embd=4)
    >>> model = numgpt.GPT(config, tokenizer=Characters("abcd"))
    >>> model.params.flat[:] = 0
    >>> result = score(model, model.tokenizer.encode("abcdabcdabcd"))
    >>> f"{result.perplexity:.4f} {result.bits_per_byte:.4f} {result.tokens} {result.stride}"
    '4.0000 2.0000 11 4'
    """
    terms = surprises(model, ids, stride, batch_size, progress)
    return score_of(model, ids, stride, terms)


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
def surprises(
    model: GPT,
    ids: Ids,
    stride: int | None,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    rank: int = 0,
    size: int = 1,
) -> NDArray[np.float64]:
    """(the sum of the surprises, how many tokens) of each batch of windows, as score() takes them: (N, 2).

    Of size processes each computes every size-th batch; those of the others are 0, so all of them add up.
    """
    T, stride, whole = _protocol(model, ids, stride)
    terms = []
    for n, windows in enumerate(_batches(_windows(whole, T, stride), batch_size)):
        if n % size != rank:
            terms.append((0.0, 0))
            continue
        x, y = (np.stack(rows) for rows in zip(*windows))
        predicted = int((y >= 0).sum())
        terms.append((float(model.loss(x, y)) * predicted, predicted))
        if progress:
            progress(predicted)
    return np.array(terms, np.float64)


def score_of(model: GPT, ids: Ids, stride: int | None, terms: NDArray[np.float64]) -> Score:
    """The score of a text, of the surprises of all its batches."""
    T, stride, whole = _protocol(model, ids, stride)
    surprise, predicted = sum(terms[:, 0].tolist()), int(terms[:, 1].sum())
    size = model.tokenizer.count_bytes(whole[1:]) if model.tokenizer else predicted
    return Score(surprise / predicted, predicted, size, T, stride)


def _protocol(model: GPT, ids: Ids, stride: int | None) -> tuple[int, int, NDArray[Any]]:
    """The length of the windows, the stride, and the ids (N,), all checked."""
    T = model.config.block_size
    if stride is None:
        stride = max(1, T // 2)
    if not 1 <= stride <= T:
        raise InputError(f"eval: stride is {stride}, expected 1 to block_size {T}")
    ids = as_array("eval: ids", ids, "integers (N,)")
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"eval: ids are {ids.dtype} of shape {ids.shape}, expected integers (N,)")
    if len(ids) < 2:
        raise InputError(
            f"eval: the text has {len(ids)} tokens, expected at least 2: one to predict the other"
        )
    return T, stride, ids


def _windows(ids: NDArray[Any], T: int, stride: int) -> Iterator[Window]:
    """(inputs, targets) of each window; −1 for a target that an earlier window has predicted."""
    last = len(ids) - 1
    end = min(T, last)
    yield ids[:end].astype(np.int64), ids[1 : end + 1].astype(np.int64)
    while end < last:
        done, end = end, min(end + stride, last)
        start = max(0, end - T)
        targets = ids[start + 1 : end + 1].astype(np.int64)
        targets[: done - start] = -1
        yield ids[start:end].astype(np.int64), targets


def _batches(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """Lists of up to size windows of one length."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == size or len(batch[0][0]) != len(window[0])):
            yield batch
            batch = []
        batch.append(window)
    yield batch
