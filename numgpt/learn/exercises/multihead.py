"""Multi-head attention with fused queries, keys and values: splitting and merging.

One product of matrices makes q, k and v for all heads at once, side by side in qkv. They are cut apart into H
heads, each attends by itself, and the results are put side by side again. The mathematics of a head is given
here; yours is to send every number back to where it was taken from.

Shapes: x, y, dy (B, T, C), C = H·D · W (C, 3C) · b (3C) · qkv (B, T, 3C) · q, k, v, heads (B, H, T, D)
"""

import math

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Term, Values, Variant


def head_forward(q, k, v):
    """Causal attention of all heads at once: (B, H, T, D) → (B, H, T, D)."""
    scale = 1 / math.sqrt(q.shape[-1])
    S = np.where(np.tri(q.shape[-2], dtype=bool), scale * (q @ k.swapaxes(-1, -2)), -1e30)
    P = np.exp(S - S.max(-1, keepdims=True))
    P = P / P.sum(-1, keepdims=True)
    return P @ v, (q, k, v, P, scale)


def head_backward(dheads, saved):
    """The gradients (dq, dk, dv) of head_forward: given, for you to call."""
    q, k, v, P, scale = saved
    dP = dheads @ v.swapaxes(-1, -2)
    dS = P * (dP - (P * dP).sum(-1, keepdims=True))
    return scale * (dS @ k), scale * (dS.swapaxes(-1, -2) @ q), P.swapaxes(-1, -2) @ dheads


