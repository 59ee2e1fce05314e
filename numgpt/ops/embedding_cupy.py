"""Twin of embedding's backward on a GPU: each row's gradients are added up in a fixed order.

And in parallel, even where one token is half of the text.
"""

from ..engine.cuda import blocks_of, launch, threads_for

CHUNK = 256  # tokens of one id that one block adds up

# Tokens are sorted by id, those of one id in their order; `order` is where they stood. An id's tokens are
# divided into chunks, counted from its first. Each chunk is added up in the order of the tokens, then the
# chunks in theirs: an id that is used at most CHUNK times gets np.add.at's bits, and of one that is used n
# times no term goes through more than CHUNK + n/CHUNK additions.
EMBEDDING_SOURCE = r"""
// All chunks of an id but its first. At the places [start, start + chunk) of a block at most one of them
// begins. It is of the id at start, whose first place is first[block]: the chunk before it is full and begins
// before start. Where none begins, nobody reads the sum.
extern "C" __global__ void chunk_sums(const long long *ids, const long long *order, const long long *first,
                                      const real *dy, long long N, long long C, long long chunk, real *parts)
{
    long long start = blockIdx.x * chunk, id = ids[start], before = start - first[blockIdx.x];
    long long begin = start + (chunk - before % chunk) % chunk;
    for (long long c = threadIdx.x; c < C; c += blockDim.x) {
        real sum = 0;
        for (long long n = begin; n < N && n < begin + chunk && ids[n] == id; n++)
            sum += dy[order[n] * C + c];
        parts[blockIdx.x * C + c] = sum;
    }
}

// The block of the first token of an id adds up its first chunk, then the sums of the other chunks; the other
// tokens' blocks have nothing to do.
extern "C" __global__ void add_rows(const long long *ids, const long long *order, const real *dy,
                                    const real *parts, long long N, long long C, long long chunk,
                                    real *dweight)
{
    long long first = blockIdx.x, id = ids[first];
    if (first > 0 && ids[first - 1] == id)
        return;
    for (long long c = threadIdx.x; c < C; c += blockDim.x) {
        real sum = 0;
        long long n = first;
        for (; n < N && n < first + chunk && ids[n] == id; n++)
            sum += dy[order[n] * C + c];
        for (; n < N && ids[n] == id; n += chunk)
            sum += parts[n / chunk * C + c];
        dweight[id * C + c] += sum;
    }
}
"""


def embedding_backward(dy, saved, wanted=(True,), into=(None,)):
    """Twin of ops.embedding.embedding_backward; into: where the gradient of weight goes."""
    import cupy as cp

    ids, weight = saved
    if not wanted[0]:
        return None, None
    dweight, add = (cp.empty(weight.shape, weight.dtype), False) if into[0] is None else into[0]
    if not add:
        dweight[...] = 0
    add_at(dweight, ids, dy)
    return None, dweight


def add_at(array, ids, rows):
    """array_v += Σ_{n: ids_n = v} rows_n.  array (V, C) contiguous, ids (...), rows (..., C)

    A complex number is added as two real ones.
    """
    import cupy as cp

    rows = cp.ascontiguousarray(rows, array.dtype)
    if array.dtype.kind == "c":
        array, rows = array.view("float64"), rows.view("float64")
    N, C, dtype = ids.size, array.shape[-1], array.dtype
    ids = ids.reshape(-1).astype("int64", copy=False)
    order = cp.argsort(ids, kind="stable").astype("int64", copy=False)
    ids = ids[order]
    parts = cp.empty((blocks_of(N, CHUNK), C), dtype)
    first = cp.searchsorted(ids, ids[::CHUNK]).astype("int64", copy=False)
    threads, sizes = threads_for(C), (N, C, CHUNK)
    args = ids, order, first, rows, *sizes, parts
    launch(EMBEDDING_SOURCE, "chunk_sums", dtype, (len(parts),), threads, *args)
    args = ids, order, rows, parts, *sizes, array
    launch(EMBEDDING_SOURCE, "add_rows", dtype, (N,), threads, *args)
