"""Sums over many rows on a GPU: kernels add up tiles of rows in double, here the tiles are added in order."""

from ..engine.cuda import blocks_of, launch, threads_for

TILE = 64  # rows that one thread adds up for its column

TILES_SOURCE = r"""
// The sum over the tiles of sums (tiles, sets, C), for one of the sets
extern "C" __global__ void add_tiles(const double *sums, long long tiles, long long sets, long long C,
                                     long long which, long long add, real *total)
{
    long long c = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (c >= C)
        return;
    double sum = 0;
    for (long long t = 0; t < tiles; t++)
        sum += sums[(t * sets + which) * C + c];
    total[c] = add ? total[c] + sum : sum;
}
"""


def tiles_of(rows):
    """How many tiles hold so many rows; at least one, so that the sum of none is 0."""
    return max(1, blocks_of(rows, TILE))


def add_tiles(sums, which, total, add):
    """total (C) ← Σ_t sums[t, which] (+ total, if add).  sums (tiles, sets, C) in float64"""
    tiles, sets, C = sums.shape
    threads = threads_for(C)
    args = sums, tiles, sets, C, which, add, total
    launch(TILES_SOURCE, "add_tiles", total.dtype, (blocks_of(C, threads),), threads, *args)
