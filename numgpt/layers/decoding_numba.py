"""The pre-norm block, or a parallel one, for a few rows of new positions that read those in the cache.

One launch, six phases.

A matrix is read by parts of its rows, in the order in which it lies in memory; whoever needs a product adds
up its parts, in order. What takes less time than a wait between two phases, a norm or a sum of parts, each
task does for itself.
"""

from typing import NamedTuple

import numpy as np

from ..engine.jit import SUMS, kernel, launch, parallel
from ..ops.attention_tiles_numba import exponentials
from ..ops.elementary_numba import row_max
from ..ops.few_quantised_rows_numba import add_products_of, multiply_part_of, rows_of, stored, suits_nibbles
from ..ops.few_rows_numba import PARTS, padded, part_of
from ..ops.few_rows_numba import suits as few_rows_suit
from ..ops.linear_numba import rows
from ..ops.norms_numba import normalise_rows
from ..ops.rotary_numba import turn_rows
from .block_numba import KNOWN, NAMES, Form, activate, angles, form_of, inner_width, parameters_of
from .known import beyond

# The phases of a launch: each begins when all tasks of the one before are done. A task is a head of keys in
# HEADS, some columns in LAST_SUM, and everywhere else a part of a matrix's rows.
TO_QKV, HEADS, FROM_HEADS, TO_INNER, FROM_INNER, LAST_SUM = range(6)
MATRICES = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"


@kernel
def add_parts(parts, m0, c0, scale, bias, y, at, width):
    """y[:, at : at + width] += scale Σ parts[:, m0 :, c0 : c0 + width] + bias, both of columns from c0 on.

    scale None is 1, bias None is none.
    """
    for m in range(len(y)):
        for c in range(width):
            before = y[m, at + c]
            s = before if scale is None else y.dtype.type(0)
            for p in range(PARTS):
                s += parts[p, m0 + m, c0 + c]
            if scale is not None:
                s = before + s * scale[c0 + c]
            y[m, at + c] = s if bias is None else s + bias[c0 + c]


@kernel
def normalised(x, w, b, eps, rms):
    """LayerNorm or RMSNorm of a few rows."""
    y, xhat, rstd = np.empty_like(x), np.empty_like(x), np.empty(len(x), x.dtype)
    normalise_rows(x, w, b, eps, y, xhat, rstd, rms)
    return y


@kernel(fastmath=SUMS)
def row_product(x, w, v):
    """The product of a row with row v of w."""
    s = x.dtype.type(0)
    for i in range(len(x)):
        s += x[i] * w[v, i]
    return s


@kernel
def attend_position(q, keys, values, y):
    """y (D) = Σ softmax(⟨q, k⟩) v over all keys and values (S, D)."""
    S, D = keys.shape
    scores = np.empty(S, q.dtype)
    for s in range(S):
        scores[s] = row_product(q, keys, s)
    total = exponentials(scores, row_max(scores))
    y[:] = 0
    for s in range(S):
        for d in range(D):
            y[d] += scores[s] * values[s, d]
    for d in range(D):
        y[d] *= q.dtype.type(1 / total)


@kernel
def activated(parts, scale, bias, f0, f1, F, tanh, gated, act):
    """act (M, f1 − f0): what the activation gives in channels f0 to f1, for parts yet to be added up."""
    width = f1 - f0
    h = np.zeros((len(act), width if gated is None else 2 * width), act.dtype)
    add_parts(parts, 0, f0, scale, bias, h, 0, width)
    if gated is not None:  # the value's channels lie behind those of the gate
        add_parts(parts, 0, F + f0, scale, bias, h, width, width)
    activate(tanh, gated, h, act)


@kernel
def from_inner(task, inner_parts, inner_scale, inner_bias, weight, how, tanh, gated, parts):
    """A part of the feed-forward's c_proj, of rows of which the activation gives what they read."""
    F = rows_of(weight, how[2])
    f0, f1 = part_of(task, F)
    act = np.empty((inner_parts.shape[1], f1 - f0), inner_parts.dtype)
    activated(inner_parts, inner_scale, inner_bias, f0, f1, F, tanh, gated, act)
    parts[task] = 0
    add_products_of(act, f0, weight, f0, f1, parts[task], *how)


