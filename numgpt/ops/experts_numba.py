"""Twins of the ops of a mixture of experts: the rows of one expert together, in blocks that are tasks."""

import itertools

import numpy as np

from ..engine import bf16
from ..engine.blas import gemm
from ..engine.jit import SUMS, kernel, launch, parallel
from .experts import rows_by_expert
from .linear_numba import borders, grid, rows, set_rows, tile_sums

PRECISIONS = bf16.PRECISIONS
# The rows of a block of one expert's: the BLAS packs the expert's matrix anew for each block, so large ones,
# but several blocks for each thread.
FEWEST, MOST, BLOCKS = 128, 512, 16
CHUNK = 8192  # entries of a task that only reads and writes


@kernel
def copy_rows(x, places, begin, end, to):
    """to = x[places[begin : end]]."""
    for i in range(end - begin):
        n = places[begin + i]
        for c in range(x.shape[1]):
            to[i, c] = x[n, c]


@kernel
def put_rows(block, places, begin, end, to):
    """to[places[begin : end]] = block."""
    for i in range(end - begin):
        n = places[begin + i]
        for c in range(to.shape[1]):
            to[n, c] = block[i, c]


@parallel
def expert_products(task, blocks, places, sources, x, weight, bias, y, bf16):
    """A block of one expert's rows of y: x W_e + b_e, bias None is none."""
    e, begin, end = blocks[task]
    own = np.empty((end - begin, x.shape[1]), x.dtype)
    product = np.empty((end - begin, y.shape[1]), x.dtype)
    copy_rows(x, sources, begin, end, own)
    if bias is None:
        gemm(False, False, 1.0, own, weight[e], 0.0, product, bf16)
    else:
        set_rows(bias[e], 0, product, 0, end - begin, y.shape[1])
        gemm(False, False, 1.0, own, weight[e], 1.0, product, bf16)
    put_rows(product, places, begin, end, y)


ROWS_BACK, MATRICES, BIASES = range(3)  # the phases of a launch


@parallel
def expert_gradients(
    phase, task, blocks, ends, places, sources, x, dy, weight, parts, xs, dys, dx, dweight, dbias, bf16
):
    """dx by blocks of rows, then each expert's dweight by blocks, then its dbias by tiles of columns.

    xs, dys: the rows sorted by expert, whose ends are ends. parts: the rows and columns of a matrix's blocks.
    dweight and dbias: an array and whether to add to it.
    """
    if phase == ROWS_BACK:
        e, begin, end = blocks[task]
        copy_rows(x, sources, begin, end, xs[begin:end])
        copy_rows(dy, places, begin, end, dys[begin:end])
        product = np.empty((end - begin, dx.shape[1]), dx.dtype)
        gemm(False, True, 1.0, dys[begin:end], weight[e], 0.0, product, bf16)
        put_rows(product, places, begin, end, dx)
    elif phase == MATRICES:
        array, add = dweight
        e, block = task // (parts[0] * parts[1]), task % (parts[0] * parts[1])
        i0, i1, j0, j1 = borders(block, parts[0], parts[1], array[e])
        own, down = xs[ends[e] : ends[e + 1]], dys[ends[e] : ends[e + 1]]
        if len(own) > 0:
            beta = 1.0 if add else 0.0
            gemm(True, False, 1.0, own[:, i0:i1], down[:, j0:j1], beta, array[e, i0:i1, j0:j1], bf16)
        elif not add:
            array[e, i0:i1, j0:j1] = 0
    elif dbias is not None:
        array, add = dbias
        tiles = (array.shape[1] + 63) // 64
        e = task // tiles
        tile_sums(task % tiles, dys[ends[e] : ends[e + 1]], add, array[e])