def multihead_forward(x, W, b, H):
    """qkv = x W + b is cut into q, k and v, each into H heads; what they give is put side by side."""
    B, T, C = x.shape
    qkv = x @ W + b
    parts = qkv.reshape(B, T, 3, H, C // H)  # the last axis of qkv, cut into three parts of H heads
    q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
    heads, saved = head_forward(q, k, v)
    y = heads.swapaxes(1, 2).reshape(B, T, C)
    return y, (x, W, saved)


def multihead_backward(dy, saved):
    """The gradients (dheads, dqkv, dx, dW, db) of sum(dy * y), in the order in which they are computed.

        y is heads with two axes swapped, then reshaped     so dheads is dy with both undone, last first
        dq, dk, dv = head_backward(dheads, …)               given
        q, k and v were cut out of qkv                      so dqkv has each of them where it was
        qkv = x W + b                                       a linear layer, as in exercise 2

    A reshape is undone by a reshape, a swap of axes by a swap. A reshape alone runs, and mixes up heads with
    positions.
    """
    x, W, saved_head = saved
    B, T, C = x.shape
    H = saved_head[0].shape[1]
    # yours
    dheads = dy.reshape(B, T, H, C // H).swapaxes(1, 2)
    parts = [a.swapaxes(1, 2).reshape(B, T, C) for a in head_backward(dheads, saved_head)]
    dqkv = np.concatenate(parts, axis=-1)
    dx = dqkv @ W.T
    dW = x.reshape(-1, C).T @ dqkv.reshape(-1, 3 * C)
    db = dqkv.sum((0, 1))
    return dheads, dqkv, dx, dW, db


def case(rng, B, T, H, D):
    """Random arrays of these sizes, and what the terms are made of."""
    C = H * D
    inputs = {"x": rng.standard_normal((B, T, C)), "W": rng.standard_normal((C, 3 * C)) / C**0.5}
    inputs["b"] = rng.standard_normal(3 * C) / 2
    dy = rng.standard_normal((B, T, C)) + 0.3
    _, saved = multihead_forward(*inputs.values(), H)
    values = Values(
        dy=dy, **inputs, heads=saved[2], H=H, split=split, merge=merge, order=(0, 1, 2), turn=np.transpose
    )
    values = values.but(dheads=split(values, dy))
    values = values.but(dqkv=sum(side_by_side(values)))

    def loss(forward, arrays):
        return float((dy * forward(*arrays.values(), H)[0]).sum())

    channels = np.arange(3 * C)
    parts = {f"the {n} part": channels // C == i for i, n in enumerate("qkv")}
    parts |= {f"head {h}": channels % C // D == h for h in range(H)}
    sets = {name: dict(parts) for name in ("dqkv", "dW", "db")}
    sets["dheads"] = {f"head {h}": (np.arange(H) == h)[:, None, None] for h in range(H)}
    numbers = {"B": B, "T": T, "H": H, "D": D, "C": C}
    return Case((dy, saved), values, inputs, loss, numbers, sets)


def split(v, a):
    """(B, T, C) → (B, H, T, D)"""
    B, T, C = a.shape
    return a.reshape(B, T, v.H, C // v.H).swapaxes(1, 2)


def merge(v, a):
    """(B, H, T, D) → (B, T, C)"""
    B, H, T, D = a.shape
    return a.swapaxes(1, 2).reshape(B, T, H * D)


def side_by_side(v):
    """dqkv as three arrays, of which each is 0 but in the part of q, k or v."""
    gradients = head_backward(v.dheads, v.heads)
    parts = [v.merge(v, gradients[i]) for i in v.order]
    zero = np.zeros_like(parts[0])
    return [np.concatenate([p if i == j else zero for j in range(3)], -1) for i, p in enumerate(parts)]


def only(v, i):
    """dqkv with its other two parts 0."""
    C = v.dqkv.shape[-1] // 3
    kept = np.zeros_like(v.dqkv)
    kept[..., i * C : (i + 1) * C] = v.dqkv[..., i * C : (i + 1) * C]
    return kept


def terms(v):
    """The signed sums that the gradients are."""
    rows = v.x.reshape(-1, v.x.shape[-1])
    names = ("q", "k", "v")
    parts = side_by_side(v)
    blocks = [only(v, i) for i in range(3)]
    return {
        "dheads": (Term("dheads", "dy split into heads", v.split(v, v.dy)),),
        "dqkv": tuple(Term(f"{n}_part", f"d{n}, merged", parts[i]) for i, n in enumerate(names)),
        "dx": tuple(
            Term(f"{n}_path", f"dqkv @ W.T by the {n} part", blocks[i] @ v.turn(v.W))
            for i, n in enumerate(names)
        ),
        "dW": tuple(
            Term(f"{n}_block", f"x.T @ dqkv in the {n} part", rows.T @ blocks[i].reshape(len(rows), -1))
            for i, n in enumerate(names)
        ),
        "db": tuple(
            Term(f"{n}_bias", f"sum_BT(dqkv) in the {n} part", blocks[i].sum((0, 1)))
            for i, n in enumerate(names)
        ),
    }


def reshaped_only(v, a):
    """(B, T, C) → (B, H, T, D) by a reshape, which mixes heads and positions."""
    B, T, C = a.shape
    return a.reshape(B, v.H, T, C // v.H)


def joined_only(v, a):
    """(B, H, T, D) → (B, T, C) by a reshape, which mixes heads and positions."""
    B, H, T, D = a.shape
    return a.reshape(B, T, H * D)


def interleaved(v, a):
    """Channels cut as (D, H): neighbours go to different heads."""
    B, T, C = a.shape
    return a.reshape(B, T, C // v.H, v.H).transpose(0, 3, 1, 2)


def joined_interleaved(v, a):
    """(B, H, T, D) → (B, T, C) where neighbouring channels come of different heads."""
    B, H, T, D = a.shape
    return a.transpose(0, 2, 3, 1).reshape(B, T, H * D)


def with_order(order):
    """A function that puts dq, dk and dv in another order."""
    return lambda v: v.but(order=order)


VARIANTS = (
    Variant(
        "RESHAPED_NOT_SWAPPED",
        "is reshaped without a swap of axes: heads and positions are mixed up",
        lambda v: v.but(split=reshaped_only, merge=joined_only),
        ("dheads", "dqkv"),
    ),
    Variant(
        "HEADS_INTERLEAVED",
        "takes every H-th channel for a head, where a head is D channels side by side",
        lambda v: v.but(split=interleaved, merge=joined_interleaved),
        ("dheads", "dqkv"),
    ),
    Variant(
        "HEADS_REVERSED",
        "has the heads in reverse order",
        lambda v: v.but(split=lambda v, a: split(v, a)[:, ::-1], merge=lambda v, a: merge(v, a[:, ::-1])),
        ("dheads", "dqkv"),
    ),
    Variant("Q_AND_K_SWAPPED", "has dq and dk in each other's place", with_order((1, 0, 2)), ("dqkv",)),
    Variant("K_AND_V_SWAPPED", "has dk and dv in each other's place", with_order((0, 2, 1)), ("dqkv",)),
    Variant("Q_AND_V_SWAPPED", "has dq and dv in each other's place", with_order((2, 1, 0)), ("dqkv",)),
    Variant("QKV_TURNED", "has dk, dv, dq where dq, dk, dv belong", with_order((1, 2, 0)), ("dqkv",)),
)

INVARIANTS = (
    Invariant(
        "dqkv",
        "Adding one vector to all keys moves a query's scores alike, so the k part sums to 0 over T.",
        "sums to",
        lambda dqkv, v: dqkv[..., dqkv.shape[-1] // 3 : -(dqkv.shape[-1] // 3)].sum(1, keepdims=True),
    ),
    Invariant(
        "db",
        "A bias shifts qkv at every position, so db is the sum of all dqkv.",
        "is off by",
        lambda db, v: db - v.dqkv.sum((0, 1)),
    ),
)

HINTS = {
    "": (
        "In which order did the forward reshape and swap axes, and in which order is that undone?",
        "y came of a swap, then a reshape: so first a reshape to (B, T, H, D), then the swap.",
        "dheads = dy.reshape(B, T, H, D).swapaxes(1, 2)",
    ),
    "RESHAPED": (
        "Which numbers are neighbours in memory: those of a head, or those of a position?",
        "(B, T, C) cannot become (B, H, T, D) by a reshape: cut C into (H, D) first, then swap T and H.",
        "a.reshape(B, T, H, D).swapaxes(1, 2), and back: a.swapaxes(1, 2).reshape(B, T, C)",
    ),
    "SWAPPED": (
        "In which order stand q, k and v in qkv?",
        "dqkv has dq, dk, dv in the order in which the forward cut them out.",
        "np.concatenate([dq, dk, dv], axis=-1), each merged",
    ),
    "PATH": (
        "By which ways does x move y? By its query, its key and its value.",
        "All three parts of dqkv go back through W.",
        "dx = dqkv @ W.T",
    ),
    "PART": (
        "Which of q, k and v does not come back in your dqkv?",
        "dqkv has three parts, side by side.",
        "np.concatenate([dq, dk, dv], axis=-1), each merged",
    ),
    "_DB": (
        "How many positions does b[c] shift?",
        "The bias is shared by all B·T positions.",
        "db = dqkv.sum((0, 1))",
    ),
}

MERGED = "[a.swapaxes(1, 2).reshape(B, T, C) for a in head_backward(dheads, saved_head)]"
SPLIT = "dy.reshape(B, T, H, C // H).swapaxes(1, 2)"
FAULTS = (
    Fault(
        "split by a reshape alone",
        ("MH_RESHAPED_NOT_SWAPPED",),
        ((SPLIT, "dy.reshape(B, H, T, C // H)"),),
    ),
    Fault(
        "merged by a reshape alone",
        ("MH_RESHAPED_NOT_SWAPPED",),
        (("a.swapaxes(1, 2).reshape(B, T, C)", "a.reshape(B, T, C)"),),
    ),
    Fault(
        "split and merged by reshapes alone",
        ("MH_RESHAPED_NOT_SWAPPED",),
        ((SPLIT, "dy.reshape(B, H, T, C // H)"), ("a.swapaxes(1, 2).reshape(B, T, C)", "a.reshape(B, T, C)")),
    ),
    Fault(
        "a head is every H-th channel",
        ("MH_HEADS_INTERLEAVED",),
        ((SPLIT, "dy.reshape(B, T, C // H, H).transpose(0, 3, 1, 2)"),),
    ),
    Fault(
        "merged with every H-th channel a head",
        ("MH_HEADS_INTERLEAVED",),
        (("a.swapaxes(1, 2).reshape(B, T, C)", "a.transpose(0, 2, 3, 1).reshape(B, T, C)"),),
    ),
    Fault("heads in reverse order", ("MH_HEADS_REVERSED",), ((SPLIT, SPLIT + "[:, ::-1]"),)),
    Fault(
        "dheads not swapped", ("MH_DHEADS_TRANSPOSED",), (("return dheads", "return dheads.swapaxes(1, 2)"),)
    ),
    Fault(
        "dk, dq, dv",
        ("MH_Q_AND_K_SWAPPED",),
        (("concatenate(parts", "concatenate([parts[i] for i in (1, 0, 2)]"),),
    ),
    Fault(
        "dq, dv, dk",
        ("MH_K_AND_V_SWAPPED",),
        (("concatenate(parts", "concatenate([parts[i] for i in (0, 2, 1)]"),),
    ),
    Fault("dv, dk, dq", ("MH_Q_AND_V_SWAPPED",), (("concatenate(parts", "concatenate(parts[::-1]"),)),
    Fault(
        "dk, dv, dq",
        ("MH_QKV_TURNED",),
        (("concatenate(parts", "concatenate([parts[i] for i in (1, 2, 0)]"),),
    ),
    Fault(
        "the way through the keys lost",
        ("MH_K_PART_TERM_MISSING",),
        (("dqkv = np", "parts[1] = 0 * parts[1]\ndqkv = np"),),
    ),
    Fault(
        "x gets what came back through the queries alone",
        ("MH_K_PATH_TERM_MISSING", "MH_V_PATH_TERM_MISSING"),
        (("dx = dqkv @ W.T", "dx = dqkv[..., :C] @ W[:, :C].T"),),
    ),
    Fault(
        "the way of the values lost in dx",
        ("MH_V_PATH_TERM_MISSING",),
        (("dx = dqkv @ W.T", "dx = dqkv[..., : 2 * C] @ W[:, : 2 * C].T"),),
    ),
    Fault(
        "db not summed over the batch",
        ("MH_DB_NOT_SUMMED",),
        (("db = dqkv.sum((0, 1))", "db = dqkv.sum(1)"),),
    ),
    Fault("db a mean", ("MH_DB_OVER_B_T",), (("dqkv.sum((0, 1))", "dqkv.mean((0, 1))"),)),
    Fault(
        "dW not summed over the batch",
        ("MH_DW_NOT_SUMMED",),
        (("x.reshape(-1, C).T @ dqkv.reshape(-1, 3 * C)", "x.swapaxes(-1, -2) @ dqkv"),),
    ),
    Fault(
        "dW transposed",
        ("MH_DW_TRANSPOSED",),
        (("return dheads, dqkv, dx, dW", "return dheads, dqkv, dx, dW.T"),),
    ),
    Fault("dqkv forgotten in the results", ("COUNT",), (("return dheads, dqkv,", "return dheads,"),)),
)

ALTERNATIVES = (
    """
    D = C // H
    dheads = np.stack([dy[..., h * D : (h + 1) * D] for h in range(H)], axis=1)
    dqkv = np.zeros((B, T, 3 * C))
    for i, part in enumerate(head_backward(dheads, saved_head)):
        for h in range(H):
            dqkv[..., i * C + h * D : i * C + (h + 1) * D] = part[:, h]
    return dheads, dqkv, dqkv @ W.T, np.einsum("btc,btd->cd", x, dqkv), np.einsum("btd->d", dqkv)
    """,
    """
    dheads = np.moveaxis(dy.reshape(B, T, H, -1), 2, 1)
    stacked = np.stack(head_backward(dheads, saved_head))
    dqkv = stacked.transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * C)
    dx = sum(part @ weight.T for part, weight in zip(np.split(dqkv, 3, -1), np.split(W, 3, -1)))
    dW, db = (x.swapaxes(1, 2) @ dqkv).sum(0), dqkv.sum(1).sum(0)
    return {"dheads": dheads, "dqkv": dqkv, "dx": dx, "dW": dW, "db": db}
    """,
    """
    dheads = np.einsum("bthd->bhtd", dy.reshape(B, T, H, C // H))
    grads = np.zeros((B, T, 3, H, C // H))
    for i, part in enumerate(head_backward(dheads, saved_head)):
        grads[:, :, i] = part.swapaxes(1, 2)
    dqkv = grads.reshape(B, T, -1)
    dW = sum(np.outer(x[b, t], dqkv[b, t]) for b in range(B) for t in range(T))
    return [dheads, dqkv, np.tensordot(dqkv, W, ([2], [1])), dW, dqkv.reshape(B * T, -1).sum(0)]
    """,
)

EXERCISE = Exercise(
    name="multihead",
    prefix="MH",
    solution=multihead_backward,
    forward=multihead_forward,
    shown=("head_forward", "head_backward", "multihead_forward"),
    gradients={"dheads": "BHTD", "dqkv": "BTJ", "dx": "BTC", "dW": "CJ", "db": "J"},
    sizes={"B": 3, "T": 5, "H": 2, "D": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    after={"dqkv": ("dheads",), "dx": ("dqkv",), "dW": ("dqkv",), "db": ("dqkv",)},
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"W": ("W", "weight")},
    ops=("attention",),
    smallest={"B": 1, "T": 2, "H": 2, "D": 2},
)
