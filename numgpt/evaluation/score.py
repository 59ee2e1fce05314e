"""How well a model predicts a text: loss, perplexity and bits per byte, with the protocol that they depend
on.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Score:
    """The mean surprise of a text's tokens but the first, which nothing predicts."""

    loss: float  # nats a token
    tokens: int  # predicted
    bytes: int  # of the predicted tokens
    block_size: int
    stride: int

    @property
    def perplexity(self):
        """exp(loss), of tokens; infinite where it overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self):
        """The surprise of the whole text in bits, over its bytes: comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / self.bytes


def score(model, ids, stride=None, batch_size=8, progress=None):
    """Score ids (N,) in windows of block_size that advance by stride; each token is predicted once.

    A window after the first counts its last stride tokens only: they see at least block_size − stride tokens.
    stride block_size (the default is half of it) is fastest and gives the tokens at a window's start the
    least context. ids may lie in a mapped file, of which windows are read as they are scored. A special token
    counts with the bytes of its text.
    """
    T = model.config.block_size
    stride = max(1, T // 2) if stride is None else stride
    if not 1 <= stride <= T:
        raise InputError(f"eval: stride is {stride}, expected 1 to block_size {T}")
    if len(ids) < 2:
        raise InputError(
            f"eval: the text has {len(ids)} tokens, expected at least 2: one to predict the other"
        )
    total, counted = 0.0, 0
    for windows in _batches(_windows(ids, T, stride), batch_size):
        x, y = (np.stack(rows) for rows in zip(*windows))
        n = int((y >= 0).sum())
        total += float(model.loss(x, y)) * n
        counted += n
        if progress:
            progress(n)
    size = model.tokenizer.count_bytes(ids[1:]) if model.tokenizer else counted
    return Score(total / counted, counted, size, T, stride)


def _windows(ids, T, stride):
    """(inputs, targets) of each window, −1 for a target that an earlier window counted."""
    last = len(ids) - 1
    end = min(T, last)
    yield ids[:end].astype(np.int64), ids[1 : end + 1].astype(np.int64)
    while end < last:
        done, end = end, min(end + stride, last)
        start = max(0, end - T)
        targets = ids[start + 1 : end + 1].astype(np.int64)
        targets[: done - start] = -1
        yield ids[start:end].astype(np.int64), targets


def _batches(windows, size):
    """Lists of up to size windows of one length."""
    held = []
    for window in windows:
        if held and (len(held) == size or len(held[0][0]) != len(window[0])):
            yield held
            held = []
        held.append(window)
    yield held
