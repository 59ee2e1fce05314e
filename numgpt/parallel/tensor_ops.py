"""Ops of tensor and sequence parallelism: each rank has a part of the parameter.

Each product runs on the engine in use; a crossing says what travels before and after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import engine
from ..errors import InputError
from ..ops import linear, unembedding
from ..ops.embedding import add_at
from ..ops.linear import sum_rows
from ..ops.op import Op, check_ids
from .crossings import Crossing
from .ranks import Ranks

LINE = "...I, IO, O? -> ...O"


def column_linear(crossing: Crossing) -> Op:
    """A linear map of which each rank has some columns, and their bias."""

    def column_linear_forward(x: Any, weight: Any, bias: Any = None) -> Any:
        """y_r = x W_r + b_r.  x (..., I), weight (I, O_r) → (..., O_r)"""
        arrays = crossing.enter(x), weight, bias
        return engine.forward(linear, arrays)(*arrays)

    def column_linear_backward(dy: Any, saved: Any) -> Any:
        """Gradients of column_linear_forward.

        dx = Σ_r dy_r W_rᵀ        because every rank's slice of y used all of x
        dW_r = xᵀ dy_r            because nobody else used this rank's columns
        db_r = Σ_n dy_r
        """
        dx, dweight, dbias = engine.backward(linear, dy)(dy, saved)
        return crossing.entered(dx), dweight, dbias

    return Op(LINE, column_linear_forward, column_linear_backward, parameters=("weight", "bias"))


def row_linear(crossing: Crossing) -> Op:
    """A linear map of which each rank has some rows; all have its bias, added once, after the sum."""

    def row_linear_forward(x: Any, weight: Any, bias: Any = None) -> Any:
        """y = Σ_r x_r W_r + b.  x (..., I_r), weight (I_r, O) → (..., O)"""
        arrays = x, weight, None
        part, saved = engine.forward(linear, arrays)(*arrays)
        y = crossing.leave(part)
        return (y if bias is None else y + bias), (saved, bias is not None)

    def row_linear_backward(dy: Any, saved: Any) -> Any:
        """Gradients of row_linear_forward.

        dx_r = dy W_rᵀ        because x_r is in one term of the sum alone
        dW_r = x_rᵀ dy
        db = Σ_n dy           once: over the rows that this rank has of y
        """
        of_linear, has_bias = saved
        all_of_it = crossing.left(dy)
        dx, dweight, _ = engine.backward(linear, all_of_it)(all_of_it, of_linear)
        return dx, dweight, sum_rows(dy.reshape(-1, dy.shape[-1])) if has_bias else None

    return Op(LINE, row_linear_forward, row_linear_backward, parameters=("weight", "bias"))


def vocabulary_embedding(crossing: Crossing, first: int) -> Op:
    """A token embedding of which each rank has some rows, those from first on."""

    def vocabulary_embedding_forward(ids: Any, weight: Any, *, vocab_size: int) -> Any:
        """y_n = Σ_r [ids_n is of rank r] W_r[ids_n − first_r].  ids (...), weight (V_r, C) → (..., C)"""
        check_ids("embedding: ids", ids, vocab_size)
        own = (ids >= first) & (ids < first + len(weight))
        rows = weight[np.where(own, ids - first, 0)]
        rows[~own] = 0  # another rank has it, and one alone
        return crossing.leave(rows), (ids, own, weight)

    def vocabulary_embedding_backward(dy: Any, saved: Any) -> Any:
        """Gradients of vocabulary_embedding_forward: a scatter to the own rows, and nobody says a word.

        dW_r[v − first_r] = Σ_{n: ids_n = v} dy_n        because rank r alone looked v up
        """
        ids, own, weight = saved
        dweight = np.zeros_like(weight, order="C")
        add_at(dweight, ids[own] - first, crossing.left(dy)[own])
        return None, dweight

    return Op(
        "...<V, RC -> ...C",
        vocabulary_embedding_forward,
        vocabulary_embedding_backward,
        parameters=("weight",),
        sizes={"vocab_size": "V"},
    )


def vocabulary_unembedding(crossing: Crossing) -> Op:
    """The unembedding of which each rank has some rows: it gives the logits of their tokens."""

    def vocabulary_unembedding_forward(x: Any, weight: Any) -> Any:
        """logits_r = x W_rᵀ.  x (..., C), weight (V_r, C) → (..., V_r)"""
        arrays = crossing.enter(x), weight
        return engine.forward(unembedding, arrays)(*arrays)

    def vocabulary_unembedding_backward(dy: Any, saved: Any) -> Any:
        """Gradients of vocabulary_unembedding_forward.

        dx = Σ_r dlogits_r W_r        because the logits of every rank used all of x
        dW_r = dlogits_rᵀ x
        """
        dx, dweight = engine.backward(unembedding, dy)(dy, saved)
        return crossing.entered(dx), dweight

    return Op(
        "...C, RC -> ...R",
        vocabulary_unembedding_forward,
        vocabulary_unembedding_backward,
        parameters=("weight",),
    )


def vocabulary_cross_entropy(ranks: Ranks, first: int) -> Op:
    """The mean surprise from logits of which each rank has those of its tokens, from first on."""

    def vocabulary_cross_entropy_forward(
        logits: Any, targets: Any, *, vocab_size: int, count: int | None = None
    ) -> Any:
        """loss = Σ_n (ln Z_n − (logits_n[target_n] − m_n)) / N,  Z_n = Σ_r Σ_v exp(logits_nrv − m_n)

        m_n is the maximum over all ranks, which any number could be: it cancels. Z and the target's logit,
        which one rank has, travel in one message.
        logits (..., V_r), targets (...) → loss ()
        """
        rows, ids = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
        counted = ids >= 0
        count = int(counted.sum() if count is None else count)
        if count == 0:
            raise InputError("cross_entropy: no target counts, expected at least one that is not negative")
        top = ranks.all_reduce(np.ascontiguousarray(rows.real.max(-1)), "max")[:, None]
        own = counted & (ids >= first) & (ids < first + rows.shape[1])
        at = np.where(own, ids - first, 0)
        shifted = rows - top
        mine = np.where(own, shifted[np.arange(len(ids)), at], rows.dtype.type(0))
        total, of_target = ranks.all_reduce(np.stack([np.exp(shifted).sum(-1), mine]))
        surprise = np.where(counted, np.log(total) - of_target, rows.dtype.type(0))
        return surprise.sum() * (1 / count), (logits, counted, own, at, top, total[:, None], count)

    def vocabulary_cross_entropy_backward(dy: Any, saved: Any) -> Any:
        """Gradients of vocabulary_cross_entropy_forward: no word is said, for Z is known already.

        dlogits_nrv = dy (exp(logits_nrv − m_n) / Z_n − [v = target_n]) / N        0 where n does not count
        """
        logits, counted, own, at, top, total, count = saved
        dlogits = np.exp(logits.reshape(-1, logits.shape[-1]) - top) / total
        dlogits[np.arange(len(at)), at] -= own
        dlogits = np.where(counted[:, None], dlogits * (dy * (1 / count)), dlogits.dtype.type(0))
        return dlogits.reshape(logits.shape), None

    return Op(
        "...R, ...~V -> ()",
        vocabulary_cross_entropy_forward,
        vocabulary_cross_entropy_backward,
        sizes={"vocab_size": "V"},
    )
