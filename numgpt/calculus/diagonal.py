"""The diagonal of the Fisher matrix: how much each parameter by itself moves what a model predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..architecture.parameters import Flat
from ..arguments import checked
from ..errors import InputError
from ..layers.layer import Layer
from ..layers.transformer import gpt_backward, gpt_forward
from ..model import differentiable
from ..model.gpt import GPT
from .vectors import as_parameters, widened


@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def fisher_diagonal(model: GPT, tokens: ArrayLike, targets: ArrayLike | None = None) -> Flat:
    """The diagonal of the Fisher matrix, exact: nothing is sampled, and no label of the data is used.

        F_ii = 1/N Σ_n Σ_y p_n(y) (∂ ln p_n(y) / ∂θ_i)²        ∂ ln p(y) / ∂logits = e_y − p

    For each of the N positions, and each token y that could come there, one backward from e_y − p, whose
    square weighs p_n(y). With the data's tokens in the place of y it would be the empirical Fisher matrix,
    and the square of a batch's mean gradient is neither: it is smaller by about the size of the batch.
    Source: Martens 2014.

    Parameters
    ----------
    model : GPT
    tokens : integers (..., T)
    targets : integers (..., T), optional
        The positions of negative ones do not count; all count unless given.

    Returns
    -------
    Flat
        N V float64 forwards and backwards of one row: for small vocabularies.

    Raises
    ------
    InputError
        Where no position counts.

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> diagonal = numgpt.calculus.fisher_diagonal(model, [[0, 1, 2]])
    >>> v = model.params.like()
    >>> v["wpe.weight"][0, 0] = 1
    >>> whole = numgpt.calculus.fisher(model, [[0, 1, 2]], v)
    >>> bool(np.isclose(whole["wpe.weight"][0, 0], diagonal["wpe.weight"][0, 0]))
    True
    """
    model = widened("fisher_diagonal", model, np.float64)
    ids = model.check_tokens(tokens)
    goals = np.zeros_like(ids) if targets is None else model.check_targets(ids, targets)
    T = ids.shape[-1]
    counted = [
        (row, np.flatnonzero(goal >= 0)) for row, goal in zip(ids.reshape(-1, T), goals.reshape(-1, T))
    ]
    N = sum(len(places) for _, places in counted)
    if N == 0:
        raise InputError("fisher_diagonal: no position counts, expected at least one target of 0 or more")
    total = np.zeros(model.params.flat.size)
    grads = model.params.like()
    for row, places in counted:
        for place in places:
            for token in range(model.config.vocab_size):
                likelihood = _LogLikelihood(int(place), token)
                differentiable.loss_and_grads(model, likelihood.layer, (row[None],), grads)
                gradient = grads.to("reference").flat
                total += likelihood.probability * gradient * gradient
    return as_parameters(model, total / N)


class _LogLikelihood:
    """A layer: ln p(token) at a place of a row; its probability is known after a forward."""

    def __init__(self, place: int, token: int) -> None:
        self.place, self.token = place, token
        self.probability = 0.0
        self.layer = Layer(self._forward, self._backward)

    def _forward(self, r, tokens):  # type: ignore[no-untyped-def]
        """ln p(token).  tokens (1, T) → ()"""
        logits = gpt_forward(r, tokens)
        self.shape = logits.shape
        row = logits[0, self.place]
        shifted = np.exp(row - row.max())
        self.p = shifted / shifted.sum()
        self.probability = float(self.p[self.token])
        return np.log(self.p[self.token])

    def _backward(self, r, dy):  # type: ignore[no-untyped-def]
        """From e_y − p at the place, and 0 elsewhere."""
        dlogits = np.zeros(self.shape, self.p.dtype, like=self.p)
        dlogits[0, self.place] = -dy * self.p
        dlogits[0, self.place, self.token] += dy
        gpt_backward(r, dlogits)
