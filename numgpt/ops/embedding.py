"""Token embedding: a look-up of rows."""

import numpy as np

from .. import engine
from .op import Op


def embedding_forward(ids, weight):
    """One row of weight for each id.

        y_n = W[ids_n]

    ids (...) integers from 0 to V − 1, weight (V, C) → y (..., C)
    """
    return weight[ids], (ids, weight)


def embedding_backward(dy, saved, wanted=(True,)):
    """Gradients of embedding_forward with respect to ids (none: they are integers) and, if wanted, weight.

        dW_v = Σ_{n: ids_n = v} dy_n        because y_n = Σ_v [ids_n = v] W_v

    In words: each row collects the gradients of all places where it was used. The sum must count repeated
    ids, which dW[ids] += dy would not: it keeps the last one only.
    """
    ids, weight = saved
    if not wanted[0]:
        return None, None
    dweight = np.zeros_like(weight, order="C")
    add_at(dweight, ids, dy)
    return None, dweight


def add_at(array, ids, rows):
    """array_v += Σ_{n: ids_n = v} rows_n, in a fixed order.

    On the GPU its twin adds: CuPy's np.add.at would add in the order in which threads happen to come.
    array (V, C), contiguous on the GPU; ids (...), rows (..., C).
    """
    twin = engine.gpu_twin(add_at) if engine.on_gpu(array) else np.add.at
    twin(array, ids, rows)


embedding = Op(
    "...<V, VC -> ...C", embedding_forward, embedding_backward, parameters=("weight",), saves="ids"
)