def blocks_of(groups):
    """Blocks (e, begin, end) of the rows of groups put one after the other, and those rows."""
    blocks, begin = [], 0
    most = min(MOST, max(FEWEST, sum(len(group) for _, group in groups) // BLOCKS))
    for e, group in groups:
        parts = -(-len(group) // most)
        cuts = [begin + i * len(group) // parts for i in range(parts + 1)]
        blocks += [(e, *cut) for cut in itertools.pairwise(cuts)]
        begin += len(group)
    places = np.concatenate([group for _, group in groups]) if groups else np.empty(0, np.int64)
    return np.array(blocks, np.int64).reshape(-1, 3), places


def shared_rows(x):
    """x (..., C) → rows (N, C) and how many of x's each of them stands for: what dispatch gives repeats."""
    if x.ndim > 1 and x.size and x.strides[-2] == 0:
        return rows(x[..., 0, :]), x.shape[-2]
    return rows(x), 1


def expert_linear_forward(x, chosen, weight, bias=None):
    """Twin of ops.experts.expert_linear_forward."""
    groups, weight = rows_by_expert(chosen, len(weight)), np.ascontiguousarray(weight)
    blocks, places = blocks_of(groups)
    xs, each = shared_rows(x)
    y = np.empty((places.size, weight.shape[-1]), x.dtype)
    launch(expert_products, len(blocks), blocks, places, places // each, xs, weight, bias, y, bf16.flag())
    return y.reshape(*x.shape[:-1], y.shape[-1]), (x, groups, weight, bias is not None)


def expert_linear_backward(dy, saved, wanted=(True, True), into=(None, None)):
    """Twin of ops.experts.expert_linear_backward; into: where the gradients of weight and bias go."""
    x, groups, weight, has_bias = saved
    blocks, places = blocks_of(groups)
    (xs, each), dys = shared_rows(x), rows(dy)
    E, I, O = weight.shape  # noqa: E741 - the letters of the line
    ends = np.zeros(E + 1, np.int64)
    for e, group in groups:
        ends[e + 1] = len(group)
    dx, parts = np.empty((len(dys), I), dy.dtype), grid(I, O)
    dweight = (np.empty((E, I, O), dy.dtype), False) if into[0] is None else into[0]
    dbias = None
    if has_bias and wanted[1]:
        dbias = (np.empty((E, O), dy.dtype), False) if into[1] is None else into[1]
    matrices = E * parts[0] * parts[1] if wanted[0] else 0
    tasks = len(blocks), matrices, 0 if dbias is None else E * -(-O // 64)
    given = blocks, ends.cumsum(), places, places // each, xs, dys, np.ascontiguousarray(weight), parts
    by_expert = np.empty((len(dys), I), dy.dtype), np.empty_like(dys)
    launch(expert_gradients, tasks, *given, *by_expert, dx, dweight, dbias, bf16.flag())
    return dx.reshape(x.shape), None, dweight[0] if wanted[0] else None, None if dbias is None else dbias[0]


def dispatch_forward(x, *, n_active):
    """Twin of ops.experts.dispatch_forward: a view, of which expert_linear reads each row once."""
    return np.broadcast_to(x[..., None, :], (*x.shape[:-1], n_active, x.shape[-1])), ()


@parallel
def sums_of_copies(task, each, dy, dx):
    """Some rows of dx (N, C) = Σ_j dy (N, A, C)."""
    N, A, C = dy.shape
    for n in range(task * each, min(N, task * each + each)):
        for c in range(C):
            dx[n, c] = dy[n, 0, c]
        for j in range(1, A):
            for c in range(C):
                dx[n, c] += dy[n, j, c]


def dispatch_backward(dy, saved):
    """Twin of ops.experts.dispatch_backward."""
    () = saved
    dys = copies(dy)
    dx = np.empty((len(dys), dys.shape[2]), dy.dtype)
    launch(sums_of_copies, *tasks_of(dys), dys, dx)
    return (dx.reshape(*dy.shape[:-2], dy.shape[-1]),)


def copies(x):
    """x (..., A, C) → (N, A, C), rows contiguous."""
    return np.ascontiguousarray(x.reshape(-1, *x.shape[-2:]))


def tasks_of(x):
    """How many tasks there are for x (N, …), and the rows of each."""
    each = max(1, CHUNK // max(1, x[:1].size))
    return -(-len(x) // each), each


@parallel
def weighted_sums(task, each, x, weights, y):
    """Some rows of y (N, C) = Σ_j w (N, A) x (N, A, C)."""
    N, A, C = x.shape
    for n in range(task * each, min(N, task * each + each)):
        for c in range(C):
            y[n, c] = weights[n, 0] * x[n, 0, c]
        for j in range(1, A):
            for c in range(C):
                y[n, c] += weights[n, j] * x[n, j, c]


@kernel(fastmath=SUMS)
def scaled_with_product(dy, x, w, dx):
    """dx = w dy; returns ⟨dy, x⟩ in float64."""
    s = 0.0
    for c in range(len(dy)):
        dx[c] = w * dy[c]
        s += dy[c] * np.float64(x[c])
    return s


@parallel
def weighted_sums_gradients(task, each, dy, x, weights, dx, dweights):
    """Some rows of dx = w dy and dw = ⟨dy, x⟩."""
    N, A, _ = x.shape
    for n in range(task * each, min(N, task * each + each)):
        for j in range(A):
            dweights[n, j] = scaled_with_product(dy[n], x[n, j], weights[n, j], dx[n, j])


def combine_forward(x, weights):
    """Twin of ops.experts.combine_forward."""
    xs = copies(x)
    y = np.empty((len(xs), xs.shape[2]), x.dtype)
    launch(weighted_sums, *tasks_of(xs), xs, rows(weights), y)
    return y.reshape(*x.shape[:-2], x.shape[-1]), (x, weights)


def combine_backward(dy, saved):
    """Twin of ops.experts.combine_backward."""
    x, weights = saved
    xs, ws = copies(x), rows(weights)
    dx, dweights = np.empty_like(xs), np.empty_like(ws)
    launch(weighted_sums_gradients, *tasks_of(xs), rows(dy), xs, ws, dx, dweights)
    return dx.reshape(x.shape), dweights.reshape(weights.shape)
