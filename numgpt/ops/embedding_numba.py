"""Twin of embedding's backward: gradients are added up by columns, each in the order of the tokens."""

import numpy as np

from ..engine.jit import launch, parallel
from .linear_numba import TILE, rows


@parallel
def scatter_add(tile, ids, dy, dweight):
    """dweight[ids_n] += dy_n for the columns of a tile."""
    c0, c1 = tile * TILE, min(dy.shape[1], tile * TILE + TILE)
    for n in range(len(ids)):
        i = ids[n]
        for c in range(c1 - c0):
            dweight[i, c0 + c] += dy[n, c0 + c]


def embedding_backward(dy, saved, wanted=(True,), into=(None,)):
    """Twin of ops.embedding.embedding_backward; into: where the gradient of weight goes."""
    ids, weight = saved
    if not wanted[0]:
        return None, None
    dweight, add = (np.empty_like(weight), False) if into[0] is None else into[0]
    if not add:
        dweight[...] = 0
    dys = rows(dy)
    launch(scatter_add, -(-dys.shape[1] // TILE), ids.reshape(-1), dys, dweight)
    return None, dweight
