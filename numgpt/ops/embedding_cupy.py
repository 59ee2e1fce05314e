"""Twin of embedding's backward on a GPU: each row's gradients are added up in the order of the tokens, with np.add.at's bits."""

from ..cuda import launch, threads_for

# Tokens are sorted by id, those of one id in their order. The block of a token that is the first of its id adds up all of them,
# a thread a column; the blocks of the others have nothing to do.
EMBEDDING_SOURCE = r"""
extern "C" __global__ void add_rows(const long long *ids, const long long *order, const real *dy, long long N, long long C, long long add, real *dweight)
{
    long long first = blockIdx.x, id = ids[order[first]];
    if (first > 0 && ids[order[first - 1]] == id)
        return;
    for (long long c = threadIdx.x; c < C; c += blockDim.x) {
        real sum = 0;
        for (long long n = first; n < N && ids[order[n]] == id; n++)
            sum += dy[order[n] * C + c];
        dweight[id * C + c] = add ? dweight[id * C + c] + sum : sum;
    }
}
"""


def embedding_backward(dy, saved, into=(None,)):
    """Twin of ops.embedding.embedding_backward; into: where the gradient of weight goes."""
    import cupy as cp

    ids, weight = saved
    dweight, add = (cp.empty(weight.shape, weight.dtype), False) if into[0] is None else into[0]
    if not add:
        dweight[...] = 0
    ids = cp.ascontiguousarray(ids.reshape(-1).astype("int64", copy=False))
    order = cp.argsort(ids, kind="stable").astype("int64", copy=False)
    C = weight.shape[-1]
    launch(EMBEDDING_SOURCE, "add_rows", dy.dtype, (ids.size,), threads_for(C), ids, order, cp.ascontiguousarray(dy), ids.size, C, add, dweight)
    return None, dweight