@parallel
def block(
    phase,
    task,
    x,
    T,
    H,
    K,
    D,
    scale,
    eps,
    rms,
    tanh,
    gated,
    sequential,
    parallel,
    second,
    cos,
    sin,
    window,
    parameters,
    how,
    store,
    first,
    length,
    work,
    stream,
):
    """x (M, C), of whose rows B T are positions → stream (M, C); new keys and values are added to the store.

    H to second: a Form. cos and sin (T, R/2): of the angles by which the new queries and keys turn, None if
    they do not. window: how many positions each sees, its own included, None for all.
    how: a Stored for each matrix.
    store (2, B, K, room, D) holds the keys, as they are turned, and the values: from place first to length.
    """
    # Loose, unlike in training: with NamedTuples this kernel took 9 % longer to compile (median of 3 pairs).
    w1, b1, weight_a, bias_a, weight_o, bias_o, w2, b2, weight_fc, bias_fc, weight_proj, bias_proj = (
        parameters
    )
    stored_a, stored_o, stored_fc, stored_proj = how
    qkv_parts, heads, attn_parts, inner_parts, mlp_parts = work
    M, C = x.shape
    if phase == TO_QKV:
        normed = normalised(x, w1, b1, eps, rms)
        multiply_part_of(task, normed, weight_a, stored_a, qkv_parts)
        if parallel is not None:
            if second is not None:
                normed = normalised(x, w2, b2, eps, rms)
            multiply_part_of(task, normed, weight_fc, stored_fc, inner_parts)
    elif phase == HEADS:  # its new keys and values go to the store, the results of its queries to heads
        b, kv, G = task // K, task % K, H // K
        row = np.zeros((T, (G + 2) * D), x.dtype)  # q | k | v of the group
        add_parts(qkv_parts, b * T, kv * G * D, stored_a[1], bias_a, row, 0, G * D)
        add_parts(qkv_parts, b * T, (H + kv) * D, stored_a[1], bias_a, row, G * D, D)
        add_parts(qkv_parts, b * T, (H + K + kv) * D, stored_a[1], bias_a, row, (G + 1) * D, D)
        if cos is not None:
            turn_rows(row, 0, cos, sin, G + 1, D)
        keys, values = store[0, b, kv], store[1, b, kv]
        for t in range(T):
            for d in range(D):
                keys[length + t, d] = row[t, G * D + d]
                values[length + t, d] = row[t, (G + 1) * D + d]
            for d in range(G * D):
                row[t, d] *= scale
            end = length + t + 1
            begin = first if window is None else max(first, end - window)
            for g in range(G):
                h = kv * G + g
                place = heads[b * T + t, h * D : (h + 1) * D]
                attend_position(row[t, g * D : (g + 1) * D], keys[begin:end], values[begin:end], place)
    elif phase == FROM_HEADS:
        multiply_part_of(task, heads, weight_o, stored_o, attn_parts)
        if parallel is not None:
            from_inner(
                task, inner_parts, stored_fc[1], bias_fc, weight_proj, stored_proj, tanh, gated, mlp_parts
            )
    elif phase == TO_INNER or phase == FROM_INNER:
        if sequential is not None:
            if phase == TO_INNER:  # the residual stream between attention and feed-forward is each task's own
                middle = x.copy()
                add_parts(attn_parts, 0, 0, stored_o[1], bias_o, middle, 0, C)
                if task == 0:
                    stream[:] = middle
                normed = normalised(middle, w2, b2, eps, rms)
                multiply_part_of(task, normed, weight_fc, stored_fc, inner_parts)
            else:
                from_inner(
                    task, inner_parts, stored_fc[1], bias_fc, weight_proj, stored_proj, tanh, gated, mlp_parts
                )
    else:
        c0, c1 = task * C // PARTS, (task + 1) * C // PARTS
        if parallel is not None:
            stream[:, c0:c1] = x[:, c0:c1]
            add_parts(attn_parts, 0, c0, stored_o[1], bias_o, stream, c0, c1 - c0)
        add_parts(mlp_parts, 0, c0, stored_proj[1], bias_proj, stream, c0, c1 - c0)


