"""Twin of embedding's backward: gradients are added up by columns, each in the order of the tokens."""

import numpy as np
from numba import prange

from ..jit import launch, parallel
from .linear_numba import add_to, rows


@parallel
def scatter_add(ids, dy, dweight):
    """dweight[ids_n] += dy_n, a block of columns a thread."""
    C = dy.shape[1]
    for tile in prange((C + 63) // 64):
        c0, c1 = tile * 64, min(C, tile * 64 + 64)
        for n in range(len(ids)):
            add_to(dy[n][c0:c1], dweight[ids[n]][c0:c1])


def embedding_backward(dy, saved, into=(None,)):
    """Twin of ops.embedding.embedding_backward; into: where the gradient of weight goes."""
    ids, weight = saved
    dweight, add = (np.empty_like(weight), False) if into[0] is None else into[0]
    if not add:
        dweight[...] = 0
    launch(scatter_add, ids.reshape(-1), rows(dy), dweight)
    return None, dweight