def suits(r, x):
    """Whether the block is for this file: few rows, and widths that come out even."""
    N, c = x[..., 0].size, r.config
    C, F, heads = c.n_embd, c.ffn_width, c.n_head * c.head_size
    matrices = (C, c.qkv_width), (heads, C), (C, inner_width(c)), (F, C)
    if not all(few_rows_suit(N, K, width) for K, width in matrices):
        return False
    if not all(_nibbles_suit(r, N, name, *shape) for name, shape in zip(MATRICES, matrices)):
        return False
    # Asked once a model: at every layer of every token it would show.
    return r.cache.kept((r.scope, "beyond"), beyond, r.config, KNOWN) is None


def _nibbles_suit(r, N, name, K, width):
    """Whether a matrix is not one of nibbles in groups for which there are no loops."""
    scale = r.params.get(f"{r.scope}{name}.weight_scale")
    return scale is None or scale.ndim == 1 or suits_nibbles(N, K, width, len(scale))


def stored_parameters(r):
    """A block's parameters, as parameters_of, with integers where they are stored, and how each matrix is."""
    parameters, how = list(parameters_of(r)), []
    for name in MATRICES:
        weight = f"{r.scope}{name}.weight"
        integers = r.params.get(f"{weight}_q")
        if integers is not None:
            parameters[NAMES.index(f"{name}.weight")] = integers
        how.append(stored(r.params.get(f"{weight}_scale"), r.params.get(f"{weight}_zero")))
    return tuple(parameters), tuple(how)


def widths_of(config):
    """The widths of q k v, of the heads side by side, of the stream and of what the activation reads."""
    return config.qkv_width, config.n_head * config.head_size, config.n_embd, inner_width(config)


def work_arrays(M, widths, dtype):
    """What one phase writes for the next: products as parts that are yet to be added up, and heads.

    Rows of heads that are there only to fill up to a size that has loops stay 0.
    """
    qkv, heads, C, inner = widths
    return (
        np.empty((PARTS, M, qkv), dtype),
        np.zeros((M, heads), dtype),  # what attention returns
        np.empty((PARTS, M, C), dtype),  # attention's c_proj
        np.empty((PARTS, M, inner), dtype),
        np.empty((PARTS, M, C), dtype),  # the feed-forward's c_proj
    )


class Plan(NamedTuple):
    """What a block's launches have in common, for positions of one shape."""

    name: str  # of the keys and values in the cache
    shape: tuple  # of the new ones (..., K, T, D)
    T: int
    form: Form
    window: int | None
    parameters: tuple
    how: tuple
    work: tuple
    tasks: tuple


def plan_of(r, x):
    """The Plan of a block for positions x (..., T, C)."""
    xs, T, kept = padded(rows(x)), x.shape[-2], r.cache.kept
    form, widths = form_of(r.config), widths_of(r.config)
    between = 0 if form.parallel else PARTS  # a parallel block has done that beside attention
    return Plan(
        f"{r.scope}attn.heads",
        (*x.shape[:-2], form.K, T, form.D),
        T,
        form._replace(scale=x.dtype.type(form.scale)),
        r.config.window,
        *stored_parameters(r),
        kept((x.shape, widths), work_arrays, len(xs), widths, x.dtype),  # all layers' alike
        (PARTS, x[..., 0].size // T * form.K, PARTS, between, between, PARTS),
    )


def cached_block(r, x):
    """transformer.pre_norm_block_forward for positions x (..., T, C) after those in the record's cache.

    All else takes some time too: after a pass over the weights, Python finds nothing of its own in the
    processor's caches. So what is the same at each step is found once.
    """
    plan, xs = r.cache.kept((r.scope, x.shape), plan_of, r, x), padded(rows(x))
    store, first, length = r.cache.memory(plan.name, plan.shape, x.dtype, r.config)
    store, stream = store.reshape(2, -1, *store.shape[-3:]), np.empty_like(xs)
    given = *plan.form, *angles(r, x), plan.window, plan.parameters, plan.how
    given = *given, store, first, length, plan.work, stream
    launch(block, plan.tasks, xs, plan.T, *given)
    return stream[: x[..., 0].size].reshape(x.shape)
